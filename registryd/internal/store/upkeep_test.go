package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

func TestEventsAreLinked(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		many := make([]string, maxEventKIDs+1)
		for i := range many {
			many[i] = hash(i)
		}
		update(t, a, func(tx *Tx) error { return tx.Emit(Event{What: "one", At: clock.Add(time.Hour), Instance: hash(1)}) })
		update(t, b, func(tx *Tx) error { return putKey(tx, 1) }) // a revision without an event
		update(t, b, func(tx *Tx) error {
			require.NoError(t, tx.Emit(Event{What: "two", KIDs: many}))
			require.Error(t, tx.Emit(Event{What: "three"}))
			events, err := tx.Events(0, 10)
			require.Len(t, events, 1)
			return err
		})
		view(t, a, func(tx *Tx) error {
			events, err := tx.Events(0, 10)
			require.NoError(t, err)
			require.Equal(t, []Event{
				{Revision: 1, At: clock.Add(time.Hour), What: "one", Instance: hash(1)},
				{Revision: 3, Previous: 1, At: clock, What: "two", KIDs: many[:maxEventKIDs], More: true},
			}, events)
			events, err = tx.Events(1, 0)
			require.Len(t, events, 1)
			return err
		})
	})
}

func TestSweepDeletesWhatIsPastItsTime(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		old, young := clock.Add(-48*time.Hour), clock.Add(-time.Hour)
		update(t, a, func(tx *Tx) error {
			for n := range 2*sweepChunk + 10 { // more than one step
				require.NoError(t, tx.ConsumeSession([32]byte{0, byte(n >> 8), byte(n)}, clock.Add(-2*time.Hour)))
			}
			// Another replica's clock may be behind.
			require.NoError(t, tx.ConsumeSession([32]byte{1}, clock.Add(-time.Minute)))
			require.NoError(t, tx.PutToken(&Token{ID: "old", ExpiresAt: clock.AddDate(0, 0, -8)}))
			require.NoError(t, tx.PutToken(&Token{ID: "young", ExpiresAt: clock.AddDate(0, 0, -6)}))
			for n, c := range []struct {
				m    Machine
				keys []api.KeyState
			}{
				{Machine{CreatedAt: old}, []api.KeyState{api.StatePending, api.StatePending}}, // 0: the only one to go
				{Machine{CreatedAt: young}, []api.KeyState{api.StatePending}},
				{Machine{CreatedAt: old, SeenAt: young}, []api.KeyState{api.StatePending}},
				{Machine{CreatedAt: old}, []api.KeyState{api.StateRevoked, api.StatePending}},
				{Machine{CreatedAt: old, Allowed: true}, []api.KeyState{api.StatePending}},
				{Machine{CreatedAt: old, Revoked: "lost"}, []api.KeyState{api.StatePending}},
				{Machine{CreatedAt: old}, []api.KeyState{api.StateEnrolled}},
				{Machine{CreatedAt: old}, nil},
			} {
				c.m.EKHash = hash(n)
				require.NoError(t, tx.PutMachine(&c.m))
				for i, state := range c.keys {
					require.NoError(t, tx.PutKey(&Key{KID: hash(100*n + i), EKHash: hash(n), State: state}))
				}
			}
			return nil
		})
		for n := range 5 {
			update(t, a, func(tx *Tx) error { return tx.Emit(Event{What: fmt.Sprint(n)}) })
		}
		require.NoError(t, b.Sweep(t.Context(), clock, clock.Add(-24*time.Hour), 2))
		update(t, a, func(tx *Tx) error {
			require.NoError(t, tx.ConsumeSession([32]byte{}, clock))
			require.ErrorIs(t, tx.ConsumeSession([32]byte{1}, clock), ErrExists)
			tokens, err := tx.Tokens()
			require.NoError(t, err)
			require.Len(t, tokens, 1)
			machines, _, err := tx.Machines(MachineFilter{Limit: 100})
			require.NoError(t, err)
			require.Len(t, machines, 7)
			_, err = tx.Machine(hash(0))
			require.ErrorIs(t, err, ErrNotFound)
			events, err := tx.Events(0, 10)
			require.NoError(t, err)
			require.Len(t, events, 2)
			require.Equal(t, "3", events[0].What)
			require.Equal(t, events[0].Revision, events[1].Previous)
			return nil
		})
		require.NoError(t, a.Sweep(t.Context(), clock, clock.Add(-24*time.Hour), 0))
		update(t, a, func(tx *Tx) error { return tx.Emit(Event{What: "after"}) })
		view(t, b, func(tx *Tx) error {
			events, err := tx.Events(0, 10)
			require.Len(t, events, 1)
			require.NotZero(t, events[0].Previous) // although that one is gone
			return err
		})
	})
}

func TestStatsCountLapsedLeases(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error {
			for n := range 3 {
				require.NoError(t, putKey(tx, n))
			}
			require.NoError(t, tx.PutKey(&Key{KID: hash(2), EKHash: hash(2), State: api.StateEnrolled, ExpiresAt: clock}))
			require.NoError(t, tx.PutMachine(&Machine{EKHash: hash(8)}))
			require.NoError(t, tx.PutInstance(&Instance{Pubkey: hash(1), State: api.TDXVerified, ExpiresAt: clock}))
			require.NoError(t, tx.PutInstance(&Instance{Pubkey: hash(2), State: api.TDXUnverified}))
			return enrol(tx, 5)
		})
		view(t, b, func(tx *Tx) error {
			s, err := tx.Stats()
			require.Equal(t, Stats{
				Machines:  map[api.KeyState]int{api.StateEnrolled: 3, api.StateExpired: 1, "": 1},
				Instances: map[api.InstanceState]int{api.TDXVerified: 0, api.TDXExpired: 1, api.TDXUnverified: 1},
				Revision:  1, AuditSeq: 1,
			}, s)
			return err
		})
	})
}

func TestFoldAgreesWithEqualFold(t *testing.T) {
	names := []string{"a", "A", "k", "K", "\u212a", "s", "S", "\u017f", "ß", "ẞ", "Å", "å", "\u212b", "σ", "ς", "Σ", "i", "I", "ı", "İ", "1", "-"}
	for _, x := range names {
		for _, y := range names {
			require.Equal(t, strings.EqualFold(x, y), fold(x) == fold(y), "%q %q", x, y)
		}
	}
	require.Equal(t, "host-1.example", fold("HOST-1.Example"))
	require.True(t, slices.IsSortedFunc([]string{"A", "b", "C"}, func(x, y string) int { return strings.Compare(fold(x), fold(y)) }))
}
