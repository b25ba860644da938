package signtest

import (
	"bytes"
	"fmt"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

const start = 1_700_000_000_000_000_000

func fillResource(r pcommon.Resource, host string) {
	r.Attributes().PutStr("service.name", "shop")
	r.Attributes().PutStr("host.name", host)
}

// Data returns a batch of one block with items in two scopes (one, if there is
// one item only).
func Data(signal block.Signal, host string, items int) digest.Batch {
	switch signal {
	case block.Metrics:
		return digest.FromMetrics(metrics(host, items))
	case block.Logs:
		return digest.FromLogs(logs(host, items))
	case block.Traces:
		return digest.FromTraces(traces(host, items))
	default:
		panic(fmt.Sprintf("no data for %v", signal))
	}
}

// inScopes calls item for each item with whether it opens a scope.
func inScopes(items int, item func(i int, opens bool)) {
	for i := range items {
		item(i, i == 0 || i == (items+1)/2)
	}
}

func metrics(host string, items int) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	fillResource(rm.Resource(), host)
	var sm pmetric.ScopeMetrics
	var g pmetric.Gauge
	inScopes(items, func(i int, opens bool) {
		if opens {
			sm = rm.ScopeMetrics().AppendEmpty()
			sm.Scope().SetName(fmt.Sprintf("scope-%d", i))
			m := sm.Metrics().AppendEmpty()
			m.SetName("temperature")
			m.SetUnit("Cel")
			g = m.SetEmptyGauge()
		}
		p := g.DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.Timestamp(start + i))
		p.SetDoubleValue(float64(i) + 0.5)
		p.Attributes().PutStr("room", fmt.Sprintf("r%d", i))
	})
	return md
}

func logs(host string, items int) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	fillResource(rl.Resource(), host)
	var sl plog.ScopeLogs
	inScopes(items, func(i int, opens bool) {
		if opens {
			sl = rl.ScopeLogs().AppendEmpty()
			sl.Scope().SetName(fmt.Sprintf("scope-%d", i))
		}
		r := sl.LogRecords().AppendEmpty()
		r.SetTimestamp(pcommon.Timestamp(start + i))
		r.Body().SetStr(fmt.Sprintf("order %d accepted", i))
		r.Attributes().PutInt("order", int64(i))
	})
	return ld
}

func traces(host string, items int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	fillResource(rs.Resource(), host)
	var ss ptrace.ScopeSpans
	inScopes(items, func(i int, opens bool) {
		if opens {
			ss = rs.ScopeSpans().AppendEmpty()
			ss.Scope().SetName(fmt.Sprintf("scope-%d", i))
		}
		s := ss.Spans().AppendEmpty()
		s.SetTraceID([16]byte{1, byte(i >> 8), byte(i)})
		s.SetSpanID([8]byte{2, byte(i >> 8), byte(i)})
		s.SetName("checkout")
		s.SetStartTimestamp(pcommon.Timestamp(start + i))
		s.SetEndTimestamp(pcommon.Timestamp(start + i + 1000))
		s.Attributes().PutStr("method", "POST")
	})
	return td
}

// Merge moves all blocks into one batch, as a gateway's batch processor does.
func Merge(batches ...digest.Batch) digest.Batch {
	out := digest.NewBatch(batches[0].Signal())
	for _, b := range batches {
		for i := range b.Len() {
			b.MoveBlock(i, out)
		}
	}
	return out
}

// Copy returns a copy, as a replaying gateway keeps one.
func Copy(b digest.Batch) digest.Batch {
	out := digest.NewBatch(b.Signal())
	for i := range b.Len() {
		b.At(i).CopyTo(out)
	}
	return out
}

// Attributes shows the attributes of a block's resource to a policy.
type Attributes struct{ Of digest.Block }

// Values implements policy.Attributes.
func (a Attributes) Values(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k, v := range a.Of.Attributes().All() {
			if k == key && !yield(v.AsString()) {
				return
			}
		}
	}
}

// Record is the first log record.
func Record(b digest.Batch) plog.LogRecord {
	return b.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
}

// Double puts a resource attribute of block 0 there a second time, which the
// pdata API does not allow and the wire does: any value will do.
func Double(t testing.TB, b digest.Batch, key string, value []byte) {
	t.Helper()
	other := key[:len(key)-1] + "\x01"
	b.At(0).Attributes().PutEmptyBytes(other).FromRaw(value)
	wire, err := b.Marshal()
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(wire, []byte(other)))
	again, err := digest.UnmarshalBatch(b.Signal(), bytes.Replace(wire, []byte(other), []byte(key), 1))
	require.NoError(t, err)
	b.Filter(func(int) bool { return false })
	for i := range again.Len() {
		again.MoveBlock(i, b)
	}
}
