package tpmsignprocessor

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/telemark-otel/telemark/internal/group"
)

// Errors that a caller gets back; both are retryable, nothing was numbered.
var (
	errPendingFull = errors.New("the pending store of tpmsign is full, since the TPM or the next component does not keep up: " +
		"send again later, or raise `pending::max_bytes` or `pending::max_blocks`")
	errPendingStorage = errors.New("the pending store of tpmsign cannot be written: " +
		"send again later, and check the extension named by `pending::storage` and its disk space")
)

// entry is a pending request.
type entry struct {
	id     uint64 // in the store
	blocks int
	bytes  int64
	own    utterance // said by the stream itself, nobody's data; "" for data
	fate   fate      // of the record, should it outlive the entry; set by who ends it

	// Owned by the signing goroutine once the entry is out of the queue. Set
	// before that only for what is put into queue.numbered.
	req    *request
	ticket *group.Ticket

	// Owned by the delivering goroutine. held is set when the store does not
	// have the signed form and cannot take it.
	held         *record
	attempts     int    // failed deliveries
	vain         int    // those of them between which others got through
	deliveredWas uint64 // run.delivered at the last failed one
}

// queue holds the pending requests of one stream in order of arrival: those
// whose signature is under way, those to be signed and those to be delivered.
type queue struct {
	store     store
	maxBytes  int64
	maxBlocks int // 0: no bound

	unsignedReady chan struct{} // capacity 1: something was put into numbered or unsigned
	signedReady   chan struct{} // capacity 1: something was put into signed

	mu       sync.Mutex
	numbered list.List // of *entry, with a ticket whose group is closed
	unsigned list.List // of *entry
	signed   list.List // of *entry
	bytes    int64     // of all entries, those being signed included
	blocks   int
	own      int // of the blocks, those that are nobody's data
}

func newQueue(s store, maxBytes int64, maxBlocks int) *queue {
	return &queue{
		store: s, maxBytes: maxBytes, maxBlocks: maxBlocks,
		unsignedReady: make(chan struct{}, 1), signedReady: make(chan struct{}, 1),
	}
}

// notify wakes the reader of a channel of capacity 1.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// admit says whether the queue has room at all. It is asked before a request
// is submitted, since what is numbered has to be kept beyond every bound.
func (q *queue) admit() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes >= q.maxBytes || q.maxBlocks > 0 && q.blocks >= q.maxBlocks {
		return q.full()
	}
	return nil
}

// full is called with mu held.
func (q *queue) full() error {
	return fmt.Errorf("%w (%d blocks, %d bytes)", errPendingFull, q.blocks, q.bytes)
}

// reserve makes room for e, beyond the bounds when must is set.
func (q *queue) reserve(e *entry, must bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !must && (q.bytes+e.bytes > q.maxBytes || q.maxBlocks > 0 && q.blocks+e.blocks > q.maxBlocks) {
		return q.full()
	}
	q.account(e, 1)
	return nil
}

// account adds e to the accounts, or takes it out with -1. Called with mu held.
func (q *queue) account(e *entry, sign int) {
	q.bytes += int64(sign) * e.bytes
	q.blocks += sign * e.blocks
	if e.own != "" {
		q.own += sign * e.blocks
	}
}

// release takes e out of the accounts.
func (q *queue) release(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.account(e, -1)
}

// placing says how a record is put into the queue.
type placing struct {
	must bool // beyond the bounds if need be: it is numbered
	own  utterance

	// Of a numbered request whose signature is still to come.
	req    *request
	ticket *group.Ticket
}

// put keeps rec; it is as durable as the store when put returns nil. It gives up
// when ctx ends, unless it must.
func (q *queue) put(ctx context.Context, rec record, p placing) error {
	e := &entry{blocks: rec.blocks, bytes: int64(len(rec.payload)), own: p.own, req: p.req, ticket: p.ticket}
	if err := q.reserve(e, p.must); err != nil {
		return err
	}
	if p.must {
		ctx = context.WithoutCancel(ctx)
	}
	id, err := q.store.add(ctx, rec)
	if err != nil {
		q.release(e)
		return fmt.Errorf("%w: %w", errPendingStorage, err)
	}
	e.id = id
	q.push(e, rec.state)
	return nil
}

// push puts an entry that is in the store and in the accounts at the end.
func (q *queue) push(e *entry, state recordState) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case state == stateSigned:
		q.signed.PushBack(e)
		notify(q.signedReady)
		return
	case e.ticket != nil:
		q.numbered.PushBack(e)
	default:
		q.unsigned.PushBack(e)
	}
	notify(q.unsignedReady)
}

// adopt takes in an entry that an earlier start left in the store, beyond the
// bounds if need be.
func (q *queue) adopt(s stored) {
	e := &entry{id: s.id, blocks: s.rec.blocks, bytes: int64(len(s.rec.payload))}
	_ = q.reserve(e, true) // has no bounds to fail by
	q.push(e, s.rec.state)
}

// takeNumbered takes out the first entry whose signature is under way: that goes
// on whether or not others can be signed now.
func (q *queue) takeNumbered() *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	front := q.numbered.Front()
	if front == nil {
		return nil
	}
	return q.numbered.Remove(front).(*entry)
}

// takeUnsigned takes the first unsigned entry out if take allows it; take must
// not block.
func (q *queue) takeUnsigned(take func(*entry) bool) *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	front := q.unsigned.Front()
	if front == nil {
		return nil
	}
	e := front.Value.(*entry)
	if !take(e) {
		return nil
	}
	q.unsigned.Remove(front)
	return e
}

// putBack returns entries that could not be signed, in their order.
func (q *queue) putBack(entries []*entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range slices.Backward(entries) {
		q.unsigned.PushFront(e)
	}
}

// grow corrects the size of an entry that became larger by its receipts.
func (q *queue) grow(e *entry, blocks int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.account(e, -1)
	e.bytes, e.blocks = bytes, blocks
	q.account(e, 1)
}

// firstSigned returns the first entry that is to be delivered, nil for none.
func (q *queue) firstSigned() *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if front := q.signed.Front(); front != nil {
		return front.Value.(*entry)
	}
	return nil
}

// unrecorded returns what is to be delivered and stands in the store unsigned.
func (q *queue) unrecorded() []*entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []*entry
	for element := q.signed.Front(); element != nil; element = element.Next() {
		if e := element.Value.(*entry); e.held != nil {
			out = append(out, e)
		}
	}
	return out
}

// dropSigned takes the first signed entry, which the caller has got from
// firstSigned, out of the order; its accounts stay until release.
func (q *queue) dropSigned() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signed.Remove(q.signed.Front())
}

// rotateSigned puts the first signed entry at the end.
func (q *queue) rotateSigned() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signed.MoveToBack(q.signed.Front())
}

// size returns what the accounts hold.
func (q *queue) size() (blocks int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.blocks, q.bytes
}

// data returns how many blocks the accounts hold that are somebody's data.
func (q *queue) data() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.blocks - q.own
}

// speaking says whether something that the stream says of itself is here.
func (q *queue) speaking() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.own > 0
}

// waiting returns how many requests wait for signature and for delivery.
func (q *queue) waiting() (unsigned, signed int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.numbered.Len() + q.unsigned.Len(), q.signed.Len()
}
