package tpmverifyprocessor

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/otel/attribute"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	registryclient "github.com/telemark-otel/telemark/internal/registry"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// withRegistry replaces the key file by a registry behind TLS.
func withRegistry(t testing.TB, reg *registrytest.Registry) option {
	t.Helper()
	server := httptest.NewTLSServer(reg)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca, pin := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "registry.pub")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	require.NoError(t, os.WriteFile(pin, reg.Public(), 0o600))
	return withConfig(func(c *Config) {
		c.Keys.File = ""
		r := c.Keys.Registry.GetOrInsertDefault()
		r.Endpoint, r.PinFile, r.TLS.CAFile = server.URL, pin, ca
	})
}

// machineOf is the registry's view of a machine that signs.
func machineOf(t testing.TB, m *signtest.Machine) *registrytest.Machine {
	return registrytest.MachineOf(t, m.KID, m.Name, &m.Key.PublicKey, time.Now())
}

func (r *rig) signedBy(m *signtest.Machine) digest.Batch {
	r.t.Helper()
	d := signtest.Data(r.signal, m.Name, 2)
	m.Sign(r.t, stream, 0, d)
	return d
}

func newStranger(r *rig, name string) *signtest.Machine {
	m := signtest.NewMachine(r.t, name, time.Now())
	m.Fetch(r.t, r.authority, time.Now())
	return m
}

func waitForStream(t testing.TB, reg *registrytest.Registry) {
	t.Helper()
	require.Eventually(t, func() bool { return reg.Streams() > 0 }, 10*time.Second, 5*time.Millisecond)
	time.Sleep(50 * time.Millisecond) // its first heartbeat
}

// TestRevocationAtTheRegistryStopsTheNextBlock: while data flows.
func TestRevocationAtTheRegistryStopsTheNextBlock(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg))
	a, b := r.machines[0], r.machines[1]
	revoked := machineOf(t, a)
	reg.Enrol(revoked)
	reg.Enrol(machineOf(t, b))
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	waitForStream(t, reg)
	require.NoError(t, r.send(r.signedBy(a), r.signedBy(b)))
	require.Equal(t, 2, r.take().Len())

	held := r.signedBy(a) // signed before, seen after
	reg.Revoke(revoked, "stolen")
	began := time.Now()
	require.Eventually(t, func() bool {
		require.NoError(t, r.send(r.signedBy(a)))
		return r.refused(reason.KeyRevoked) > 0
	}, 2*time.Second, time.Millisecond)
	t.Logf("the data stopped after %v", time.Since(began))
	r.take()
	require.NoError(t, r.send(held, r.signedBy(b)))
	got := r.take()
	require.Equal(t, 1, got.Len())
	require.Equal(t, b.Name, attr(got.At(0), block.AttrName))
}

// TestBlocksWaitForARegistryThatIsAwayAndAreDelivered: nothing is lost and
// nothing dropped while nobody can be asked.
func TestBlocksWaitForARegistryThatIsAwayAndAreDelivered(t *testing.T) {
	reg := registrytest.New(t)
	reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r := prepareRig(t, block.Logs, withRegistry(t, reg), withConfig(func(c *Config) { c.Park.Storage = &storageID }))
	r.host.extensions[storageID] = ext
	reg.Enrol(machineOf(t, r.machines[0]))
	require.NoError(t, r.p.Start(t.Context(), r.host), "a registry that is away stops no collector")
	defer r.shutdown()
	require.NoError(t, r.send(r.signedBy(r.machines[0])))
	require.NoError(t, r.send(r.signedBy(newStranger(r, "edge-z"))))
	require.EqualValues(t, 2, r.count("tpmverify_parked_blocks"))
	require.Zero(t, r.refusedAll())
	require.Zero(t, r.calls())

	reg.Set(func(s *registrytest.Switches) { s.Down = 0 })
	require.Eventually(t, func() bool { return r.calls() == 1 && r.refused(reason.UnknownKey) == 1 }, 4*time.Second, 10*time.Millisecond)
	require.Equal(t, reason.Verified, attr(r.take().At(0), block.AttrVerdict))
	require.Eventually(t, func() bool { return r.count("tpmverify_parked_blocks") == 0 }, time.Second, 10*time.Millisecond)
}

