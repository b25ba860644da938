package tpmextension

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment/enrolmenttest"
)

func enrolledAt(url string, more ...func(*RegistryConfig)) configure {
	return func(c *Config) {
		r := defaultRegistryConfig()
		r.Endpoint, r.EventLog, r.Timeout = url, "", 5*time.Second
		for _, f := range more {
			f(&r)
		}
		c.Registry = configoptional.Some(r)
	}
}

func joining(r *enrolmenttest.Registry) func(*RegistryConfig) {
	return func(c *RegistryConfig) { c.Token, c.Name = configopaque.String(r.Token.Reveal()), "edge-a" }
}

func (a *agent) enrolment(t *testing.T, state string) {
	t.Helper()
	require.Eventually(t, func() bool {
		s := a.Status().Enrolment
		return s != nil && s.State == state
	}, patience, 5*time.Millisecond, "state %s", state)
}

func (a *agent) requireNoSecret(t *testing.T, secret string) {
	t.Helper()
	for _, l := range a.logs.All() {
		require.NotContains(t, l.Message, secret)
		for _, f := range l.Context {
			require.NotContains(t, f.String, secret)
			if err, ok := f.Interface.(error); ok {
				require.NotContains(t, err.Error(), secret)
			}
		}
	}
}

func TestAgentEnrolsItselfAndThenSigns(t *testing.T) {
	registry := enrolmenttest.Start(t)
	host := withStorage(t, t.TempDir())
	a := startAgent(t, host, testConfig("swtpm:"+shortDir(t), t.TempDir(), stored, enrolledAt(registry.URL, joining(registry))))
	a.sign(t, leaves("tpmsign:logs", 3))
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
	s := a.Status().Enrolment
	require.Equal(t, "enrolled", s.State)
	require.Equal(t, "edge-a", s.Name)
	require.Equal(t, registry.URL, s.Registry)
	require.Len(t, s.Machine, 64)
	require.Empty(t, s.Error)
	require.NotNil(t, registry.Completions()[0].Token)
	require.NotEmpty(t, registry.Completions()[0].EKCertificate)
	require.Equal(t, 1, a.logs.FilterMessage("the signing key is enrolled at the registry").Len())
	a.requireNoSecret(t, registry.Token.Reveal()[len("tmj1.0123456789abcdef."):])
}

func TestKeysOfEveryAlgorithmEnrolSignAndComeBack(t *testing.T) {
	for _, algorithm := range []string{"ES384", "PS256"} {
		t.Run(algorithm, func(t *testing.T) {
			registry := enrolmenttest.Start(t)
			host := withStorage(t, t.TempDir())
			cfg := testConfig("swtpm:"+shortDir(t), t.TempDir(), stored, enrolledAt(registry.URL, joining(registry)),
				func(c *Config) { c.Key.Algorithm = algorithm })
			a := startAgent(t, host, cfg)
			a.sign(t, leaves("tpmsign:logs", 3))
			require.Equal(t, algorithm, a.Status().Alg)
			require.Equal(t, "enrolled", a.Status().Enrolment.State)
			kid := a.KID()
			require.NoError(t, a.Shutdown(t.Context()))
			b := startAgent(t, host, cfg)
			b.sign(t, leaves("tpmsign:logs", 3))
			require.Equal(t, kid, b.KID())
		})
	}
}

// gate is an address that is a registry, or not.
type gate struct {
	*httptest.Server
	to atomic.Pointer[http.Handler]
}

func newGate(t *testing.T, h http.Handler) *gate {
	t.Helper()
	g := &gate{}
	g.to.Store(&h)
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*g.to.Load()).ServeHTTP(w, r) }))
	t.Cleanup(g.Close)
	return g
}

func (g *gate) set(h http.Handler) { g.to.Store(&h) }

