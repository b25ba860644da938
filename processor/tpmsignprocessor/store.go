package tpmsignprocessor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
)

// stored is a record and the id under which it is kept.
type stored struct {
	id  uint64
	rec record
}

// store keeps pending records. Ids rise in the order of add. All methods are
// safe for concurrent use, and what they did is as durable as the store is
// when they return without an error; with an error nothing was done, but what
// was to be removed is removed by a later call of remove or close.
type store interface {
	add(ctx context.Context, rec record) (id uint64, err error)
	replace(ctx context.Context, recs []stored) error
	// get reads a record. errRecordCorrupt: it will never be readable.
	get(ctx context.Context, id uint64) (record, error)
	remove(ctx context.Context, ids []uint64) error
	// load calls yield for every record of before this start, ascending, with
	// errRecordCorrupt for those that cannot be read. Called once, first.
	load(ctx context.Context, yield func(stored, error)) error
	close(ctx context.Context) error
}

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

func (m *memoryStore) remove(_ context.Context, ids []uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.recs, id)
	}
	return nil
}

func (*memoryStore) load(context.Context, func(stored, error)) error { return nil }

func (*memoryStore) close(context.Context) error { return nil }

// Keys in the storage extension.
const (
	keyIndexA = "index/a"
	keyIndexB = "index/b"
)

func recordKey(id uint64) string { return fmt.Sprintf("record/%016x", id) }

// diskStore keeps records in a storage extension, which knows neither listing
// nor compare-and-set: an index says which ids may exist, and every change of
// it is written together with the record that caused it, under mu, so that an
// older index never overwrites a newer one.
type diskStore struct {
	client storage.Client
	signal block.Signal

	mu        sync.Mutex
	low, high uint64
	live      map[uint64]struct{}
	dead      []uint64 // to be removed still: what is left there comes again after a restart
}

func newDiskStore(client storage.Client, signal block.Signal) *diskStore {
	return &diskStore{client: client, signal: signal, live: make(map[uint64]struct{})}
}

func indexOperations(low, high uint64) []*storage.Operation {
	index := encodeIndex(low, high)
	return []*storage.Operation{storage.SetOperation(keyIndexA, index), storage.SetOperation(keyIndexB, index)}
}

func (d *diskStore) add(ctx context.Context, rec record) (uint64, error) {
	value := rec.encode()
	d.mu.Lock()
	defer d.mu.Unlock()
	id := d.high
	ops := append(indexOperations(d.low, id+1), storage.SetOperation(recordKey(id), value))
	if err := d.client.Batch(ctx, ops...); err != nil {
		return 0, fmt.Errorf("writing a pending record: %w", err)
	}
	d.high = id + 1
	d.live[id] = struct{}{}
	return id, nil
}

func (d *diskStore) replace(ctx context.Context, recs []stored) error {
	ops := make([]*storage.Operation, len(recs))
	for i, s := range recs {
		ops[i] = storage.SetOperation(recordKey(s.id), s.rec.encode())
	}
	if err := d.client.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("replacing %d pending records: %w", len(recs), err)
	}
	return nil
}

func (d *diskStore) get(ctx context.Context, id uint64) (record, error) {
	value, err := d.client.Get(ctx, recordKey(id))
	if err != nil {
		return record{}, fmt.Errorf("reading pending record %d: %w", id, err)
	}
	if value == nil {
		return record{}, fmt.Errorf("%w: record %d is missing", errRecordCorrupt, id)
	}
	return decodeRecord(value, d.signal)
}

func (d *diskStore) remove(ctx context.Context, ids []uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		delete(d.live, id)
	}
	d.dead = append(d.dead, ids...)
	return d.sweep(ctx)
}

// sweep removes the dead. Called with mu held.
func (d *diskStore) sweep(ctx context.Context) error {
	if len(d.dead) == 0 {
		return nil
	}
	low := d.low
	for ; low < d.high; low++ {
		if _, alive := d.live[low]; alive {
			break
		}
	}
	ops := indexOperations(low, d.high)
	for _, id := range d.dead {
		ops = append(ops, storage.DeleteOperation(recordKey(id)))
	}
	if err := d.client.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("removing %d pending records: %w", len(d.dead), err)
	}
	d.low, d.dead = low, nil
	return nil
}

// loadBytes is about how much load reads at once.
const loadBytes = 8 << 20

func (d *diskStore) load(ctx context.Context, yield func(stored, error)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.loadIndex(ctx, yield); err != nil {
		return err
	}
	step := uint64(1)
	for from := d.low; from < d.high; {
		n := min(step, d.high-from)
		size, err := d.loadRange(ctx, from, from+n, yield)
		if err != nil {
			return err
		}
		from += n
		step = min(max(loadBytes*n/uint64(max(size, 1)), 1), 2*step, 256)
	}
	return nil
}

// loadIndex takes the first copy that can be read. With both gone the ids
// begin where no earlier record can stand.
func (d *diskStore) loadIndex(ctx context.Context, yield func(stored, error)) error {
	var errs []error
	for _, key := range []string{keyIndexA, keyIndexB} {
		value, err := d.client.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("reading the index of pending records: %w", err)
		}
		if value == nil {
			continue
		}
		low, high, err := decodeIndex(value)
		if err == nil {
			d.low, d.high = low, high
			for _, e := range errs {
				yield(stored{}, e)
			}
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil // a new store
	}
	yield(stored{}, fmt.Errorf("records of before this start cannot be found: %w", errors.Join(errs...)))
	d.low = uint64(time.Now().UnixNano())
	d.high = d.low
	return nil
}

func (d *diskStore) loadRange(ctx context.Context, from, to uint64, yield func(stored, error)) (size int, err error) {
	ops := make([]*storage.Operation, 0, to-from)
	for id := from; id < to; id++ {
		ops = append(ops, storage.GetOperation(recordKey(id)))
	}
	if err := d.client.Batch(ctx, ops...); err != nil {
		return 0, fmt.Errorf("reading pending records: %w", err)
	}
	var corrupt []uint64
	for i, op := range ops {
		id := from + uint64(i)
		if op.Value == nil {
			continue // delivered and removed
		}
		size += len(op.Value)
		rec, err := decodeRecord(op.Value, d.signal)
		if err != nil {
			corrupt = append(corrupt, id)
			yield(stored{id: id}, fmt.Errorf("record %d: %w", id, err))
			continue
		}
		d.live[id] = struct{}{}
		yield(stored{id: id, rec: rec}, nil)
	}
	return size, d.drop(ctx, corrupt)
}

// drop deletes what can never be read, so that it is reported once.
func (d *diskStore) drop(ctx context.Context, ids []uint64) error {
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	ops := make([]*storage.Operation, len(ids))
	for i, id := range ids {
		ops[i] = storage.DeleteOperation(recordKey(id))
	}
	if err := d.client.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("removing corrupt pending records: %w", err)
	}
	return nil
}

func (d *diskStore) close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.sweep(ctx), d.client.Close(ctx))
}
