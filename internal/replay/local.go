package replay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/telemark-otel/telemark/internal/reason"
)

// ErrClosed is wrapped by what a closed store returns.
var ErrClosed = errors.New("the window store is closed")

// Local is a Store for one process. Its zero value is not usable; see [Open].
type Local struct {
	lim       Limits
	t         times
	persister Persister // nil: memory only

	// writing is held by the caller that writes a batch for all who wait, and
	// while it paces itself.
	writing chan struct{}
	pace    func(hurry <-chan struct{})
	hurry   chan struct{} // has something when a call does not want to wait for others

	mu sync.Mutex
	// Under mu:
	header
	keys    map[keyID]*keyState
	chains  map[chainID]*chain
	index   index
	streams int
	started int64  // ms, when this process opened the store
	now     int64  // ms, of the newest call
	token   uint64 // of the newest claim
	owed    SweepReport
	unknown *simplelru.LRU[refusedID, map[reason.Reason]uint64]
	touched []*window // by the call that holds mu
	waits   bool      // that call has to wait until they are durable
	hurries bool      // and the write is not to wait for more to share it
	unsaved unsaved
	failing bool // the last write failed
	closed  bool
}

var _ Store = (*Local)(nil)

// Options are what a store is opened with.
type Options struct {
	Limits    Limits
	Persister Persister          // nil: windows live as long as the process
	Random    func([]byte) error // fills the slice, as crypto/rand.Read does

	// Pace is called before each write and may wait, so that more calls share
	// it, but not when hurry has something. Calls of it do not overlap. nil: no wait.
	Pace func(hurry <-chan struct{})
}

// Opened says what was found at Open.
type Opened struct {
	// Fresh: there was nothing; a store was made.
	Fresh bool
	// Lost: there was a store and it is damaged, for this reason. A new one was
	// made, with a new store epoch. Tell it loudly.
	Lost          error
	Keys, Streams int
}

// Open loads the windows, or makes new ones. An error means that storage could
// not be asked, or that a newer version wrote it; it never means a damaged store.
func Open(ctx context.Context, now time.Time, o Options) (*Local, Opened, error) {
	if err := o.Limits.validate(); err != nil {
		return nil, Opened{}, err
	}
	l := &Local{
		lim:       o.Limits,
		t:         o.Limits.times(),
		persister: o.Persister,
		writing:   make(chan struct{}, 1),
		pace:      o.Pace,
		hurry:     make(chan struct{}, 1),
		started:   now.UnixMilli(),
		now:       now.UnixMilli(),
	}
	lru, err := simplelru.NewLRU[refusedID, map[reason.Reason]uint64](o.Limits.MaxRefused, nil)
	if err != nil {
		return nil, Opened{}, fmt.Errorf("refusal counters: %w", err)
	}
	l.unknown = lru
	l.reset()
	opened, err := l.load(ctx)
	if err != nil {
		return nil, Opened{}, err
	}
	if opened.Fresh || opened.Lost != nil {
		l.reset()
		if err := l.create(ctx, now, o.Random); err != nil {
			return nil, Opened{}, err
		}
	}
	if l.token, err = randomToken(o.Random); err != nil {
		return nil, Opened{}, err
	}
	opened.Keys, opened.Streams = len(l.keys), l.streams
	return l, opened, nil
}

func (l *Local) reset() {
	l.keys = make(map[keyID]*keyState)
	l.chains = make(map[chainID]*chain)
	l.index = index{}
	l.streams = 0
}

// StoreEpoch is random and as old as the windows; nonces are bound to it.
func (l *Local) StoreEpoch() [4]byte { return l.storeEpoch }

// Close writes what is not written yet and refuses further calls with
// store_unavailable. It may be called twice.
func (l *Local) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.endReservations()
	wait := l.flush()
	l.mu.Unlock()
	return l.wait(ctx, wait)
}

func (l *Local) begin(now time.Time) *call {
	ms := max(now.UnixMilli(), 0)
	l.now = ms
	return &call{now: ms, lim: &l.lim, t: l.t}
}

func unavailable(err error) error { return reason.Wrap(reason.StoreUnavailable, err) }

// Listen implements Store.
func (l *Local) Listen(ctx context.Context, now time.Time, scope string) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return unavailable(ErrClosed)
	}
	l.since(scope, l.begin(now).now)
	var wait *batch
	if l.unsaved.header && l.persister != nil {
		wait = l.join()
	}
	l.mu.Unlock()
	if err := l.wait(ctx, wait); err != nil {
		return unavailable(err)
	}
	return nil
}

