package registrar_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// stub is a registry without network, for what is about time.
type stub struct {
	lease time.Duration
	other bool // it answers about another instance

	mu    sync.Mutex
	fails error          // no answer
	says  *api.ErrorBody // a refusal
	calls []time.Time
	told  []time.Time
}

func (s *stub) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/v1/nonces" {
		s.calls = append(s.calls, time.Now())
	}
	answer := func(status int, v any) (*http.Response, error) {
		body, err := json.Marshal(v)
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, err
	}
	switch {
	case s.fails != nil:
		return nil, s.fails
	case s.says != nil:
		return answer(s.says.Reason.Status(), s.says)
	case r.URL.Path == "/v1/nonces":
		return answer(http.StatusOK, api.InstanceNonce{Nonce: []byte("nonce"), ExpiresAt: time.Now().Add(2 * time.Minute)})
	default:
		s.told = append(s.told, time.Now())
		var reg api.Registration
		if err := json.NewDecoder(r.Body).Decode(&reg); err != nil {
			return nil, err
		}
		// Its clock is another one.
		at := time.Now().Add(-1000 * time.Hour)
		if s.other {
			reg.InstancePubkey = bytes.Repeat([]byte{1}, 32)
		}
		return answer(http.StatusOK, api.Instance{Pubkey: reg.InstancePubkey, VerifiedAt: at, ExpiresAt: at.Add(s.lease)})
	}
}

func (s *stub) set(fails error, says *api.ErrorBody) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails, s.says = fails, says
}

// between returns the waits from one attempt to the next, and forgets them.
func (s *stub) between() (waits []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 1; n < len(s.calls); n++ {
		waits = append(waits, s.calls[n].Sub(s.calls[n-1]))
	}
	s.calls = nil
	return waits
}

// running runs a registrar against a stub in a bubble of time.
func running(t *testing.T, s *stub, test func(v *vm, r *registrar.Registrar)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		r, err := registrar.New(registrar.Options{
			URL: "http://registry", Client: &http.Client{Transport: s}, Machine: v.m, Statement: v.statement, Quote: v.quote, PPID: v.ppid,
		})
		require.NoError(t, err)
		go r.Run(t.Context())
		synctest.Wait() // it waits for its next look
		test(v, r)
	})
}

func TestFreshInstanceLeavesTheRegistryAlone(t *testing.T) {
	s := &stub{lease: time.Hour}
	running(t, s, func(_ *vm, _ *registrar.Registrar) {
		time.Sleep(48 * time.Hour)
		require.Empty(t, s.calls)
	})
}

func TestWhatIsOwedIsToldWithinSeconds(t *testing.T) {
	s := &stub{lease: 24 * time.Hour}
	running(t, s, func(v *vm, r *registrar.Registrar) {
		for _, step := range []func(){v.owned, v.configured, v.exposed} {
			step()
			time.Sleep(2 * time.Second)
			synctest.Wait()
			require.False(t, v.m.View().RegistryOwed)
			require.True(t, r.Status().Told)
		}
		require.Len(t, s.told, 3)
	})
}

func TestRegistryThatIsDownIsAskedLessAndLess(t *testing.T) {
	s := &stub{lease: time.Hour, fails: errors.New("down")}
	running(t, s, func(v *vm, r *registrar.Registrar) {
		v.owned()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		waits := s.between()
		require.Greater(t, len(waits), 30, "it goes on")
		require.Less(t, len(waits), 90)
		for n, wait := range waits {
			ideal := min(time.Second<<min(n, 20), 5*time.Minute)
			require.GreaterOrEqual(t, wait, ideal/2, n)
			require.LessOrEqual(t, wait, ideal+time.Second, n)
		}
		require.Equal(t, string(reason.RegistryUnreachable), r.Status().Reason)

		// It comes back, and is told within the longest wait.
		s.set(nil, nil)
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		require.True(t, r.Status().Told)
		require.Empty(t, r.Status().Reason)

		// Down again: it starts with short waits.
		s.between()
		s.set(errors.New("down"), nil)
		v.configured()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.GreaterOrEqual(t, len(s.between()), 3)
	})
}

