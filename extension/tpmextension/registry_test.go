package tpmextension

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// scripted is a registry that gives one answer after the other, the last one
// for ever, and remembers when it was asked.
type scripted struct {
	script []any // *enrolment.Result or *enrolment.Error
	asked  []time.Time
	tokens []bool
	names  []string
}

func (s *scripted) Enrol(_ context.Context, r enrolment.Request) (*enrolment.Result, error) {
	now := s.script[min(len(s.asked), len(s.script)-1)]
	s.asked = append(s.asked, time.Now())
	s.tokens = append(s.tokens, r.Token != nil)
	s.names = append(s.names, r.Name)
	if err, ok := now.(*enrolment.Error); ok {
		return nil, err
	}
	result := *now.(*enrolment.Result)
	result.Asked = time.Now()
	return &result, nil
}

// pauses are the times between the attempts.
func (s *scripted) pauses() []time.Duration {
	var out []time.Duration
	for i := 1; i < len(s.asked); i++ {
		out = append(out, s.asked[i].Sub(s.asked[i-1]))
	}
	return out
}

func granted(lease time.Duration) *enrolment.Result {
	return &enrolment.Result{
		Enrolment: api.Enrolment{State: api.StateEnrolled, Evidence: api.EvidenceChain, Name: "edge-a", Machine: "m"},
		EK:        tpm.EKECCP256, ValidFor: lease, RenewIn: lease / 2,
	}
}

func waiting() *enrolment.Result {
	return &enrolment.Result{Enrolment: api.Enrolment{State: api.StatePending, Machine: "m"}, EK: tpm.EKECCP256}
}

func refusal(r api.Reason) *enrolment.Error {
	return &enrolment.Error{Cause: string(r), Retryable: r.Retryable(), Err: api.Refuse(r, "no")}
}

var away = &enrolment.Error{Cause: enrolment.CauseUnreachable, Retryable: true, Err: errors.New("connection refused")}

const someToken = "tmj1.0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// memory is a storage that lives as long as a test.
type memory struct{ content map[string][]byte }

func (m *memory) Get(_ context.Context, key string) ([]byte, error) { return m.content[key], nil }
func (m *memory) Set(_ context.Context, key string, value []byte) error {
	m.content[key] = value
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error       { delete(m.content, key); return nil }
func (*memory) Batch(context.Context, ...*storage.Operation) error { return errors.ErrUnsupported }
func (*memory) Close(context.Context) error                        { return nil }

func scriptedEnroller(client *scripted, m *memory) *enroller {
	return newEnroller(&RegistryConfig{Token: someToken}, client, newLeaseStore(m, []byte{1}, "https://registry"), zap.NewNop())
}

// enrolFor runs an enroller for a time.
func enrolFor(t *testing.T, e *enroller, d time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { e.run(ctx); close(done) }()
	time.Sleep(d)
	cancel()
	<-done
}

func TestPendingMachinePollsMoreAndMoreSlowlyAndSignsOnceApproved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &scripted{script: []any{waiting(), waiting(), waiting(), waiting(), waiting(), waiting(), waiting(), granted(24 * time.Hour)}}
		e := scriptedEnroller(client, &memory{map[string][]byte{}})
		signs := make(chan time.Duration, 1)
		begun := time.Now()
		go func() {
			if e.wait(t.Context()) == nil {
				signs <- time.Since(begun)
			}
		}()
		enrolFor(t, e, 10*time.Minute)
		pauses := client.pauses()
		require.Len(t, pauses, 7)
		for i, want := range []time.Duration{5, 10, 20, 40, 60, 60, 60} {
			require.InDelta(t, want*time.Second, pauses[i], float64(want*time.Second)*nonceJitter+1)
		}
		require.Equal(t, client.asked[7].Sub(begun), <-signs)
		require.Equal(t, []bool{true, true, true, true, true, true, true, true}, client.tokens)
		require.Equal(t, enrolEnrolled, e.state(time.Now()))
	})
}

func TestLeaseIsRenewedInTimeWithoutTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &scripted{script: []any{granted(24 * time.Hour)}}
		e := scriptedEnroller(client, &memory{map[string][]byte{}})
		enrolFor(t, e, 100*time.Hour)
		for _, p := range client.pauses() {
			require.GreaterOrEqual(t, p, 12*time.Hour)
			require.LessOrEqual(t, p, 12*time.Hour+time.Duration(renewSpread*float64(12*time.Hour)))
		}
		require.GreaterOrEqual(t, len(client.tokens), 6)
		require.True(t, client.tokens[0])
		require.NotContains(t, client.tokens[1:], true)
		require.NoError(t, e.held())
	})
}

