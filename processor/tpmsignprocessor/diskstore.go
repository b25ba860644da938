package tpmsignprocessor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
)

// Keys in the storage extension.
const (
	keyIndexA = "index/a"
	keyIndexB = "index/b"
)

func recordKey(id uint64) string { return fmt.Sprintf("record/%016x", id) }

// diskStore keeps records in a storage extension, which knows neither listing
// nor compare-and-set: an index says which ids may exist, and every change of
// it is written together with the record that caused it, with the lock held, so
// that an older index never overwrites a newer one. No id is used twice: a write
// that was given up may still be done.
type diskStore struct {
	client     storage.Client
	signal     block.Signal
	tolerances block.Tolerance // of records that do not name theirs

	unclean chan struct{} // capacity 1: something was put into dead and stays there
	lock    chan struct{} // capacity 1, full while held: whoever waits can be told to stop

	// Guarded by lock.
	low, high uint64
	live      map[uint64]struct{}
	dead      map[uint64]fate // to be removed still
}

// maxDead is how many there may be before nothing more is written until they are
// removed: each write that fails adds one.
const maxDead = 256

func newDiskStore(client storage.Client, signal block.Signal, tolerances block.Tolerance) *diskStore {
	return &diskStore{
		client: client, signal: signal, tolerances: tolerances,
		unclean: make(chan struct{}, 1), lock: make(chan struct{}, 1),
		live: make(map[uint64]struct{}), dead: make(map[uint64]fate),
	}
}

func (d *diskStore) dirty() <-chan struct{} { return d.unclean }

func (d *diskStore) acquire() { d.lock <- struct{}{} }

func (d *diskStore) release() { <-d.lock }

func indexOperations(low, high uint64) []*storage.Operation {
	index := encodeIndex(low, high)
	return []*storage.Operation{storage.SetOperation(keyIndexA, index), storage.SetOperation(keyIndexB, index)}
}

// add writes in a goroutine of its own when its caller may leave. There is at
// most one that nobody waits for any more, since it holds the lock: the others
// leave without having written anything.
func (d *diskStore) add(ctx context.Context, rec record) (uint64, error) {
	value := rec.encode()
	if ctx.Done() == nil {
		d.acquire()
		defer d.release()
		return d.write(ctx, value)
	}
	select {
	case d.lock <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("%w, for another record: %w", errStorageHangs, context.Cause(ctx))
	}
	type result struct {
		id  uint64
		err error
	}
	results, left := make(chan result), make(chan struct{})
	go func() {
		defer d.release()
		id, err := d.write(context.WithoutCancel(ctx), value)
		select {
		case results <- result{id, err}: // taken, or not: never both
		case <-left:
			if err == nil {
				d.undo(context.WithoutCancel(ctx), id)
			}
		}
	}()
	select {
	case res := <-results:
		return res.id, res.err
	case <-ctx.Done():
		close(left)
		return 0, fmt.Errorf("%w: %w", errStorageHangs, context.Cause(ctx))
	}
}

// write writes a record under a new id. Called with the lock held.
func (d *diskStore) write(ctx context.Context, value []byte) (uint64, error) {
	if len(d.dead) >= maxDead {
		if err := d.clean(ctx); err != nil {
			return 0, err
		}
	}
	id := d.high
	d.high++
	ops := append(indexOperations(d.low, d.high), storage.SetOperation(recordKey(id), value))
	if err := d.client.Batch(ctx, ops...); err != nil {
		// A storage behind a network may have done it all the same.
		d.dead[id] = fateUnwanted
		notify(d.unclean)
		return 0, fmt.Errorf("writing a pending record: %w", err)
	}
	d.live[id] = struct{}{}
	return id, nil
}

// undo removes a record that was written when its caller had been told that it
// was not. Called with the lock held.
func (d *diskStore) undo(ctx context.Context, id uint64) {
	delete(d.live, id)
	d.dead[id] = fateUnwanted
	if d.clean(ctx) != nil {
		notify(d.unclean)
	}
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
	return decodeRecord(value, d.signal, d.tolerances)
}

func (d *diskStore) remove(ctx context.Context, gone map[uint64]fate) error {
	d.acquire()
	defer d.release()
	for id, f := range gone {
		delete(d.live, id)
		d.dead[id] = f
	}
	err := d.clean(ctx)
	if err != nil {
		notify(d.unclean)
	}
	return err
}

func (d *diskStore) sweep(ctx context.Context) error {
	d.acquire()
	defer d.release()
	return d.clean(ctx)
}

// clean removes the dead. Called with the lock held.
func (d *diskStore) clean(ctx context.Context) error {
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
	for id := range d.dead {
		ops = append(ops, storage.DeleteOperation(recordKey(id)))
	}
	if err := d.client.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("removing %d pending records: %w", len(d.dead), err)
	}
	d.low = low
	clear(d.dead)
	return nil
}

// loadBytes is about how much load reads at once.
const loadBytes = 8 << 20

func (d *diskStore) load(ctx context.Context, yield func(stored, error)) error {
	d.acquire()
	defer d.release()
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
		rec, err := decodeRecord(op.Value, d.signal, d.tolerances)
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
	d.acquire()
	defer d.release()
	var left error
	if err := d.clean(ctx); err != nil {
		left = d.leftBehind(err)
	}
	return errors.Join(left, d.client.Close(ctx))
}

// leftBehind says what the next start finds that should be gone. Called with the
// lock held.
func (d *diskStore) leftBehind(err error) error {
	var n [fates]int
	for _, f := range d.dead {
		n[f]++
	}
	return fmt.Errorf("%w: %d delivered requests, of which the next start signs %d again under new numbers, so that their data comes twice, "+
		"and sends %d again as they were, which the verifier recognises; %d requests that cannot be signed; "+
		"and what was done after all of %d writes that had failed: %w",
		errLeftBehind, n[fateTwice]+n[fateKnown], n[fateTwice], n[fateKnown], n[fateRefused], n[fateUnwanted], err)
}
