package replay

import (
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/reason"
)

// window is the state of one stream of one epoch in one scope.
type window struct {
	key    *keyState
	epoch  *epochState
	stream string

	settled  settled
	flights  flights
	partials []*partial // ascending by number
	reservation

	verified   uint64
	duplicates uint64
	lateFills  uint64
	gapsClosed uint64 // blocks
	owed       uint64 // missing blocks that no report has counted yet
	owedClosed uint64 // closed ones that no report has counted yet

	nonceTimes
	lastSeen int64 // ms, newest confirm
	farewell uint64
	location *LatLon
	running  bool // the stream was running before the store knew it

	// Not durable.
	silent  bool
	refused map[reason.Reason]uint64

	confirms    uint64 // how often something was confirmed
	confirmsOut uint64 // confirms, in the write that began last
	confirmsOn  uint64 // confirms that are durable

	nonceTimesOut nonceTimes // in the write that began last
	nonceTimesOn  nonceTimes // durable

	record  string // its key in the Persister
	dirty   bool   // to be written
	touched bool   // changed by the call that holds the lock
	dead    bool   // dropped: nothing is written any more
}

// nonceTimes say until when blocks of the window can come.
type nonceTimes struct {
	lastT   int64 // ms, newest nonce claimed under
	untimed bool  // something came without a nonce
}

// learn notes a claim and says whether what is durable knew as much.
func (t *nonceTimes) learn(issued time.Time, durable nonceTimes) bool {
	if issued.IsZero() {
		t.untimed = true
		return durable.untimed
	}
	t.lastT = max(t.lastT, issued.UnixMilli())
	return durable.lastT >= issued.UnixMilli()
}

// call is what all blocks of one Claim, Confirm or Sweep have in common.
type call struct {
	now   int64  // ms
	token uint64 // claims of one call share it
	lease int64  // ms, when they end
	lim   *Limits
	t     times

	others []*window // changed beside the one that was called
}

// claim judges b and claims it.
func (w *window) claim(c *call, b *Block, o *Outcome) {
	if w.settled.has(b.No) {
		o.Reason = reason.Duplicate
		if w.settled.gaveUp(b.No) {
			o.Reason = reason.TooLate
		}
		return
	}
	p := w.partial(b.No)
	f := w.flights.get(b.No)
	switch {
	case p != nil:
		w.claimPart(c, b, p, o)
	case f != nil && f.token == c.token:
		o.Reason = reason.Duplicate
	case f != nil && f.lease > c.now:
		o.Reason = reason.InFlight
	case f != nil && b.Candidates == nil:
		f.token, f.lease = c.token, c.lease
		f.flags &^= flightAttempted
		o.Redelivery, o.Late = true, f.flags&flightCounted != 0
		o.Claim.Token = c.token
	case b.Candidates != nil:
		w.claimFirstPart(c, b, f, o)
	default:
		w.claimWhole(c, b.No, o)
	}
}

func (w *window) claimWhole(c *call, no uint64, o *Outcome) {
	if w.flights.len() >= c.lim.MaxInFlight {
		w.forgetAttempts()
	}
	if w.flights.len() >= c.lim.MaxInFlight || !w.room(c, no) {
		o.Reason = reason.WindowFull
		return
	}
	e := flight{no: no, token: c.token, lease: c.lease}
	if w.reported(no) {
		e.flags |= flightCounted
		o.Late = true
	}
	if w.isolated(no) {
		e.flags |= flightIsolated
	}
	w.flights.put(e)
	o.Claim.Token, o.Redelivery = c.token, no <= w.suspect
}

// claimFirstPart claims the first fragment of a block. f is what is left of a
// claim on the whole block whose owner is dead, or nil.
func (w *window) claimFirstPart(c *call, b *Block, f *flight, o *Outcome) {
	if f == nil && !w.room(c, b.No) || !w.key.roomForParts(c, 2*bitsetBytes(b.Total), nil) {
		o.Reason = reason.WindowFull
		return
	}
	p := &partial{no: b.No, total: b.Total, since: c.now, done: newBitset(b.Total), counted: w.reported(b.No)}
	if f != nil {
		whole := newBitset(b.Total)
		whole.setRange(0, uint32(b.Total))
		p.fragments = append(p.fragments, fragment{items: whole})
		p.counted = f.flags&flightCounted != 0
		w.flights.remove(f)
	}
	i, _ := w.partialAt(b.No)
	w.partials = slices.Insert(w.partials, i, p)
	w.key.partialBytes += p.bytes()
	w.claimPart(c, b, p, o)
	if len(p.fragments) == 0 && p.done.empty() { // it had no item that can be one of the block
		w.dropPartial(i)
	}
}

