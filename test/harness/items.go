package harness

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// eachItem calls f with the attributes of each item of b but the heartbeats.
func eachItem(b digest.Block, f func(pcommon.Map)) {
	switch b.Signal() {
	case block.Metrics:
		for _, sm := range b.Metrics().ScopeMetrics().All() {
			if sm.Scope().Name() == HeartbeatScope {
				continue
			}
			for _, m := range sm.Metrics().All() {
				eachPoint(m, f)
			}
		}
	case block.Logs:
		for _, sl := range b.Logs().ScopeLogs().All() {
			if sl.Scope().Name() == HeartbeatScope {
				continue
			}
			for _, lr := range sl.LogRecords().All() {
				f(lr.Attributes())
			}
		}
	case block.Traces:
		for _, ss := range b.Traces().ScopeSpans().All() {
			if ss.Scope().Name() == HeartbeatScope {
				continue
			}
			for _, sp := range ss.Spans().All() {
				f(sp.Attributes())
			}
		}
	}
}

func eachPoint(m pmetric.Metric, f func(pcommon.Map)) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, p := range m.Gauge().DataPoints().All() {
			f(p.Attributes())
		}
	case pmetric.MetricTypeSum:
		for _, p := range m.Sum().DataPoints().All() {
			f(p.Attributes())
		}
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			f(p.Attributes())
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			f(p.Attributes())
		}
	case pmetric.MetricTypeSummary:
		for _, p := range m.Summary().DataPoints().All() {
			f(p.Attributes())
		}
	case pmetric.MetricTypeEmpty:
	}
}
