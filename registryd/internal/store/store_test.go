package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
)

// childVariable makes the test binary a process that writes until it is killed.
const childVariable = "TELEMARK_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childVariable); dsn != "" {
		fmt.Fprintln(os.Stderr, writeForEver(dsn))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// clock is what the stores of the tests go by.
var clock = time.UnixMilli(1_790_000_000_123).UTC()

func options() Options {
	return Options{
		Now: func() time.Time { return clock },
		Sign: func(seq uint64, hash []byte, at time.Time) ([]byte, error) {
			signed := binary.BigEndian.AppendUint64(nil, seq)
			return binary.BigEndian.AppendUint64(append(signed, hash...), uint64(at.UnixMilli())), nil
		},
	}
}

func open(t testing.TB, dsn string) *DB {
	t.Helper()
	db, err := Open(context.Background(), dsn, options())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// onBoth runs a test on SQLite and on PostgreSQL, each opened twice: as two
// processes on one file, and as two replicas.
func onBoth(t *testing.T, test func(t *testing.T, a, b *DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dsn := filepath.Join(t.TempDir(), "registry.db")
		test(t, open(t, dsn), open(t, dsn))
	})
	onPostgres(t, test)
}

func onPostgres(t *testing.T, test func(t *testing.T, a, b *DB)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		dsn := pgtest.DSN(t)
		test(t, open(t, dsn), open(t, dsn))
	})
}

// raw runs a statement behind the store's back, and commits it.
func raw(t testing.TB, db *DB, statement string) error {
	t.Helper()
	s, err := db.backend.begin(context.Background(), true)
	require.NoError(t, err)
	if err := s.script(context.Background(), statement); err != nil {
		s.rollback()
		return err
	}
	return s.commit(context.Background())
}

func update(t testing.TB, db *DB, fn func(*Tx) error) {
	t.Helper()
	require.NoError(t, db.Update(context.Background(), fn))
}

func view(t testing.TB, db *DB, fn func(*Tx) error) {
	t.Helper()
	require.NoError(t, db.View(context.Background(), fn))
}

func hash(n int) string { return fmt.Sprintf("%064x", n) }

// putKey writes machine n and a key of it.
func putKey(tx *Tx, n int) error {
	if err := tx.PutMachine(&Machine{EKHash: hash(n), Name: fmt.Sprintf("machine-%06d", n)}); err != nil {
		return err
	}
	return tx.PutKey(&Key{KID: hash(n), EKHash: hash(n), State: api.StateEnrolled, Public: []byte{1, 2, 3}, ExpiresAt: clock.Add(time.Hour)})
}

// enrol is what a change usually consists of.
func enrol(tx *Tx, n int) error {
	if err := putKey(tx, n); err != nil {
		return err
	}
	if err := tx.Audit(audit.Entry{Actor: "test", Action: "enrol", Subject: hash(n), Detail: []byte(`{"n": 1}`)}); err != nil {
		return err
	}
	return tx.Emit(Event{What: "enrolled", KIDs: []string{hash(n)}})
}

// verifyAudit checks the log to its signed head, and returns its entries.
func verifyAudit(t testing.TB, db *DB) []audit.Entry {
	t.Helper()
	var all []audit.Entry
	view(t, db, func(tx *Tx) error {
		head, err := tx.AuditHead()
		require.NoError(t, err)
		if head.Seq > 0 {
			signed, err := options().Sign(head.Seq, head.Hash, head.At)
			require.NoError(t, err)
			require.Equal(t, signed, head.Signed)
		}
		var chain audit.Chain
		require.NoError(t, chain.Expect(head.Seq, head.Hash))
		for {
			seq, _ := chain.Last()
			entries, err := tx.AuditEntries(seq, 100)
			require.NoError(t, err)
			for _, e := range entries {
				require.NoError(t, chain.Append(&e))
			}
			all = append(all, entries...)
			if len(entries) == 0 {
				seq, hash := chain.Last()
				require.Equal(t, head.Seq, seq)
				if seq > 0 {
					require.Equal(t, head.Hash, hash)
				}
				return chain.End()
			}
		}
	})
	return all
}

// writeForEver enrols machines and says which, once Update has answered.
func writeForEver(dsn string) error {
	ctx := context.Background()
	db, err := Open(ctx, dsn, options())
	if err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	if !in.Scan() {
		return errors.New("nobody says where to begin")
	}
	var n int
	if _, err := fmt.Sscan(in.Text(), &n); err != nil {
		return err
	}
	for ; ; n++ {
		if err := db.Update(ctx, func(tx *Tx) error { return enrol(tx, n) }); err != nil {
			return err
		}
		fmt.Println(n)
	}
}
