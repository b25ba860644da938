package tpmsignprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// stored is a record and the id under which it is kept.
type stored struct {
	id  uint64
	rec record
}

// fate says what a record does at the next start when it is still there though
// nobody wants it any more.
type fate byte

const (
	// fateKnown: delivered as it stands there. It is sent again, and the verifier
	// recognises it.
	fateKnown fate = iota
	// fateTwice: delivered, but the record is unsigned. It is signed again, and its
	// data comes twice.
	fateTwice
	// fateRefused: nothing of it can be read or signed, now or then.
	fateRefused
	// fateUnwanted: its write failed or came too late, and its sender keeps the
	// data. If it is there, it is signed too.
	fateUnwanted

	fates = iota
)

// store keeps pending records. Ids rise in the order of add. All methods are
// safe for concurrent use, and what they did is as durable as the store is
// when they return without an error. With an error nothing was done as far as
// anybody can know: what was to be removed, and what was written all the same,
// is removed by a later call of remove, sweep or close.
type store interface {
	// add returns an error when ctx ends before the record is written; what is
	// written afterwards is removed again.
	add(ctx context.Context, rec record) (id uint64, err error)
	replace(ctx context.Context, recs []stored) error
	// get reads a record. errRecordCorrupt: it will never be readable.
	get(ctx context.Context, id uint64) (record, error)
	remove(ctx context.Context, gone map[uint64]fate) error
	// sweep removes what could not be removed before; dirty tells that there is
	// something.
	sweep(ctx context.Context) error
	dirty() <-chan struct{}
	// load calls yield for every record of before this start, ascending, with
	// errRecordCorrupt for those that cannot be read. Called once, first.
	load(ctx context.Context, yield func(stored, error)) error
	// close says with errLeftBehind how many records it could not remove.
	close(ctx context.Context) error
}

// Errors of a store.
var (
	errStorageHangs = errors.New("the storage has not answered in time; what it still writes is removed again")
	errLeftBehind   = errors.New("records stay in the storage of pending requests that should be gone")
)

// memoryStore keeps records as long as the process lives.
type memoryStore struct {
	mu   sync.Mutex
	high uint64
	recs map[uint64]record
}

func newMemoryStore() *memoryStore { return &memoryStore{recs: make(map[uint64]record)} }

func (m *memoryStore) add(_ context.Context, rec record) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.high
	m.high++
	m.recs[id] = rec
	return id, nil
}

func (m *memoryStore) replace(_ context.Context, recs []stored) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range recs {
		m.recs[s.id] = s.rec
	}
	return nil
}

func (m *memoryStore) get(_ context.Context, id uint64) (record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rec, ok := m.recs[id]
	if !ok {
		return record{}, fmt.Errorf("%w: record %d is missing", errRecordCorrupt, id)
	}
	return rec, nil
}

func (m *memoryStore) remove(_ context.Context, gone map[uint64]fate) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range gone {
		delete(m.recs, id)
	}
	return nil
}

func (*memoryStore) sweep(context.Context) error { return nil }

func (*memoryStore) dirty() <-chan struct{} { return nil }

func (*memoryStore) load(context.Context, func(stored, error)) error { return nil }

func (*memoryStore) close(context.Context) error { return nil }
