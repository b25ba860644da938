package group

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/receipt"
)

func TestALoneBlockWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommitter(t, testConfig(&slowSigner{took: 50 * time.Millisecond}))
		defer closeNow(t, c)
		begin := time.Now()
		signed := results(t, submit(t, c, leaf("a", 0)))
		require.Equal(t, 50*time.Millisecond, time.Since(begin))
		require.Equal(t, uint64(1), signed[0].BlockNo)
		require.Equal(t, uint64(1), signed[0].Seq)
		require.Equal(t, uint64(5), signed[0].Epoch)
	})
}

func TestBlocksGatherWhileOneSignatureIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		cfg := testConfig(&slowSigner{took: 100 * time.Millisecond})
		cfg.Observer = rec
		c := newCommitter(t, cfg)
		defer closeNow(t, c)

		first := submit(t, c, leaf("a", 0))
		synctest.Wait() // its group is closed
		var later []*Ticket
		for i := range 10 {
			time.Sleep(time.Millisecond)
			later = append(later, submit(t, c, leaf("a", i+1), leaf("b", i)))
		}
		require.Equal(t, 20, c.Stats().waiting())
		results(t, first)
		begin := time.Now()
		for i, ticket := range later {
			signed := results(t, ticket)
			require.Equal(t, uint64(i+2), signed[0].BlockNo)
			require.Equal(t, uint64(i+1), signed[1].BlockNo)
			require.Equal(t, uint64(2), signed[0].Seq)
		}
		require.Equal(t, 100*time.Millisecond, time.Since(begin))
		require.Equal(t, []int{1, 20}, rec.sizes())
		require.Equal(t, Stats{
			Seq: 2, Leaves: 20, Attempts: 1, Signing: 100 * time.Millisecond, Total: 100 * time.Millisecond,
		}, rec.signed()[1])
	})
}

func TestATicketMaySpanGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		cfg := testConfig(&slowSigner{took: time.Millisecond})
		cfg.MaxGroup, cfg.Observer = 4, rec
		c := newCommitter(t, cfg)
		defer closeNow(t, c)

		big := submit(t, c, someLeaves("a", 10)...)
		small := submit(t, c, someLeaves("b", 3)...)
		signed := results(t, big)
		for i, s := range signed {
			require.Equal(t, uint64(i+1), s.BlockNo)
			require.Equal(t, uint64(i/4+1), s.Seq)
		}
		results(t, small)
		require.Equal(t, []int{4, 4, 4, 1}, rec.sizes(), "first in, first out, no group above its bound")
	})
}

func TestEnrichedBlocksCarryTheirKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommitter(t, testConfig(&slowSigner{}))
		defer closeNow(t, c)
		some, none := leaf("a", 0), leaf("a", 1)
		some.Tolerances, some.Keys = block.Enrich|block.Split, []string{"host.name", "os.type"}
		none.Tolerances, none.Keys = block.Enrich, []string{}
		results(t, submit(t, c, some, none))
	})
}

func TestCancelBeforeClosingLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommitter(t, testConfig(&slowSigner{took: time.Second}))
		defer closeNow(t, c)
		first := submit(t, c, leaf("a", 0))
		synctest.Wait()
		gone, stays := submit(t, c, leaf("a", 1), leaf("a", 2)), submit(t, c, leaf("a", 3))

		require.True(t, gone.Cancel())
		require.True(t, gone.Cancel(), "again")
		require.True(t, isDone(gone))
		_, err := gone.Result()
		require.ErrorIs(t, err, ErrCancelled)
		require.Equal(t, 1, c.Stats().waiting())

		require.False(t, first.Cancel(), "its group is closed")
		require.Equal(t, uint64(1), results(t, first)[0].BlockNo)
		require.Equal(t, uint64(2), results(t, stays)[0].BlockNo)
		require.False(t, stays.Cancel(), "it is signed")
	})
}