// TestParkedBlocksAreTriedWhenTheKeyComes: not when the next try, up to half a
// minute away, is due.
func TestParkedBlocksAreTriedWhenTheKeyComes(t *testing.T) {
	reg := registrytest.New(t)
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r := prepareRig(t, block.Logs, withRegistry(t, reg), withConfig(func(c *Config) { c.Park.Storage = &storageID }))
	r.host.extensions[storageID] = ext
	m := machineOf(t, r.machines[0])
	good := m.Entry.PublicKey
	m.Entry.PublicKey = "of the future"
	reg.Enrol(m)
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	waitForStream(t, reg)
	require.NoError(t, r.send(r.signedBy(r.machines[0])))
	require.EqualValues(t, 1, r.count("tpmverify_parked_blocks"))
	time.Sleep(4 * time.Second) // the pauses between tries have grown to four seconds
	require.Zero(t, r.calls())
	m.Entry.PublicKey = good
	reg.Enrol(m)
	require.Eventually(t, func() bool { return r.calls() == 1 }, time.Second, 5*time.Millisecond)
}

// TestMachineThatEnrolledAMomentAgoIsWaitedFor: its first block overtakes the
// event.
func TestMachineThatEnrolledAMomentAgoIsWaitedFor(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg))
	reg.Enrol(machineOf(t, r.machines[0]))
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	waitForStream(t, reg)
	reg.Set(func(s *registrytest.Switches) { s.HideEvents, s.Beat = true, time.Hour })
	reg.Enrol(machineOf(t, r.machines[1]))
	require.NoError(t, r.send(r.signedBy(r.machines[0]), r.signedBy(r.machines[1])), "without asking to send again, and without storage")
	require.Equal(t, 2, r.take().Len())
	require.NoError(t, r.send(r.signedBy(newStranger(r, "edge-z")), r.signedBy(r.machines[0])))
	require.Equal(t, 1, r.take().Len())
	require.EqualValues(t, 1, r.refused(reason.UnknownKey))
	require.EqualValues(t, 1, r.count("tpmverify_registry_lookups", attribute.String("outcome", string(registryclient.OutcomeKnown))))
	require.EqualValues(t, 1, r.count("tpmverify_registry_lookups", attribute.String("outcome", string(registryclient.OutcomeUnknown))))
}

// TestRegistryThatAnswersSlowlyHoldsUpNobodyElse: blocks of unknown keys are sent
// again, everything else is through.
func TestRegistryThatAnswersSlowlyHoldsUpNobodyElse(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg))
	reg.Enrol(machineOf(t, r.machines[0]))
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	waitForStream(t, reg)
	release := make(chan struct{})
	reg.Set(func(s *registrytest.Switches) { s.Hold = func(string) { <-release } })
	defer close(release)
	began := time.Now()
	require.ErrorIs(t, r.send(r.signedBy(r.machines[0]), r.signedBy(r.machines[1])), errDeferred)
	require.Less(t, time.Since(began), 2*time.Second)
	require.Equal(t, 1, r.take().Len(), "the rest was delivered")
	began = time.Now()
	require.NoError(t, r.send(r.signedBy(r.machines[0])))
	require.Less(t, time.Since(began), keyWait, "nobody waits who has nothing to wait for")
}

func TestPendingMachineIsRefusedUntilApproved(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg))
	m := machineOf(t, r.machines[0])
	reg.Pend(m)
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	waitForStream(t, reg)
	require.NoError(t, r.send(r.signedBy(r.machines[0])))
	require.EqualValues(t, 1, r.refused(reason.KeyPending))
	reg.Enrol(m)
	require.Eventually(t, func() bool {
		require.NoError(t, r.send(r.signedBy(r.machines[0])))
		return r.calls() == 1
	}, 2*time.Second, 10*time.Millisecond)
}

// TestUnprovenMachineIsNeverCalledVerified: a join token says that it is ours,
// not that it is a TPM.
func TestUnprovenMachineIsNeverCalledVerified(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg))
	m := machineOf(t, r.machines[0])
	m.Entry.Evidence = string(api.EvidenceUnproven)
	reg.Enrol(m)
	strict := machineOf(t, r.machines[1])
	strict.Entry.Evidence, strict.Entry.RequireEvidence = string(api.EvidenceUnproven), "genuine"
	reg.Enrol(strict)
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	require.NoError(t, r.send(r.signedBy(r.machines[0]), r.signedBy(r.machines[1])))
	got := r.take()
	require.Equal(t, 1, got.Len())
	require.Equal(t, "unproven_tpm", attr(got.At(0), block.AttrVerdict))
	require.Equal(t, "edge-a", attr(got.At(0), block.AttrName))
	require.EqualValues(t, 1, r.count("tpmverify_unproven_blocks"))
	require.EqualValues(t, 2, r.count("tpmverify_unproven_items"))
	require.Zero(t, r.count("tpmverify_verified_blocks"))
	require.Zero(t, r.count("tpmverify_verified_items"))
	require.EqualValues(t, 1, r.refused(reason.UnprovenTPM))
}

