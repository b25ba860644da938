package registry

import (
	"hash/maphash"
	"maps"
)

// table is a map that is never changed once it was given out: a change copies
// the shard that it falls into and shares the others, so that readers need no
// lock and one event does not cost a copy of a hundred thousand keys.
type table[V any] struct {
	shards [tableShards]map[string]V
	size   int
}

const tableShards = 256

var tableSeed = maphash.MakeSeed()

func (t *table[V]) get(key string) (V, bool) {
	v, ok := t.shards[maphash.String(tableSeed, key)%tableShards][key]
	return v, ok
}

func (t *table[V]) getBytes(key []byte) (V, bool) {
	v, ok := t.shards[maphash.Bytes(tableSeed, key)%tableShards][string(key)]
	return v, ok
}

// edit returns a draft of the table after it. The draft belongs to one
// goroutine; done gives it out.
func (t *table[V]) edit() *draft[V] { return &draft[V]{table: *t} }

// draft is a table in the making.
type draft[V any] struct {
	table[V]
	own [tableShards]bool // shards that were copied
}

func (d *draft[V]) shard(key string) map[string]V {
	i := maphash.String(tableSeed, key) % tableShards
	if !d.own[i] {
		d.own[i] = true
		if d.shards[i] == nil {
			d.shards[i] = map[string]V{}
		} else {
			d.shards[i] = maps.Clone(d.shards[i])
		}
	}
	return d.shards[i]
}

func (d *draft[V]) set(key string, v V) {
	s := d.shard(key)
	if _, ok := s[key]; !ok {
		d.size++
	}
	s[key] = v
}

func (d *draft[V]) remove(key string) {
	if _, ok := d.get(key); !ok {
		return
	}
	delete(d.shard(key), key)
	d.size--
}

func (d *draft[V]) done() *table[V] {
	out := d.table
	*d = draft[V]{} // what was given out is not written again
	return &out
}
