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
	statements *generations[uint64, *known]
}

// NewDecoder returns a decoder that remembers at most entries statements.
func NewDecoder(entries int) *Decoder {
	return &Decoder{seed: maphash.MakeSeed(), statements: newGenerations[uint64, *known](entries)}
}

// Decode is the function [Decode], but receipts with equal protected bytes
// share these and a Statement, which must not be changed.
func (d *Decoder) Decode(b []byte) (*Receipt, error) {
	k, key := d.find(b)
	if k != nil {
		if r := k.decode(b); r != nil {
			return r, nil
		}
	}
	r, err := decode(b, func(protected []byte) (*Statement, error) {
		if k != nil {
			return k.statement, nil
		}
		return decodeStatement(protected)
	})
	if err == nil && k == nil {
		d.statements.put(key, &known{protected: bytes.Clone(r.Protected), statement: r.Statement, stream: r.Stream})
	}
	return r, err
}

// find looks for the statement of what may be a receipt. The key is that of its
// protected bytes.
func (d *Decoder) find(b []byte) (k *known, key uint64) {
	if len(b) > MaxSize || len(b) < len(prefix) || string(b[:len(prefix)]) != prefix {
		return nil, 0
	}
	c := cutter{rest: b[len(prefix):], ok: true}
	protected := c.take(c.uint(majorBytes))
	if !c.ok || len(protected) > MaxProtected {
		return nil, 0
	}
	key = maphash.Bytes(d.seed, protected)
	if k, ok := d.statements.get(key); ok && bytes.Equal(k.protected, protected) {
		return k, key
	}
	return nil, key
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