func TestUnsignedDataThatNamesAMachineOfTheRegistryIsRefused(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg), withConfig(func(c *Config) { c.Unsigned = UnsignedTag }))
	reg.Enrol(machineOf(t, r.machines[0]))
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	require.NoError(t, r.send(signtest.Data(block.Logs, "edge-a", 1), signtest.Data(block.Logs, "printer-7", 1)))
	require.Equal(t, 1, r.take().Len())
	require.EqualValues(t, 1, r.refused(reason.ReceiptMissing))
}

// TestPipelinesShareOneStream: three signals, one registry.
func TestPipelinesShareOneStream(t *testing.T) {
	reg := registrytest.New(t)
	first := prepareRig(t, block.Logs, withRegistry(t, reg))
	reg.Enrol(machineOf(t, first.machines[0]))
	require.NoError(t, first.p.Start(t.Context(), first.host))
	second := prepareRig(t, block.Traces, withConfig(func(c *Config) { c.Keys = first.cfg.Keys }))
	second.machines = first.machines
	require.NoError(t, second.p.Start(t.Context(), second.host))
	waitForStream(t, reg)
	require.Len(t, registries.all, 1)
	require.Equal(t, 1, reg.Streams())
	first.machines[0].Fetch(t, second.authority, time.Now())
	require.NoError(t, second.send(second.signedBy(first.machines[0])))
	require.Equal(t, 1, second.take().Len())
	require.EqualValues(t, 1, second.count("tpmverify_keys"))
	first.shutdown()
	require.Len(t, registries.all, 1, "the other one needs it")
	require.NoError(t, second.send(second.signedBy(first.machines[0])))
	require.Equal(t, 1, second.take().Len())
	second.shutdown()
	require.Empty(t, registries.all)
	require.Eventually(t, func() bool { return reg.Streams() == 0 }, 5*time.Second, 5*time.Millisecond)
}

// TestRestartWhileTheRegistryIsAway: the cache carries it, with what is known of
// revocations.
func TestRestartWhileTheRegistryIsAway(t *testing.T) {
	reg := registrytest.New(t)
	cached := withConfig(func(c *Config) {
		c.Keys.Registry.Get().Cache = filepath.Join(t.TempDir(), "registry.cache")
	})
	one := prepareRig(t, block.Logs, withRegistry(t, reg), cached)
	gone := machineOf(t, one.machines[1])
	reg.Enrol(machineOf(t, one.machines[0]))
	reg.Enrol(gone)
	require.NoError(t, one.p.Start(t.Context(), one.host))
	waitForStream(t, reg)
	reg.Revoke(gone, "stolen")
	require.Eventually(t, func() bool {
		require.NoError(t, one.send(one.signedBy(one.machines[1])))
		return one.refused(reason.KeyRevoked) > 0
	}, 2*time.Second, time.Millisecond)
	one.shutdown()
	reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })

	two := prepareRig(t, block.Logs, withConfig(func(c *Config) { c.Keys = one.cfg.Keys }), withWindows(one.windows), withAuthority(one.authority))
	two.machines = one.machines
	require.NoError(t, two.p.Start(t.Context(), two.host))
	defer two.shutdown()
	require.NoError(t, two.send(two.signedBy(two.machines[0]), two.signedBy(two.machines[1])))
	require.Equal(t, 1, two.take().Len())
	require.EqualValues(t, 1, two.refused(reason.KeyRevoked))
}

