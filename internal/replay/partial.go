package replay

import (
	"math/bits"
	"slices"

	"github.com/telemark-otel/telemark/internal/reason"
)

// bitset is a set of item indices.
type bitset []uint64

func newBitset(n int) bitset           { return make(bitset, (n+63)/64) }
func bitsetBytes(n int) int            { return 8 * ((n + 63) / 64) }
func (b bitset) has(i uint32) bool     { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitset) set(i uint32)          { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i uint32)        { b[i/64] &^= 1 << (i % 64) }
func (b bitset) bytes() int            { return 8 * len(b) }
func (b bitset) empty() bool           { return !slices.ContainsFunc(b, func(w uint64) bool { return w != 0 }) }
func (b bitset) setRange(lo, n uint32) { b.each(lo, n, b.set) }

func (b bitset) each(lo, n uint32, f func(uint32)) {
	for i := range n {
		f(lo + i)
	}
}

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// maxFragments bounds the claims that are open on one incomplete block.
const maxFragments = 256

// partial is a block that arrives in fragments, for as long as it is not complete.
type partial struct {
	no        uint64
	total     int
	since     int64 // ms, when its first fragment arrived
	done      bitset
	fragments []fragment
	counted   bool // its number had been reported as missing
	reported  bool // its missing items were reported
}

// fragment is one claim on items. Its items are in no other fragment and not done.
type fragment struct {
	token uint64 // 0: nobody owns it, as with a flight
	lease int64  // ms
	items bitset
}

func (p *partial) bytes() int { return p.done.bytes() * (1 + len(p.fragments)) }

// holder returns the fragment that holds item i.
func (p *partial) holder(i uint32) *fragment {
	for f := range p.fragments {
		if p.fragments[f].items.has(i) {
			return &p.fragments[f]
		}
	}
	return nil
}

func (p *partial) byToken(token uint64) *fragment {
	for f := range p.fragments {
		if p.fragments[f].token == token {
			return &p.fragments[f]
		}
	}
	return nil
}

// own returns the fragment of this token, made when there is none.
func (p *partial) own(token uint64, lease int64) *fragment {
	if f := p.byToken(token); f != nil {
		return f
	}
	p.fragments = append(p.fragments, fragment{token, lease, newBitset(p.total)})
	return &p.fragments[len(p.fragments)-1]
}

// tidy drops fragments that hold nothing any more.
func (p *partial) tidy() {
	p.fragments = slices.DeleteFunc(p.fragments, func(f fragment) bool { return f.items.empty() })
}

// live says whether a claim with a running lease is open.
func (p *partial) live(now int64) bool {
	return slices.ContainsFunc(p.fragments, func(f fragment) bool { return f.lease > now })
}

// missing counts the items that are neither done nor on their way.
func (p *partial) missing(now int64) int {
	n := p.total - p.done.count()
	for i := range p.fragments {
		if p.fragments[i].lease > now {
			n -= p.fragments[i].items.count()
		}
	}
	return n
}

// search is how far the candidates of equal items were looked through: those
// share a slice, and whoever sends a million of them must not make the windows
// look at all of it a million times.
type search struct {
	free, stale int  // where to go on for a free one, for one whose owner's lease is over
	held        bool // one is in flight elsewhere
}

// pick chooses an index for an item among its candidates: a free one if there
// is one, else one whose owner's lease is over. Items that are equal to the last byte have
// the same candidates, so the first choice is as good as any.
func (p *partial) pick(candidates []uint32, s *search, c *call) (idx uint32, from *fragment, why reason.Reason) {
	for s.free < len(candidates) {
		i := candidates[s.free]
		s.free++
		if int(i) >= p.total || p.done.has(i) {
			continue
		}
		h := p.holder(i)
		if h == nil {
			return i, nil, ""
		}
		s.held = s.held || h.token != c.token && h.lease > c.now
	}
	for s.stale < len(candidates) {
		i := candidates[s.stale]
		s.stale++
		if int(i) >= p.total || p.done.has(i) {
			continue
		}
		if h := p.holder(i); h != nil && h.token != c.token && h.lease <= c.now {
			return i, h, ""
		}
	}
	if s.held {
		return 0, nil, reason.InFlight
	}
	return 0, nil, reason.Duplicate
}

// claim claims what it can of the arrived items.
func (p *partial) claim(candidates [][]uint32, c *call, o *Outcome) {
	keep := make([]bool, len(candidates))
	items := make([]uint32, 0, len(candidates))
	shared := make(map[*uint32]*search)
	for at, cand := range candidates {
		var alone search
		s := &alone
		if len(cand) > 1 {
			if shared[&cand[0]] == nil {
				shared[&cand[0]] = new(search)
			}
			s = shared[&cand[0]]
		}
		i, from, why := p.pick(cand, s, c)
		switch why {
		case "":
			if from != nil {
				from.items.clear(i)
				o.Redelivery = true
			}
			p.own(c.token, c.lease).items.set(i)
			items = append(items, i)
			keep[at] = true
		case reason.InFlight:
			o.Held++
		default:
		}
	}
	p.tidy()
	switch {
	case len(items) > 0:
		o.Claim.Token, o.Claim.Items = c.token, items
		if len(items) < len(candidates) {
			o.Keep = keep
		}
	case o.Held > 0:
		o.Reason = reason.InFlight
	default:
		o.Reason = reason.Duplicate
	}
}

// take removes the items of a claim from its fragment, gives each to put and
// says whether the claim still held any.
func (p *partial) take(token uint64, items []uint32, put func(item uint32)) bool {
	f := p.byToken(token)
	if f == nil {
		return false
	}
	held := false
	for _, i := range items {
		if int(i) >= p.total || !f.items.has(i) {
			continue
		}
		held = true
		f.items.clear(i)
		put(i)
	}
	p.tidy()
	return held
}

// abandon leaves the items of a claim to whoever comes next, who is told that
// they may have been delivered.
func (p *partial) abandon(token uint64, items []uint32) bool {
	if p.byToken(token) == nil {
		return false
	}
	nobody := p.own(0, 0).items
	return p.take(token, items, nobody.set)
}
