package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
)

// revocationTime is the promise: how long a revocation takes to reach a
// collector.
const revocationTime = 2 * time.Second

// withRegistry makes the machines of a fleet, whose TPMs carry EK certificates,
// and a registry that trusts the authority of those certificates. No collector
// of the fleet reads a key file.
func withRegistry(t *testing.T, o harness.RegistryOptions, machines ...string) *fleet {
	t.Helper()
	f := newFleet(t, nil, machines...)
	f.Registry = f.registry("registry", o)
	if !o.Untrusted {
		for _, m := range machines {
			require.NoError(t, f.Registry.Trust(filepath.Join(f.Dir, m, "tpm"), m))
		}
	}
	f.up(f.Registry)
	return f
}

func (f *fleet) registry(name string, o harness.RegistryOptions) *harness.Registry {
	f.Helper()
	r, err := harness.NewRegistry(filepath.Join(f.Dir, name), o)
	require.NoError(f, err)
	f.Cleanup(func() {
		if f.Failed() {
			f.Logf("last lines of %s (running: %t):\n%s", name, r.Running(), shortLog(r.Tail(100)))
		}
		_ = r.Stop(10 * time.Second)
	})
	return r
}

func (f *fleet) up(r *harness.Registry) {
	f.Helper()
	require.NoError(f, r.Start())
	require.NoError(f, r.WaitReady(f.Context(), http.DefaultClient))
}

func (f *fleet) token(request api.TokenRequest) {
	f.Helper()
	require.NoError(f, f.Registry.MakeJoinToken(f.Context(), &request))
}

// awaitCached waits until a collector's cache on disk knows the key of an agent,
// which happens a second after the collector does.
func (f *fleet) awaitCached(collector *harness.Node, agent string) {
	f.Helper()
	f.eventually(soon, func() error {
		content, err := os.ReadFile(filepath.Join(collector.Dir, "registry.cache"))
		if err == nil && !bytes.Contains(content, []byte(f.kid(agent))) {
			err = fmt.Errorf("the cache of %s does not hold the key of %s", collector.Name, agent)
		}
		return err
	})
}

func (f *fleet) logs(agent *harness.Node, first, items int) harness.Load {
	return harness.Load{Endpoint: agent.GRPC, Protocol: harness.GRPC, Signal: block.Logs, Service: agent.Name, First: int64(first), Items: items, PerRequest: 50}
}

