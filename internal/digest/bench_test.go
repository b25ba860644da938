package digest

import (
	"fmt"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
)

var signals = []block.Signal{block.Metrics, block.Logs, block.Traces}

func putResource(r pcommon.Resource) {
	a := r.Attributes()
	a.PutStr("service.name", "checkout")
	a.PutStr("service.instance.id", "627cc493-f310-47de-96bd-71410b7dec09")
	a.PutStr("host.name", "edge-a.example.net")
	a.PutStr("host.id", "f0e1d2c3b4a5968778695a4b3c2d1e0f")
	a.PutStr("os.type", "linux")
	a.PutStr("k8s.pod.name", "checkout-7d9c5b5c4f-abcde")
	a.PutStr("deployment.environment.name", "production")
	a.PutInt("process.pid", 4711)
}

func putItemAttrs(a pcommon.Map, i int) {
	a.EnsureCapacity(5)
	a.PutStr("http.request.method", "GET")
	a.PutStr("http.route", "/api/v1/orders/{id}")
	a.PutInt("http.response.status_code", 200)
	a.PutStr("server.address", fmt.Sprintf("shop-%d.example.net", i%7))
	a.PutInt("server.port", 8443)
}

const t0 = 1_790_000_000_000_000_000

// typicalBatch is one block of n items with about five attributes each, twenty
// points to a metric, as it comes out of a receiver: decoded from protobuf.
func typicalBatch(s block.Signal, n int) Batch {
	b := NewBatch(s)
	blk := b.append()
	putResource(blk.resource())
	switch s {
	case block.Metrics:
		putMetrics(blk.metrics.ScopeMetrics().AppendEmpty(), n)
	case block.Logs:
		putLogs(blk.logs.ScopeLogs().AppendEmpty(), n)
	default:
		putSpans(blk.traces.ScopeSpans().AppendEmpty(), n)
	}
	return reread(b)
}

func putMetrics(sm pmetric.ScopeMetrics, n int) {
	sm.Scope().SetName("github.com/example/metrics")
	var dps pmetric.NumberDataPointSlice
	for i := range n {
		if i%20 == 0 {
			m := sm.Metrics().AppendEmpty()
			m.SetName("system.network.connections")
			m.SetDescription("The number of connections.")
			m.SetUnit("{connections}")
			if i%40 == 0 {
				dps = m.SetEmptyGauge().DataPoints()
			} else {
				sum := m.SetEmptySum()
				sum.SetIsMonotonic(true)
				sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
				dps = sum.DataPoints()
			}
		}
		dp := dps.AppendEmpty()
		dp.SetStartTimestamp(t0)
		dp.SetTimestamp(pcommon.Timestamp(t0 + i))
		if i%2 == 0 {
			dp.SetIntValue(int64(i) * 17)
		} else {
			dp.SetDoubleValue(float64(i) * 1.25)
		}
		putItemAttrs(dp.Attributes(), i)
	}
}

func putLogs(sl plog.ScopeLogs, n int) {
	sl.Scope().SetName("github.com/example/logs")
	for i := range n {
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(pcommon.Timestamp(t0 + i))
		lr.SetObservedTimestamp(pcommon.Timestamp(t0 + i + 5))
		lr.SetSeverityNumber(plog.SeverityNumberInfo)
		lr.SetSeverityText("INFO")
		lr.Body().SetStr(fmt.Sprintf("order %d was accepted and handed over to fulfilment, customer notified by mail; "+
			"payment authorised by the acquirer, reference 8f6c1d2e-77aa-4c1b-9d6e-%012d, basket of three positions", i, i))
		lr.SetTraceID(pcommon.TraceID{1, 2, 3, byte(i), 15: 1})
		lr.SetSpanID(pcommon.SpanID{1, byte(i), 7: 1})
		lr.SetFlags(1)
		putItemAttrs(lr.Attributes(), i)
	}
}

func putSpans(ss ptrace.ScopeSpans, n int) {
	ss.Scope().SetName("github.com/example/traces")
	for i := range n {
		s := ss.Spans().AppendEmpty()
		s.SetTraceID(pcommon.TraceID{1, 2, 3, byte(i), 15: 1})
		s.SetSpanID(pcommon.SpanID{1, byte(i), 7: 1})
		s.SetParentSpanID(pcommon.SpanID{2, byte(i), 7: 1})
		s.SetName("GET /api/v1/orders/{id}")
		s.SetKind(ptrace.SpanKindServer)
		s.SetStartTimestamp(pcommon.Timestamp(t0 + i))
		s.SetEndTimestamp(pcommon.Timestamp(t0 + i + 1_000_000))
		s.SetFlags(0x101)
		s.Status().SetCode(ptrace.StatusCodeOk)
		putItemAttrs(s.Attributes(), i)
		s.Attributes().PutStr("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101")
		if i%2 == 0 {
			e := s.Events().AppendEmpty()
			e.SetName("cache.miss")
			e.SetTimestamp(pcommon.Timestamp(t0 + i + 500))
			e.Attributes().PutStr("cache.key", "orders/4711")
		}
	}
}

func reread(b Batch) Batch {
	raw, err := b.Marshal()
	if err != nil {
		panic(err)
	}
	out, err := UnmarshalBatch(b.signal, raw)
	if err != nil {
		panic(err)
	}
	return out
}

func perItem(b *testing.B, items int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(items), "ns/item")
}

func BenchmarkPrepare(b *testing.B) {
	for _, tol := range []block.Tolerance{0, block.Split, block.Enrich} {
		for _, s := range signals {
			b.Run(fmt.Sprintf("%v/%v", tol, s), func(b *testing.B) {
				blk := typicalBatch(s, 100).At(0)
				b.SetBytes(int64(blk.protoSize()))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := blk.Prepare(tol); err != nil {
						b.Fatal(err)
					}
				}
				perItem(b, 100)
			})
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, tol := range []block.Tolerance{0, block.Split, block.Enrich} {
		for _, s := range signals {
			b.Run(fmt.Sprintf("%v/%v", tol, s), func(b *testing.B) {
				blk := typicalBatch(s, 100).At(0)
				p, err := blk.Prepare(tol)
				if err != nil {
					b.Fatal(err)
				}
				want := Expected{Tolerances: tol, Digest: p.Digest, Manifest: p.Manifest, Keys: p.Keys}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := blk.Check(want); err != nil {
						b.Fatal(err)
					}
				}
				perItem(b, 100)
			})
		}
	}
}

// BenchmarkParts shows what the walk consists of.
func BenchmarkParts(b *testing.B) {
	for _, s := range signals {
		blk := typicalBatch(s, 100).At(0)
		b.Run("walk-unhashed/"+s.String(), func(b *testing.B) {
			for b.Loop() {
				w := newWalker(options{signal: s})
				w.mute = true
				blk.walk(w)
				w.release()
			}
			perItem(b, 100)
		})
		b.Run("walk/"+s.String(), func(b *testing.B) {
			for b.Loop() {
				w := newWalker(options{signal: s})
				blk.walk(w)
				w.release()
			}
			perItem(b, 100)
		})
		b.Run("size/"+s.String(), func(b *testing.B) {
			for b.Loop() {
				_ = blk.protoSize()
			}
			perItem(b, 100)
		})
	}
}