// Claim implements Store.
func (l *Local) Claim(ctx context.Context, now time.Time, blocks []Block) ([]Outcome, error) {
	if len(blocks) == 0 {
		return nil, nil
	}
	out := make([]Outcome, len(blocks))
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, unavailable(ErrClosed)
	}
	c := l.begin(now)
	l.token++
	c.token, c.lease = l.token, c.now+l.t.lease
	at := cursor{l: l, key: l.fingerprints}
	for i := range blocks {
		l.claim(c, &at, &blocks[i], &out[i])
	}
	wait := l.end()
	l.mu.Unlock()
	if err := l.wait(ctx, wait); err != nil {
		l.undo(out)
		return nil, unavailable(err)
	}
	return out, nil
}

// claim judges one block: number, epoch, chain, window, in this order.
func (l *Local) claim(c *call, at *cursor, b *Block, o *Outcome) {
	o.Claim.Block = *b
	if b.No == 0 || b.No >= maxNumber || b.Epoch == 0 || b.Seq == 0 || b.Total < 0 || b.Total > maxTotal {
		o.Reason = reason.StreamInvalid
		return
	}
	if k := at.keyOf(b); k != nil {
		if o.Reason = k.past(b); o.Reason != "" {
			return
		}
	}
	s := at.statementOf(b)
	if o.Reason = at.check(s); o.Reason != "" {
		return
	}
	w := at.window
	if w == nil {
		if w, o.Reason = l.window(c, b); o.Reason != "" {
			return
		}
		at.found(w)
	}
	if w.travels(c, b, o) {
		w.claim(c, b, o)
	}
	for _, other := range c.others {
		l.markWindow(other)
	}
	c.others = c.others[:0]
	switch o.Reason {
	case "":
		l.learnTravel(c, w, b)
		// A process that dies must not leave a window that is taken for expired while
		// what it handed on can still come.
		known := w.learn(b.Issued, w.nonceTimesOn)
		if covered := w.covers(b.No); covered && known && !l.failing {
			l.note(w)
		} else {
			l.hurried(w)
		}
	case reason.Duplicate:
		w.duplicates++
		if w.confirmsOn == w.confirms {
			l.note(w)
		} else {
			// What was accepted may not be durable yet, and the sender of this one must
			// not hear of success before it is.
			l.touch(w)
		}
	default:
	}
	if o.Reason != reason.WindowFull && o.Reason != reason.Equivocation && w.epoch.chain.learn(s) {
		l.markChain(w.epoch.chain)
	}
}

// undo takes back what a Claim call claimed and could not make durable.
func (l *Local) undo(out []Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := cursor{l: l}
	for i := range out {
		o := &out[i]
		if o.Claim.Token == 0 {
			continue
		}
		how := untouched
		if o.Redelivery {
			how = attempted
		}
		if w := at.windowOf(&o.Claim.Block); w != nil && w.release(&o.Claim, how) {
			l.note(w)
		}
	}
	l.settle()
}

// Confirm implements Store.
func (l *Local) Confirm(ctx context.Context, now time.Time, claims []Claim) (lost int, err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, unavailable(ErrClosed)
	}
	c := l.begin(now)
	at := cursor{l: l}
	for i := range claims {
		cl := &claims[i]
		if cl.Token == 0 {
			continue
		}
		w := at.windowOf(&cl.Block)
		if w == nil {
			if !l.retired(&cl.Block) { // else it cannot come again
				lost++
			}
			continue
		}
		held, late := w.confirm(c, cl)
		if !held {
			lost++
			continue
		}
		if late {
			l.owed.LateFills++
		}
		l.touch(w)
		l.unsaved.waiting++
	}
	l.hurries = l.unsaved.waiting >= enough
	wait := l.end()
	l.mu.Unlock()
	if err := l.wait(ctx, wait); err != nil {
		return lost, unavailable(err)
	}
	return lost, nil
}

// retired says whether b is of an epoch below the floor of its key.
func (l *Local) retired(b *Block) bool {
	k := l.keys[keyID{b.Scope, b.KID}]
	return k != nil && b.Epoch < k.floor
}

// endReservations has every window written as it is, so that nothing is called a
// redelivery that was never claimed.
func (l *Local) endReservations() {
	for _, k := range l.keys {
		for _, e := range k.epochs {
			for _, w := range e.windows {
				if w.reserved != w.suspect {
					l.markWindow(w)
				}
			}
		}
	}
}

// Release implements Store. It waits for no write: that a claim was made is
// durable, and what is claimed again after it was forgotten that it was given
// back is a redelivery all the same.
func (l *Local) Release(_ context.Context, _ time.Time, claims []Claim) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return unavailable(ErrClosed)
	}
	at := cursor{l: l}
	for i := range claims {
		cl := &claims[i]
		if cl.Token == 0 {
			continue
		}
		if w := at.windowOf(&cl.Block); w != nil && w.release(cl, attempted) {
			l.note(w)
		}
	}
	l.settle()
	l.mu.Unlock()
	return nil
}
