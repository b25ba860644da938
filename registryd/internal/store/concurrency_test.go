package store

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
)

func TestHundredFirstRegistrationsHaveOneWinner(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		const parallel = 100
		key := hash(7)
		var won atomic.Int64
		seen := make([]string, parallel) // policy that each found or wrote
		var all sync.WaitGroup
		for n := range parallel {
			db := []*DB{a, b}[n%2]
			all.Go(func() {
				winner := false
				err := db.Update(context.Background(), func(tx *Tx) error {
					winner = false
					i, err := tx.Instance(key)
					if errors.Is(err, ErrNotFound) {
						i = &Instance{Pubkey: key, PolicyName: hash(n), State: api.TDXVerified}
						winner = true
						err = tx.PutInstance(i)
					}
					if err == nil {
						seen[n] = i.PolicyName
					}
					return err
				})
				if err != nil {
					seen[n] = err.Error()
				}
				if winner {
					won.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, won.Load())
		require.Len(t, slices.Compact(slices.Sorted(slices.Values(seen))), 1)
		view(t, b, func(tx *Tx) error {
			revision, err := tx.Revision()
			require.EqualValues(t, 1, revision)
			return err
		})
	})
}

// A verifier asks for what changed since the last revision that it saw. A lower
// one that became visible later would be lost to it for ever.
func TestReaderNeverMissesALowerRevision(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		const writers, each = 8, 25
		var all sync.WaitGroup
		for w := range writers {
			db := []*DB{a, b}[w%2]
			all.Go(func() {
				for i := range each {
					if err := db.Update(context.Background(), func(tx *Tx) error { return enrol(tx, w*each+i) }); err != nil {
						t.Errorf("a writer: %v", err)
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()

		kids, last, lastEvent := map[string]uint64{}, uint64(0), uint64(0)
		read := func(db *DB) {
			view(t, db, func(tx *Tx) error {
				revision, err := tx.Revision()
				require.NoError(t, err)
				found, err := tx.KeysSince(last, 3)
				require.NoError(t, err)
				for _, k := range found {
					require.Greater(t, k.Key.Revision, last)
					require.LessOrEqual(t, k.Key.Revision, revision)
					require.Equal(t, k.Key.Revision, k.Machine.Revision)
					require.NotContains(t, kids, k.Key.KID)
					kids[k.Key.KID], last = k.Key.Revision, k.Key.Revision
				}
				events, err := tx.Events(lastEvent, 3)
				for _, e := range events {
					require.Equal(t, lastEvent, e.Previous)
					lastEvent = e.Revision
				}
				return err
			})
		}
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			read(a)
			read(b)
		}
		for before := -1; before < len(kids); {
			before = len(kids)
			read(b)
		}
		require.Len(t, kids, writers*each)
		revisions := slices.Sorted(maps.Values(kids))
		require.EqualValues(t, writers*each, revisions[len(revisions)-1])
		require.Len(t, slices.Compact(revisions), writers*each)
		require.Len(t, verifyAudit(t, a), writers*each)
	})
}

func TestChangeOfAnotherReplicaWakes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		for n := range 3 {
			here, there := a.Changed(), b.Changed()
			start := time.Now()
			update(t, a, func(tx *Tx) error { return enrol(tx, n) })
			select {
			case <-here:
			default:
				t.Fatal("the replica that committed was not woken at once")
			}
			select {
			case <-there:
				t.Logf("the other replica knew after %v", time.Since(start))
			case <-time.After(5 * time.Second):
				t.Fatal("the other replica was not woken")
			}
		}
	})
}

func TestChangeThatNobodyAnnouncedWakes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, _ *DB) {
		changed := a.Changed()
		require.NoError(t, raw(t, a, `UPDATE meta SET revision = revision + 1`))
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Fatal("the poll found nothing")
		}
	})
}

