package tpmverifyprocessor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
)

// park keeps blocks that cannot be judged now, since the source of keys does
// not answer, in a storage extension until they can. What it took is durable
// before the sender is answered. It is bounded; what does not fit is refused to
// the sender as retryable.
//
// In storage, integers big-endian:
//
//	head, tail   8 bytes: entries head ≤ n < tail may exist
//	e<n>         version 2 | parked at, Unix ms 8 | n 1 | peer n | OTLP protobuf of one block
//
// The peer is who sent it, for the log, and empty where that is not known. Version 1,
// which is still read, has none.
//
// A crash between delivery and removal leaves an entry whose block the windows
// know as accepted, so that it is dropped as a duplicate after the restart; what
// claims nothing (mode check, unsigned blocks) comes twice then.
type park struct {
	client storage.Client
	cfg    ParkConfig
	signal block.Signal
	meters *meters
	wake   chan struct{} // one place: something was parked
	// changed returns a channel that is closed when the source of keys knows
	// more; nil where it does not tell.
	changed func() <-chan struct{}

	// done are the entries that were decided and could not be removed. Of tryAll.
	done map[uint64]struct{}

	mu         sync.Mutex // guards what follows, and the order of writes
	head, tail uint64
	sizes      map[uint64]int64
	bytes      int64
}

const (
	parkVersion = 2
	parkHeader  = 9 // up to the time
	parkHead    = "head"
	parkTail    = "tail"
	// maxParked bounds the entries, and with them what a damaged tail can cost.
	maxParked = 1 << 20

	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	// eagerRetry is how soon parked blocks are tried again when the source of
	// keys knows more; what is parked may be a lot, and keys change all the time.
	eagerRetry = 100 * time.Millisecond
)

var (
	errParkFull    = errors.New("park::max_bytes are used up")
	errParkDamaged = errors.New("the parked blocks are damaged")
)

func entryKey(n uint64) string { return fmt.Sprintf("e%016x", n) }

func openPark(ctx context.Context, client storage.Client, cfg ParkConfig, signal block.Signal, m *meters) (*park, error) {
	p := &park{
		client: client,
		cfg:    cfg,
		signal: signal,
		meters: m,
		wake:   make(chan struct{}, 1),
		done:   map[uint64]struct{}{},
		sizes:  map[uint64]int64{},
	}
	var err error
	if p.head, err = p.number(ctx, parkHead); err != nil {
		return nil, err
	}
	if p.tail, err = p.number(ctx, parkTail); err != nil {
		return nil, err
	}
	if p.tail < p.head || p.tail-p.head > maxParked {
		return nil, fmt.Errorf("%w: head %d, tail %d", errParkDamaged, p.head, p.tail)
	}
	for n := p.head; n < p.tail; n++ {
		value, err := client.Get(ctx, entryKey(n))
		if err != nil {
			return nil, fmt.Errorf("read parked block: %w", err)
		}
		if value != nil {
			p.sizes[n] = int64(len(value))
			p.bytes += int64(len(value))
		}
	}
	p.report(ctx)
	return p, nil
}