func TestNewTransitionDoesNotWaitForTheBackoffOfAnOldOne(t *testing.T) {
	s := &stub{lease: time.Hour, fails: errors.New("down")}
	running(t, s, func(v *vm, r *registrar.Registrar) {
		v.owned()
		time.Sleep(time.Hour)
		s.set(nil, nil)
		v.configured()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.True(t, r.Status().Told)
	})
}

func TestLeaseIsRenewedBeforeTwoThirdsAreOver(t *testing.T) {
	const lease = 24 * time.Hour
	s := &stub{lease: lease}
	running(t, s, func(v *vm, r *registrar.Registrar) {
		v.owned()
		time.Sleep(8 * lease)
		synctest.Wait()
		require.Greater(t, len(s.told), 11)
		for n := 1; n < len(s.told); n++ {
			wait := s.told[n].Sub(s.told[n-1])
			require.GreaterOrEqual(t, wait, lease/2)
			require.LessOrEqual(t, wait, lease*2/3+2*time.Second)
		}
		require.WithinDuration(t, s.told[len(s.told)-1].Add(lease), r.Status().Expires, time.Second)
	})
}

func TestRefusalIsNotRepeatedEverySecond(t *testing.T) {
	s := &stub{lease: time.Hour, says: &api.ErrorBody{Error: "x", Reason: api.MeasurementMismatch}}
	running(t, s, func(v *vm, r *registrar.Registrar) {
		v.owned()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		waits := s.between()
		require.NotEmpty(t, waits, "somebody may have lifted it")
		for _, wait := range waits {
			require.GreaterOrEqual(t, wait, 30*time.Minute)
		}
		require.Equal(t, string(reason.RegistryRefused), r.Status().Reason)
	})
}

func TestRegistryThatWantsTimeGetsIt(t *testing.T) {
	s := &stub{lease: time.Hour, says: &api.ErrorBody{Error: "x", Reason: api.RateLimited, RetryAfter: 60}}
	running(t, s, func(v *vm, _ *registrar.Registrar) {
		v.owned()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, wait := range s.between() {
			require.GreaterOrEqual(t, wait, time.Minute)
		}
	})
}

// After a reboot nothing is asked until the operator has signed the new key, and
// then at once.
func TestRenewalOfTheOperatorIsWaitedForQuietly(t *testing.T) {
	s := &stub{lease: time.Hour}
	synctest.Test(t, func(t *testing.T) {
		first := newVM(t)
		first.owned()
		v := first.reboot(first.disk, first.volume)
		r, err := registrar.New(registrar.Options{
			URL: "http://registry", Client: &http.Client{Transport: s}, Machine: v.m, Statement: v.statement, Quote: v.quote, PPID: v.ppid,
		})
		require.NoError(t, err)
		go r.Run(t.Context())
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, s.calls, "the owner has not spoken, and there is no pin")
		require.NoError(t, v.m.Witness("owner", first.m.Counter()))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, s.calls)
		require.Equal(t, string(reason.OperatorRenewalNeeded), r.Status().Reason)
		require.Zero(t, r.Status().NextTry, "it is not a matter of time")
		require.NoError(t, v.m.Renew(role(v.m, 1)))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.True(t, r.Status().Told)
	})
}

func TestAnswerAboutAnotherInstanceIsNotTaken(t *testing.T) {
	s := &stub{lease: time.Hour, other: true}
	running(t, s, func(v *vm, r *registrar.Registrar) {
		v.owned()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, string(reason.RegistryAnswerInvalid), r.Status().Reason)
		require.True(t, v.m.View().RegistryOwed)
	})
}

func TestManyTellAtOnceAndItIsToldOnce(t *testing.T) {
	s := &stub{lease: time.Hour}
	synctest.Test(t, func(t *testing.T) {
		v := newVM(t)
		v.owned()
		r, err := registrar.New(registrar.Options{
			URL: "http://registry", Client: &http.Client{Transport: s}, Machine: v.m, Statement: v.statement, Quote: v.quote, PPID: v.ppid,
		})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := r.Tell(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Len(t, s.told, 1)
	})
}
