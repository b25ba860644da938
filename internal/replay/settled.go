package replay

import "slices"

// maxClosed bounds the remembered ranges of closed holes per stream.
const maxClosed = 64

// settled is the set of numbers of one stream that are done with: confirmed,
// or given up. Everything that is not in it may still be accepted.
//
//	1 .. low   | hole |  span  | hole |  span  |
//	settled      open   settled  open   settled = top
type settled struct {
	low    uint64 // 1..low are settled
	spans  []span // above low, ascending, never adjacent
	closed []run  // of the settled ones, those that were given up
}

// span is a run of settled numbers, with what is known of the hole in front of it.
type span struct {
	lo, hi uint64
	since  int64 // ms, when the hole in front was noticed
	flags  holeFlags
}

type run struct{ lo, hi uint64 }

type holeFlags uint8

const (
	holeReported holeFlags = 1 << iota
	// holeBefore marks the hole below the first number of a stream that was
	// running before the store was made: what is missing there is not a gap.
	holeBefore

	allHoleFlags = holeReported | holeBefore
)

// top is the highest settled number.
func (s *settled) top() uint64 {
	if n := len(s.spans); n > 0 {
		return s.spans[n-1].hi
	}
	return s.low
}

// at returns the index of the first span that ends at n or above.
func (s *settled) at(n uint64) int {
	if l := len(s.spans); l == 0 || n > s.spans[l-1].hi {
		return l
	}
	i, _ := slices.BinarySearchFunc(s.spans, n, func(sp span, n uint64) int {
		if sp.hi < n {
			return -1
		}
		return 1
	})
	return i
}

func (s *settled) has(n uint64) bool {
	if n <= s.low {
		return true
	}
	i := s.at(n)
	return i < len(s.spans) && s.spans[i].lo <= n
}

// gaveUp says whether n was settled by closing its hole.
func (s *settled) gaveUp(n uint64) bool {
	for _, r := range s.closed {
		if n >= r.lo && n <= r.hi {
			return true
		}
	}
	return false
}

// before returns the end of what is settled in front of span i.
func (s *settled) before(i int) uint64 {
	if i == 0 {
		return s.low
	}
	return s.spans[i-1].hi
}

// hole returns the bounds of the hole in front of span i.
func (s *settled) hole(i int) (lo, hi uint64) { return s.before(i) + 1, s.spans[i].lo - 1 }

// flagsAt returns the flags of the hole that the unsettled n stands in; none above the top.
func (s *settled) flagsAt(n uint64) holeFlags {
	if i := s.at(n); i < len(s.spans) {
		return s.spans[i].flags
	}
	return 0
}

// touches says whether n would extend what is settled instead of adding a span.
func (s *settled) touches(n uint64) bool {
	i := s.at(n)
	return n == s.before(i)+1 || i < len(s.spans) && n+1 == s.spans[i].lo
}

// add settles n. When that makes a new hole it is noticed at now, with flags.
func (s *settled) add(n uint64, now int64, flags holeFlags) {
	if n <= s.low {
		return
	}
	i := s.at(n)
	if i < len(s.spans) && s.spans[i].lo <= n {
		return
	}
	joinsPrev := n == s.before(i)+1
	joinsNext := i < len(s.spans) && n+1 == s.spans[i].lo
	switch {
	case joinsPrev && joinsNext:
		s.join(i)
	case joinsPrev && i == 0:
		s.low = n
	case joinsPrev:
		s.spans[i-1].hi = n
	case joinsNext:
		s.spans[i].lo = n
	case i < len(s.spans):
		s.spans = slices.Insert(s.spans, i, span{n, n, s.spans[i].since, s.spans[i].flags})
	default:
		s.spans = append(s.spans, span{n, n, now, flags})
	}
}

// join makes span i part of what is settled in front of it.
func (s *settled) join(i int) {
	if i == 0 {
		s.low = s.spans[0].hi
	} else {
		s.spans[i-1].hi = s.spans[i].hi
	}
	s.spans = slices.Delete(s.spans, i, i+1)
}

// giveUp closes the hole in front of span i.
func (s *settled) giveUp(i int) {
	lo, hi := s.hole(i)
	s.join(i)
	s.markClosed(run{lo, hi})
}

// markClosed remembers that the numbers of r were given up.
func (s *settled) markClosed(r run) {
	at, _ := slices.BinarySearchFunc(s.closed, r.lo, func(r run, lo uint64) int {
		if r.lo < lo {
			return -1
		}
		return 1
	})
	if at > 0 && s.closed[at-1].hi+1 >= r.lo { // a range of several holes may hold it already
		s.closed[at-1].hi = max(s.closed[at-1].hi, r.hi)
		return
	}
	s.closed = slices.Insert(s.closed, at, r)
	if len(s.closed) > maxClosed {
		s.closed[1].lo = s.closed[0].lo
		s.closed = slices.Delete(s.closed, 0, 1)
	}
}