func (p *park) number(ctx context.Context, key string) (uint64, error) {
	value, err := p.client.Get(ctx, key)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read %s of the parked blocks: %w", key, err)
	case value == nil:
		return 0, nil
	case len(value) != 8:
		return 0, fmt.Errorf("%w: %s has %d bytes", errParkDamaged, key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

func numberValue(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (p *park) report(ctx context.Context) {
	p.meters.TpmverifyParkedBlocks.Record(ctx, int64(len(p.sizes)), p.meters.signal)
	p.meters.TpmverifyParkedBytes.Record(ctx, p.bytes, p.meters.signal)
}

// put parks all blocks, or none.
func (p *park) put(ctx context.Context, now time.Time, blocks digest.Batch) error {
	values := make([][]byte, 0, blocks.Len())
	peer := clip(peerOf(ctx), maxPeer)
	var size int64
	for i := range blocks.Len() {
		one := digest.NewBatch(p.signal)
		blocks.MoveBlock(i, one)
		protobuf, err := one.Marshal()
		if err != nil {
			return fmt.Errorf("park a block: %w", err)
		}
		value := make([]byte, 1, parkHeader+1+len(peer)+len(protobuf))
		value[0] = parkVersion
		value = binary.BigEndian.AppendUint64(value, uint64(max(now.UnixMilli(), 0)))
		value = append(value, byte(len(peer)))
		value = append(value, peer...)
		value = append(value, protobuf...)
		values = append(values, value)
		size += int64(len(value))
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes+size > p.cfg.MaxBytes || p.tail-p.head+uint64(len(values)) > maxParked {
		return errParkFull
	}
	ops := make([]*storage.Operation, 0, len(values)+1)
	for i, value := range values {
		ops = append(ops, storage.SetOperation(entryKey(p.tail+uint64(i)), value))
	}
	tail := p.tail + uint64(len(values))
	ops = append(ops, storage.SetOperation(parkTail, numberValue(tail)))
	if err := p.client.Batch(ctx, ops...); err != nil {
		return fmt.Errorf("park blocks: %w", err)
	}
	for i, value := range values {
		p.sizes[p.tail+uint64(i)] = int64(len(value))
	}
	p.tail, p.bytes = tail, p.bytes+size
	p.report(ctx)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// parked is an entry.
type parked struct {
	at     time.Time
	peer   string // who sent it, "" when that is not known
	blocks digest.Batch
}

func (p *park) get(ctx context.Context, n uint64) (e parked, err error) {
	value, err := p.client.Get(ctx, entryKey(n))
	if err != nil {
		return e, fmt.Errorf("read parked block %d: %w", n, err)
	}
	peer, protobuf, ok := cutEntry(value)
	if !ok {
		return e, fmt.Errorf("%w: entry %d of %d bytes", errParkDamaged, n, len(value))
	}
	e.at, e.peer = time.UnixMilli(int64(binary.BigEndian.Uint64(value[1:parkHeader]))), string(peer)
	e.blocks, err = digest.UnmarshalBatch(p.signal, protobuf)
	if err != nil {
		return e, fmt.Errorf("%w: entry %d: %w", errParkDamaged, n, err)
	}
	return e, nil
}

// cutEntry returns what follows the time.
func cutEntry(value []byte) (peer, protobuf []byte, ok bool) {
	if len(value) < parkHeader {
		return nil, nil, false
	}
	rest := value[parkHeader:]
	switch value[0] {
	case 1:
		return nil, rest, true
	case parkVersion:
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return nil, nil, false
		}
		n := 1 + int(rest[0])
		return rest[1:n], rest[n:], true
	default:
		return nil, nil, false
	}
}

func (p *park) remove(ctx context.Context, n uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	head := p.head
	for ; head < p.tail; head++ {
		if _, ok := p.sizes[head]; ok && head != n {
			break
		}
	}
	err := p.client.Batch(ctx, storage.DeleteOperation(entryKey(n)), storage.SetOperation(parkHead, numberValue(head)))
	if err != nil {
		return fmt.Errorf("remove parked block %d: %w", n, err)
	}
	p.bytes -= p.sizes[n]
	delete(p.sizes, n)
	p.head = head
	p.report(ctx)
	return nil
}

func (p *park) waiting() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]uint64, 0, len(p.sizes))
	for n := range p.sizes {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// run tries what is parked, oldest first, until ctx ends. judge answers whether
// a block is done with.
func (p *park) run(ctx context.Context, logger *zap.Logger, judge func(context.Context, time.Time, digest.Batch) bool) {
	pause, eager := firstRetry, eagerRetry
	var changed <-chan struct{}
	for p.pause(ctx, pause, eager, changed) {
		if p.changed != nil {
			changed = p.changed() // before trying: what changes meanwhile counts
		}
		before := p.waiting()
		if len(before) == 0 {
			select {
			case <-p.wake:
			case <-ctx.Done():
			}
			pause = firstRetry
			continue
		}
		began := time.Now()
		progress := p.tryAll(ctx, logger, before, judge)
		// A tenth of the time at most goes into trying in vain.
		eager = max(eagerRetry, 9*time.Since(began))
		if progress {
			pause = firstRetry
		} else {
			pause = min(2*pause, lastRetry)
		}
	}
}

// pause waits for d, or for at least eager and until changed is closed.
func (p *park) pause(ctx context.Context, d, eager time.Duration, changed <-chan struct{}) bool {
	if changed == nil || d <= eager {
		return sleep(ctx, d)
	}
	if !sleep(ctx, eager) {
		return false
	}
	t := time.NewTimer(d - eager)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-changed:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *park) tryAll(ctx context.Context, logger *zap.Logger, entries []uint64, judge func(context.Context, time.Time, digest.Batch) bool) (progress bool) {
	for _, n := range entries {
		if ctx.Err() != nil {
			return progress
		}
		if _, done := p.done[n]; !done {
			e, err := p.get(ctx, n)
			switch {
			case errors.Is(err, errParkDamaged):
				logger.Error("a parked block cannot be read and is given up", zap.Error(err))
			case err != nil:
				logger.Warn("parked blocks cannot be read", zap.Error(err))
				return progress
			case !judge(sentBy(ctx, e.peer), e.at, e.blocks):
				continue
			}
			// Windows do not know every block: not the unsigned, and none in mode check.
			p.done[n] = struct{}{}
		}
		if err := p.remove(context.WithoutCancel(ctx), n); err != nil {
			logger.Warn("a parked block was decided and cannot be removed", zap.Error(err))
			return progress
		}
		delete(p.done, n)
		progress = true
	}
	return progress
}

func (p *park) close(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.client.Close(ctx); err != nil {
		return fmt.Errorf("close park::storage: %w", err)
	}
	return nil
}

// postpone parks what could not be decided, or asks the sender to send again.
func (p *verifier) postpone(ctx context.Context, blocks digest.Batch) error {
	if p.park == nil {
		return errDeferred
	}
	if err := p.park.put(ctx, p.now(), blocks); err != nil {
		return errors.Join(errDeferred, err)
	}
	return nil
}

// unpark judges a parked block again, at the time it is now: the windows have
// moved on too.
func (p *verifier) unpark(ctx context.Context, at time.Time, blocks digest.Batch) (done bool) {
	if p.now().Sub(at) > p.cfg.Park.Wait {
		for i := range blocks.Len() {
			j := judged{}
			j.Reason, j.Detail = reason.KeyUnavailable, "parked since "+at.UTC().Format(time.RFC3339)+", longer than park::wait"
			f := refusalFrom(blocks.At(i), &j)
			p.refuse(ctx, &f)
		}
		return true
	}
	r, err := p.pass(ctx, blocks)
	if err != nil && !consumererror.IsPermanent(err) {
		return false
	}
	return !r.flying.made && !r.deferred.made
}
