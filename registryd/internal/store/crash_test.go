package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/pgtest"
)

// A process that writes is killed again and again. Everything that it had
// answered for is there, and the log is whole.
func TestKilledWriterLosesNothingItAnswered(t *testing.T) {
	t.Parallel()
	const kills = 6
	for kind, dsn := range map[string]string{
		"sqlite": filepath.Join(t.TempDir(), "registry.db"), "postgres": pgtest.DSN(t),
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			// Two write at the same time, as two processes or replicas do.
			var answered [2][]int
			for round := range kills {
				var all sync.WaitGroup
				for w := range answered {
					first := w*1_000_000 + round*10_000
					all.Go(func() { answered[w] = append(answered[w], killedWriter(t, dsn, first, 20+7*round+3*w)...) })
				}
				all.Wait()
			}
			db := open(t, dsn)
			count := 0
			for _, numbers := range answered {
				require.GreaterOrEqual(t, len(numbers), kills*20)
				count += len(numbers)
				view(t, db, func(tx *Tx) error {
					for _, n := range numbers {
						_, err := tx.Key(hash(n))
						require.NoError(t, err, "what was answered for is lost: %d", n)
					}
					return nil
				})
			}
			entries := verifyAudit(t, db)
			require.GreaterOrEqual(t, len(entries), count)
			// At most one more for each that was killed ahead of its word.
			require.LessOrEqual(t, len(entries), count+2*kills)
			view(t, db, func(tx *Tx) error {
				found, err := tx.KeysSince(0, 10_000)
				require.Len(t, found, len(entries))
				return err
			})
			update(t, db, func(tx *Tx) error { return enrol(tx, 9_999_999) })
		})
	}
}

// killedWriter runs a child that enrols machines from first on, kills it when it
// has told of so many, and returns all that it told of.
func killedWriter(t *testing.T, dsn string, first, many int) (answered []int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+dsn)
	cmd.Stdin = strings.NewReader(fmt.Sprintln(first))
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Errorf("starting a writer: %v", err)
		return nil
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var n int
		if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
			t.Errorf("a writer says %q", lines.Text())
		}
		answered = append(answered, n)
		if len(answered) == many {
			if err := cmd.Process.Kill(); err != nil {
				t.Errorf("killing a writer: %v", err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || complaints.Len() > 0 {
		t.Errorf("a writer ended by itself: %v %s", err, complaints.String())
	}
	return answered
}

// The server goes away in the middle of writes, as in a power cut, and comes
// back. Nothing that was answered for is lost, whoever was told "cannot be
// reached" may go on, and nobody has to restart a replica.
func TestCrashedServerLosesNothingItAnswered(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	dsn := server.DSN(t)
	a, b := open(t, dsn), open(t, dsn)

	const writers = 6
	var mu sync.Mutex
	answered, refused := map[int]bool{}, 0
	stop := make(chan struct{})
	var all sync.WaitGroup
	for w := range writers {
		db := []*DB{a, b}[w%2]
		all.Go(func() {
			for n := w * 1_000_000; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				err := db.Update(context.Background(), func(tx *Tx) error { return enrol(tx, n) })
				mu.Lock()
				if err == nil {
					answered[n] = true
				} else {
					refused++
				}
				mu.Unlock()
				if err != nil {
					if !errors.Is(err, ErrUnavailable) {
						t.Errorf("a crash is told as %v", err)
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(answered)
	}
	for range 2 {
		before := count()
		require.Eventually(t, func() bool { return count() > before+50 }, 30*time.Second, 5*time.Millisecond)
		server.Crash(t)
		require.ErrorIs(t, a.Ping(t.Context()), ErrUnavailable)
		server.Start(t)
	}
	before := count()
	require.Eventually(t, func() bool { return count() > before+50 }, 30*time.Second, 5*time.Millisecond)
	close(stop)
	all.Wait()

	require.Positive(t, refused)
	require.NoError(t, a.Ping(t.Context()))
	entries := verifyAudit(t, b)
	require.GreaterOrEqual(t, len(entries), len(answered))
	view(t, b, func(tx *Tx) error {
		for n := range answered {
			_, err := tx.Key(hash(n))
			require.NoError(t, err, "what was answered for is lost: %d", n)
		}
		return nil
	})
	// Listening goes on too, or the poll stands in for it.
	changed := b.Changed()
	update(t, a, func(tx *Tx) error { return enrol(tx, 9_999_999) })
	select {
	case <-changed:
	case <-time.After(5 * time.Second):
		t.Fatal("the other replica was not woken")
	}
}

// Connections that died while nobody used them are no reason to refuse anybody.
func TestConnectionsThatDiedInThePoolArePassedOver(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, a, b *DB) {
		var all sync.WaitGroup
		for n := range 5 { // several connections
			all.Go(func() {
				if err := a.View(context.Background(), func(tx *Tx) error {
					time.Sleep(50 * time.Millisecond)
					_, err := tx.Events(0, n)
					return err
				}); err != nil {
					t.Errorf("a reader: %v", err)
				}
			})
		}
		all.Wait()
		for n := range 3 {
			_, err := b.backend.(*pgBackend).pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			require.NoError(t, err)
			view(t, a, func(*Tx) error { return nil })
			update(t, a, func(tx *Tx) error { return enrol(tx, n) })
		}
		require.Len(t, verifyAudit(t, b), 3)
	})
}

// A replica that stands still in a transaction holds up the others for a while
// and not for ever.
func TestReplicaThatStandsStillIsPassedBy(t *testing.T) {
	t.Parallel()
	onPostgres(t, func(t *testing.T, a, b *DB) {
		stuck, err := a.backend.begin(t.Context(), true)
		require.NoError(t, err)
		defer stuck.rollback()
		require.NoError(t, stuck.script(t.Context(), `SET LOCAL idle_in_transaction_session_timeout = '300ms'`))
		update(t, b, func(tx *Tx) error { return enrol(tx, 1) })
		_, err = stuck.exec(t.Context(), `UPDATE meta SET revision = 77`)
		require.ErrorIs(t, a.backend.classify(err), ErrUnavailable)
		require.Len(t, verifyAudit(t, b), 1)
	})
}
