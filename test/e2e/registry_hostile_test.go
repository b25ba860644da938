package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
)

const (
	refusedAnswers = "otelcol_tpmverify_registry_refused_answers"
	registryUp     = "otelcol_tpmverify_registry_up"
	parkedBlocks   = "otelcol_tpmverify_parked_blocks"
)

// shortMemory makes a collector rely on what it knows for the shortest time
// that can be configured, and park what it cannot judge.
const shortMemory = `processors: {tpmverify: {park: {storage: file_storage}, keys: {registry: {max_stale: 10s}}}}`

const maxStale = 10 * time.Second

// awaitRevoked waits until a collector refuses blocks of a revoked key, beyond
// those that it has refused before.
func (f *fleet) awaitRevoked(limit time.Duration, collector *harness.Node, before int) {
	f.Helper()
	f.awaitMetric(limit, collector, before+1, refusedBlocks, "reason", string(reason.KeyRevoked))
}

// requireStill demands that for a while nothing of a service comes into the
// archive.
func (f *fleet) requireStill(collector *harness.Node, service string, length time.Duration) {
	f.Helper()
	then := f.archive(collector, block.Logs).service(service)
	time.Sleep(length)
	require.Equal(f, then, f.archive(collector, block.Logs).service(service), "blocks of %s were accepted", service)
}

// backup copies the database of a registry that does not run.
func backup(t *testing.T, r *harness.Registry) (restore func()) {
	t.Helper()
	database := filepath.Join(r.Dir, "registry.db")
	content, err := os.ReadFile(database)
	require.NoError(t, err)
	_, err = os.Stat(database + "-wal")
	require.ErrorIs(t, err, os.ErrNotExist, "a registry that was stopped leaves everything in one file")
	return func() {
		for _, left := range []string{"-wal", "-shm"} {
			_ = os.Remove(database + left)
		}
		require.NoError(t, os.WriteFile(database, content, 0o600))
	}
}

// TestRestoredDatabaseDoesNotTakeBackARevocation puts an older copy of the
// database under the registry, as whoever stole a backup would.
func TestRestoredDatabaseDoesNotTakeBackARevocation(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a", "b", "c")
	f.token(api.TokenRequest{Uses: 3})
	collector := f.collector("collector", patient)
	a, b, c := f.agent("a", collector.GRPC, collector.Nonce), f.agent("b", collector.GRPC, collector.Nonce), f.agent("c", collector.GRPC, collector.Nonce)
	f.begin()
	f.run(f.logs(a, 0, 100), f.logs(b, 100, 100), f.logs(c, 200, 100))
	f.awaitArchive(collector, block.Logs, drainTime, span{0, 300})
	require.NoError(t, f.Registry.Stop(soon))
	restore := backup(t, f.Registry)
	f.up(f.Registry)

	stopB := f.stream(b, 10_000)
	f.awaitMetric(soon, collector, 400, verifiedItems)
	_, err := f.Registry.Client.RevokeMachine(t.Context(), "b", "stolen")
	require.NoError(t, err)
	f.awaitRevoked(revocationTime+soon, collector, 0) // the stream may have to be opened again
	seen := f.metric(collector, "otelcol_tpmverify_registry_revision")
	f.Registry.Kill()
	restore()
	f.up(f.Registry)
	m, err := f.Registry.Client.Machine(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, api.StateEnrolled, m.State, "the restored registry knows of no revocation")

	f.awaitMetric(soon, collector, 1, refusedAnswers, "refusal", "revision_rolled_back")
	f.requireStill(collector, "b", revocationTime)
	f.run(f.logs(a, 300, 100)) // what was proven a moment ago still holds
	f.awaitArchive(collector, block.Logs, drainTime, span{300, 100})
	collector.Kill()
	f.start(collector)
	f.awaitMetric(soon, collector, 1, refusedAnswers, "refusal", "revision_rolled_back")
	f.awaitRevoked(soon, collector, 0)
	f.requireStill(collector, "b", revocationTime)

	// What is revoked now has a revision that the collector has passed already.
	m, err = f.Registry.Client.RevokeMachine(t.Context(), "c", "stolen too")
	require.NoError(t, err)
	require.LessOrEqual(t, int(m.Revision), seen)
	for i := 0; ; i++ {
		p, err := f.Registry.Client.PutPolicy(t.Context(), &api.Policy{Scope: fmt.Sprintf("name:nobody-%d", i), RequireEvidence: "any"})
		require.NoError(t, err)
		if int(p.Revision) > seen {
			break
		}
	}
	f.awaitMetric(soon, collector, 1, registryUp)
	f.awaitMetric(soon, collector, seen+1, "otelcol_tpmverify_registry_revision")
	refused := f.metric(collector, refusedBlocks, "reason", string(reason.KeyRevoked))
	f.requireStill(collector, "b", revocationTime)
	_ = stopB()
	require.Greater(t, f.metric(collector, refusedBlocks, "reason", string(reason.KeyRevoked)), refused)
	stopC := f.stream(c, 1_000_000)
	defer stopC()
	f.eventually(soon, func() error {
		for _, s := range f.status(collector).of(f.kid("c")) {
			if s.Refused[string(reason.KeyRevoked)] > 0 {
				return nil
			}
		}
		return fmt.Errorf("what was revoked while the registry was not believed is not known")
	})
	require.Equal(t, 2, f.archive(collector, block.Logs).service("c"), "nothing of what was revoked meanwhile is accepted")
}

