package matrix

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/test/harness"
)

// batch makes a request of n items of a kind, numbered from first.
func batch(kind, service, host string, first int64, n int) (digest.Batch, error) {
	switch kind {
	case "logs":
		return harness.Batch(block.Logs, service, host, first, n), nil
	case "traces":
		return harness.Batch(block.Traces, service, host, first, n), nil
	case "sum":
		return harness.Batch(block.Metrics, service, host, first, n), nil
	}
	fill := points[kind]
	if fill == nil {
		return digest.Batch{}, fmt.Errorf("there is no kind of data %q", kind)
	}
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", service)
	if host != "" {
		rm.Resource().Attributes().PutStr("host.name", host)
	}
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("app." + kind)
	m.SetUnit("ms")
	now := pcommon.NewTimestampFromTime(time.Now())
	for i := range n {
		fill(m, now, i, func(attributes pcommon.Map) { attributes.PutInt(harness.ItemID, first+int64(i)) })
	}
	return digest.FromMetrics(md), nil
}

// points append one data point to a metric.
var points = map[string]func(m pmetric.Metric, now pcommon.Timestamp, i int, number func(pcommon.Map)){
	"gauge": func(m pmetric.Metric, now pcommon.Timestamp, i int, number func(pcommon.Map)) {
		if i == 0 {
			m.SetEmptyGauge()
		}
		p := m.Gauge().DataPoints().AppendEmpty()
		p.SetTimestamp(now)
		p.SetIntValue(int64(i))
		number(p.Attributes())
	},
	"histogram": func(m pmetric.Metric, now pcommon.Timestamp, i int, number func(pcommon.Map)) {
		if i == 0 {
			m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		}
		p := m.Histogram().DataPoints().AppendEmpty()
		p.SetTimestamp(now)
		p.SetCount(3)
		p.SetSum(0) // optional, so there though it is zero
		p.SetMin(-1.5)
		p.SetMax(1.5)
		p.ExplicitBounds().FromRaw([]float64{0, 1})
		p.BucketCounts().FromRaw([]uint64{1, 1, 1})
		e := p.Exemplars().AppendEmpty()
		e.SetTimestamp(now)
		e.SetDoubleValue(1.5)
		number(p.Attributes())
	},
	"exponential_histogram": func(m pmetric.Metric, now pcommon.Timestamp, i int, number func(pcommon.Map)) {
		if i == 0 {
			m.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		}
		p := m.ExponentialHistogram().DataPoints().AppendEmpty()
		p.SetTimestamp(now)
		p.SetCount(4)
		p.SetScale(-2)
		p.SetZeroCount(1)
		p.Positive().SetOffset(-3)
		p.Positive().BucketCounts().FromRaw([]uint64{1, 0, 2})
		number(p.Attributes())
	},
	"summary": func(m pmetric.Metric, now pcommon.Timestamp, i int, number func(pcommon.Map)) {
		if i == 0 {
			m.SetEmptySummary()
		}
		p := m.Summary().DataPoints().AppendEmpty()
		p.SetTimestamp(now)
		p.SetCount(10)
		p.SetSum(55)
		q := p.QuantileValues().AppendEmpty()
		q.SetQuantile(0.5)
		q.SetValue(5)
		number(p.Attributes())
	},
}
