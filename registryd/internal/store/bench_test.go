package store

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/telemark-otel/telemark/internal/pgtest"
)

func benchOnBoth(b *testing.B, bench func(b *testing.B, db *DB)) {
	b.Run("sqlite", func(b *testing.B) { bench(b, open(b, filepath.Join(b.TempDir(), "registry.db"))) })
	b.Run("postgres", func(b *testing.B) { bench(b, open(b, pgtest.DSN(b))) })
}

// A machine with a key, an audit entry with its signed head, and an event: what
// an enrolment writes.
func BenchmarkUpdate(b *testing.B) {
	benchOnBoth(b, func(b *testing.B, db *DB) {
		for n := 0; b.Loop(); n++ {
			update(b, db, func(tx *Tx) error { return enrol(tx, n) })
		}
	})
}

// The same from many goroutines, who take turns.
func BenchmarkUpdateParallel(b *testing.B) {
	benchOnBoth(b, func(b *testing.B, db *DB) {
		var next atomic.Int64
		b.SetParallelism(16)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if err := db.Update(context.Background(), func(tx *Tx) error { return enrol(tx, int(next.Add(1))) }); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// One key and its machine, as a verifier asks.
func BenchmarkKey(b *testing.B) {
	benchOnBoth(b, func(b *testing.B, db *DB) {
		for n := range 1000 {
			update(b, db, func(tx *Tx) error { return enrol(tx, n) })
		}
		for n := 0; b.Loop(); n++ {
			view(b, db, func(tx *Tx) error {
				if _, err := tx.Key(hash(n % 1000)); err != nil {
					return err
				}
				_, err := tx.Machine(hash(n % 1000))
				return err
			})
		}
	})
}
