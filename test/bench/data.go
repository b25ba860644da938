package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

var signals = []block.Signal{block.Metrics, block.Logs, block.Traces}

// workload makes requests as a busy service sends them: eight resource
// attributes, five attributes to an item, twenty points to a metric, ids and
// values that do not compress. A block of 100 items has about 19 / 54 / 45 kB.
type workload struct {
	*rand.Rand
}

func newWorkload(seed uint64) *workload { return &workload{rand.New(rand.NewPCG(seed, 1))} }

// batch makes a request.
func (w *workload) batch(s block.Signal, blocks, items int) digest.Batch {
	switch s {
	case block.Metrics:
		md := pmetric.NewMetrics()
		for i := range blocks {
			rm := md.ResourceMetrics().AppendEmpty()
			w.resource(rm.Resource().Attributes(), i)
			w.points(rm.ScopeMetrics().AppendEmpty(), items)
		}
		return digest.FromMetrics(md)
	case block.Logs:
		ld := plog.NewLogs()
		for i := range blocks {
			rl := ld.ResourceLogs().AppendEmpty()
			w.resource(rl.Resource().Attributes(), i)
			w.records(rl.ScopeLogs().AppendEmpty(), items)
		}
		return digest.FromLogs(ld)
	default:
		td := ptrace.NewTraces()
		for i := range blocks {
			rs := td.ResourceSpans().AppendEmpty()
			w.resource(rs.Resource().Attributes(), i)
			w.spans(rs.ScopeSpans().AppendEmpty(), items)
		}
		return digest.FromTraces(td)
	}
}

func (w *workload) resource(a pcommon.Map, i int) {
	a.PutStr("service.name", fmt.Sprintf("checkout-%d", i))
	a.PutStr("service.instance.id", fmt.Sprintf("%016x-%016x", w.Uint64(), w.Uint64()))
	a.PutStr("host.name", "edge-a.example.net")
	a.PutStr("host.id", fmt.Sprintf("%032x", w.Uint64()))
	a.PutStr("os.type", "linux")
	a.PutStr("k8s.pod.name", fmt.Sprintf("checkout-7d9c5b5c4f-%05x", w.Uint32()>>12))
	a.PutStr("deployment.environment.name", "production")
	a.PutInt("process.pid", int64(w.IntN(1<<16)))
}

const beginning = pcommon.Timestamp(1_790_000_000_000_000_000)

func (w *workload) time() pcommon.Timestamp { return beginning + pcommon.Timestamp(w.Int64N(60e9)) }

func (w *workload) traceID() (id pcommon.TraceID) {
	binary.BigEndian.PutUint64(id[:], w.Uint64()|1)
	binary.BigEndian.PutUint64(id[8:], w.Uint64())
	return id
}

func (w *workload) spanID() (id pcommon.SpanID) {
	binary.BigEndian.PutUint64(id[:], w.Uint64()|1)
	return id
}

func (w *workload) attributes(a pcommon.Map) {
	a.EnsureCapacity(5)
	a.PutStr("http.request.method", [...]string{"GET", "POST", "PUT"}[w.IntN(3)])
	a.PutStr("http.route", "/api/v1/orders/{id}")
	a.PutInt("http.response.status_code", int64(200+w.IntN(5)))
	a.PutStr("server.address", fmt.Sprintf("shop-%d.example.net", w.IntN(7)))
	a.PutInt("server.port", 8443)
}

func (w *workload) points(sm pmetric.ScopeMetrics, n int) {
	sm.Scope().SetName("github.com/example/metrics")
	var points pmetric.NumberDataPointSlice
	for i := range n {
		if i%20 == 0 {
			m := sm.Metrics().AppendEmpty()
			m.SetName(fmt.Sprintf("system.network.connections.%d", i/20))
			m.SetDescription("The number of connections.")
			m.SetUnit("{connections}")
			if i%40 == 0 {
				points = m.SetEmptyGauge().DataPoints()
			} else {
				sum := m.SetEmptySum()
				sum.SetIsMonotonic(true)
				sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
				points = sum.DataPoints()
			}
		}
		p := points.AppendEmpty()
		p.SetStartTimestamp(beginning)
		p.SetTimestamp(w.time())
		if i%2 == 0 {
			p.SetIntValue(w.Int64N(1 << 20))
		} else {
			p.SetDoubleValue(w.NormFloat64() * 100)
		}
		w.attributes(p.Attributes())
	}
}

func (w *workload) records(sl plog.ScopeLogs, n int) {
	sl.Scope().SetName("github.com/example/logs")
	for range n {
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(w.time())
		lr.SetObservedTimestamp(lr.Timestamp() + 5)
		lr.SetSeverityNumber(plog.SeverityNumberInfo)
		lr.SetSeverityText("INFO")
		lr.Body().SetStr(fmt.Sprintf("order %d was accepted and handed over to fulfilment, customer %d notified by mail; "+
			"payment authorised by the acquirer, reference %016x-%016x, basket of %d positions",
			w.IntN(1e6), w.IntN(1e6), w.Uint64(), w.Uint64(), 1+w.IntN(9)))
		lr.SetTraceID(w.traceID())
		lr.SetSpanID(w.spanID())
		lr.SetFlags(1)
		w.attributes(lr.Attributes())
	}
}

func (w *workload) spans(ss ptrace.ScopeSpans, n int) {
	ss.Scope().SetName("github.com/example/traces")
	for i := range n {
		s := ss.Spans().AppendEmpty()
		s.SetTraceID(w.traceID())
		s.SetSpanID(w.spanID())
		s.SetParentSpanID(w.spanID())
		s.SetName("GET /api/v1/orders/{id}")
		s.SetKind(ptrace.SpanKindServer)
		s.SetStartTimestamp(w.time())
		s.SetEndTimestamp(s.StartTimestamp() + pcommon.Timestamp(w.Int64N(1e8)))
		s.SetFlags(0x101)
		s.Status().SetCode(ptrace.StatusCodeOk)
		w.attributes(s.Attributes())
		s.Attributes().PutStr("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101")
		if i%2 == 0 {
			e := s.Events().AppendEmpty()
			e.SetName("cache.miss")
			e.SetTimestamp(s.StartTimestamp() + 500)
			e.Attributes().PutStr("cache.key", fmt.Sprintf("orders/%d", w.IntN(1e6)))
		}
	}
}
