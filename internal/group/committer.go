package group

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
)

// Committer collects leaves, closes groups and gets them signed. Its methods
// are safe for concurrent use.
type Committer struct {
	cfg    Config
	wake   chan struct{}   // something waits, or closed was set
	hurry  chan struct{}   // a whole group waits, or closed was set
	ended  chan struct{}   // run has returned
	ctx    context.Context // ends run and what it calls
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows, and the tickets' fields
	queue   queue
	waiting int        // leaves in queue
	flight  *openGroup // the closed group, nil when there is none
	closed  bool
	origin  Origin // Prev is that of the next statement
	seq     uint64
	numbers map[string]uint64 // last block number by stream
}

// Snapshot tells where a committer is.
type Snapshot struct {
	Waiting int    // leaves that are not signed yet
	Flying  int    // those of them whose group is closed
	Epoch   uint64 // 0 before it is known
	Seq     uint64 // of the last closed group
	Streams map[string]uint64
}

// New starts a committer. Close ends it.
func New(cfg Config) (*Committer, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	c := &Committer{
		cfg: cfg, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), ended: make(chan struct{}),
		numbers: map[string]uint64{},
	}
	if cfg.Begin == nil {
		c.origin = Origin{Algorithm: cfg.Algorithm, KID: cfg.KID, Epoch: cfg.Epoch, Prev: cfg.Prev}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	go c.run()
	return c, nil
}

// Submit lets leaves wait for the next group; the committer owns them from
// then on. Errors: ErrFull, ErrClosed, and ErrLeaf, which no retry mends. A
// submission larger than MaxWaiting is taken when nothing else waits.
func (c *Committer) Submit(leaves []Leaf) (*Ticket, error) {
	for i := range leaves {
		if err := leaves[i].check(); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", i, err)
		}
	}
	t := &Ticket{committer: c, leaves: leaves, open: len(leaves), done: make(chan struct{})}

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, ErrClosed
	case c.waiting > 0 && c.waiting+len(leaves) > c.cfg.MaxWaiting:
		return nil, fmt.Errorf("%w: %d wait, %d more, at most %d", ErrFull, c.waiting, len(leaves), c.cfg.MaxWaiting)
	case len(leaves) == 0:
		close(t.done)
		return t, nil
	}
	c.queue.push(t)
	c.waiting += len(leaves)
	c.wakeLocked()
	return t, nil
}

// Stats returns where the committer is; Streams holds the last block number that
// each stream got.
func (c *Committer) Stats() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Snapshot{Waiting: c.waiting, Epoch: c.origin.Epoch, Seq: c.seq, Streams: maps.Clone(c.numbers)}
	if c.flight != nil {
		s.Flying = len(c.flight.leaves)
		s.Waiting += s.Flying
	}
	return s
}

// Close takes no more leaves, fails what waits with ErrClosed and lets the group
// that is being signed come to its end, until ctx is done: then it is given up
// too, even when signer or chain do not return. Its numbers die with the epoch.
// The error says so. Close may be called again.
func (c *Committer) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	for t := c.queue.head; t != nil; t = c.queue.head {
		c.queue.remove(t)
		t.settleLocked(len(t.leaves)-t.taken, ErrClosed)
	}
	c.waiting = 0
	if c.flight == nil {
		c.cancel()
	}
	c.wakeLocked()
	c.mu.Unlock()

	select {
	case <-c.ended:
		c.cancel()
		return nil
	case <-ctx.Done():
		c.cancel()
		c.giveUp()
		return fmt.Errorf("the group being signed is given up: %w", context.Cause(ctx))
	}
}

// wakeLocked tells run that there may be something to do.
func (c *Committer) wakeLocked() {
	signal(c.wake)
	if c.closed || c.waiting >= c.cfg.MaxGroup {
		signal(c.hurry)
	}
}

// signal sends without blocking; c holds one signal at most.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run closes one group after the other and gets each signed.
func (c *Committer) run() {
	defer close(c.ended)
	if !c.begin() {
		return
	}
	for {
		g, claims := c.next()
		if g == nil {
			return
		}
		due := g.closed.Add(c.cfg.Pace)
		s, err := c.commit(g, claims)
		if c.settle(g, s, err) {
			c.cfg.Observer.GroupSigned(s.stats)
		}
		c.gatherUntil(due)
	}
}