func TestCancelOfATicketThatIsPartlyClosedIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: time.Second})
		cfg.MaxGroup = 2
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		ticket := submit(t, c, someLeaves("a", 3)...)
		synctest.Wait()
		require.Equal(t, 1, c.Stats().waiting())
		require.False(t, ticket.Cancel())
		results(t, ticket)
	})
}

// Whatever is cancelled when, the numbers that leave are contiguous from 1 in
// each stream, and so are seq and prev.
func TestNumbersAreContiguousUnderRandomCancels(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { randomCancels(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func randomCancels(t *testing.T, rnd *rand.Rand) {
	signer := &slowSigner{took: 10 * time.Millisecond, fail: func(attempt int) error {
		if attempt%3 == 0 {
			return errTPM
		}
		return nil
	}}
	cfg := testConfig(signer)
	cfg.MaxGroup = 1 + rnd.IntN(8)
	cfg.Backoff = func(int) time.Duration { return 5 * time.Millisecond }
	c := newCommitter(t, cfg)
	defer closeNow(t, c)

	var kept []*Ticket
	for i := range 200 {
		leaves := someLeaves(fmt.Sprintf("stream-%d", rnd.IntN(3)), 1+rnd.IntN(4))
		ticket := submit(t, c, leaves...)
		time.Sleep(time.Duration(rnd.IntN(6)) * time.Millisecond)
		if i%2 == 0 && ticket.Cancel() {
			continue
		}
		kept = append(kept, ticket)
	}
	seen := map[string]map[uint64]bool{}
	statements := map[uint64]*receipt.Receipt{}
	hashes := map[uint64]block.Digest{}
	for _, ticket := range kept {
		signed, err := ticket.Result()
		require.NoError(t, err)
		for i, s := range signed {
			stream := ticket.leaves[i].Stream
			if seen[stream] == nil {
				seen[stream] = map[uint64]bool{}
			}
			require.False(t, seen[stream][s.BlockNo], "number given twice")
			seen[stream][s.BlockNo] = true
			r, h := verified(t, ticket.leaves[i], s)
			statements[s.Seq], hashes[s.Seq] = r, h
		}
	}
	for stream, numbers := range seen {
		for no := uint64(1); no <= uint64(len(numbers)); no++ {
			require.True(t, numbers[no], "gap at %d of %s", no, stream)
		}
	}
	for seq := uint64(1); seq <= uint64(len(statements)); seq++ {
		require.Contains(t, statements, seq)
		require.Equal(t, hashes[seq-1], statements[seq].Statement.Prev, "seq %d", seq)
	}
}

func TestAnOutageEndsWithFreshClaimsAndTheSameNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signer := &slowSigner{took: 10 * time.Millisecond, fail: func(attempt int) error {
			if attempt <= 60 {
				return errTPM
			}
			return nil
		}}
		rec := &recorder{}
		cfg := testConfig(signer)
		cfg.Observer = rec
		cfg.Backoff = func(attempt int) time.Duration { return min(time.Duration(attempt)*time.Second, time.Minute) }
		c := newCommitter(t, cfg)
		defer closeNow(t, c)

		begin := time.Now()
		held := submit(t, c, leaf("a", 0))
		synctest.Wait()
		waiting := submit(t, c, leaf("a", 1))
		r, _ := verified(t, leaf("a", 0), results(t, held)[0])
		require.Greater(t, time.Since(begin), 30*time.Minute)
		require.Equal(t, time.Now().Add(-10*time.Millisecond).Unix(), r.Statement.IssuedAt, "not of the outage's beginning")
		require.Equal(t, uint64(1), r.Statement.Seq)
		require.Equal(t, uint64(1), r.BlockNo)
		require.Equal(t, uint64(2), results(t, waiting)[0].BlockNo)
		require.Len(t, rec.stages(), 60)
		require.Equal(t, 61, rec.signed()[0].Attempts)
	})
}