// TestRevocationBehindABlackHoleArrivesWhenItEnds cuts a collector off from the
// registry without any connection noticing.
func TestRevocationBehindABlackHoleArrivesWhenItEnds(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a", "b")
	f.token(api.TokenRequest{Uses: 2})
	hole := f.tunnel(f.Registry)
	collector := f.collector("collector", patient, shortMemory, collectorBehind(hole.URL))
	a, b := f.agent("a", collector.GRPC, collector.Nonce), f.agent("b", collector.GRPC, collector.Nonce)
	f.begin()
	f.run(f.logs(a, 0, 100))
	stopB := f.stream(b, 10_000)
	f.awaitMetric(soon, collector, 300, verifiedItems)
	f.awaitMetric(soon, collector, 1, "otelcol_tpmverify_registry_streaming")

	hole.dark()
	dark := time.Now()
	_, err := f.Registry.Client.RevokeMachine(t.Context(), "b", "stolen")
	require.NoError(t, err)
	f.eventually(soon, func() error {
		if up := f.metric(collector, "otelcol_tpmverify_registry_streaming"); up != 0 {
			return fmt.Errorf("the stream is said to be there after %v in the dark", time.Since(dark).Round(time.Millisecond))
		}
		return nil
	})
	require.Less(t, time.Since(dark), maxStale)
	hole.light()
	light := time.Now()
	f.awaitRevoked(8*time.Second, collector, 0)
	t.Logf("refused %v after the dark", time.Since(light).Round(time.Millisecond))
	f.requireStill(collector, "b", time.Second)
	_ = stopB()

	// For longer than it may rely on what it knows.
	f.awaitMetric(soon, collector, 1, "otelcol_tpmverify_registry_streaming")
	hole.dark()
	time.Sleep(maxStale + time.Second)
	f.run(f.logs(a, 100, 100))
	f.awaitMetric(soon, collector, 1, parkedBlocks, "signal", "logs")
	require.Error(t, f.archive(collector, block.Logs).missing(span{100, 1}), "what was proven too long ago is relied on")
	require.Len(t, f.archive(collector, block.Logs).only("a").byItem, 100)
	hole.light()
	whole := f.awaitArchive(collector, block.Logs, drainTime, span{0, 200})
	require.NoError(t, whole.only("a").exactly(span{0, 200}))
}

// TestOldAnswersOfTheRegistryAreNotBelieved lets somebody between collector and
// registry answer with what the registry said before a revocation.
func TestOldAnswersOfTheRegistryAreNotBelieved(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a", "b")
	f.token(api.TokenRequest{Uses: 2})
	between := f.middleman(f.Registry)
	collector := f.collector("collector", patient, shortMemory, collectorBehind(between.URL))
	a, b := f.agent("a", collector.GRPC, collector.Nonce), f.agent("b", collector.GRPC, collector.Nonce)
	f.begin()
	f.run(f.logs(a, 0, 100), f.logs(b, 100, 100))
	f.awaitArchive(collector, block.Logs, drainTime, span{0, 200})

	between.replay()
	_, err := f.Registry.Client.RevokeMachine(t.Context(), "b", "stolen")
	require.NoError(t, err)
	f.awaitMetric(soon, collector, 3, refusedAnswers, "refusal", "wrong_nonce")
	f.eventually(soon, func() error {
		if up := f.metric(collector, registryUp); up != 0 {
			return fmt.Errorf("the registry is said to answer")
		}
		return nil
	})
	time.Sleep(maxStale)

	// Old answers prolong nothing, and convince nobody who knows nothing.
	stranger := f.collector("stranger", shortMemory, collectorBehind(between.URL))
	f.start(stranger)
	f.stop(a)
	again := f.agent("a", stranger.GRPC, stranger.Nonce)
	f.start(again)
	f.run(f.logs(b, 200, 100), f.logs(again, 300, 100))
	for _, c := range []*harness.Node{collector, stranger} {
		f.awaitMetric(soon, c, 1, parkedBlocks, "signal", "logs")
	}
	require.Len(t, f.archive(collector, block.Logs).byItem, 200)
	require.Empty(t, f.archive(stranger, block.Logs).byItem)
	t.Logf("%d old answers were given", between.replayed())

	between.honest()
	f.awaitRevoked(soon, collector, 0)
	f.awaitArchive(stranger, block.Logs, drainTime, span{300, 100})
	require.Len(t, f.archive(collector, block.Logs).byItem, 200)
}
