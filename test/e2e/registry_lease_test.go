package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
)

const enrolmentState = "otelcol_tpm_enrolment_state"

// TestLapsedLeaseHoldsDataAndLosesNone kills the registry for longer than the
// shortest lease lasts.
func TestLapsedLeaseHoldsDataAndLosesNone(t *testing.T) {
	const lease = time.Minute
	f := withRegistry(t, harness.RegistryOptions{Args: []string{"--lease", lease.String()}}, "a")
	f.token(api.TokenRequest{})
	collector := f.collector("collector", patient)
	a := f.agent("a", collector.GRPC, collector.Nonce)
	f.begin()
	f.run(f.logs(a, 0, 100))
	enrolled := time.Now()
	f.awaitArchive(collector, block.Logs, drainTime, span{0, 100})
	f.Registry.Kill()

	f.awaitMetric(lease+soon, a, 1, enrolmentState, "state", "expired")
	require.Less(t, time.Since(enrolled), lease, "an agent stops before its lease ends, so that what is on its way arrives in time")
	done := make(chan error, 1)
	go func() { done <- f.logs(a, 100, 500).Run(t.Context()) }()
	f.awaitMetric(soon, a, 1, pendingBlocks)
	time.Sleep(time.Until(enrolled.Add(lease)))
	require.Len(t, f.archive(collector, block.Logs).byItem, 100)
	f.up(f.Registry)
	require.NoError(t, <-done)
	require.NoError(t, f.awaitArchive(collector, block.Logs, drainTime, span{0, 600}).exactly(span{0, 600}))
	require.Zero(t, f.metric(collector, refusedBlocks))
	t.Logf("the lease was renewed %v after it was given", time.Since(enrolled).Round(time.Second))
}

// TestSupersededKeyIsGoodForThePastOnly gives a machine a new key, delivers what
// the old one had signed, and lets a thief sign with the old one.
func TestSupersededKeyIsGoodForThePastOnly(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a")
	f.token(api.TokenRequest{})
	collector := f.collector("collector", patient)
	h := f.hostile(collector)
	a := f.agent("a", h.Addr, collector.Nonce)
	f.begin()
	f.run(f.logs(a, 0, 100))
	f.awaitArchive(collector, block.Logs, drainTime, span{0, 100})
	held := &hoard{}
	h.Set(func(request digest.Batch) []digest.Batch {
		held.add(harness.Clone(request))
		return nil
	})
	f.run(f.logs(a, 100, 100))
	f.stop(a)
	h.Set(harness.Pass)

	keys, stolen := filepath.Join(a.Dir, "keys"), filepath.Join(f.Dir, "thief", "keys")
	require.NoError(t, os.Mkdir(filepath.Dir(stolen), 0o750))
	require.NoError(t, os.Rename(keys, stolen))
	f.start(a)
	f.run(f.logs(a, 200, 100))
	f.awaitArchive(collector, block.Logs, drainTime, span{200, 100})
	old := f.kid("a")
	m, err := f.Registry.Client.Machine(t.Context(), "a")
	require.NoError(t, err)
	states := map[api.KeyState]string{}
	for _, k := range m.Keys {
		states[k.State] = k.KID
	}
	require.Equal(t, old, states[api.StateSuperseded])
	require.NotEmpty(t, states[api.StateEnrolled])
	require.Len(t, states, 2)

	for _, request := range held.take() {
		require.NoError(t, h.Send(t.Context(), request))
	}
	whole := f.awaitArchive(collector, block.Logs, drainTime, span{0, 300})
	require.NoError(t, whole.exactly(span{0, 300}), "what was signed in time is good")
	require.Zero(t, f.metric(collector, refusedBlocks))

	// The old key in the same TPM, used by somebody who asks no registry.
	f.stop(a)
	registry := f.Registry
	f.Registry = nil
	f.Devices = map[string]string{"thief": "swtpm:" + filepath.Join(f.Dir, "a", "tpm")}
	thief := f.agent("thief", collector.GRPC, collector.Nonce)
	f.Registry = registry
	f.start(thief)
	f.run(f.logs(thief, 300, 100))
	f.awaitMetric(soon, collector, 2, refusedBlocks, "reason", string(reason.KeyExpired))
	require.Zero(t, f.archive(collector, block.Logs).service("thief"))

	f.stop(thief)
	_, err = f.command("enroll", "--device", f.Devices["thief"], "--key-dir", stolen, "--registry", registry.URL, "--name", "a")
	require.ErrorContains(t, err, string(api.KeyRevoked), "it cannot come back")
}
