package replay

import (
	"cmp"
	"slices"

	"github.com/telemark-otel/telemark/internal/reason"
)

// maxNumber bounds block numbers, so that n+1 never overflows; maxTotal bounds
// the items of a block.
const (
	maxNumber = 1 << 63
	maxTotal  = 1 << 24
)

type keyID struct{ scope, kid string }

// keyState is what is known of one key in one scope.
type keyState struct {
	id     keyID
	floor  uint64        // epochs below are retired, for ever
	forgot uint64        // windows of this epoch and below were cleaned up
	lastT  int64         // ms, newest nonce in them
	epochs []*epochState // ascending

	partialBytes int   // bitmaps of incomplete blocks
	noRoom       int64 // ms, until when looking for room for more is in vain; not durable

	record string // its key in the Persister
	dirty  bool

	journey
}

// epochState is one live epoch.
type epochState struct {
	no      uint64
	first   int64 // ms, when its first block arrived
	skipped bool  // that epochs are missing in front of it was reported
	joined  bool  // it was running before its scope took part
	windows []*window
	chain   *chain
}

// past says whether b comes from a time whose windows are gone. Its nonce has
// run out then, unless the clock was ahead when they were cleaned up.
func (k *keyState) past(b *Block) reason.Reason {
	switch {
	case b.Epoch < k.floor:
		return reason.EpochRetired
	case b.Epoch <= k.forgot && !b.Issued.IsZero() && b.Issued.UnixMilli() <= k.lastT:
		return reason.TooLate
	default:
		return ""
	}
}

func (k *keyState) epoch(no uint64) *epochState {
	for _, e := range slices.Backward(k.epochs) { // nearly always the last one
		if e.no == no {
			return e
		}
	}
	return nil
}

func (e *epochState) window(stream string) *window {
	for _, w := range e.windows {
		if w.stream == stream {
			return w
		}
	}
	return nil
}

// lastT is the newest time in this epoch, of a nonce or, where there was none, of an arrival.
func (e *epochState) lastT() int64 {
	var t int64
	for _, w := range e.windows {
		t = max(t, w.lastT)
		if w.untimed {
			t = max(t, w.lastSeen)
		}
	}
	return t
}

func (e *epochState) untimed() bool {
	return slices.ContainsFunc(e.windows, func(w *window) bool { return w.untimed })
}

// superseded says whether a later epoch of the key has a stream of this name.
func (w *window) superseded() bool {
	for i := len(w.key.epochs) - 1; i >= 0 && w.key.epochs[i].no > w.epoch.no; i-- {
		if w.key.epochs[i].window(w.stream) != nil {
			return true
		}
	}
	return false
}

// key returns the state of a key, made when create is set.
func (l *Local) key(id keyID, create bool) *keyState {
	k := l.keys[id]
	if k != nil || !create {
		return k
	}
	k = &keyState{id: id}
	l.adopt(k)
	return k
}

// adopt adds a key to the maps and to the index.
func (l *Local) adopt(k *keyState) {
	l.keys[k.id] = k
	k.record = l.recordKey(kindKey, k.id, 0, "")
	k.trackRecord = l.recordKey(kindTrack, k.id, 0, "")
	page, isNew := l.index.add(k.id)
	l.markPage(page)
	l.unsaved.header = l.unsaved.header || isNew
	l.markKey(k)
}

// window finds or makes the window that b belongs to.
func (l *Local) window(c *call, b *Block) (*window, reason.Reason) {
	id := keyID{b.Scope, b.KID}
	k := l.key(id, true)
	e := k.epoch(b.Epoch)
	if e == nil {
		if len(k.epochs) >= c.lim.MaxEpochs {
			if b.Epoch < k.epochs[0].no {
				return nil, reason.EpochRetired
			}
			l.retire(c, k, &l.owed)
		}
		e = l.addEpoch(k, b.Epoch, c.now)
		e.joined = l.joins(c, k, b)
	}
	if w := e.window(b.Stream); w != nil {
		return w, ""
	}
	if len(e.windows) >= c.lim.MaxStreams {
		// For good: waiting for room would hold up who travels in the same request.
		return nil, reason.StreamInvalid
	}
	w := l.addWindow(k, e, b.Stream)
	w.running = b.No > 1 && (e.joined || b.Epoch <= k.forgot)
	return w, ""
}

// joins says whether b, the first block seen of its epoch, shows that the epoch
// was running before its scope took part. A scope that knew the key before,
// or that is old, would have seen its beginning.
func (l *Local) joins(c *call, k *keyState, b *Block) bool {
	age := c.now - l.since(b.Scope, c.now)
	return len(k.epochs) == 1 && k.floor == 0 && b.Seq > chainLen && age <= c.t.young
}

// since returns from when on a scope takes part: now, when it did not say.
func (l *Local) since(scope string, now int64) int64 {
	t, ok := l.scopes[scope]
	if !ok {
		t = now
		l.scopes[scope] = t
		l.unsaved.header = l.persister != nil
	}
	return t
}

func (l *Local) addEpoch(k *keyState, no uint64, now int64) *epochState {
	id := chainID{k.id.kid, no}
	ch := l.chains[id]
	if ch == nil {
		ch = &chain{id: id, record: l.recordKey(kindChain, keyID{kid: id.kid}, no, "")}
		l.chains[id] = ch
		l.markChain(ch) // every live epoch has its record, or the store counts as damaged
	}
	ch.refs++
	e := &epochState{no: no, first: now, chain: ch}
	at, _ := slices.BinarySearchFunc(k.epochs, no, func(e *epochState, no uint64) int {
		if e.no < no {
			return -1
		}
		return 1
	})
	k.epochs = slices.Insert(k.epochs, at, e)
	l.markKey(k)
	return e
}

