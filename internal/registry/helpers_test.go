package registry

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
	"github.com/telemark-otel/telemark/internal/verdict"
)

var defaults = &policy.Policy{Freshness: policy.Stale, LiveWithin: policy.DefaultLiveWithin}

// observer remembers what it was told.
type observer struct {
	mu       sync.Mutex
	outcomes map[Outcome]int
	refusals map[Refusal]int
	last     Status
	errors   []error
}

func newObserver() *observer {
	return &observer{outcomes: map[Outcome]int{}, refusals: map[Refusal]int{}}
}

func (o *observer) LookedUp(out Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outcomes[out]++
}

func (o *observer) Refused(r Refusal) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refusals[r]++
}

func (o *observer) Observe(s Status) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.Err != nil && (o.last.Err == nil || o.last.Err.Error() != s.Err.Error()) {
		o.errors = append(o.errors, s.Err)
	}
	o.last = s
}

func (o *observer) refused(r Refusal) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refusals[r]
}

func (o *observer) lookedUp(out Outcome) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.outcomes[out]
}

// rig is a client of a registry in memory.
type rig struct {
	t    *testing.T
	reg  *registrytest.Registry
	net  *registrytest.Listener
	seen *observer
	c    *Client
	keys *Keys
}

type option func(*Options)

// prepare makes a client that has not started. Run it in a bubble.
func prepare(t *testing.T, reg *registrytest.Registry, options ...option) *rig {
	t.Helper()
	r := &rig{t: t, reg: reg, net: reg.Serve(), seen: newObserver()}
	o := Options{
		Endpoint: "http://registry",
		HTTP:     r.net.HTTP,
		Verifier: reg.Verifier(),
		Refresh:  time.Second,
		MaxStale: 15 * time.Minute,
		Skew:     30 * time.Second,
		Timeout:  5 * time.Second,
		Observer: r.seen,
	}
	for _, set := range options {
		set(&o)
	}
	var err error
	r.c, err = New(o)
	require.NoError(t, err)
	r.keys = r.c.Keys(defaults)
	t.Cleanup(func() { require.NoError(t, r.c.Close()) })
	return r
}

func start(t *testing.T, reg *registrytest.Registry, options ...option) *rig {
	t.Helper()
	r := prepare(t, reg, options...)
	require.NoError(t, r.c.Start(t.Context(), 3*time.Second))
	return r
}

func withCache(path string) option { return func(o *Options) { o.Cache = path } }

// bubble runs a test in time that passes at will.
func bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

func machine(t *testing.T, name string) *registrytest.Machine {
	return registrytest.NewMachine(t, name, time.Now())
}

// state is the word for what a look-up says.
func (r *rig) state(m *registrytest.Machine) string {
	r.t.Helper()
	k, err := r.keys.Lookup(m.KID)
	switch {
	case err != nil:
		require.ErrorIs(r.t, err, verdict.ErrUnavailable)
		return "unavailable"
	case k == nil:
		return "unknown"
	case k.Pending:
		return "pending"
	case k.Revoked != "":
		return "revoked: " + k.Revoked
	default:
		require.Equal(r.t, m.Entry.Name, k.Name)
		return "trusted"
	}
}

// after says how long it takes until a look-up says so, to 10 ms.
func (r *rig) after(m *registrytest.Machine, want string, atMost time.Duration) time.Duration {
	r.t.Helper()
	began := time.Now()
	for r.state(m) != want {
		if time.Since(began) > atMost {
			require.Failf(r.t, "never "+want, "after %v it is %s", atMost, r.state(m))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// stays fails the test if the state is ever another one within d.
func (r *rig) stays(m *registrytest.Machine, want string, d time.Duration) {
	r.t.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(100 * time.Millisecond) {
		require.Equal(r.t, want, r.state(m))
	}
}

func (r *rig) streaming() {
	r.t.Helper()
	for began := time.Now(); !r.c.streaming.Load(); time.Sleep(10 * time.Millisecond) {
		require.Less(r.t, time.Since(began), time.Minute, "no stream")
	}
}

var errUnreachable = errors.New("no route to the registry")

func unreachable(o *Options) {
	o.HTTP = func(context.Context) (*http.Client, error) {
		return &http.Client{Transport: refusing{}}, nil
	}
}

type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) { return nil, errUnreachable }