func TestForgedNotificationDoesNotSilenceLaterOnes(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, a, b *DB) {
		pool := a.backend.(*pgBackend).pool
		require.Eventually(t, func() bool {
			var listening int
			err := pool.QueryRow(t.Context(), `SELECT COUNT(*) FROM pg_stat_activity
				WHERE datname = current_database() AND query = 'LISTEN `+channel+`' AND state = 'idle'`).Scan(&listening)
			return err == nil && listening == 2
		}, 20*time.Second, 20*time.Millisecond)
		_, err := pool.Exec(t.Context(), `SELECT pg_notify($1, $2)`, channel, "1152921504606846976")
		require.NoError(t, err)
		time.Sleep(300 * time.Millisecond)
		changed := b.Changed()
		update(t, a, func(tx *Tx) error { return enrol(tx, 1) })
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Fatal("the other replica was not woken")
		}
	})
}

func TestViewSeesOneState(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error { return enrol(tx, 1) })
		view(t, a, func(tx *Tx) error {
			update(t, b, func(tx *Tx) error { return enrol(tx, 2) })
			revision, err := tx.Revision()
			require.NoError(t, err)
			require.EqualValues(t, 1, revision)
			_, err = tx.Machine(hash(2))
			require.ErrorIs(t, err, ErrNotFound)
			entries, err := tx.AuditEntries(0, 10)
			require.Len(t, entries, 1)
			return err
		})
	})
}

func TestRefusedUpdateChangesNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		update(t, a, func(tx *Tx) error { return enrol(tx, 1) })
		refused := errors.New("refused")
		require.ErrorIs(t, a.Update(t.Context(), func(tx *Tx) error {
			require.NoError(t, enrol(tx, 2))
			return refused
		}), refused)
		require.Panics(t, func() {
			_ = a.Update(t.Context(), func(tx *Tx) error {
				require.NoError(t, enrol(tx, 3))
				panic("a mistake")
			})
		})
		// Whoever overlooks an error of the database does not commit half of
		// what he meant.
		require.Error(t, a.Update(t.Context(), func(tx *Tx) error {
			require.NoError(t, enrol(tx, 4))
			_, err := tx.exec(`UPDATE no_such_table SET x = 1`)
			require.Error(t, err)
			require.Error(t, putKey(tx, 5))
			return nil
		}))
		ended, cancel := context.WithCancel(t.Context())
		require.ErrorIs(t, a.Update(ended, func(tx *Tx) error {
			require.NoError(t, enrol(tx, 6))
			cancel()
			return nil
		}), ErrUnavailable)
		var kept *Tx
		require.ErrorIs(t, a.View(t.Context(), func(tx *Tx) error {
			kept = tx
			return tx.Audit(audit.Entry{Actor: "reader"})
		}), errReading)
		_, err := kept.Machine(hash(1))
		require.ErrorIs(t, err, errOver)

		view(t, b, func(tx *Tx) error {
			found, err := tx.KeysSince(0, 100)
			require.Len(t, found, 1)
			events, eventsErr := tx.Events(0, 100)
			require.Len(t, events, 1)
			return errors.Join(err, eventsErr)
		})
		require.Len(t, verifyAudit(t, b), 1)
		update(t, b, func(tx *Tx) error { return enrol(tx, 7) })
		require.NoError(t, a.Ping(t.Context()))
		require.Len(t, verifyAudit(t, a), 2)
	})
}

func TestWriterWhoJumpedTheQueueIsNoticed(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, a, b *DB) { // SQLite's lock cannot be passed by
		pool := b.backend.(*pgBackend).pool
		runs := 0
		update(t, a, func(tx *Tx) error {
			if runs++; runs == 1 {
				_, err := pool.Exec(t.Context(), `UPDATE meta SET revision = revision + 10`)
				require.NoError(t, err)
			}
			return enrol(tx, 1)
		})
		require.Equal(t, 2, runs)
		view(t, b, func(tx *Tx) error {
			k, err := tx.Key(hash(1))
			require.EqualValues(t, 11, k.Revision)
			return err
		})
	})
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, _ *DB) {
		require.NoError(t, a.Close())
		require.NoError(t, a.Close())
		require.ErrorIs(t, a.View(t.Context(), func(*Tx) error { return nil }), ErrUnavailable)
		require.ErrorIs(t, a.Update(t.Context(), func(*Tx) error { return nil }), ErrUnavailable)
		require.ErrorIs(t, a.Ping(t.Context()), ErrUnavailable)
	})
}
