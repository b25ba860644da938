package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

// promises is what callers were told before the crash, by block.
type promises struct {
	blocks map[string]Block
	told   map[string]told
}

type told int

const (
	toldNothing   told = iota // never claimed, or Claim failed
	toldClaimed               // Claim returned, so that it may have been delivered; released or not
	toldUncertain             // Confirm failed
	toldConfirmed             // Confirm returned without error
)

func newPromises() *promises {
	return &promises{blocks: map[string]Block{}, told: map[string]told{}}
}

func (p *promises) put(b *Block, what told) {
	name := fmt.Sprint(b.KID, b.Epoch, b.Stream, b.No, b.Candidates)
	p.blocks[name], p.told[name] = *b, what
}

// crashing works on a disk that fails, as a process that goes on until it dies.
type crashing struct {
	*rand.Rand
	*promises
	now   time.Time
	next  map[string]uint64   // by stream
	holes map[string][]uint64 // numbers that were jumped over
}

// blocks makes a request: some streams, forward with gaps and jumps, and now
// and then a number that was left out before.
func (c *crashing) blocks() []Block {
	blocks := make([]Block, 1+c.IntN(5))
	for i := range blocks {
		stream := fmt.Sprint("s", c.IntN(3))
		kid := []string{kidA, kidB}[c.IntN(2)]
		key := kid + stream
		no := c.next[key] + 1 + c.Uint64N(2)
		if c.IntN(20) == 0 {
			no += c.Uint64N(200)
		}
		if h := c.holes[key]; len(h) > 0 && c.IntN(3) == 0 {
			no, c.holes[key] = h[0], h[1:]
		} else {
			for n := c.next[key] + 1; n < no; n++ {
				c.holes[key] = append(c.holes[key], n)
			}
			c.next[key] = no
		}
		blocks[i] = blk(no, inStream(stream), signedBy(1), func(b *Block) {
			b.KID = kid
			if stream == "s2" { // one fragment of three items
				b.Total, b.Candidates = 3, at(uint32(c.IntN(3)))
			}
		})
	}
	return blocks
}

// step handles one request and says whether all went well.
func (c *crashing) step(ctx context.Context, l *Local) bool {
	c.now = c.now.Add(time.Duration(c.IntN(3)) * time.Second)
	fine := true
	if c.IntN(10) == 0 {
		_, err := l.Sweep(ctx, c.now)
		fine = err == nil
	}
	blocks := c.blocks()
	out, err := l.Claim(ctx, c.now, blocks)
	if err != nil {
		for i := range blocks {
			c.put(&blocks[i], toldNothing)
		}
		return false
	}
	var confirms, releases []Claim
	for i := range out {
		c.put(&blocks[i], toldClaimed)
		switch c.IntN(6) {
		case 0:
		case 1:
			releases = append(releases, out[i].Claim)
		default:
			confirms = append(confirms, out[i].Claim)
		}
	}
	if l.Release(ctx, c.now, releases) != nil {
		fine = false
	}
	_, err = l.Confirm(ctx, c.now, confirms)
	for i := range confirms {
		if err != nil {
			c.put(&confirms[i].Block, toldUncertain)
		} else {
			c.put(&confirms[i].Block, toldConfirmed)
		}
	}
	return fine && err == nil
}

// check sends everything again, twice.
func (p *promises) check(t *testing.T, l *Local, now time.Time) {
	t.Helper()
	for name, b := range p.blocks {
		o := claim1(t, l, now, b)
		switch what := p.told[name]; {
		case what == toldConfirmed:
			require.Equal(t, reason.Duplicate, o.Reason, "%+v was replayed", b)
			continue
		case what == toldUncertain && o.Reason == reason.Duplicate:
			continue
		case what != toldNothing:
			require.True(t, o.Redelivery, "%+v may have been delivered", b)
			fallthrough
		default:
			require.Empty(t, o.Reason, "%+v was lost", b)
		}
		confirm(t, l, now, o)
		refused(t, l, now, b, reason.Duplicate)
	}
}

// reservedOnDisk holds what each window relies on against what is on disk.
func reservedOnDisk(t *testing.T, l *Local, d *disk) {
	t.Helper()
	for _, k := range l.keys {
		for _, e := range k.epochs {
			for _, w := range e.windows {
				if w.durable == 0 {
					continue
				}
				r, err := unseal(w.record, kindWindow, d.values[w.record])
				require.NoError(t, err)
				stored := &window{key: &keyState{}}
				require.NoError(t, stored.read(r))
				require.LessOrEqual(t, w.durable, stored.suspect)
				for i := range w.flights.list {
					require.LessOrEqual(t, w.flights.list[i].no, stored.suspect, "claimed and not reserved")
				}
			}
		}
	}
}

// TestCrashAtEveryWriteKeepsThePromises lets a process die at each of its writes
// in turn, and the next one at one of its own. In every second history the one
// goes on for a while when a write fails, as one whose disk is full.
func TestCrashAtEveryWriteKeepsThePromises(t *testing.T) {
	const steps = 25
	seed := rand.Uint64()
	for variant := range 4 {
		applied, goesOn := variant&1 != 0, variant&2 != 0
		for at := 1; ; at++ {
			d := newDisk()
			d.failAt, d.applyLast = at, applied
			l, _, err := Open(t.Context(), t0, Options{Limits: DefaultLimits(), Persister: d, Random: seeded(1)})
			if err != nil { // the very first write
				require.Equal(t, 1, at)
				continue
			}
			c := &crashing{
				Rand: rand.New(rand.NewPCG(seed, 3)), promises: newPromises(), now: t0,
				next: map[string]uint64{}, holes: map[string][]uint64{},
			}
			storeEpoch := l.StoreEpoch()
			c.live(t, l, d, steps, goesOn)
			finished := d.writes < at

			d = d.reload()
			d.failAt, d.applyLast = 1+c.IntN(30), applied
			l = open(t, c.now, d)
			require.Equal(t, storeEpoch, l.StoreEpoch())
			c.live(t, l, d, steps/4, goesOn)

			after := open(t, c.now.Add(time.Hour), d.reload())
			c.check(t, after, c.now.Add(time.Hour))
			require.NotEmpty(t, c.told, "seed=%d write=%d variant=%d", seed, at, variant)
			if finished {
				require.Greater(t, at, steps)
				break
			}
		}
	}
}

// live is the life of one process. One that goes on has its disk back after a while.
func (c *crashing) live(t *testing.T, l *Local, d *disk, steps int, goesOn bool) {
	t.Helper()
	for range steps {
		if c.step(t.Context(), l) {
			reservedOnDisk(t, l, d)
			continue
		}
		if !goesOn {
			return
		}
		if c.IntN(3) == 0 {
			d.failAt = 0
		}
	}
}
