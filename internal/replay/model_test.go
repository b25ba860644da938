package replay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

// model is the windows as sets: slow, and plain enough to be right.
type model struct {
	streams map[string]*modelStream
	lease   time.Duration
}

type modelStream struct {
	done  map[uint64]bool
	items map[uint64]map[uint32]bool // split: done items of incomplete blocks
	open  map[uint64][]modelClaim
}

type modelClaim struct {
	token uint64
	until time.Time
	items []uint32 // nil = whole
}

const modelItems = 5

func newModel(lease time.Duration) *model {
	return &model{streams: make(map[string]*modelStream), lease: lease}
}

func (m *model) stream(b *Block) *modelStream {
	id := fmt.Sprint(b.Scope, b.KID, b.Epoch, b.Stream)
	s := m.streams[id]
	if s == nil {
		s = &modelStream{map[uint64]bool{}, map[uint64]map[uint32]bool{}, map[uint64][]modelClaim{}}
		m.streams[id] = s
	}
	return s
}

// holder returns the claim that holds an item (or the whole block).
func (s *modelStream) holder(no uint64, item uint32) *modelClaim {
	for i := range s.open[no] {
		c := &s.open[no][i]
		if c.items == nil || slices.Contains(c.items, item) {
			return c
		}
	}
	return nil
}

type modelOutcome struct {
	reason     reason.Reason
	keep       []bool
	held       int
	redelivery bool
	items      []uint32
}

// claim says what the windows must answer. token is that of the call.
func (m *model) claim(b *Block, token uint64, now time.Time) (o modelOutcome) {
	s := m.stream(b)
	if s.done[b.No] {
		return modelOutcome{reason: reason.Duplicate}
	}
	_, started := s.items[b.No]
	whole := b.Candidates == nil
	if whole && !started {
		for _, c := range s.open[b.No] {
			if c.token == token {
				return modelOutcome{reason: reason.Duplicate}
			}
			if c.until.After(now) {
				return modelOutcome{reason: reason.InFlight}
			}
			o.redelivery = true
		}
		s.open[b.No] = []modelClaim{{token, now.Add(m.lease), nil}}
		return o
	}
	arrived := []uint32{0, 1, 2, 3, 4}
	if !whole {
		arrived = nil
		for _, c := range b.Candidates {
			arrived = append(arrived, c[0])
		}
	}
	o.keep = make([]bool, len(arrived))
	for at, i := range arrived {
		h := s.holder(b.No, i)
		switch {
		case s.items[b.No][i]:
		case h == nil:
			o.keep[at] = true
		case h.token == token:
		case h.until.After(now):
			o.held++
		default:
			o.keep[at], o.redelivery = true, true
		}
		if o.keep[at] {
			o.items = append(o.items, i)
			m.take(s, b.No, i)
		}
	}
	return m.finish(s, b.No, o, token, now)
}

// take removes an item from whoever held it.
func (m *model) take(s *modelStream, no uint64, item uint32) {
	for i := range s.open[no] {
		c := &s.open[no][i]
		if c.items == nil {
			c.items = []uint32{0, 1, 2, 3, 4}
		}
		c.items = slices.DeleteFunc(slices.Clone(c.items), func(x uint32) bool { return x == item })
	}
}

func (m *model) finish(s *modelStream, no uint64, o modelOutcome, token uint64, now time.Time) modelOutcome {
	switch {
	case len(o.items) > 0:
		if s.items[no] == nil {
			s.items[no] = map[uint32]bool{}
		}
		s.open[no] = append(s.open[no], modelClaim{token, now.Add(m.lease), o.items})
		if len(o.items) == len(o.keep) {
			o.keep = nil
		}
	case o.held > 0:
		o.reason, o.keep, o.redelivery = reason.InFlight, nil, false
	default:
		o.reason, o.keep, o.redelivery = reason.Duplicate, nil, false
	}
	return o
}

// end confirms or releases a claim and says whether it still held.
func (m *model) end(b *Block, token uint64, items []uint32, confirm bool) bool {
	s := m.stream(b)
	held := false
	for i := range s.open[b.No] {
		c := &s.open[b.No][i]
		if c.token != token || (c.items == nil) != (items == nil) {
			continue
		}
		if items == nil {
			if !confirm { // given back, as one whose owner is dead
				c.token, c.until = 0, time.Time{}
				return true
			}
			s.open[b.No] = slices.Delete(s.open[b.No], i, i+1)
			s.done[b.No] = true
			return true
		}
		var back []uint32
		for _, it := range items {
			if slices.Contains(c.items, it) {
				held = true
				c.items = slices.DeleteFunc(slices.Clone(c.items), func(x uint32) bool { return x == it })
				if confirm {
					s.items[b.No][it] = true
				} else {
					back = append(back, it)
				}
			}
		}
		if back != nil {
			s.open[b.No] = append(s.open[b.No], modelClaim{items: back})
		}
	}
	s.open[b.No] = slices.DeleteFunc(s.open[b.No], func(c modelClaim) bool { return c.items != nil && len(c.items) == 0 })
	switch {
	case s.items[b.No] == nil:
	case len(s.items[b.No]) == modelItems:
		s.done[b.No] = true
		delete(s.items, b.No)
		delete(s.open, b.No)
	case len(s.items[b.No]) == 0 && len(s.open[b.No]) == 0:
		delete(s.items, b.No)
	}
	return held
}

// die makes all claims those of a dead process.
func (m *model) die() {
	for _, s := range m.streams {
		for no := range s.open {
			for i := range s.open[no] {
				s.open[no][i].token, s.open[no][i].until = 0, time.Time{}
			}
		}
	}
}