// claimPart claims items of an incomplete block.
func (w *window) claimPart(c *call, b *Block, p *partial, o *Outcome) {
	if b.Total != p.total {
		// Two signed statements disagree about how many items the block has.
		o.Reason = reason.Equivocation
		return
	}
	if len(p.fragments) >= maxFragments || !w.key.roomForParts(c, p.done.bytes(), p) {
		o.Reason = reason.WindowFull
		return
	}
	size := p.bytes()
	candidates := b.Candidates
	if candidates == nil {
		candidates = inOrder(p.total)
	}
	p.claim(candidates, c, o)
	o.Late = o.Reason == "" && p.counted
	o.Redelivery = o.Redelivery || o.Reason == "" && b.No <= w.suspect
	w.key.partialBytes += p.bytes() - size
}

// inOrder are the candidates of a block that arrived whole.
func inOrder(total int) [][]uint32 {
	all := make([]uint32, total)
	out := make([][]uint32, total)
	for i := range all {
		all[i] = uint32(i)
		out[i] = all[i : i+1]
	}
	return out
}

// room makes sure that settling no can not bring the window over its ranges.
func (w *window) room(c *call, no uint64) bool {
	if !w.isolated(no) || len(w.settled.spans)+w.flights.isolated+len(w.partials) < c.lim.MaxRanges {
		return true
	}
	return w.closeLowest(c, no) || w.giveUpLowest(c) || w.closeEarly(c, no)
}

// closeEarly reports and closes the lowest hole that no does not stand in, before
// its time. Waiting for that would hold up who travels in the same requests, and
// whoever keeps every second block of a stream back could make everybody wait.
func (w *window) closeEarly(c *call, no uint64) bool {
	for i := range w.settled.spans {
		lo, hi := w.settled.hole(i)
		if w.settled.spans[i].flags != 0 || no >= lo && no <= hi || w.busy(lo, hi, c.now) {
			continue
		}
		w.owed += w.report(i, c.now)
		w.owedClosed += w.close(i)
		return true
	}
	return false
}

// closeLowest closes the lowest hole that was reported and that no does not stand in.
func (w *window) closeLowest(c *call, no uint64) bool {
	for i := range w.settled.spans {
		lo, hi := w.settled.hole(i)
		if w.settled.spans[i].flags == 0 || no >= lo && no <= hi || w.busy(lo, hi, c.now) {
			continue
		}
		w.owedClosed += w.close(i)
		return true
	}
	return false
}

// isolated says whether no has no neighbour that is settled or in flight.
func (w *window) isolated(no uint64) bool {
	return !w.settled.touches(no) && w.flights.get(no-1) == nil && w.flights.get(no+1) == nil
}

// reported says whether no was counted as missing in a report.
func (w *window) reported(no uint64) bool {
	f := w.settled.flagsAt(no)
	return f&holeReported != 0 && f&holeBefore == 0
}

func (w *window) partialAt(no uint64) (int, bool) {
	return slices.BinarySearchFunc(w.partials, no, func(p *partial, no uint64) int {
		switch {
		case p.no < no:
			return -1
		case p.no > no:
			return 1
		default:
			return 0
		}
	})
}

func (w *window) partial(no uint64) *partial {
	if len(w.partials) == 0 {
		return nil
	}
	if i, ok := w.partialAt(no); ok {
		return w.partials[i]
	}
	return nil
}

// partialsIn counts the incomplete blocks between lo and hi.
func (w *window) partialsIn(lo, hi uint64) uint64 {
	if len(w.partials) == 0 {
		return 0
	}
	i, _ := w.partialAt(lo)
	var n uint64
	for ; i < len(w.partials) && w.partials[i].no <= hi; i++ {
		n++
	}
	return n
}

// giveUpLowest gives up the lowest block whose missing items were reported. A
// gateway that takes an item out of every block must not fill the window.
func (w *window) giveUpLowest(c *call) bool {
	for i, p := range w.partials {
		if p.reported && !p.live(c.now) {
			w.giveUpPart(c, i)
			return true
		}
	}
	return false
}

