package audit

import (
	"cmp"
	"maps"
	"slices"

	"github.com/telemark-otel/telemark/internal/block"
)

// Range is a run of numbers, both ends included.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// Stream is what was seen of one stream of one epoch.
type Stream struct {
	KID        string  `json:"kid"`
	Name       string  `json:"name,omitempty"`
	Epoch      uint64  `json:"epoch"`
	Stream     string  `json:"stream"`
	First      uint64  `json:"first_block"`
	Last       uint64  `json:"last_block"`
	Blocks     uint64  `json:"blocks"`
	Items      int     `json:"items"`
	Gaps       []Range `json:"gaps"`       // between first and last
	Duplicates uint64  `json:"duplicates"` // blocks, or items of split blocks
	// Partial counts the blocks of which, with split, not every item was seen.
	Partial int `json:"partial_blocks"`
}

// Missing is the number of blocks in the gaps.
func (s *Stream) Missing() (n uint64) {
	for _, g := range s.Gaps {
		n += g.Last - g.First + 1
	}
	return n
}

type streamKey struct {
	kid    string
	epoch  uint64
	stream string
}

type streamState struct {
	name       string
	seen       ranges
	items      int
	duplicates uint64
	parts      map[uint64]*part // blocks of which items are missing
}

// part is a block of which fragments arrived.
type part struct {
	seen  []bool
	count int
}

// Completeness collects what was seen and finds what is missing. Streams are
// counted from the first block seen: whether earlier ones, or later ones,
// existed cannot be told from the file.
type Completeness struct {
	streams map[streamKey]*streamState
}

// NewCompleteness returns an empty report.
func NewCompleteness() *Completeness {
	return &Completeness{streams: map[streamKey]*streamState{}}
}

// Add takes a block into account, if nothing speaks against it: a forgery
// fills no gap.
func (c *Completeness) Add(f *Finding) {
	if !f.OK() || f.Claims == nil {
		return
	}
	k := streamKey{f.Claims.KID, f.Claims.Epoch, f.Claims.Stream}
	s := c.streams[k]
	if s == nil {
		s = &streamState{parts: map[uint64]*part{}}
		c.streams[k] = s
	}
	s.name = f.Claims.Name
	fresh := s.seen.add(f.Claims.Block)
	if f.total == 0 || !slices.Contains(f.Claims.Tolerate, block.Split.String()) {
		s.whole(f, fresh)
		return
	}
	s.fragment(f, fresh)
}

func (s *streamState) whole(f *Finding, fresh bool) {
	if !fresh {
		s.duplicates++
		return
	}
	s.items += f.Items
}

// fragment takes a part of a block. An item that equals others to the last
// byte may stand for any of them: it takes the first that is still missing.
func (s *streamState) fragment(f *Finding, fresh bool) {
	p := s.parts[f.Claims.Block]
	if p == nil {
		if !fresh { // complete before
			s.duplicates += uint64(f.Items)
			return
		}
		p = &part{seen: make([]bool, f.total)}
		s.parts[f.Claims.Block] = p
	}
	for i := range f.Items {
		if p.take(f.candidates(i)) {
			s.items++
		} else {
			s.duplicates++
		}
	}
	if p.count == len(p.seen) {
		delete(s.parts, f.Claims.Block)
	}
}

func (f *Finding) candidates(i int) []uint32 {
	if i < len(f.indices) {
		return f.indices[i]
	}
	return []uint32{uint32(i)}
}

func (p *part) take(candidates []uint32) bool {
	for _, i := range candidates {
		if int(i) < len(p.seen) && !p.seen[i] {
			p.seen[i] = true
			p.count++
			return true
		}
	}
	return false
}

// Report returns the streams, sorted.
func (c *Completeness) Report() []Stream {
	keys := slices.SortedFunc(maps.Keys(c.streams), func(a, b streamKey) int {
		return cmp.Or(cmp.Compare(a.kid, b.kid), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.stream, b.stream))
	})
	out := make([]Stream, 0, len(keys))
	for _, k := range keys {
		s := c.streams[k]
		out = append(out, Stream{
			KID: k.kid, Name: s.name, Epoch: k.epoch, Stream: k.stream,
			First: s.seen[0].First, Last: s.seen[len(s.seen)-1].Last, Blocks: s.seen.count(), Items: s.items,
			Gaps: s.seen.gaps(), Duplicates: s.duplicates, Partial: len(s.parts),
		})
	}
	return out
}

// ranges is a sorted list of runs that neither overlap nor touch.
type ranges []Range

// add puts n in and reports whether it was not there before.
func (r *ranges) add(n uint64) bool {
	// i is the first run that ends at n-1 or later.
	i, _ := slices.BinarySearchFunc(*r, n, func(e Range, n uint64) int {
		if e.Last+1 < n {
			return -1
		}
		return 1
	})
	switch {
	case i == len(*r) || n+1 < (*r)[i].First:
		*r = slices.Insert(*r, i, Range{n, n})
	case n+1 == (*r)[i].First:
		(*r)[i].First = n
	case n == (*r)[i].Last+1:
		(*r)[i].Last = n
		if i+1 < len(*r) && (*r)[i+1].First == n+1 {
			(*r)[i].Last = (*r)[i+1].Last
			*r = slices.Delete(*r, i+1, i+2)
		}
	default:
		return false
	}
	return true
}

func (r *ranges) count() (n uint64) {
	for _, e := range *r {
		n += e.Last - e.First + 1
	}
	return n
}

func (r *ranges) gaps() []Range {
	gaps := []Range{}
	for i := 1; i < len(*r); i++ {
		gaps = append(gaps, Range{(*r)[i-1].Last + 1, (*r)[i].First - 1})
	}
	return gaps
}
