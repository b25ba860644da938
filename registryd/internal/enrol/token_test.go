package enrol_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

func TestTokenIsRefused(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	for name, c := range map[string]struct {
		token  *api.Token
		change func(*api.TokenProof)
		reason api.Reason
	}{
		"unknown":                    {w.newToken(1), func(p *api.TokenProof) { p.ID = "0123456789abcdef" }, api.TokenUnknown},
		"no proof":                   {w.newToken(1), func(p *api.TokenProof) { p.Proof = nil }, api.TokenProofInvalid},
		"expired":                    {w.newToken(1, func(t *store.Token) { t.ExpiresAt = w.clock.now() }), nil, api.TokenExpired},
		"used up":                    {w.newToken(3, func(t *store.Token) { t.Used = 3 }), nil, api.TokenUsedUp},
		"the proof of another token": {w.newToken(1), func(p *api.TokenProof) { p.ID = w.newToken(1).ID }, api.TokenProofInvalid},
		// Nothing is told of a token to those who do not know it.
		"expired and no proof": {w.newToken(1, func(t *store.Token) { t.ExpiresAt = w.clock.now() }), func(p *api.TokenProof) { p.Proof = nil }, api.TokenProofInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			m.token = c.token
			r := w.request(m)
			if c.change != nil {
				c.change(r.Token)
			}
			refusedComplete(t, w, c.reason, r)
		})
	}
}

// The proof of a token is worth nothing for other keys or in another session.
func TestStolenTokenProofIsRefused(t *testing.T) {
	w, m := withToken(t)
	thief := w.newMachine()
	stolen, r := w.request(m), w.request(thief)
	r.Token = stolen.Token
	refusedComplete(t, w, api.TokenProofInvalid, r)
	again := w.request(m)
	again.Token = stolen.Token
	refusedComplete(t, w, api.TokenProofInvalid, again)
}

// Whoever writes to the store cannot give one token the key of another.
func TestTokenKeyIsBoundToItsToken(t *testing.T) {
	w, m := withToken(t)
	other := w.newToken(1, func(tok *store.Token) {
		w.view(func(tx *store.Tx) error {
			known, err := tx.Token(m.token.ID)
			tok.SealedKey = known.SealedKey
			return err
		})
	})
	m.token = &api.Token{ID: other.ID, Secret: m.token.Secret}
	w.refused(api.Internal, m)
}

func TestFiftyParallelUsesOfATokenWithFiveGiveExactlyFive(t *testing.T) {
	w := newWorld(t)
	fiftyUsesOfFive(t, w, w.service)
}

// Two replicas on one PostgreSQL agree on it too.
func TestFiftyParallelUsesOverTwoReplicasGiveExactlyFive(t *testing.T) {
	dsn := pgtest.DSN(t)
	w := newWorldOn(t, dsn)
	db, err := store.Open(t.Context(), dsn, store.Options{Now: w.clock.now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	o := w.options
	o.Store = db
	replica, err := enrol.New(o)
	require.NoError(t, err)
	fiftyUsesOfFive(t, w, w.service, replica)
}

func fiftyUsesOfFive(t *testing.T, w *world, replicas ...*enrol.Service) {
	t.Helper()
	token := w.newToken(5)
	tpm := attesttest.New(t)
	const machines, uses = 50, 5
	requests := make([]*api.EnrolmentComplete, machines)
	for i := range requests {
		m := w.machineOn(tpm, fmt.Sprint("machine", i))
		m.token = token
		requests[i] = w.request(m)
		tpm.Flush(m.ek, m.ak, m.key)
	}
	var (
		mu      sync.Mutex
		in      int
		reasons = map[api.Reason]int{}
		wg      sync.WaitGroup
	)
	for i, r := range requests {
		wg.Go(func() {
			_, err := replicas[i%len(replicas)].Complete(t.Context(), r, peer)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				in++
			} else {
				reasons[api.ReasonOf(err)]++
			}
		})
	}
	wg.Wait()
	require.Equal(t, uses, in)
	require.Equal(t, map[api.Reason]int{api.TokenUsedUp: machines - uses}, reasons)
	w.view(func(tx *store.Tx) error {
		row, err := tx.Token(token.ID)
		require.Equal(t, uses, row.Used)
		return err
	})
	require.Len(t, w.events(), uses)
}

// The same request sent many times at once takes one use and gives one answer.
func TestParallelReplaysGiveOneEnrolment(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	m.token = w.newToken(50)
	r := w.request(m)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() { _, errs[i] = w.complete(r) })
	}
	wg.Wait()
	var in int
	for _, err := range errs {
		if err == nil {
			in++
			continue
		}
		require.Equal(t, api.SessionUsed, api.ReasonOf(err))
	}
	require.Equal(t, 1, in)
	w.view(func(tx *store.Tx) error {
		row, err := tx.Token(m.token.ID)
		require.Equal(t, 1, row.Used)
		return err
	})
}

// An agent that crashed before it knew that it was enrolled comes with its
// token again; by then that may be gone.
func TestMemberIsNotHeldToItsToken(t *testing.T) {
	w, m := withToken(t)
	m.name = "edge-a"
	w.enrolled(m)
	w.enrolled(m) // used up
	w.update(func(tx *store.Tx) error { return tx.DeleteToken(m.token.ID) })
	w.enrolled(m)
	m.token = w.newToken(1, func(t *store.Token) { t.Name = "edge-b" })
	require.Equal(t, "edge-a", w.enrolled(m).Name)
	w.view(func(tx *store.Tx) error {
		row, err := tx.Token(m.token.ID)
		require.Zero(t, row.Used, "a use is for another machine")
		return err
	})
}

func TestAllowListDoesNotUseATokenUp(t *testing.T) {
	w, m := withToken(t)
	w.allow(m, "edge-a")
	got := w.enrolled(m)
	require.Equal(t, "edge-a", got.Name)
	require.Equal(t, api.ByAllowList, w.machineRow(m).Membership)
	require.Equal(t, map[string]string{"site": "berlin"}, w.machineRow(m).Labels)
	w.view(func(tx *store.Tx) error {
		row, err := tx.Token(m.token.ID)
		require.Zero(t, row.Used)
		return err
	})
}