func TestLeaseThatRunsOutHoldsSigningBeforeItsEndUntilItIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &scripted{script: []any{granted(time.Hour)}}
		for range 120 {
			client.script = append(client.script, away)
		}
		client.script = append(client.script, granted(time.Hour))
		e := scriptedEnroller(client, &memory{map[string][]byte{}})
		var changes atomic.Int32
		e.changed = func() { changes.Add(1) }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go e.run(ctx)
		time.Sleep(55*time.Minute - time.Second)
		require.NoError(t, e.held())
		before := changes.Load()
		time.Sleep(2 * time.Second)
		require.Greater(t, changes.Load(), before, "the end of the lease is noticed when it comes")
		require.ErrorIs(t, e.held(), errNotEnrolled)
		require.ErrorContains(t, e.held(), "connection refused")
		require.Equal(t, enrolExpired, e.state(time.Now()))
		left, ok := e.remaining(time.Now())
		require.True(t, ok)
		require.InDelta(t, 5*time.Minute, left, float64(2*time.Second))
		require.NoError(t, e.wait(ctx))
		synctest.Wait()
		require.Len(t, client.asked, 122)
		require.NoError(t, e.held())
	})
}

func TestUnreachableRegistryIsAskedWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &scripted{script: []any{away}}
		e := scriptedEnroller(client, &memory{map[string][]byte{}})
		enrolFor(t, e, time.Hour)
		pauses := client.pauses()
		require.LessOrEqual(t, pauses[0], 1200*time.Millisecond)
		for _, p := range pauses[8:] {
			require.InDelta(t, time.Minute, p, float64(12*time.Second)+1)
		}
		require.Equal(t, enrolStarting, e.state(time.Now()))
	})
}

func TestRefusalThatSomebodyMustRepairIsRetriedSlowlyAndRetryAfterIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := refusal(api.Busy)
		busy.RetryAfter = 20 * time.Minute
		client := &scripted{script: []any{refusal(api.TokenUsedUp), refusal(api.NameTaken), busy, granted(time.Hour)}}
		e := scriptedEnroller(client, &memory{map[string][]byte{}})
		seen := map[string]int{}
		e.count = func(_ context.Context, outcome, why string) { seen[outcome+" "+why]++ }
		enrolFor(t, e, 50*time.Minute)
		pauses := client.pauses()
		require.InDelta(t, enrolRepair, pauses[0], float64(time.Minute)+1)
		require.InDelta(t, enrolRepair, pauses[1], float64(time.Minute)+1)
		require.GreaterOrEqual(t, pauses[2], 20*time.Minute)
		require.Equal(t, map[string]int{"refused token_used_up": 1, "refused name_taken": 1, "failed busy": 1, "enrolled ": 1}, seen)
	})
}

func TestRevocationAtRenewalStopsSigningAlsoForTheNextStart(t *testing.T) {
	for _, reason := range []api.Reason{api.MachineRevoked, api.KeyRevoked} {
		synctest.Test(t, func(t *testing.T) {
			m := &memory{map[string][]byte{}}
			client := &scripted{script: []any{granted(time.Hour), refusal(reason)}}
			e := scriptedEnroller(client, m)
			enrolFor(t, e, 20*time.Minute)
			require.NoError(t, e.held())
			require.Len(t, m.content, 1)
			enrolFor(t, e, 20*time.Minute)
			require.ErrorIs(t, e.held(), &api.Error{Reason: reason})
			require.Equal(t, enrolRevoked, e.state(time.Now()))
			require.Empty(t, m.content)
		})
	}
}

func TestOtherRefusalsAtRenewalLetTheLeaseRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &scripted{script: []any{granted(time.Hour), refusal(api.PCRMismatch)}}
		e := scriptedEnroller(client, &memory{map[string][]byte{}})
		enrolFor(t, e, 50*time.Minute)
		require.NoError(t, e.held())
		time.Sleep(6 * time.Minute)
		require.ErrorContains(t, e.held(), "pcr_mismatch")
		require.Equal(t, enrolRefused, e.state(time.Now()))
	})
}

func TestHostileRenewalTimesDoNotMakeTheAgentSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short := granted(time.Millisecond)
		short.RenewIn = 1
		client := &scripted{script: []any{short}}
		enrolFor(t, scriptedEnroller(client, &memory{map[string][]byte{}}), time.Minute)
		require.LessOrEqual(t, len(client.asked), 61)
	})
}

func TestStoredLeaseIsUsedOnlyWhileItHoldsAndForItsRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{map[string][]byte{}}
		enrolFor(t, scriptedEnroller(&scripted{script: []any{granted(time.Hour)}}, m), time.Minute)
		store := newLeaseStore(m, []byte{1}, "https://registry")

		l, err := store.load(t.Context(), time.Now())
		require.NoError(t, err)
		require.Equal(t, tpm.EKECCP256, l.EK)
		client := &scripted{script: []any{away}}
		e := scriptedEnroller(client, m)
		e.resume(l)
		require.NoError(t, e.wait(t.Context()), "at once")
		enrolFor(t, e, 20*time.Minute)
		require.Empty(t, client.asked, "a restart of the fleet is no storm")
		enrolFor(t, e, 40*time.Minute)
		require.NotEmpty(t, client.asked)
		require.ErrorContains(t, e.held(), "ran out")

		for name, change := range map[string]func() (leaseStore, time.Time){
			"another registry": func() (leaseStore, time.Time) { return newLeaseStore(m, []byte{1}, "https://other"), time.Now() },
			"another key":      func() (leaseStore, time.Time) { return newLeaseStore(m, []byte{2}, "https://registry"), time.Now() },
			"clock went back":  func() (leaseStore, time.Time) { return store, time.Now().Add(-3 * time.Hour) },
			"damaged": func() (leaseStore, time.Time) {
				damaged := &memory{map[string][]byte{store.key: []byte("{")}}
				return newLeaseStore(damaged, []byte{1}, "https://registry"), time.Now()
			},
		} {
			s, now := change()
			l, err := s.load(t.Context(), now)
			require.NoError(t, err, name)
			require.False(t, l.exists(), name)
		}
	})
}

