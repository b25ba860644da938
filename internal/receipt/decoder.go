package receipt

import (
	"bytes"
	"hash/maphash"
	"sync"
)

// Decoder decodes receipts and remembers the statements, since the blocks of
// one group carry equal protected bytes. It is safe for concurrent use. What
// it holds is bounded by entries times MaxProtected, about.
type Decoder struct {
	seed       maphash.Seed
	statements *generations[uint64, remembered]
}

type remembered struct {
	protected []byte
	statement *Statement
}

// NewDecoder returns a decoder that remembers at most entries statements.
func NewDecoder(entries int) *Decoder {
	return &Decoder{seed: maphash.MakeSeed(), statements: newGenerations[uint64, remembered](entries)}
}

// Decode is the function [Decode], but receipts with equal protected bytes
// share a Statement, which must not be changed.
func (d *Decoder) Decode(b []byte) (*Receipt, error) { return decode(b, d.statement) }

func (d *Decoder) statement(protected []byte) (*Statement, error) {
	key := maphash.Bytes(d.seed, protected)
	if m, ok := d.statements.get(key); ok && bytes.Equal(m.protected, protected) {
		return m.statement, nil
	}
	s, err := decodeStatement(protected)
	if err != nil {
		return nil, err
	}
	d.statements.put(key, remembered{protected: bytes.Clone(protected), statement: s})
	return s, nil
}

// generations is a bounded map that forgets what was not asked for during its
// last half filling.
type generations[K comparable, V any] struct {
	half int

	mu         sync.Mutex // guards what follows
	young, old map[K]V
}

func newGenerations[K comparable, V any](entries int) *generations[K, V] {
	return &generations[K, V]{half: max(entries/2, 1), young: map[K]V{}}
}

func (g *generations[K, V]) get(k K) (V, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v, ok := g.young[k]; ok {
		return v, true
	}
	v, ok := g.old[k]
	if ok {
		g.putLocked(k, v)
	}
	return v, ok
}

func (g *generations[K, V]) put(k K, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.putLocked(k, v)
}

func (g *generations[K, V]) putLocked(k K, v V) {
	if _, ok := g.young[k]; !ok && len(g.young) >= g.half {
		g.old, g.young = g.young, make(map[K]V, g.half)
	}
	g.young[k] = v
}

func (g *generations[K, V]) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.young) + len(g.old)
}