func TestNothingIsSignedNorLostWhileTheRegistryIsAway(t *testing.T) {
	registry := enrolmenttest.Start(t)
	for name, trouble := range map[string]http.HandlerFunc{
		"down":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"black hole": func(_ http.ResponseWriter, r *http.Request) { enrolmenttest.Hang(r) },
		"garbage": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, strings.Repeat("{", 100_000))
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, trouble)
			host := withStorage(t, t.TempDir())
			a := startAgent(t, host, testConfig("swtpm:"+shortDir(t), t.TempDir(), stored,
				enrolledAt(g.URL, func(c *RegistryConfig) { c.Timeout = 300 * time.Millisecond })))
			l := leaves("tpmsign:logs", 3)
			ticket := a.submit(t, l)
			require.Eventually(t, func() bool { s := a.Status().Enrolment; return s.Error != "" }, patience, 5*time.Millisecond)
			pending(t, ticket, "the key is not enrolled")
			require.Equal(t, "starting", a.Status().Enrolment.State)
			require.ErrorIs(t, host.waitFor(t, componentstatus.StatusRecoverableError), errNotEnrolled)
			require.False(t, a.CanSign())

			g.set(registry)
			receipts := a.verify(t, l, signed(t, ticket))
			require.Equal(t, uint64(1), receipts[0].BlockNo)
			require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
			require.True(t, a.CanSign())
		})
	}
}

