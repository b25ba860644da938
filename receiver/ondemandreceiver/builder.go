package ondemandreceiver

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
)

// instrument is what the semantic conventions say of a metric.
type instrument interface {
	Name() string
	Unit() string
	Description() string
}

// builder writes metrics with one timestamp. Points of the same name that are
// written one after the other become points of one metric.
type builder struct {
	metrics pmetric.MetricSlice
	now     pcommon.Timestamp
	start   pcommon.Timestamp // of what counts since the system's start; 0: not known

	failed error // what could not be read
}

func (b *builder) fail(what string, err error) bool {
	if err != nil {
		b.failed = errors.Join(b.failed, fmt.Errorf("read %s: %w", what, err))
	}
	return err != nil
}

// last returns the metric written last if it is i's, else a new one.
func (b *builder) last(i instrument, t pmetric.MetricType) (m pmetric.Metric, fresh bool) {
	if n := b.metrics.Len(); n > 0 {
		if m = b.metrics.At(n - 1); m.Name() == i.Name() && m.Type() == t {
			return m, false
		}
	}
	m = b.metrics.AppendEmpty()
	m.SetName(i.Name())
	m.SetUnit(i.Unit())
	m.SetDescription(i.Description())
	return m, true
}

// gauge appends a point that says how it is now.
func (b *builder) gauge(i instrument, attributes ...attribute.KeyValue) pmetric.NumberDataPoint {
	m, fresh := b.last(i, pmetric.MetricTypeGauge)
	if fresh {
		m.SetEmptyGauge()
	}
	return b.point(m.Gauge().DataPoints(), 0, attributes)
}

// counter appends a point that counts since the system's start.
func (b *builder) counter(i instrument, attributes ...attribute.KeyValue) pmetric.NumberDataPoint {
	return b.sum(i, true, attributes)
}

// upDown appends a point of a sum that goes both ways.
func (b *builder) upDown(i instrument, attributes ...attribute.KeyValue) pmetric.NumberDataPoint {
	return b.sum(i, false, attributes)
}

func (b *builder) sum(i instrument, monotonic bool, attributes []attribute.KeyValue) pmetric.NumberDataPoint {
	m, fresh := b.last(i, pmetric.MetricTypeSum)
	if fresh {
		s := m.SetEmptySum()
		s.SetIsMonotonic(monotonic)
		s.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	}
	return b.point(m.Sum().DataPoints(), b.start, attributes)
}

func (b *builder) point(to pmetric.NumberDataPointSlice, start pcommon.Timestamp, attributes []attribute.KeyValue) pmetric.NumberDataPoint {
	p := to.AppendEmpty()
	p.SetTimestamp(b.now)
	p.SetStartTimestamp(start)
	for _, a := range attributes {
		if a.Value.Type() == attribute.INT64 {
			p.Attributes().PutInt(string(a.Key), a.Value.AsInt64())
		} else if s := a.Value.String(); s != "" {
			p.Attributes().PutStr(string(a.Key), s)
		}
	}
	return p
}
