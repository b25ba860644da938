package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// TestUnawareApplication runs an application with the OpenTelemetry SDK, which
// knows an OTLP endpoint and nothing of receipts.
func TestUnawareApplication(t *testing.T) {
	f := newFleet(t, nil, "edge-a")
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	agent := f.agent("edge-a", gateway.GRPC, collector.Nonce)
	f.begin()

	app := filepath.Join(f.Dir, "app")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", app, "./examples/sdk-go")
	build.Dir = harness.Root()
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	var stderr bytes.Buffer
	run := exec.CommandContext(t.Context(), app, "-for", "3s", "-rate", "200")
	run.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+agent.GRPC, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test")
	run.Stderr = &stderr
	out, err = run.Output()
	require.NoError(t, err, "%s", stderr.Bytes())
	var sent struct{ Spans, Orders, Records int }
	require.NoError(t, json.Unmarshal(out, &sent))
	ended := sent.Spans
	require.Greater(t, ended, 300)

	f.awaitMetric(soon, collector, ended, verifiedItems, "signal", "traces")
	children := map[pcommon.SpanID]int{}
	roots, spans := map[pcommon.SpanID]bool{}, 0
	require.NoError(t, harness.EachArchived(collector.Traces, block.Traces, func(b *harness.ArchivedBlock) error {
		require.Equal(t, reason.Verified, b.Verdict)
		require.Equal(t, "edge-a", b.Name)
		for _, ss := range b.Block.Traces().ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				spans++
				if sp.ParentSpanID().IsEmpty() {
					roots[sp.SpanID()] = true
				} else {
					children[sp.ParentSpanID()]++
				}
			}
		}
		return nil
	}))
	require.Equal(t, ended, spans)
	require.Len(t, roots, ended/3, "an order is three spans")
	for id := range roots {
		require.Equal(t, 2, children[id], "spans below span %s", id)
	}
	in := f.inspect(collector, block.Traces, "--complete")
	require.Len(t, in.Streams, 1)
	require.Equal(t, ended, in.Streams[0].Items)

	f.awaitMetric(soon, collector, sent.Records, verifiedItems, "signal", "logs")
	records := map[int64]bool{}
	require.NoError(t, harness.EachArchived(collector.Logs, block.Logs, func(b *harness.ArchivedBlock) error {
		require.Equal(t, reason.Verified, b.Verdict)
		for _, sl := range b.Block.Logs().ScopeLogs().All() {
			for _, l := range sl.LogRecords().All() {
				require.False(t, l.TraceID().IsEmpty(), "it was logged in a span")
				n, ok := l.Attributes().Get("order.number")
				require.True(t, ok)
				records[n.Int()] = true
			}
		}
		return nil
	}))
	require.Len(t, records, sent.Records)
	var orders int64
	require.NoError(t, harness.EachArchived(collector.Metrics, block.Metrics, func(b *harness.ArchivedBlock) error {
		require.Equal(t, reason.Verified, b.Verdict)
		for _, sm := range b.Block.Metrics().ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if m.Name() == "orders.accepted" {
					orders = max(orders, m.Sum().DataPoints().At(0).IntValue())
				}
			}
		}
		return nil
	}))
	require.Equal(t, int64(sent.Orders), orders, "the counter's last value")
	f.requireWhole(collector)
}
