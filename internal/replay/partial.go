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
	token uint64 // 0: the owner is dead
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

// pick chooses an index for an item among its candidates: a free one if there
// is one, else one whose owner's lease is over. Items that are equal to the last byte have
// the same candidates, so the first choice is as good as any.
func (p *partial) pick(candidates []uint32, c *call) (idx uint32, from *fragment, why reason.Reason) {
	why = reason.Duplicate
	found := false
	for _, i := range candidates {
		if int(i) >= p.total || p.done.has(i) {
			continue
		}
		h := p.holder(i)
		switch {
		case h == nil:
			return i, nil, ""
		case h.token == c.token: // the same fragment twice in one call
		case h.lease > c.now:
			why = reason.InFlight
		case !found:
			idx, from, found = i, h, true
		}
	}
	if found {
		return idx, from, ""
	}
	return 0, nil, why
}

// claim claims what it can of the arrived items.
func (p *partial) claim(candidates [][]uint32, c *call, o *Outcome) {
	keep := make([]bool, len(candidates))
	items := make([]uint32, 0, len(candidates))
	for at, cand := range candidates {
		i, from, why := p.pick(cand, c)
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

// take removes the items of a claim from its fragment and says whether the
// claim still held any; with done they are settled.
func (p *partial) take(token uint64, items []uint32, done bool) bool {
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
		if done {
			p.done.set(i)
		}
	}
	p.tidy()
	return held
}

// orphan leaves the items of a claim to whoever comes, marked as possibly delivered.
func (p *partial) orphan(token uint64) {
	if f := p.byToken(token); f != nil {
		f.token, f.lease = 0, 0
	}
}