func TestRestartWithTheRegistryAwaySignsAtOnceWithinTheLease(t *testing.T) {
	registry := enrolmenttest.Start(t)
	g := newGate(t, registry)
	device, keys, state := "swtpm:"+shortDir(t), t.TempDir(), t.TempDir()
	host := withStorage(t, state)
	a := startAgent(t, host, testConfig(device, keys, stored, enrolledAt(g.URL, joining(registry))))
	a.sign(t, leaves("tpmsign:logs", 1))
	require.NoError(t, a.Shutdown(t.Context()))

	g.set(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	b := startAgent(t, host, testConfig(device, keys, stored, enrolledAt(g.URL, joining(registry))))
	b.sign(t, leaves("tpmsign:logs", 1))
	require.Equal(t, "enrolled", b.Status().Enrolment.State)
	require.Equal(t, "edge-a", b.Status().Enrolment.Name)
	require.NoError(t, b.Shutdown(t.Context()))
	require.Len(t, registry.Completions(), 1)

	// Without storage, and at another registry, nobody has vouched for the key.
	c := startAgent(t, &testHost{}, testConfig(device, keys, enrolledAt(g.URL)))
	pending(t, c.submit(t, leaves("tpmsign:logs", 1)), "nothing is known of a lease")
}

func TestLeaseThatRanOutHoldsSigningAndResumesWithNothingLost(t *testing.T) {
	registry := enrolmenttest.Start(t)
	registry.Set(enrolmenttest.Answer{Lease: 3 * time.Second, Renew: 1500 * time.Millisecond})
	g := newGate(t, registry)
	host := withStorage(t, t.TempDir())
	a := startAgent(t, host, testConfig("swtpm:"+shortDir(t), t.TempDir(), stored, enrolledAt(g.URL)))
	a.sign(t, leaves("tpmsign:logs", 1))
	g.set(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	a.enrolment(t, "expired")
	require.ErrorIs(t, host.waitFor(t, componentstatus.StatusRecoverableError), errNotEnrolled)
	l := leaves("tpmsign:logs", 5)
	ticket := a.submit(t, l)
	pending(t, ticket, "the lease is over")

	registry.Set(enrolmenttest.Answer{})
	g.set(registry)
	receipts := a.verify(t, l, signed(t, ticket))
	require.Equal(t, uint64(2), receipts[0].BlockNo, "no number is missing")
	require.Equal(t, uint64(2), receipts[0].Statement.Seq)
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
}

func TestRevokedAgentStopsSigning(t *testing.T) {
	registry := enrolmenttest.Start(t)
	registry.Set(enrolmenttest.Answer{Lease: 4 * time.Second, Renew: time.Second})
	device, keys := "swtpm:"+shortDir(t), t.TempDir()
	host := withStorage(t, t.TempDir())
	a := startAgent(t, host, testConfig(device, keys, stored, enrolledAt(registry.URL)))
	a.sign(t, leaves("tpmsign:logs", 1))
	registry.Set(enrolmenttest.Answer{Refuse: api.Refuse(api.MachineRevoked, "stolen")})
	a.enrolment(t, "revoked")
	require.Equal(t, "machine_revoked", a.Status().Enrolment.Reason)
	pending(t, a.submit(t, leaves("tpmsign:logs", 1)), "the machine is revoked")
	require.ErrorContains(t, host.waitFor(t, componentstatus.StatusRecoverableError), "stolen")
	require.NotZero(t, a.logs.FilterFieldKey("help").Len())
	require.NoError(t, a.Shutdown(t.Context()))

	a = startAgent(t, host, testConfig(device, keys, stored, enrolledAt(registry.URL)))
	pending(t, a.submit(t, leaves("tpmsign:logs", 1)), "the machine is revoked")
	a.enrolment(t, "revoked")
}

func TestPendingAgentSignsOnceItIsApproved(t *testing.T) {
	registry := enrolmenttest.Start(t)
	registry.Set(enrolmenttest.Answer{State: api.StatePending})
	host := &testHost{}
	a := startAgent(t, host, testConfig("swtpm:"+shortDir(t), t.TempDir(), enrolledAt(registry.URL)))
	l := leaves("tpmsign:logs", 2)
	ticket := a.submit(t, l)
	a.enrolment(t, "pending")
	pending(t, ticket, "nobody approved the machine")
	require.ErrorContains(t, host.waitFor(t, componentstatus.StatusRecoverableError), "approve")
	registry.Set(enrolmenttest.Answer{Name: "edge-7"})
	a.verify(t, l, signed(t, ticket))
	require.Equal(t, "edge-7", a.Status().Enrolment.Name)
}

func TestCrashBetweenEnrolmentAndStoringItEnrolsAgain(t *testing.T) {
	registry := enrolmenttest.Start(t)
	device, keys, state := "swtpm:"+shortDir(t), t.TempDir(), t.TempDir()
	host := withStorage(t, state)
	ctx, cancel := context.WithCancel(t.Context())
	registry.Set(enrolmenttest.Answer{Enrolled: cancel})
	a := startAgent(t, host, testConfig(device, keys, stored, enrolledAt(registry.URL, joining(registry))))
	<-ctx.Done()
	a.registryForgets(t)
	require.NoError(t, a.Shutdown(t.Context()))

	registry.Set(enrolmenttest.Answer{})
	b := startAgent(t, host, testConfig(device, keys, stored, enrolledAt(registry.URL, joining(registry))))
	b.sign(t, leaves("tpmsign:logs", 1))
	sent := registry.Completions()
	require.Len(t, sent, 2)
	require.Equal(t, sent[0].Hierarchy, sent[1].Hierarchy)
	require.NotNil(t, sent[1].Token, "the machine does not know that it is known")
}

// registryForgets takes what was stored of the lease away, as a crash before
// the write does.
func (a *agent) registryForgets(t *testing.T) {
	t.Helper()
	e := a.signer.registry.current()
	require.Eventually(t, func() bool {
		l, err := e.store.load(t.Context(), time.Now())
		return err == nil && l.exists()
	}, patience, 5*time.Millisecond)
	require.NoError(t, e.store.forget(t.Context()))
}

func TestAgentShutsDownWhileTheRegistryHangs(t *testing.T) {
	g := newGate(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { enrolmenttest.Hang(r) }))
	asked := make(chan struct{}, 100)
	g.set(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- struct{}{}; enrolmenttest.Hang(r) }))
	a := startAgent(t, &testHost{}, testConfig("swtpm:"+shortDir(t), t.TempDir(), enrolledAt(g.URL, func(c *RegistryConfig) { c.Timeout = time.Hour })))
	<-asked
	begun := time.Now()
	require.NoError(t, a.Shutdown(t.Context()))
	require.Less(t, time.Since(begun), 5*time.Second)
}
