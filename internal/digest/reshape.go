package digest

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
)

// Coalesce merges blocks of equal resource (and schema URL), order kept, and
// says how many blocks went away. Blocks that carry a proof, or a resource with
// hidden fields, stay as they are.
func (b Batch) Coalesce() int {
	n := b.Len()
	if n < 2 {
		return 0
	}
	w := newWalker(options{})
	defer w.release()
	first := make(map[block.Digest]Block, n)
	merged := make([]bool, n)
	gone := 0
	for i := range n {
		from := b.At(i)
		d, ok := from.resourceDigest(w)
		if !ok {
			continue
		}
		to, seen := first[d]
		if !seen {
			first[d] = from
			continue
		}
		from.appendScopesTo(to)
		merged[i] = true
		gone++
	}
	if gone > 0 {
		b.Filter(func(i int) bool { return !merged[i] })
	}
	return gone
}

// resourceDigest identifies resource and schema URL. It answers false for what
// must not be merged.
func (b Block) resourceDigest(w *walker) (block.Digest, bool) {
	w.reset(options{signal: b.signal, split: true, signing: true})
	buf, n := w.resource(w.buf[:0], b.resource())
	if w.receipts+w.deep > 0 || b.resourceSize() != 1+sov(n)+n {
		return block.Digest{}, false
	}
	buf = append(w.begin(buf, domainScope, w.parents[0][:]), byte(b.signal))
	return w.end(w.str(buf, b.schemaURL())), true
}

// resourceSize is the protobuf size of the resource as a field. pdata has no
// sizer for it but that of the block around it.
func (b Block) resourceSize() int {
	alone := NewBatch(b.signal).append()
	r := b.resource()
	r.MoveTo(alone.resource())
	n := alone.protoSize()
	alone.resource().MoveTo(r)
	return n
}

func (b Block) appendScopesTo(dst Block) {
	switch b.signal {
	case block.Metrics:
		b.metrics.ScopeMetrics().MoveAndAppendTo(dst.metrics.ScopeMetrics())
	case block.Logs:
		b.logs.ScopeLogs().MoveAndAppendTo(dst.logs.ScopeLogs())
	default:
		b.traces.ScopeSpans().MoveAndAppendTo(dst.traces.ScopeSpans())
	}
}

// SplitLarge cuts blocks of more than maxItems items into blocks of at most
// maxItems, 0 for no bound, and says how many blocks that added.
func (b Batch) SplitLarge(maxItems int) int {
	n := b.Len()
	large := false
	for i := 0; maxItems > 0 && i < n && !large; i++ {
		large = b.At(i).Items() > maxItems
	}
	if !large {
		return 0
	}
	out := NewBatch(b.signal)
	for i := range n {
		switch from := b.At(i); {
		case from.Items() <= maxItems:
			from.moveTo(out.append())
		case b.signal == block.Metrics:
			cutMetrics(from.metrics, out, maxItems)
		case b.signal == block.Logs:
			cutLogs(from.logs, out, maxItems)
		default:
			cutTraces(from.traces, out, maxItems)
		}
	}
	added := out.Len() - n
	switch b.signal {
	case block.Metrics:
		out.metrics.MoveTo(b.metrics)
	case block.Logs:
		out.logs.MoveTo(b.logs)
	default:
		out.traces.MoveTo(b.traces)
	}
	return added
}

// cutMetrics moves the data points of src into new blocks of at most most
// points, each with copies of resource, scopes and metric headers.
func cutMetrics(src pmetric.ResourceMetrics, dst Batch, most int) {
	var (
		rm pmetric.ResourceMetrics
		sm pmetric.ScopeMetrics
		m  pmetric.Metric
	)
	n := most
	for _, fromScope := range src.ScopeMetrics().All() {
		newScope := true
		for _, from := range fromScope.Metrics().All() {
			newMetric := true
			for i := range pointCount(from) {
				if n == most {
					rm = dst.metrics.ResourceMetrics().AppendEmpty()
					src.Resource().CopyTo(rm.Resource())
					rm.SetSchemaUrl(src.SchemaUrl())
					newScope, n = true, 0
				}
				if newScope {
					sm = rm.ScopeMetrics().AppendEmpty()
					fromScope.Scope().CopyTo(sm.Scope())
					sm.SetSchemaUrl(fromScope.SchemaUrl())
					newScope, newMetric = false, true
				}
				if newMetric {
					m = sm.Metrics().AppendEmpty()
					copyHeader(from, m)
					newMetric = false
				}
				movePoint(from, i, m)
				n++
			}
		}
	}
}

func copyHeader(from, to pmetric.Metric) {
	to.SetName(from.Name())
	to.SetDescription(from.Description())
	to.SetUnit(from.Unit())
	from.Metadata().CopyTo(to.Metadata())
	switch from.Type() {
	case pmetric.MetricTypeGauge:
		to.SetEmptyGauge()
	case pmetric.MetricTypeSum:
		sum := to.SetEmptySum()
		sum.SetAggregationTemporality(from.Sum().AggregationTemporality())
		sum.SetIsMonotonic(from.Sum().IsMonotonic())
	case pmetric.MetricTypeHistogram:
		to.SetEmptyHistogram().SetAggregationTemporality(from.Histogram().AggregationTemporality())
	case pmetric.MetricTypeExponentialHistogram:
		to.SetEmptyExponentialHistogram().SetAggregationTemporality(from.ExponentialHistogram().AggregationTemporality())
	case pmetric.MetricTypeSummary:
		to.SetEmptySummary()
	default: // stays without data
	}
}