// TestAnswersThatAreNotBelievedShow: in the status, the log and the metrics.
func TestAnswersThatAreNotBelievedShow(t *testing.T) {
	reg := registrytest.New(t)
	other := registrytest.NewSigner(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg))
	reg.Enrol(machineOf(t, r.machines[0]))
	reg.Set(func(s *registrytest.Switches) {
		s.Mangle = func(kind answer.Kind, v any) []byte {
			b, err := other.Sign(kind, v)
			require.NoError(t, err)
			return b
		}
	})
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	require.ErrorIs(t, r.send(r.signedBy(r.machines[0])), errDeferred)
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.lastStatus())
	require.Positive(t, r.count("tpmverify_registry_refused_answers", attribute.String("refusal", "unpinned_key")))
	require.Zero(t, r.count("tpmverify_registry_up"))
	require.NotZero(t, r.logs.FilterMessageSnippet("is not believed").Len())

	reg.Set(func(s *registrytest.Switches) { s.Mangle = nil })
	require.Eventually(t, func() bool { return r.host.lastStatus() == componentstatus.StatusOK }, 5*time.Second, 5*time.Millisecond)
	require.NoError(t, r.send(r.signedBy(r.machines[0])))
	require.Eventually(t, func() bool {
		return r.count("tpmverify_registry_up") == 1 && r.count("tpmverify_registry_streaming") == 1 &&
			r.count("tpmverify_registry_revision") == int64(reg.Revision())
	}, 5*time.Second, 5*time.Millisecond)
	require.EqualValues(t, 1, r.count("tpmverify_keys"))
	_, err := r.telemetry.GetMetric("otelcol_tpmverify_registry_age")
	require.NoError(t, err)
}

func TestStartWithoutPinnedKeysFails(t *testing.T) {
	reg := registrytest.New(t)
	nowhere := component.MustNewID("bearertokenauth")
	for name, c := range map[string]struct {
		change func(*RegistryConfig)
		want   string
	}{
		"no pin file":        {func(c *RegistryConfig) { c.PinFile += ".not" }, "pin_file"},
		"pin of no key":      {func(c *RegistryConfig) { c.PinFile = c.TLS.CAFile }, "PUBLIC KEY"},
		"pin file empty":     {func(c *RegistryConfig) { c.PinFile = os.DevNull }, "not a regular file"},
		"no such CA":         {func(c *RegistryConfig) { c.TLS.CAFile += ".not" }, "ca.crt.not"},
		"no such auth":       {func(c *RegistryConfig) { c.Auth.GetOrInsertDefault().AuthenticatorID = nowhere }, "bearertokenauth"},
		"cache below a file": {func(c *RegistryConfig) { c.Cache = filepath.Join(c.PinFile, "cache") }, "cache"},
	} {
		t.Run(name, func(t *testing.T) {
			r := prepareRig(t, block.Logs, withRegistry(t, reg), withConfig(func(cfg *Config) { c.change(cfg.Keys.Registry.Get()) }))
			err := r.p.Start(t.Context(), r.host)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "keys::registry")
			r.shutdown()
			r.shutdown()
			require.Empty(t, registries.all)
		})
	}
}

// TestUnsignedDataPassesForNobodyBeforeTheKeysAreKnown: who speaks in the name of
// a machine right after a restart, while the registry is kept away, waits like
// everybody.
func TestUnsignedDataPassesForNobodyBeforeTheKeysAreKnown(t *testing.T) {
	for _, unsigned := range []string{UnsignedTag, UnsignedPass} {
		t.Run(unsigned, func(t *testing.T) {
			reg := registrytest.New(t)
			reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
			r := prepareRig(t, block.Logs, withRegistry(t, reg), withConfig(func(c *Config) { c.Unsigned = unsigned }))
			reg.Enrol(machineOf(t, r.machines[0]))
			require.NoError(t, r.p.Start(t.Context(), r.host))
			defer r.shutdown()
			require.ErrorIs(t, r.send(signtest.Data(block.Logs, r.machines[0].Name, 1)), errDeferred)
			require.Zero(t, r.calls())
			reg.Set(func(s *registrytest.Switches) { s.Down = 0 })
			require.Eventually(t, func() bool {
				return r.send(signtest.Data(block.Logs, r.machines[0].Name, 1), signtest.Data(block.Logs, "laptop", 1)) == nil
			}, 10*time.Second, 10*time.Millisecond)
			require.EqualValues(t, 1, r.refused(reason.ReceiptMissing))
			got := r.take()
			require.Equal(t, 1, got.Len())
			require.Equal(t, "laptop", attr(got.At(0), "host.name"))
		})
	}
}
