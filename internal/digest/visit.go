package digest

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/xpdata/entity"

	"github.com/telemark-otel/telemark/internal/block"
)

// visitor is shown every place of a block that may need mending. It is for the
// rare dirty block; functions that are nil are not called.
type visitor struct {
	attrs func(m pcommon.Map)   // attributes of a message, nested ones not
	value func(v pcommon.Value) // the body of a log record
	str   func(s string, set func(string))
	// double is told whether the field has implicit presence.
	double func(f float64, implicit bool, set func(float64))
}

func (v visitor) visitStr(s string, set func(string)) {
	if v.str != nil && s != "" {
		v.str(s, set)
	}
}

func (v visitor) visitDouble(f float64, implicit bool, set func(float64)) {
	if v.double != nil {
		v.double(f, implicit, set)
	}
}

func (v visitor) visitAttrs(m pcommon.Map) {
	if v.attrs != nil {
		v.attrs(m)
	}
}

func (v visitor) visitStrings(s pcommon.StringSlice) {
	for i := range s.Len() {
		v.visitStr(s.At(i), func(x string) { s.SetAt(i, x) })
	}
}

func (v visitor) block(b Block) {
	r := b.resource()
	v.visitAttrs(r.Attributes())
	for _, e := range entity.ResourceEntityRefs(r).All() {
		v.visitStr(e.SchemaUrl(), e.SetSchemaUrl)
		v.visitStr(e.Type(), e.SetType)
		v.visitStrings(e.IdKeys())
		v.visitStrings(e.DescriptionKeys())
	}
	switch b.signal {
	case block.Metrics:
		v.visitStr(b.metrics.SchemaUrl(), b.metrics.SetSchemaUrl)
		for _, sm := range b.metrics.ScopeMetrics().All() {
			v.scope(sm.Scope())
			v.visitStr(sm.SchemaUrl(), sm.SetSchemaUrl)
			for _, m := range sm.Metrics().All() {
				v.metric(m)
			}
		}
	case block.Logs:
		v.visitStr(b.logs.SchemaUrl(), b.logs.SetSchemaUrl)
		for _, sl := range b.logs.ScopeLogs().All() {
			v.scope(sl.Scope())
			v.visitStr(sl.SchemaUrl(), sl.SetSchemaUrl)
			for _, lr := range sl.LogRecords().All() {
				v.logRecord(lr)
			}
		}
	default:
		v.visitStr(b.traces.SchemaUrl(), b.traces.SetSchemaUrl)
		for _, ss := range b.traces.ScopeSpans().All() {
			v.scope(ss.Scope())
			v.visitStr(ss.SchemaUrl(), ss.SetSchemaUrl)
			for _, s := range ss.Spans().All() {
				v.span(s)
			}
		}
	}
}

func (v visitor) scope(s pcommon.InstrumentationScope) {
	v.visitStr(s.Name(), s.SetName)
	v.visitStr(s.Version(), s.SetVersion)
	v.visitAttrs(s.Attributes())
}

func (v visitor) metric(m pmetric.Metric) {
	v.visitStr(m.Name(), m.SetName)
	v.visitStr(m.Description(), m.SetDescription)
	v.visitStr(m.Unit(), m.SetUnit)
	v.visitAttrs(m.Metadata())
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		v.numbers(m.Gauge().DataPoints())
	case pmetric.MetricTypeSum:
		v.numbers(m.Sum().DataPoints())
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			v.histogram(dp)
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			v.expHistogram(dp)
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			v.visitAttrs(dp.Attributes())
			v.visitDouble(dp.Sum(), true, dp.SetSum)
			for _, q := range dp.QuantileValues().All() {
				v.visitDouble(q.Quantile(), true, q.SetQuantile)
				v.visitDouble(q.Value(), true, q.SetValue)
			}
		}
	default: // has no points
	}
}

func (v visitor) numbers(dps pmetric.NumberDataPointSlice) {
	for _, dp := range dps.All() {
		v.visitAttrs(dp.Attributes())
		v.exemplars(dp.Exemplars())
		if dp.ValueType() == pmetric.NumberDataPointValueTypeDouble {
			v.visitDouble(dp.DoubleValue(), false, dp.SetDoubleValue)
		}
	}
}

func (v visitor) histogram(dp pmetric.HistogramDataPoint) {
	v.visitAttrs(dp.Attributes())
	v.exemplars(dp.Exemplars())
	if dp.HasSum() {
		v.visitDouble(dp.Sum(), false, dp.SetSum)
	}
	if dp.HasMin() {
		v.visitDouble(dp.Min(), false, dp.SetMin)
	}
	if dp.HasMax() {
		v.visitDouble(dp.Max(), false, dp.SetMax)
	}
	bounds := dp.ExplicitBounds()
	for i := range bounds.Len() {
		v.visitDouble(bounds.At(i), false, func(f float64) { bounds.SetAt(i, f) })
	}
}

func (v visitor) expHistogram(dp pmetric.ExponentialHistogramDataPoint) {
	v.visitAttrs(dp.Attributes())
	v.exemplars(dp.Exemplars())
	if dp.HasSum() {
		v.visitDouble(dp.Sum(), false, dp.SetSum)
	}
	if dp.HasMin() {
		v.visitDouble(dp.Min(), false, dp.SetMin)
	}
	if dp.HasMax() {
		v.visitDouble(dp.Max(), false, dp.SetMax)
	}
	v.visitDouble(dp.ZeroThreshold(), true, dp.SetZeroThreshold)
}

func (v visitor) exemplars(es pmetric.ExemplarSlice) {
	for _, e := range es.All() {
		v.visitAttrs(e.FilteredAttributes())
		if e.ValueType() == pmetric.ExemplarValueTypeDouble {
			v.visitDouble(e.DoubleValue(), false, e.SetDoubleValue)
		}
	}
}

func (v visitor) logRecord(lr plog.LogRecord) {
	v.visitStr(lr.SeverityText(), lr.SetSeverityText)
	v.visitStr(lr.EventName(), lr.SetEventName)
	v.visitAttrs(lr.Attributes())
	if v.value != nil {
		v.value(lr.Body())
	}
}

func (v visitor) span(s ptrace.Span) {
	v.visitStr(s.TraceState().AsRaw(), s.TraceState().FromRaw)
	v.visitStr(s.Name(), s.SetName)
	v.visitStr(s.Status().Message(), s.Status().SetMessage)
	v.visitAttrs(s.Attributes())
	for _, e := range s.Events().All() {
		v.visitStr(e.Name(), e.SetName)
		v.visitAttrs(e.Attributes())
	}
	for _, l := range s.Links().All() {
		v.visitStr(l.TraceState().AsRaw(), l.TraceState().FromRaw)
		v.visitAttrs(l.Attributes())
	}
}
