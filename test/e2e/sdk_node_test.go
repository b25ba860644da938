package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// TestUnawareNodeApplication runs an application with the OpenTelemetry SDK for
// Node.js and its exporters for OTLP, over gRPC and over HTTP.
func TestUnawareNodeApplication(t *testing.T) {
	const orders = 300
	app := installNodeApp(t)
	f := newFleet(t, nil, "by-grpc", "by-http")
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	overGRPC, overHTTP := f.agent("by-grpc", gateway.GRPC, collector.Nonce), f.agent("by-http", gateway.GRPC, collector.Nonce)
	f.begin()

	ran := make(chan error, 2)
	for protocol, endpoint := range map[string]string{"grpc": "http://" + overGRPC.GRPC, "http/protobuf": overHTTP.HTTP} {
		go func() { ran <- runNodeApp(t.Context(), app, protocol, endpoint, orders) }()
	}
	require.NoError(t, <-ran)
	require.NoError(t, <-ran)

	f.awaitMetric(soon, collector, 2*2*orders, verifiedItems, "signal", "traces")
	f.awaitMetric(soon, collector, 2*orders, verifiedItems, "signal", "logs")
	f.awaitMetric(soon, collector, 2*4, verifiedItems, "signal", "metrics")
	for _, signal := range signals {
		items, names := map[string]int{}, map[string][]string{}
		require.NoError(t, harness.EachArchived(archiveOf(collector, signal), signal, func(b *harness.ArchivedBlock) error {
			if b.Verdict != reason.Verified || harness.ServiceOf(b.Block) != "orders-node" && b.Items > 0 {
				return fmt.Errorf("%s of %q as %s", harness.ServiceOf(b.Block), b.Name, b.Verdict)
			}
			items[b.Name] += b.Items
			if signal == block.Metrics {
				for _, sm := range b.Block.Metrics().ScopeMetrics().All() {
					for _, m := range sm.Metrics().All() {
						names[b.Name] = append(names[b.Name], m.Name())
					}
				}
			}
			return nil
		}))
		for _, agent := range []string{"by-grpc", "by-http"} {
			switch signal {
			case block.Traces:
				require.Equal(t, 2*orders, items[agent])
			case block.Logs:
				require.Equal(t, orders, items[agent])
			case block.Metrics:
				for _, want := range []string{"orders.placed", "orders.duration", "process.heap"} {
					require.True(t, slices.Contains(names[agent], want), "%s of %s", want, agent)
				}
			}
		}
		f.inspect(collector, signal, "--complete")
	}
	f.requireWhole(collector)
}

// installNodeApp copies the example and installs what its lock file names. The
// packages' own scripts do not run.
func installNodeApp(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"main.js", "package.json", "package-lock.json", ".npmrc"} {
		content, err := os.ReadFile(filepath.Join(harness.Root(), "examples", "sdk-node", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	npm, err := exec.LookPath("npm")
	require.NoError(t, err, "run 'make setup'")
	ci := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-progress")
	ci.Dir = dir
	out, err := ci.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

func runNodeApp(ctx context.Context, dir, protocol, endpoint string, orders int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	app := exec.CommandContext(ctx, "node", "main.js", fmt.Sprint(orders))
	app.Dir, app.Stdout, app.Stderr = dir, &stdout, &stderr
	app.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint)
	if err := app.Run(); err != nil {
		return fmt.Errorf("over %s: %w\n%s", protocol, err, stderr.String())
	}
	var ended struct{ Spans, Logs int }
	if err := json.Unmarshal(stdout.Bytes(), &ended); err != nil {
		return fmt.Errorf("over %s it printed %q: %w", protocol, stdout.String(), err)
	}
	if ended.Spans != 2*orders || ended.Logs != orders {
		return fmt.Errorf("over %s it ended %+v", protocol, ended)
	}
	return nil
}

// TestLockFileNamesNoRegistry holds the lock file to naming packages by their
// hashes only: where they come from is for whoever installs them.
func TestLockFileNamesNoRegistry(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(harness.Root(), "examples", "sdk-node", "package-lock.json"))
	require.NoError(t, err)
	var lock struct {
		Packages map[string]struct{ Resolved, Integrity string }
	}
	require.NoError(t, json.Unmarshal(content, &lock))
	require.Greater(t, len(lock.Packages), 10)
	for name, p := range lock.Packages {
		require.Empty(t, p.Resolved, name)
		if name != "" {
			require.NotEmpty(t, p.Integrity, name)
		}
	}
}
