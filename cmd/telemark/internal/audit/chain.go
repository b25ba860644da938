package audit

import (
	"cmp"
	"maps"
	"slices"

	"github.com/telemark-otel/telemark/internal/block"
)

// Chain is what was seen of the statements of one key in one epoch: which
// groups it signed, and whether each names the one before.
type Chain struct {
	KID        string `json:"kid"`
	Name       string `json:"name,omitempty"`
	Epoch      uint64 `json:"epoch"`
	First      uint64 `json:"first_seq"`
	Last       uint64 `json:"last_seq"`
	Statements uint64 `json:"statements"`
	// Missing groups lie between first and last. Their blocks may be in other
	// files: a group holds blocks of every signal.
	Missing []Range `json:"missing"`
	// Broken are the statements that do not name the one before them.
	Broken []uint64 `json:"broken"`
	// Equivocal are the numbers under which the key signed two statements.
	Equivocal []uint64 `json:"equivocal"`
}

// OK reports whether nothing speaks against the chain.
func (c *Chain) OK() bool { return len(c.Broken) == 0 && len(c.Equivocal) == 0 }

type chainKey struct {
	kid   string
	epoch uint64
}

type chainState struct {
	name      string
	seen      ranges
	links     map[uint64]link
	equivocal map[uint64]bool
}

type link struct{ statement, prev block.Digest }

// Chains collects verified statements.
type Chains struct {
	chains map[chainKey]*chainState
}

// NewChains returns an empty report.
func NewChains() *Chains { return &Chains{chains: map[chainKey]*chainState{}} }

// Add takes the statement of a verified block into account.
func (c *Chains) Add(f *Finding) {
	if f.statement == (block.Digest{}) || f.Claims == nil {
		return
	}
	k := chainKey{f.Claims.KID, f.Claims.Epoch}
	s := c.chains[k]
	if s == nil {
		s = &chainState{links: map[uint64]link{}, equivocal: map[uint64]bool{}}
		c.chains[k] = s
	}
	s.name = f.Claims.Name
	s.seen.add(f.Claims.Seq)
	now := link{f.statement, f.prev}
	if before, ok := s.links[f.Claims.Seq]; ok && before != now {
		s.equivocal[f.Claims.Seq] = true
		return
	}
	s.links[f.Claims.Seq] = now
}

// Report returns the chains, sorted.
func (c *Chains) Report() []Chain {
	keys := slices.SortedFunc(maps.Keys(c.chains), func(a, b chainKey) int {
		return cmp.Or(cmp.Compare(a.kid, b.kid), cmp.Compare(a.epoch, b.epoch))
	})
	out := make([]Chain, 0, len(keys))
	for _, k := range keys {
		s := c.chains[k]
		chain := Chain{
			KID: k.kid, Name: s.name, Epoch: k.epoch,
			First: s.seen[0].First, Last: s.seen[len(s.seen)-1].Last, Statements: s.seen.count(),
			Missing: s.seen.gaps(), Broken: []uint64{}, Equivocal: slices.Sorted(maps.Keys(s.equivocal)),
		}
		for _, seq := range slices.Sorted(maps.Keys(s.links)) {
			before, known := s.links[seq-1]
			if known && s.links[seq].prev != before.statement {
				chain.Broken = append(chain.Broken, seq)
			}
		}
		if chain.Equivocal == nil {
			chain.Equivocal = []uint64{}
		}
		out = append(out, chain)
	}
	return out
}
