package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// TestCollectorBuiltWithOurComponents runs what examples/ocb-rebuild builds: our
// agent components beside upstream ones that the distribution does not have.
func TestCollectorBuiltWithOurComponents(t *testing.T) {
	const lines = 200
	f := newFleet(t, nil, "edge-a")
	path, err := harness.Bin("otelcol-rebuild")
	require.NoError(t, err, "run 'make rebuild'")
	collector := f.collector("collector", patient)
	f.begin()

	ports, err := harness.FreePorts(4)
	require.NoError(t, err)
	at := func(i int) string { return "localhost:" + strconv.Itoa(ports[i]) }
	state := filepath.Join(f.Dir, "edge-a")
	own := &harness.Process{
		Name: "otelcol-rebuild", Path: path, Log: filepath.Join(state, "log"),
		Args: []string{"--config", filepath.Join(harness.Root(), "examples", "ocb-rebuild", "config.yaml")},
		Env: []string{
			"HEALTH=" + at(0), "SYSLOG=" + at(1), "TELEMARK_AGENT_HTTP=" + at(2), "TELEMARK_METRICS_PORT=" + strconv.Itoa(ports[3]),
			"TPM2_DEVICE=swtpm:" + filepath.Join(state, "tpm"), "TELEMARK_STATE=" + state,
			"TELEMARK_NONCES=" + collector.Nonce, "TELEMARK_GATEWAY=" + collector.GRPC, "PLAINTEXT=true",
		},
	}
	require.NoError(t, own.Start())
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(own.Tail(20))
		}
		own.Kill()
	})
	ctx, cancel := context.WithTimeout(t.Context(), drainTime)
	defer cancel()
	require.NoError(t, own.Ready(ctx, nil, "http://"+at(0)))

	conn, err := net.Dial("tcp", at(1))
	require.NoError(t, err)
	for i := range lines {
		_, err := fmt.Fprintf(conn, "<34>1 2026-11-22T10:00:00Z till-7 shop 1 ID%d - paid with 4111111111111111\n", i)
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
	resp, err := http.Post("http://"+at(2)+"/metrics/generate", "application/json", strings.NewReader(`{"metric_type":"application","custom_data":{"tills":7}}`))
	require.NoError(t, err)
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", answer)

	f.awaitMetric(drainTime, collector, lines, verifiedItems, "signal", "logs")
	f.awaitMetric(drainTime, collector, 1, verifiedItems, "signal", "metrics")
	records := 0
	require.NoError(t, harness.EachArchived(collector.Logs, block.Logs, func(b *harness.ArchivedBlock) error {
		require.Equal(t, reason.Verified, b.Verdict)
		require.Equal(t, "edge-a", b.Name)
		for _, sl := range b.Block.Logs().ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				require.Contains(t, lr.Body().AsString(), "paid with")
				require.NotContains(t, lr.Body().AsString(), "4111111111111111")
				records++
			}
		}
		return nil
	}))
	require.Equal(t, lines, records)
	f.inspect(collector, block.Logs, "--complete")
	f.requireWhole(collector)
}