// forget drops incomplete blocks that were claimed from and never confirmed in
// part, where the store does not know them after a crash.
func (m *model) forget(l *Local) {
	for _, k := range l.keys {
		for _, e := range k.epochs {
			for _, w := range e.windows {
				s := m.stream(&Block{Scope: k.id.scope, KID: k.id.kid, Epoch: e.no, Stream: w.stream})
				for no, done := range s.items {
					if len(done) == 0 && w.partial(no) == nil {
						delete(s.items, no)
					}
				}
			}
		}
	}
}

// missing counts the holes of a stream.
func (s *modelStream) missing(now time.Time) (n uint64) {
	var top uint64
	for no := range s.done {
		top = max(top, no)
	}
	for no := uint64(1); no < top; no++ {
		if s.done[no] || s.items[no] != nil {
			continue
		}
		live := false
		for _, c := range s.open[no] {
			live = live || c.until.After(now)
		}
		if !live {
			n++
		}
	}
	return n
}

// history drives windows and model side by side.
type history struct {
	*testing.T
	*rand.Rand
	disk  *disk
	store *Local
	model *model
	now   time.Time
	open  []Claim

	crashed bool // a process has died without closing the store
}

func (r *history) block() Block {
	b := blk(1+r.Uint64N(40), inEpoch(1+r.Uint64N(2)))
	if r.IntN(2) == 0 {
		b.KID = kidB
	}
	if r.IntN(2) == 0 { // a stream whose signer tolerates splitting
		b.Stream = "split:logs"
		b.Total = modelItems
		if r.IntN(3) > 0 {
			perm := r.Perm(modelItems)[:1+r.IntN(modelItems)]
			for _, i := range perm {
				b.Candidates = append(b.Candidates, []uint32{uint32(i)})
			}
		}
	}
	b.Statement, b.Prev = digestOf(b.Epoch, b.Seq), digestOf(b.Epoch, b.Seq-1)
	return b
}

func (r *history) claim() {
	blocks := make([]Block, 1+r.IntN(8))
	for i := range blocks {
		blocks[i] = r.block()
	}
	out := claimAll(r.T, r.store, r.now, blocks...)
	for i := range out {
		want := r.model.claim(&blocks[i], r.store.token, r.now)
		o := &out[i]
		require.Equal(r, want.reason, o.Reason, "block %+v", blocks[i])
		require.Equal(r, want.keep, o.Keep)
		if o.Reason == "" {
			require.Equal(r, want.held, o.Held)
		}
		r.compareMark(&blocks[i], want.redelivery, o.Redelivery)
		require.Equal(r, want.items, o.Claim.Items)
		if o.Reason == "" {
			r.open = append(r.open, o.Claim)
		}
	}
}

func (r *history) end() {
	var claims []Claim
	for len(r.open) > 0 && len(claims) < 6 {
		i := r.IntN(len(r.open))
		claims = append(claims, r.open[i])
		r.open = slices.Delete(r.open, i, i+1)
	}
	confirm := r.IntN(3) > 0
	lost := 0
	for _, c := range claims {
		if !r.model.end(&c.Block, c.Token, c.Items, confirm) {
			lost++
		}
	}
	if !confirm {
		require.NoError(r, r.store.Release(r.Context(), r.now, claims))
		return
	}
	got, err := r.store.Confirm(r.Context(), r.now, claims)
	require.NoError(r, err)
	require.Equal(r, lost, got)
}

// compareMark: what was claimed before is marked always, anything else only when
// a process has died that had reserved its number.
func (r *history) compareMark(b *Block, want, got bool) {
	if got && !want && r.crashed {
		w := r.store.keys[keyID{b.Scope, b.KID}].epoch(b.Epoch).window(b.Stream)
		require.LessOrEqual(r, b.No, w.suspect)
		return
	}
	require.Equal(r, want, got, "block %+v", *b)
}

func (r *history) restart() {
	orderly := r.IntN(2) == 0
	if orderly {
		require.NoError(r, r.store.Close(r.Context()))
	}
	r.disk = r.disk.reload()
	r.store = open(r.T, r.now, r.disk, noDeadlines)
	r.model.die()
	if !orderly {
		r.crashed = true
		r.model.forget(r.store)
	}
}

func (r *history) compare() {
	p, err := r.store.Status(r.Context(), StatusQuery{Limit: MaxPage})
	require.NoError(r, err)
	for _, s := range p.Streams {
		b := Block{Scope: s.Scope, KID: s.KID, Epoch: s.Epoch, Stream: s.Stream}
		m := r.model.stream(&b)
		require.Equal(r, m.missing(r.now), s.GapsOpen, "%+v", s)
		require.Equal(r, uint64(len(m.done)), s.Verified)
	}
	for _, k := range r.store.keys {
		sum := 0
		for _, e := range k.epochs {
			for _, w := range e.windows {
				require.GreaterOrEqual(r, w.flights.isolated, 0)
				for _, p := range w.partials {
					sum += p.bytes()
				}
			}
		}
		require.Equal(r, sum, k.partialBytes)
	}
}

func noDeadlines(l *Limits) { l.MaxDelay = 1e6 * time.Hour }

func TestRandomHistoriesAgreeWithSets(t *testing.T) {
	for range 25 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { runModel(t, seed, 600) })
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	r := &history{T: t, Rand: rand.New(rand.NewPCG(seed, 1)), disk: newDisk(), now: t0, model: newModel(30 * time.Second)}
	r.store = open(t, t0, r.disk, noDeadlines)
	for range steps {
		switch n := r.IntN(100); {
		case n < 50:
			r.claim()
		case n < 85:
			r.end()
		case n < 95:
			r.now = r.now.Add(time.Duration(r.IntN(20)) * time.Second)
			sweep(t, r.store, r.now)
		case n < 97:
			r.restart()
		default:
			r.compare()
		}
	}
	r.compare()
}
