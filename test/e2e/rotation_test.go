package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
)

// keyDir is an overlay that names an agent's key directory.
func keyDir(dir string) string { return fmt.Sprintf("extensions: {tpm: {key: {dir: %q}}}", dir) }

// TestRotatedKeyLosesNothing gives an agent under load another key directory and
// has it read its configuration again. The way to the collector holds back some of
// what the old key has signed until the registry calls that key superseded.
func TestRotatedKeyLosesNothing(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a", "b")
	f.token(api.TokenRequest{Uses: 2})
	collector := f.collector("collector", patient)
	h := f.hostile(collector)
	own, next := filepath.Join(f.Dir, "a", "keys"), filepath.Join(f.Dir, "a", "keys-2")
	a, b := f.agent("a", h.Addr, collector.Nonce, keyDir(own)), f.agent("b", h.Addr, collector.Nonce)
	f.begin()
	old := f.kid("a")
	late := &hoard{}
	h.Set(func(request digest.Batch) []digest.Batch {
		if harness.ServiceOf(request.At(0)) == "late" {
			late.add(harness.Clone(request))
			return nil
		}
		return []digest.Batch{request}
	})

	const items, perRequest = 20_000, 50
	loaded := make(chan error, 2)
	for i, n := range []*harness.Node{a, b} {
		go func() {
			loaded <- harness.Load{
				Endpoint: n.GRPC, Protocol: harness.GRPC, Signal: block.Logs, Service: n.Name,
				First: int64((i + 1) * 1_000_000), Items: items, PerRequest: perRequest, Clients: 4, Every: 20 * time.Millisecond,
			}.Run(t.Context())
		}()
	}
	f.run(harness.Load{Endpoint: a.GRPC, Protocol: harness.GRPC, Signal: block.Logs, Service: "late", First: 0, Items: 100, PerRequest: 10})
	f.awaitMetric(soon, collector, 2000, verifiedItems)
	require.NoError(t, os.WriteFile(filepath.Join(a.Dir, "config-2.yaml"), []byte(keyDir(next)), 0o600))
	require.NoError(t, os.Remove(f.Registry.JoinFile), "the registry knows the machine by its TPM")
	a.Signal(syscall.SIGHUP)

	var m *api.Machine
	f.eventually(soon, func() (err error) {
		if m, err = f.Registry.Client.Machine(t.Context(), "a"); err == nil && len(m.Keys) != 2 {
			err = fmt.Errorf("the registry knows %d keys of the machine", len(m.Keys))
		}
		return err
	})
	require.Equal(t, api.StateEnrolled, m.State)
	states := map[string]api.KeyState{}
	for _, k := range m.Keys {
		states[k.KID] = k.State
	}
	require.Equal(t, api.StateSuperseded, states[old])
	require.NoError(t, <-loaded)
	require.NoError(t, <-loaded)
	held := late.take()
	require.NotEmpty(t, held)
	for _, request := range held {
		require.NoError(t, h.Send(t.Context(), request))
	}

	all := []span{{0, 100}, {1_000_000, items}, {2_000_000, items}}
	got := f.awaitArchive(collector, block.Logs, drainTime, all...)
	require.NoError(t, got.exactly(all...))
	blocks := map[string]int{}
	for _, s := range got.blocks {
		if s.name == "a" {
			kid, _, _ := strings.Cut(s.id, "/")
			blocks[kid]++
		}
	}
	require.Len(t, blocks, 2, "both keys have signed")
	require.Greater(t, blocks[old], len(held))
	f.requireWhole(collector)

	// The archive proves itself with the keys as the registry knows them today.
	keys, err := f.command("fleet", "keys", "--registry", f.Registry.URL, "--token-file", f.Registry.AdminFile, "--pin", f.Registry.Pin)
	require.NoError(t, err)
	f.keys = filepath.Join(f.Dir, "today.json")
	require.NoError(t, os.WriteFile(f.keys, keys, 0o600))
	in := f.inspect(collector, block.Logs)
	require.Len(t, in.Verdicts, 1, "%v", in.Verdicts)

	resp, err := http.Get(collector.Nonce + "/health")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}