// gatherUntil waits until due when blocks are waiting already, so that the next
// group has more of them. A whole group does not wait.
func (c *Committer) gatherUntil(due time.Time) {
	wait := time.Until(due)
	if wait <= 0 {
		return
	}
	for {
		waiting, closed := c.state()
		if closed || waiting == 0 || waiting >= c.cfg.MaxGroup {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			return
		case <-c.hurry: // or what is left of an earlier one
			timer.Stop()
			wait = time.Until(due)
		}
	}
}

// begin finds out the origin. False: the committer was closed.
func (c *Committer) begin() bool {
	if c.cfg.Begin == nil {
		return true
	}
	for attempt := 1; ; attempt++ {
		o, err := c.cfg.Begin(c.ctx)
		if err == nil {
			err = o.check()
		}
		if err == nil {
			c.mu.Lock()
			c.origin = o
			c.mu.Unlock()
			return true
		}
		if c.ctx.Err() == nil {
			c.cfg.Observer.AttemptFailed(StageBegin, attempt, err)
		}
		if c.pause(attempt) != nil {
			return false
		}
	}
}

// next waits until something waits, gathers claims and closes a group: from
// here on its leaves are numbered. nil: the committer was closed.
func (c *Committer) next() (*openGroup, Claims) {
	for {
		if waiting, closed := c.state(); closed {
			return nil, Claims{}
		} else if waiting == 0 {
			<-c.wake
			continue
		}
		claims, err := c.gather()
		if err != nil {
			return nil, Claims{}
		}
		if g := c.take(); g != nil { // else all were taken back
			c.build(g)
			return g, claims
		}
	}
}

func (c *Committer) state() (waiting int, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting, c.closed
}

// gather tries until there are claims for a first attempt. The error is
// ErrClosed.
func (c *Committer) gather() (Claims, error) {
	for attempt := 1; ; attempt++ {
		claims, err := c.cfg.Claims(c.ctx)
		if err == nil {
			return claims, nil
		}
		if c.ctx.Err() == nil {
			c.cfg.Observer.AttemptFailed(StageClaims, attempt, err)
		}
		if err := c.pause(attempt); err != nil {
			return Claims{}, err
		}
	}
}

// take moves up to MaxGroup leaves from the queue into a group and numbers
// them. nil: nothing waits, or the committer was closed.
func (c *Committer) take() *openGroup {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.waiting == 0 {
		return nil
	}
	c.seq++
	g := &openGroup{
		signedGroup: &signedGroup{epoch: c.origin.Epoch, seq: c.seq}, closed: time.Now(),
		leaves: make([]*Leaf, 0, min(c.waiting, c.cfg.MaxGroup)),
	}
	for t := c.queue.head; t != nil && len(g.leaves) < c.cfg.MaxGroup; t = c.queue.head {
		n := min(len(t.leaves)-t.taken, c.cfg.MaxGroup-len(g.leaves))
		t.parts = append(t.parts, part{group: g.signedGroup, first: len(g.leaves), count: n})
		g.spans = append(g.spans, span{ticket: t, count: n})
		for i := range n {
			g.leaves = append(g.leaves, &t.leaves[t.taken+i])
		}
		t.taken += n
		if t.taken == len(t.leaves) {
			c.queue.remove(t)
		}
	}
	c.waiting -= len(g.leaves)
	c.flight = g
	g.numbers = make([]uint64, len(g.leaves))
	for i, l := range g.leaves {
		c.numbers[l.Stream]++
		g.numbers[i] = c.numbers[l.Stream]
	}
	return g
}

// build makes the tree, which later attempts do not change either.
func (c *Committer) build(g *openGroup) {
	hashes := make([]block.Digest, len(g.leaves))
	for i, l := range g.leaves {
		hashes[i] = l.hash(g.numbers[i])
	}
	g.tree = merkle.Build(hashes)
}