// giveUpPart settles an incomplete block as it is.
func (w *window) giveUpPart(c *call, i int) {
	no := w.partials[i].no
	w.dropPartial(i)
	w.settled.add(no, c.now, w.beginning())
	w.settled.markClosed(run{no, no})
}

func (w *window) dropPartial(i int) {
	w.key.partialBytes -= w.partials[i].bytes()
	w.partials = slices.Delete(w.partials, i, i+1)
}

// confirm makes a claim final; false when it does not hold (any more). late
// says that it filled a hole that was reported.
func (w *window) confirm(c *call, cl *Claim) (held, late bool) {
	no := cl.Block.No
	if cl.Items == nil {
		f := w.flights.get(no)
		if f == nil || f.token != cl.Token {
			return false, false
		}
		late = f.flags&flightCounted != 0
		w.confirms++
		w.flights.remove(f)
		w.settle(c, &cl.Block, late)
		return true, late
	}
	i, ok := w.partialAt(no)
	if !ok {
		return false, false
	}
	p := w.partials[i]
	size := p.bytes()
	held = p.take(cl.Token, cl.Items, p.done.set)
	w.key.partialBytes += p.bytes() - size
	if !held {
		return false, false
	}
	w.confirms++
	w.lastSeen, w.silent = max(w.lastSeen, c.now), false
	if p.done.count() < p.total {
		return true, false
	}
	w.dropPartial(i)
	w.settle(c, &cl.Block, p.counted)
	return true, p.counted
}

func (w *window) settle(c *call, b *Block, late bool) {
	top := w.settled.top()
	w.settled.add(b.No, c.now, w.beginning())
	w.verified++
	if late {
		w.lateFills++
	}
	w.lastSeen, w.silent = max(w.lastSeen, c.now), false
	if b.Location != nil && (b.No > top || w.location == nil) {
		if w.location == nil {
			w.location = new(LatLon)
		}
		*w.location = *b.Location
	}
	if b.Farewell && b.No > top {
		w.farewell = b.No
	}
}

// beginning returns the flags of a hole below the first number of the stream.
func (w *window) beginning() holeFlags {
	if w.settled.top() == 0 && w.running {
		return holeBefore
	}
	return 0
}

// leave is how a claim ends that is not confirmed.
type leave int

const (
	untouched leave = iota // nothing was delivered
	attempted              // its owner, or one before, may have delivered
)

// release gives a claim back; false when it does not hold.
func (w *window) release(cl *Claim, how leave) bool {
	no := cl.Block.No
	if cl.Items == nil {
		f := w.flights.get(no)
		if f == nil || f.token != cl.Token {
			return false
		}
		if how == attempted {
			w.flights.abandon(f)
			f.flags |= flightAttempted
			return true
		}
		w.forgetFlight(f)
		return true
	}
	i, ok := w.partialAt(no)
	if !ok {
		return false
	}
	p := w.partials[i]
	size := p.bytes()
	held := false
	if how == attempted {
		held = p.abandon(cl.Token, cl.Items)
	} else {
		held = p.take(cl.Token, cl.Items, func(uint32) {})
	}
	w.key.partialBytes += p.bytes() - size
	if len(p.fragments) == 0 && p.done.empty() {
		w.dropPartial(i)
		w.owe(no, p.counted)
	}
	return held
}

// forgetFlight removes a flight as if it had never been claimed.
func (w *window) forgetFlight(f *flight) {
	no, counted := f.no, f.flags&flightCounted != 0
	w.flights.remove(f)
	w.owe(no, counted)
}

// forgetAttempts makes room in a window that is full of blocks that nobody
// sends again. Should they come, they are marked, as after a crash: with all
// that is not settled below the highest of them.
func (w *window) forgetAttempts() {
	for i := range w.flights.list {
		if f := &w.flights.list[i]; f.token == 0 && f.flags&flightGone == 0 {
			w.suspect = max(w.suspect, f.no)
			w.forgetFlight(f)
		}
	}
}

// owe notes that no is missing again in a hole that was reported without it.
func (w *window) owe(no uint64, counted bool) {
	if !counted && w.reported(no) {
		w.owed++
	}
}

// gone says whether the stream said goodbye and nothing came after.
func (w *window) gone() bool { return w.farewell > 0 && w.farewell == w.settled.top() }