// stream sends logs of an agent without a pause until it is stopped.
func (f *fleet) stream(agent *harness.Node, first int) (stop func() (sent int)) {
	ctx, cancel := context.WithCancel(f.Context())
	var (
		wg   sync.WaitGroup
		sent int
	)
	wg.Go(func() {
		for ctx.Err() == nil {
			if f.logs(agent, first+sent, 50).Run(ctx) != nil {
				return
			}
			sent += 50
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return func() int {
		cancel()
		wg.Wait()
		return sent
	}
}

func TestMachinesEnrolByTokenAndARevokedOneIsStopped(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a", "b")
	f.token(api.TokenRequest{Uses: 2, Labels: map[string]string{"site": "berlin"}})
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	a, b := f.agent("a", gateway.GRPC, collector.Nonce), f.agent("b", gateway.GRPC, collector.Nonce)
	f.begin()
	f.run(f.logs(a, 0, 2000), f.logs(b, 2000, 2000))
	whole := span{0, 4000}
	require.NoError(t, f.awaitArchive(collector, block.Logs, drainTime, whole).exactly(whole))
	for _, name := range []string{"a", "b"} {
		m, err := f.Registry.Client.Machine(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, api.StateEnrolled, m.State)
		require.Equal(t, api.EvidenceChain, m.Evidence)
		require.Equal(t, "berlin", m.Labels["site"])
		require.Equal(t, f.kid(name), m.Keys[0].KID)
	}

	stopA, stopB := f.stream(a, 10_000), f.stream(b, 1_000_000)
	f.awaitMetric(soon, collector, 6000, verifiedItems)
	_, err := f.Registry.Client.RevokeMachine(t.Context(), "b", "stolen")
	require.NoError(t, err)
	revoked := time.Now()
	f.awaitMetric(revocationTime, collector, 1, refusedBlocks, "reason", string(reason.KeyRevoked))
	t.Logf("the first block was refused %v after the revocation was answered", time.Since(revoked).Round(time.Millisecond))
	time.Sleep(time.Until(revoked.Add(revocationTime)))
	then := f.archive(collector, block.Logs).service("b")
	time.Sleep(revocationTime)
	require.Equal(t, then, f.archive(collector, block.Logs).service("b"), "nothing of a revoked machine is accepted two seconds later")
	_ = stopB()
	sent := stopA()
	rest := span{10_000, sent}
	f.awaitArchive(collector, block.Logs, drainTime, rest)
}

func TestVerifyingGoesOnWhileTheRegistryIsAway(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a", "late")
	f.token(api.TokenRequest{Uses: 2})
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	a, late := f.agent("a", gateway.GRPC, collector.Nonce), f.agent("late", gateway.GRPC, collector.Nonce)
	f.start(collector)
	f.start(gateway)
	f.start(a)
	f.run(f.logs(a, 0, 500))
	f.awaitArchive(collector, block.Logs, drainTime, span{0, 500})

	f.awaitCached(collector, "a")
	f.Registry.Kill()
	f.run(f.logs(a, 500, 500))
	f.awaitArchive(collector, block.Logs, drainTime, span{0, 1000})
	for _, n := range []*harness.Node{collector, a} { // each starts again without it
		n.Kill()
		f.start(n)
	}
	f.run(f.logs(a, 1000, 500))
	whole := f.awaitArchive(collector, block.Logs, drainTime, span{1000, 500})
	require.NoError(t, whole.missing(span{0, 1500}))

	// A machine that is not enrolled yet waits, and loses nothing.
	f.start(late)
	done := make(chan error, 1)
	go func() { done <- f.logs(late, 1500, 500).Run(t.Context()) }()
	time.Sleep(time.Second)
	require.Zero(t, f.archive(collector, block.Logs).service("late"))
	f.up(f.Registry)
	require.NoError(t, <-done)
	f.awaitArchive(collector, block.Logs, drainTime, span{1500, 500})
}

func TestBlocksOfAnUnknownKeyWaitForTheRegistry(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a")
	f.token(api.TokenRequest{})
	first := f.collector("first")
	a := f.agent("a", first.GRPC, first.Nonce)
	f.start(first)
	f.start(a)
	f.run(f.logs(a, 0, 50))
	f.awaitArchive(first, block.Logs, drainTime, span{0, 50})
	f.Registry.Kill()

	// A collector without any memory of the registry takes the first one's place.
	stranger := f.collector("stranger", "processors: {tpmverify: {park: {storage: file_storage}}}")
	f.start(stranger)
	f.stop(a)
	again := f.agent("a", stranger.GRPC, stranger.Nonce)
	f.start(again)
	f.run(f.logs(again, 50, 500))
	f.awaitMetric(soon, stranger, 1, "otelcol_tpmverify_parked_blocks")
	require.Zero(t, f.archive(stranger, block.Logs).service("a"), "nothing is trusted on nobody's word")
	f.up(f.Registry)
	f.awaitArchive(stranger, block.Logs, drainTime, span{50, 500})
}

func TestUnprovenTPMIsSaidInEveryVerdictAndCanBeRefused(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{Untrusted: true}, "a")
	f.token(api.TokenRequest{})
	collector := f.collector("collector")
	a := f.agent("a", collector.GRPC, collector.Nonce)
	f.begin()
	f.run(f.logs(a, 0, 100))
	f.eventually(soon, func() error {
		blocks, err := harness.ReadArchive(collector.Logs, block.Logs)
		items := 0
		for i := range blocks {
			require.Equal(t, string(reason.UnprovenTPM), blocks[i].Verdict)
			items += len(blocks[i].IDs)
		}
		if err == nil && items != 100 {
			err = fmt.Errorf("%d items of 100", items)
		}
		return err
	})
	_, err := f.Registry.Client.PutPolicy(t.Context(), &api.Policy{Scope: "default", RequireEvidence: "genuine"})
	require.NoError(t, err)
	stop := f.stream(a, 1000)
	f.awaitMetric(soon, collector, 1, refusedBlocks, "reason", string(reason.UnprovenTPM))
	_ = stop()
}

func TestMachineThatWaitsForApprovalLosesNothing(t *testing.T) {
	f := withRegistry(t, harness.RegistryOptions{}, "a")
	collector := f.collector("collector", patient)
	f.Registry.JoinFile = "" // genuine by its certificate, and nobody's
	a := f.agent("a", collector.GRPC, collector.Nonce)
	f.begin()
	done := make(chan error, 1)
	go func() { done <- f.logs(a, 0, 500).Run(t.Context()) }()
	f.eventually(soon, func() error {
		m, err := f.Registry.Client.Machine(t.Context(), "a")
		if err != nil {
			return err
		}
		if m.State != api.StatePending {
			return fmt.Errorf("the machine is %q", m.State)
		}
		return nil
	})
	require.Zero(t, f.archive(collector, block.Logs).service("a"))
	_, err := f.Registry.Client.Approve(t.Context(), "a", &api.ApproveRequest{})
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.NoError(t, f.awaitArchive(collector, block.Logs, drainTime, span{0, 500}).exactly(span{0, 500}))
}

func TestReplicasOnOnePostgreSQLAreOneRegistry(t *testing.T) {
	o := onPostgreSQL(t)
	f := withRegistry(t, o, "a", "b")
	o.Replica = f.Registry
	second := f.registry("second", o)
	f.up(second)
	f.token(api.TokenRequest{Uses: 2})
	collector := f.collector("collector") // asks the first replica
	a := f.agent("a", collector.GRPC, collector.Nonce)
	first := f.Registry
	f.Registry = second
	b := f.agent("b", collector.GRPC, collector.Nonce) // enrols at the second
	f.begin()
	f.run(f.logs(a, 0, 500), f.logs(b, 500, 500))
	f.awaitArchive(collector, block.Logs, drainTime, span{0, 1000})

	stop := f.stream(b, 10_000)
	_, err := second.Client.RevokeMachine(t.Context(), "b", "stolen")
	require.NoError(t, err)
	f.awaitMetric(revocationTime, collector, 1, refusedBlocks, "reason", string(reason.KeyRevoked))
	_ = stop()

	second.Kill()
	m, err := first.Client.Machine(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, "stolen", m.Revoked, "what was answered outlives the replica that answered")
	_, err = second.Client.Machine(t.Context(), "b")
	require.Error(t, err)
	require.False(t, errors.Is(err, &api.Error{Reason: api.NotFound}))
}