func movePoint(from pmetric.Metric, i int, to pmetric.Metric) {
	switch from.Type() {
	case pmetric.MetricTypeGauge:
		from.Gauge().DataPoints().At(i).MoveTo(to.Gauge().DataPoints().AppendEmpty())
	case pmetric.MetricTypeSum:
		from.Sum().DataPoints().At(i).MoveTo(to.Sum().DataPoints().AppendEmpty())
	case pmetric.MetricTypeHistogram:
		from.Histogram().DataPoints().At(i).MoveTo(to.Histogram().DataPoints().AppendEmpty())
	case pmetric.MetricTypeExponentialHistogram:
		from.ExponentialHistogram().DataPoints().At(i).MoveTo(to.ExponentialHistogram().DataPoints().AppendEmpty())
	case pmetric.MetricTypeSummary:
		from.Summary().DataPoints().At(i).MoveTo(to.Summary().DataPoints().AppendEmpty())
	default: // has no points
	}
}

func cutLogs(src plog.ResourceLogs, dst Batch, most int) {
	var (
		rl plog.ResourceLogs
		sl plog.ScopeLogs
	)
	n := most
	for _, fromScope := range src.ScopeLogs().All() {
		newScope := true
		for _, lr := range fromScope.LogRecords().All() {
			if n == most {
				rl = dst.logs.ResourceLogs().AppendEmpty()
				src.Resource().CopyTo(rl.Resource())
				rl.SetSchemaUrl(src.SchemaUrl())
				newScope, n = true, 0
			}
			if newScope {
				sl = rl.ScopeLogs().AppendEmpty()
				fromScope.Scope().CopyTo(sl.Scope())
				sl.SetSchemaUrl(fromScope.SchemaUrl())
				newScope = false
			}
			lr.MoveTo(sl.LogRecords().AppendEmpty())
			n++
		}
	}
}

func cutTraces(src ptrace.ResourceSpans, dst Batch, most int) {
	var (
		rs ptrace.ResourceSpans
		ss ptrace.ScopeSpans
	)
	n := most
	for _, fromScope := range src.ScopeSpans().All() {
		newScope := true
		for _, s := range fromScope.Spans().All() {
			if n == most {
				rs = dst.traces.ResourceSpans().AppendEmpty()
				src.Resource().CopyTo(rs.Resource())
				rs.SetSchemaUrl(src.SchemaUrl())
				newScope, n = true, 0
			}
			if newScope {
				ss = rs.ScopeSpans().AppendEmpty()
				fromScope.Scope().CopyTo(ss.Scope())
				ss.SetSchemaUrl(fromScope.SchemaUrl())
				newScope = false
			}
			s.MoveTo(ss.Spans().AppendEmpty())
			n++
		}
	}
}

// FilterItems removes the items for which keep answers false (walking order), and
// then the containers left empty.
func (b Block) FilterItems(keep func(i int) bool) {
	i := -1
	drop := func() bool {
		i++
		return !keep(i)
	}
	switch b.signal {
	case block.Metrics:
		for _, sm := range b.metrics.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				removePoints(m, drop)
			}
		}
	case block.Logs:
		for _, sl := range b.logs.ScopeLogs().All() {
			sl.LogRecords().RemoveIf(func(plog.LogRecord) bool { return drop() })
		}
	default:
		for _, ss := range b.traces.ScopeSpans().All() {
			ss.Spans().RemoveIf(func(ptrace.Span) bool { return drop() })
		}
	}
	b.prune()
}

func removePoints(m pmetric.Metric, drop func() bool) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(func(pmetric.NumberDataPoint) bool { return drop() })
	case pmetric.MetricTypeSum:
		m.Sum().DataPoints().RemoveIf(func(pmetric.NumberDataPoint) bool { return drop() })
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(pmetric.HistogramDataPoint) bool { return drop() })
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().DataPoints().RemoveIf(func(pmetric.ExponentialHistogramDataPoint) bool { return drop() })
	case pmetric.MetricTypeSummary:
		m.Summary().DataPoints().RemoveIf(func(pmetric.SummaryDataPoint) bool { return drop() })
	default: // has no points
	}
}

// StripAdded removes the resource attributes whose keys are not in signed
// (and not receipt or manifest) and says how many; with a prefix it renames
// them instead.
func (b Block) StripAdded(signed []string, prefix string) int {
	set := keySet(signed)
	added := func(k string) bool {
		if proofKey(k) {
			return false
		}
		if set != nil {
			_, ok := set[k]
			return !ok
		}
		return !slices.Contains(signed, k)
	}
	n := 0
	if prefix == "" {
		b.Attributes().RemoveIf(func(k string, _ pcommon.Value) bool {
			if added(k) {
				n++
				return true
			}
			return false
		})
		return n
	}
	for k := range b.Attributes().All() {
		if added(k) {
			n++
		}
	}
	if n > 0 {
		rebuild(b.Attributes(), func(k string) string {
			if added(k) {
				return prefix + k
			}
			return k
		})
	}
	return n
}

// StripUncovered removes, with Split, what item digests leave out: metric
// metadata and schema URLs.
func (b Block) StripUncovered() {
	switch b.signal {
	case block.Metrics:
		b.metrics.SetSchemaUrl("")
		for _, sm := range b.metrics.ScopeMetrics().All() {
			sm.SetSchemaUrl("")
			for _, m := range sm.Metrics().All() {
				if m.Metadata().Len() > 0 {
					m.Metadata().Clear()
				}
			}
		}
	case block.Logs:
		b.logs.SetSchemaUrl("")
		for _, sl := range b.logs.ScopeLogs().All() {
			sl.SetSchemaUrl("")
		}
	default:
		b.traces.SetSchemaUrl("")
		for _, ss := range b.traces.ScopeSpans().All() {
			ss.SetSchemaUrl("")
		}
	}
}