func TestTokenFileIsReadWhenNeededAndMayBeGoneOtherwise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "join")
	cfg := &RegistryConfig{TokenFile: path}
	_, err := cfg.readToken()
	require.ErrorIs(t, err, errNoToken)

	require.NoError(t, os.WriteFile(path, []byte(someToken+"\n"), 0o600))
	token, err := cfg.readToken()
	require.NoError(t, err)
	require.Equal(t, "0123456789abcdef", token.ID)

	require.NoError(t, os.Chmod(path, 0o644))
	_, err = cfg.readToken()
	require.ErrorIs(t, err, errRegistryTokenFile, "others can read it")

	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, []byte("tmj1.0123456789abcdef.secret"), 0o600))
	_, err = cfg.readToken()
	require.ErrorIs(t, err, errRegistryTokenFile)
	require.NotContains(t, err.Error(), "secret")

	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err = cfg.readToken()
	require.ErrorIs(t, err, errRegistryTokenFile, "an empty file is no token")
}

func TestNameGivenByTheRegistryIsNotArguedWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := granted(time.Hour)
		other.Name = "edge-7"
		client := &scripted{script: []any{waiting(), other, other, refusal(api.NameMismatch), other}}
		core, logs := observer.New(zapcore.InfoLevel)
		e := newEnroller(&RegistryConfig{Name: "edge-a"}, client, leaseStore{}, zap.New(core))
		enrolFor(t, e, 2*time.Hour)
		require.Equal(t, []string{"edge-a", "", "", "", "edge-a"}, client.names[:5])
		require.Equal(t, 1, logs.FilterMessageSnippet("under another name").Len())
		require.Equal(t, 1, logs.FilterMessageSnippet("cannot").Len()+logs.FilterMessageSnippet("does not enrol").Len())
	})
}

// TestLeaseThatIsOverByTheVerifiersClockIsNotSignedUnder: a machine without a
// clock of its own starts with the time of its last shutdown. Verifiers compare the
// lease with the time of the nonce, and drop for good what is signed behind its end.
func TestLeaseThatIsOverByTheVerifiersClockIsNotSignedUnder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		real := 72 * time.Hour // by which everybody else is ahead
		m := &memory{map[string][]byte{}}
		old := granted(24 * time.Hour)
		old.Expires = time.Now().Add(24 * time.Hour)
		enrolFor(t, scriptedEnroller(&scripted{script: []any{old}}, m), time.Minute)
		l, err := newLeaseStore(m, []byte{1}, "https://registry").load(t.Context(), time.Now())
		require.NoError(t, err)

		now := granted(24 * time.Hour)
		now.Expires = time.Now().Add(real + 24*time.Hour)
		client := &scripted{script: []any{now}}
		e := scriptedEnroller(client, m)
		e.resume(l)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go e.run(ctx)
		require.NoError(t, e.held())
		e.passed(time.Now())
		require.NoError(t, e.held(), "a nonce of before its end")
		e.passed(time.Now().Add(real))
		require.ErrorIs(t, e.held(), errNotEnrolled)
		require.Equal(t, enrolExpired, e.state(time.Now()))
		synctest.Wait()
		require.NoError(t, e.held(), "it was renewed at once")
		require.Len(t, client.asked, 1)
		e.passed(time.Now().Add(real))
		require.NoError(t, e.held())
	})
}

// TestNonceFromTheFarFutureDoesNotMakeTheAgentSpin: the registry's word and the
// nonce server's cannot both be right.
func TestNonceFromTheFarFutureDoesNotMakeTheAgentSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lease := granted(24 * time.Hour)
		lease.Expires = time.Now().Add(24 * time.Hour)
		client := &scripted{script: []any{lease}}
		e := scriptedEnroller(client, &memory{map[string][]byte{}})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for e.wait(ctx) == nil {
				e.passed(time.Now().Add(1000 * time.Hour))
			}
		}()
		enrolFor(t, e, 10*time.Minute)
		require.InDelta(t, 20, len(client.asked), 2)
	})
}

func TestPasswordOfTheRegistryIsNotStoredWithTheLease(t *testing.T) {
	m := &memory{map[string][]byte{}}
	store := newLeaseStore(m, []byte{1}, "https://agent:hunter2@registry")
	lease := keyLease{Result: *granted(time.Hour)}
	lease.Asked = time.Now()
	require.NoError(t, store.save(t.Context(), &lease))
	require.NotContains(t, string(m.content[store.key]), "hunter2")
	kept, err := store.load(t.Context(), time.Now())
	require.NoError(t, err)
	require.True(t, kept.exists())
}
