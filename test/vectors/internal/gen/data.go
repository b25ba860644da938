package main

import (
	"math"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/xpdata/entity"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

const (
	schemaURL = "https://opentelemetry.io/schemas/1.30.0"
	begin     = pcommon.Timestamp(1_795_262_400_000_000_000)
	second    = pcommon.Timestamp(1_000_000_000)
)

var (
	traceID = pcommon.TraceID{0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c}
	spanID  = pcommon.SpanID{0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31}
)

// sample is a small block of a machine: four items in two scopes.
func sample(signal block.Signal, host string) digest.Batch {
	switch signal {
	case block.Metrics:
		return sampleMetrics(host)
	case block.Logs:
		return sampleLogs(host)
	default:
		return sampleTraces(host)
	}
}

func fillResource(r pcommon.Resource, host string) {
	r.Attributes().PutStr("service.name", "shop")
	r.Attributes().PutStr("host.name", host)
}

func fillScope(s pcommon.InstrumentationScope, name string) {
	s.SetName(name)
	s.SetVersion("1.2.0")
}

func sampleMetrics(host string) digest.Batch {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.SetSchemaUrl(schemaURL)
	fillResource(rm.Resource(), host)
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.SetSchemaUrl(schemaURL)
	fillScope(sm.Scope(), "disk")
	m := sm.Metrics().AppendEmpty()
	m.SetName("disk.io")
	m.SetUnit("By")
	m.Metadata().PutStr("source", "proc")
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	for i, disk := range []string{"sda", "sdb", "sdc"} {
		p := sum.DataPoints().AppendEmpty()
		p.SetStartTimestamp(begin)
		p.SetTimestamp(begin + 10*second)
		p.SetIntValue(int64(4096 * (i + 1)))
		p.Attributes().PutStr("device", disk)
	}
	sm = rm.ScopeMetrics().AppendEmpty()
	fillScope(sm.Scope(), "cpu")
	m = sm.Metrics().AppendEmpty()
	m.SetName("cpu.load")
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(begin + 10*second)
	p.SetDoubleValue(0.75)
	return digest.FromMetrics(md)
}

func sampleLogs(host string) digest.Batch {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.SetSchemaUrl(schemaURL)
	fillResource(rl.Resource(), host)
	for i, scope := range []string{"http", "db"} {
		sl := rl.ScopeLogs().AppendEmpty()
		fillScope(sl.Scope(), scope)
		for j, body := range []string{"begin", "end"} {
			r := sl.LogRecords().AppendEmpty()
			r.SetTimestamp(begin + pcommon.Timestamp(i)*second)
			r.SetObservedTimestamp(begin + pcommon.Timestamp(i+1)*second)
			r.SetSeverityNumber(plog.SeverityNumberInfo)
			r.SetSeverityText("INFO")
			r.Body().SetStr(body)
			r.Attributes().PutStr("path", "/cart")
			r.Attributes().PutInt("try", int64(j))
		}
	}
	return digest.FromLogs(ld)
}

func sampleTraces(host string) digest.Batch {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.SetSchemaUrl(schemaURL)
	fillResource(rs.Resource(), host)
	for i, scope := range []string{"http", "db"} {
		ss := rs.ScopeSpans().AppendEmpty()
		fillScope(ss.Scope(), scope)
		for j, name := range []string{"GET /cart", "POST /order"} {
			s := ss.Spans().AppendEmpty()
			s.SetTraceID(traceID)
			s.SetSpanID(pcommon.SpanID{0: byte(i + 1), 7: byte(j + 1)})
			s.SetName(name)
			s.SetKind(ptrace.SpanKindServer)
			s.SetStartTimestamp(begin)
			s.SetEndTimestamp(begin + second)
			s.Attributes().PutInt("http.response.status_code", 200)
			e := s.Events().AppendEmpty()
			e.SetName("retry")
			e.SetTimestamp(begin + second/2)
			e.Attributes().PutStr("cause", "timeout")
			l := s.Links().AppendEmpty()
			l.SetTraceID(traceID)
			l.SetSpanID(spanID)
			l.Attributes().PutStr("why", "batch")
		}
	}
	return digest.FromTraces(td)
}

// allValues puts a value of every kind, and of every special form, into m.
func allValues(m pcommon.Map) {
	m.PutStr("string", "grüße, 世界 \x00 \U0001F600")
	m.PutStr("string.empty", "")
	m.PutBool("bool.true", true)
	m.PutBool("bool.false", false)
	m.PutInt("int", 42)
	m.PutInt("int.zero", 0)
	m.PutInt("int.negative", -1)
	m.PutInt("int.min", math.MinInt64)
	m.PutInt("int.max", math.MaxInt64)
	m.PutDouble("double", 3.25)
	m.PutDouble("double.zero", 0)
	m.PutDouble("double.negative.zero", math.Copysign(0, -1))
	m.PutDouble("double.nan", math.NaN())
	m.PutDouble("double.inf", math.Inf(-1))
	m.PutDouble("double.tiny", math.SmallestNonzeroFloat64)
	m.PutEmptyBytes("bytes").FromRaw([]byte{0, 1, 0xfe, 0xff})
	m.PutEmptyBytes("bytes.empty")
	m.PutEmpty("unset")
	m.PutStr("", "a key may be empty")
	s := m.PutEmptySlice("array")
	s.AppendEmpty().SetStr("one")
	s.AppendEmpty()
	s.AppendEmpty().SetInt(3)
	s.AppendEmpty().SetEmptySlice().AppendEmpty().SetBool(false)
	kv := s.AppendEmpty().SetEmptyMap()
	kv.PutStr("b", "order is kept")
	kv.PutStr("a", "")
	m.PutEmptySlice("array.empty")
	n := m.PutEmptyMap("map")
	n.PutEmptyMap("inner").PutDouble("pi", math.Pi)
	n.PutEmpty("unset")
	m.PutEmptyMap("map.empty")
	// Close to the reserved prefix, and not under it.
	m.PutStr("telemarks", "x")
	m.PutStr("telemark1", "x")
	m.PutStr("telemarK\u017f", "long s")
	m.PutStr("xtelemark.verdict", "x")
	m.PutStr("telemar", "x")
}

// points holds every kind of metric, with every field of its points set.
func points() digest.Batch {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.SetSchemaUrl(schemaURL)
	fillResource(rm.Resource(), "edge-a")
	rm.Resource().SetDroppedAttributesCount(3)
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.SetSchemaUrl(schemaURL)
	fillScope(sm.Scope(), "all")
	sm.Scope().SetDroppedAttributesCount(1)
	sm.Scope().Attributes().PutStr("scope.kind", "library")
	gauge(sm.Metrics().AppendEmpty())
	delta(sm.Metrics().AppendEmpty())
	histogram(sm.Metrics().AppendEmpty())
	exponential(sm.Metrics().AppendEmpty())
	summary(sm.Metrics().AppendEmpty())
	return digest.FromMetrics(md)
}

// onlyMetric is points with one metric only.
func onlyMetric(name string) digest.Batch {
	b := points()
	b.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().RemoveIf(func(m pmetric.Metric) bool { return m.Name() != name })
	return b
}

func header(m pmetric.Metric, name string) {
	m.SetName(name)
	m.SetDescription("what " + name + " says")
	m.SetUnit("1")
	m.Metadata().PutStr("prometheus.type", name)
}

func exemplar(e pmetric.Exemplar) {
	e.SetTimestamp(begin + second)
	e.SetTraceID(traceID)
	e.SetSpanID(spanID)
	e.FilteredAttributes().PutStr("user", "u1")
}

func gauge(m pmetric.Metric) {
	header(m, "gauge")
	g := m.SetEmptyGauge()
	for _, f := range []float64{21.5, math.NaN(), math.Copysign(0, -1), math.Inf(1)} {
		p := g.DataPoints().AppendEmpty()
		p.SetTimestamp(begin)
		p.SetDoubleValue(f)
	}
	p := g.DataPoints().AppendEmpty()
	p.SetStartTimestamp(begin)
	p.SetTimestamp(begin + second)
	p.SetIntValue(-7)
	p.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
	p.Attributes().PutStr("room", "r1")
	e := p.Exemplars().AppendEmpty()
	exemplar(e)
	e.SetIntValue(0)
	e = p.Exemplars().AppendEmpty()
	exemplar(e)
	e.SetDoubleValue(math.Copysign(0, -1))
	g.DataPoints().AppendEmpty().SetTimestamp(begin) // no value at all
}

func delta(m pmetric.Metric) {
	header(m, "sum")
	s := m.SetEmptySum()
	s.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	s.SetIsMonotonic(true)
	for _, x := range []int64{0, 1, math.MaxInt64, math.MinInt64} {
		p := s.DataPoints().AppendEmpty()
		p.SetTimestamp(begin)
		p.SetIntValue(x)
		p.Attributes().PutInt("x", x)
	}
}

func histogram(m pmetric.Metric) {
	header(m, "histogram")
	h := m.SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p := h.DataPoints().AppendEmpty()
	p.SetStartTimestamp(begin)
	p.SetTimestamp(begin + second)
	p.SetCount(6)
	p.SetSum(12.5)
	p.SetMin(0.5)
	p.SetMax(9)
	p.SetFlags(1)
	p.BucketCounts().FromRaw([]uint64{1, 0, 5})
	p.ExplicitBounds().FromRaw([]float64{math.Copysign(0, -1), 5})
	p.Attributes().PutStr("path", "/cart")
	exemplar(p.Exemplars().AppendEmpty())
	p = h.DataPoints().AppendEmpty() // explicit presence: zero is not absent
	p.SetSum(0)
	p.SetMin(math.Copysign(0, -1))
	p.SetMax(math.NaN())
	h.DataPoints().AppendEmpty().SetCount(1)
}

func exponential(m pmetric.Metric) {
	header(m, "exponential_histogram")
	h := m.SetEmptyExponentialHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	p := h.DataPoints().AppendEmpty()
	p.SetStartTimestamp(begin)
	p.SetTimestamp(begin + second)
	p.SetCount(300)
	p.SetSum(-4)
	p.SetMin(-2)
	p.SetMax(3)
	p.SetScale(-3)
	p.SetZeroCount(2)
	p.SetZeroThreshold(1e-9)
	p.SetFlags(1)
	p.Positive().SetOffset(-5)
	p.Positive().BucketCounts().FromRaw([]uint64{0, 128, math.MaxUint64})
	p.Negative().SetOffset(4)
	p.Negative().BucketCounts().FromRaw([]uint64{7})
	p.Attributes().PutStr("path", "/cart")
	exemplar(p.Exemplars().AppendEmpty())
	h.DataPoints().AppendEmpty().SetScale(20)
}

func summary(m pmetric.Metric) {
	header(m, "summary")
	p := m.SetEmptySummary().DataPoints().AppendEmpty()
	p.SetStartTimestamp(begin)
	p.SetTimestamp(begin + second)
	p.SetCount(9)
	p.SetSum(81)
	p.SetFlags(1)
	p.Attributes().PutStr("path", "/cart")
	for _, q := range []float64{0, 0.5, 1} {
		v := p.QuantileValues().AppendEmpty()
		v.SetQuantile(q)
		v.SetValue(q * 100)
	}
}

// records are log records with every field and every kind of body.
func records() digest.Batch {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.SetSchemaUrl(schemaURL)
	fillResource(rl.Resource(), "edge-a")
	allValues(rl.Resource().Attributes())
	refs := entity.ResourceEntityRefs(rl.Resource())
	ref := refs.AppendEmpty()
	ref.SetType("service")
	ref.SetSchemaUrl(schemaURL)
	ref.IdKeys().FromRaw([]string{"service.name", ""})
	ref.DescriptionKeys().FromRaw([]string{"host.name"})
	sl := rl.ScopeLogs().AppendEmpty()
	sl.SetSchemaUrl(schemaURL)
	r := sl.LogRecords().AppendEmpty()
	r.SetTimestamp(begin)
	r.SetObservedTimestamp(begin + second)
	r.SetSeverityNumber(plog.SeverityNumberError2)
	r.SetSeverityText("ERROR")
	r.SetEventName("order.refused")
	r.SetTraceID(traceID)
	r.SetSpanID(spanID)
	r.SetFlags(plog.DefaultLogRecordFlags.WithIsSampled(true))
	r.SetDroppedAttributesCount(2)
	allValues(r.Attributes())
	allValues(r.Body().SetEmptyMap())
	bodies := []func(pcommon.Value){
		func(pcommon.Value) {},
		func(v pcommon.Value) { v.SetStr("") },
		func(v pcommon.Value) { v.SetBool(false) },
		func(v pcommon.Value) { v.SetInt(0) },
		func(v pcommon.Value) { v.SetDouble(math.Copysign(0, -1)) },
		func(v pcommon.Value) { v.SetEmptyBytes() },
		func(v pcommon.Value) { v.SetEmptySlice().AppendEmpty() },
	}
	for _, fill := range bodies {
		fill(sl.LogRecords().AppendEmpty().Body())
	}
	return digest.FromLogs(ld)
}

// spans are spans with every field.
func spans() digest.Batch {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.SetSchemaUrl(schemaURL)
	fillResource(rs.Resource(), "edge-a")
	ss := rs.ScopeSpans().AppendEmpty()
	ss.SetSchemaUrl(schemaURL)
	fillScope(ss.Scope(), "http")
	s := ss.Spans().AppendEmpty()
	s.SetTraceID(traceID)
	s.SetSpanID(spanID)
	s.SetParentSpanID(pcommon.SpanID{1})
	s.TraceState().FromRaw("vendor=x")
	s.SetName("GET /cart")
	s.SetKind(ptrace.SpanKindClient)
	s.SetStartTimestamp(begin)
	s.SetEndTimestamp(begin + second)
	s.SetFlags(0x301)
	s.SetDroppedAttributesCount(1)
	s.SetDroppedEventsCount(2)
	s.SetDroppedLinksCount(3)
	s.Status().SetCode(ptrace.StatusCodeError)
	s.Status().SetMessage("no stock")
	allValues(s.Attributes())
	for range 2 {
		e := s.Events().AppendEmpty()
		e.SetName("exception")
		e.SetTimestamp(begin)
		e.SetDroppedAttributesCount(4)
		allValues(e.Attributes())
	}
	l := s.Links().AppendEmpty()
	l.SetTraceID(traceID)
	l.SetSpanID(spanID)
	l.TraceState().FromRaw("a=1")
	l.SetFlags(0x100)
	l.SetDroppedAttributesCount(5)
	l.Attributes().PutStr("why", "batch")
	s.Links().AppendEmpty()
	s.Events().AppendEmpty()
	ss.Spans().AppendEmpty() // with nothing in it
	return digest.FromTraces(td)
}
