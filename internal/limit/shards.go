package limit

import (
	"hash/maphash"
	"time"
)

// Shards is a table in parts with a lock each, for many callers at once. Which
// key is in which part nobody outside the process can know.
type Shards[K comparable] struct {
	seed   maphash.Seed
	tables []*TableOf[K] // a power of two
}

const (
	maxShards = 16
	minShard  = 512 // buckets: small parts forget too unevenly
)

// NewShards returns a table of about size buckets; as for NewTableOf.
func NewShards[K comparable](rate Rate, size int, debt time.Duration) *Shards[K] {
	n := 1
	for n < maxShards && size/(2*n) >= minShard {
		n *= 2
	}
	s := &Shards[K]{seed: maphash.MakeSeed(), tables: make([]*TableOf[K], n)}
	for i := range s.tables {
		s.tables[i] = NewTableOf[K](rate, size/n, debt)
	}
	return s
}

func (s *Shards[K]) of(key K) *TableOf[K] {
	if len(s.tables) == 1 {
		return s.tables[0]
	}
	return s.tables[maphash.Comparable(s.seed, key)&uint64(len(s.tables)-1)]
}

// Limits reports whether there is a limit at all.
func (s *Shards[K]) Limits() bool { return !s.tables[0].rate.IsZero() }

// Allow is that of the table.
func (s *Shards[K]) Allow(key K, n int, now time.Time) (ok bool, retry time.Duration) {
	return s.of(key).Allow(key, n, now)
}

// Lend is that of the table.
func (s *Shards[K]) Lend(key K, n int, now time.Time) (ok bool, retry time.Duration) {
	return s.of(key).Lend(key, n, now)
}

// Take is that of the table.
func (s *Shards[K]) Take(key K, n int, now time.Time) { s.of(key).Take(key, n, now) }

// Len returns how many buckets there are.
func (s *Shards[K]) Len() (n int) {
	for _, t := range s.tables {
		n += t.Len()
	}
	return n
}

// Used is that of the table.
func (s *Shards[K]) Used(key K, now time.Time) float64 { return s.of(key).Used(key, now) }

// Fullest returns the at most n buckets of which most is used, that one first.
func (s *Shards[K]) Fullest(n int, now time.Time) []Use[K] {
	var uses []Use[K]
	for _, t := range s.tables {
		uses = append(uses, t.Fullest(n, now)...)
	}
	return fullest(uses, n)
}