func (l *Local) addWindow(k *keyState, e *epochState, stream string) *window {
	w := &window{key: k, epoch: e, stream: stream, record: l.recordKey(kindWindow, k.id, e.no, stream)}
	e.windows = append(e.windows, w)
	l.streams++
	l.markKey(k) // it lists its streams
	l.markWindow(w)
	return w
}

// retire drops the lowest epoch of a key and raises the floor above it.
func (l *Local) retire(c *call, k *keyState, r *SweepReport) (streams int) {
	e := k.epochs[0]
	k.epochs = slices.Delete(k.epochs, 0, 1)
	k.floor = max(k.floor, e.no+1)
	return l.drop(c, k, e, r)
}

// drop removes the windows of an epoch that was taken from its key.
func (l *Local) drop(c *call, k *keyState, e *epochState, r *SweepReport) (streams int) {
	for _, w := range e.windows {
		w.abandon(c, r)
		w.dead = true
		l.erase(w.record)
	}
	l.streams -= len(e.windows)
	if e.chain.refs--; e.chain.refs == 0 {
		delete(l.chains, e.chain.id)
		l.erase(e.chain.record)
	}
	l.markKey(k)
	return len(e.windows)
}

// Giving incomplete blocks up for lack of room means looking at all of the key, so
// a part of the room is made at once, and what was in vain is not tried again soon.
const (
	roomParts = 16    // one part in so many
	roomPause = 1_000 // ms
)

// roomForParts makes room for more bitmaps of incomplete blocks, other ones than wanted.
func (k *keyState) roomForParts(c *call, bytes int, wanted *partial) bool {
	over := k.partialBytes + bytes - c.lim.MaxPartial
	if over > 0 && k.noRoom <= c.now {
		k.giveUpOldest(c, over, over+c.lim.MaxPartial/roomParts, wanted)
	}
	return k.partialBytes+bytes <= c.lim.MaxPartial
}

// giveUpOldest gives up the incomplete blocks that wait longest of those whose
// missing items were reported, until enough bytes are free; less than least are in vain.
func (k *keyState) giveUpOldest(c *call, least, enough int, wanted *partial) {
	type waiting struct {
		since int64
		bytes int
	}
	var all []waiting
	dispensable := func(p *partial) bool { return p != wanted && p.reported && !p.live(c.now) }
	for _, e := range k.epochs {
		for _, w := range e.windows {
			for _, p := range w.partials {
				if dispensable(p) {
					all = append(all, waiting{p.since, p.bytes()})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b waiting) int { return cmp.Compare(a.since, b.since) })
	freed, last, left := 0, int64(0), 0
	for _, p := range all {
		if freed >= enough {
			break
		}
		if p.since != last {
			last, left = p.since, enough-freed // how much of those of one time has to go
		}
		freed += p.bytes
	}
	if freed < least {
		k.noRoom = c.now + roomPause
		return
	}
	for _, e := range k.epochs {
		for _, w := range e.windows {
			if w.giveUpWhere(c, func(p *partial) bool {
				if !dispensable(p) || p.since > last || p.since == last && left <= 0 {
					return false
				}
				if p.since == last {
					left -= p.bytes()
				}
				return true
			}) {
				c.others = append(c.others, w)
			}
		}
	}
}

// giveUpWhere gives up the incomplete blocks for which which answers true, and
// says whether there were any.
func (w *window) giveUpWhere(c *call, which func(*partial) bool) (some bool) {
	for i := 0; i < len(w.partials); {
		if !which(w.partials[i]) {
			i++
			continue
		}
		w.giveUpPart(c, i)
		some = true
	}
	return some
}

// retireDue retires what no nonce can bring back: epochs below the latest one,
// whose blocks were signed before the next epoch began.
func (l *Local) retireDue(c *call, k *keyState, r *SweepReport) (streams int) {
	for len(k.epochs) > 1 {
		e, next := k.epochs[0], k.epochs[1]
		if max(e.lastT(), next.first)+c.t.keep >= c.now {
			break
		}
		streams += l.retire(c, k, r)
	}
	return streams
}

// forget drops the latest epoch too, when it is expired. What was signed under nonces is expired
// with it, so the epoch may go on; without nonces it must not.
func (l *Local) forget(c *call, k *keyState, r *SweepReport) (streams int) {
	if len(k.epochs) != 1 {
		return 0
	}
	e := k.epochs[0]
	if max(e.lastT(), e.first, e.lastSeen())+c.t.keep >= c.now {
		return 0
	}
	k.forgot, k.lastT = max(k.forgot, e.no), max(k.lastT, e.lastT())
	l.forgetTravel(k)
	if e.untimed() {
		return l.retire(c, k, r)
	}
	k.epochs = nil
	k.floor = max(k.floor, e.no)
	return l.drop(c, k, e, r)
}

func (e *epochState) lastSeen() int64 {
	var t int64
	for _, w := range e.windows {
		t = max(t, w.lastSeen)
	}
	return t
}

// skippedEpochs counts epochs that the key jumped over, once each.
func (l *Local) skippedEpochs(c *call, k *keyState) (n uint64) {
	for i := 1; i < len(k.epochs); i++ {
		a, b := k.epochs[i-1], k.epochs[i]
		if b.no > a.no+1 && !b.skipped && b.first+c.t.gap <= c.now {
			b.skipped = true
			n += b.no - a.no - 1
			l.markKey(k)
		}
	}
	return n
}