func TestClaimsThatCannotBeGatheredDelayTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		calls := 0
		cfg := testConfig(&slowSigner{})
		cfg.Observer = rec
		cfg.Claims = func(ctx context.Context) (Claims, error) {
			calls++
			claims, err := testClaims(ctx)
			switch calls {
			case 1:
				return Claims{}, errTPM
			case 2:
				claims.Audience = "" // makes no statement
			}
			return claims, err
		}
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		results(t, submit(t, c, leaf("a", 0)))
		require.Equal(t, []Stage{StageClaims, StageClaims}, rec.stages())
	})
}

func TestASignatureOfTheWrongLengthIsNoSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		cfg := testConfig(shortSigner{})
		cfg.Observer = rec
		c := newCommitter(t, cfg)
		ticket := submit(t, c, leaf("a", 0))
		time.Sleep(1500 * time.Millisecond)
		require.False(t, isDone(ticket))
		ctx, cancel := context.WithTimeout(context.Background(), 0)
		defer cancel()
		require.Error(t, c.Close(ctx))
		_, err := ticket.Result()
		require.ErrorIs(t, err, ErrClosed)
		require.Equal(t, []Stage{StageSign, StageSign}, rec.stages())
	})
}

type shortSigner struct{}

func (shortSigner) Sign(context.Context, []byte) ([]byte, error) { return make([]byte, 63), nil }

func TestWhatWaitsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(&slowSigner{took: time.Second})
		cfg.MaxWaiting = 5
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		submit(t, c, leaf("a", 0))
		synctest.Wait()

		three := submit(t, c, someLeaves("a", 3)...)
		_, err := c.Submit(someLeaves("a", 3))
		require.ErrorIs(t, err, ErrFull)
		submit(t, c, someLeaves("a", 2)...)
		_, err = c.Submit(someLeaves("a", 1))
		require.ErrorIs(t, err, ErrFull)

		require.True(t, three.Cancel(), "makes room")
		submit(t, c, someLeaves("a", 3)...)
		time.Sleep(3 * time.Second)
		require.Zero(t, c.Stats().waiting())

		// A request larger than the bound passes when it is alone.
		results(t, submit(t, c, someLeaves("a", 50)...))
	})
}

func TestBlocksThatFitNoReceiptAreRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommitter(t, testConfig(&slowSigner{}))
		defer closeNow(t, c)
		for name, change := range map[string]func(*Leaf){
			"signal":             func(l *Leaf) { l.Signal = 'X' },
			"tolerance":          func(l *Leaf) { l.Tolerances = 4 },
			"stream":             func(l *Leaf) { l.Stream = "" },
			"keys without":       func(l *Leaf) { l.Keys = []string{} },
			"enrich without":     func(l *Leaf) { l.Tolerances = block.Enrich },
			"too many keys":      func(l *Leaf) { l.Tolerances, l.Keys = block.Enrich, make([]string, receipt.MaxKeys+1) },
			"keys that are long": func(l *Leaf) { l.Tolerances, l.Keys = block.Enrich, []string{string(make([]byte, 13<<10))} },
		} {
			l := leaf("a", 1)
			change(&l)
			_, err := c.Submit([]Leaf{leaf("a", 0), l})
			require.ErrorIs(t, err, ErrLeaf, name)
		}
		require.Zero(t, c.Stats().waiting())
		empty := submit(t, c)
		require.True(t, isDone(empty))
		require.Empty(t, results(t, empty))
	})
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"signer":     func(c *Config) { c.Signer = nil },
		"claims":     func(c *Config) { c.Claims = nil },
		"backoff":    func(c *Config) { c.Backoff = nil },
		"epoch":      func(c *Config) { c.Epoch = 0 },
		"group":      func(c *Config) { c.MaxGroup = receipt.MaxTreeSize + 1 },
		"negative":   func(c *Config) { c.MaxGroup = -1 },
		"pace":       func(c *Config) { c.Pace = -1 },
		"no waiting": func(c *Config) { c.MaxWaiting = -1 },
	} {
		cfg := testConfig(&slowSigner{})
		change(&cfg)
		_, err := New(cfg)
		require.Error(t, err, name)
	}
}
