package group

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/receipt"
)

func TestLeavesWaitForATPMThatWasNeverThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		cfg := testConfig(&slowSigner{})
		cfg.KID, cfg.Epoch, cfg.Observer = nil, 0, rec
		prev := block.Digest{9}
		calls := 0
		cfg.Begin = func(context.Context) (Origin, error) {
			calls++
			time.Sleep(time.Hour)
			switch calls {
			case 1:
				return Origin{}, errTPM
			case 2:
				return Origin{Algorithm: receipt.ES256, KID: testKID}, nil // without an epoch: no origin
			}
			return Origin{Algorithm: receipt.ES256, KID: testKID, Epoch: 8, Prev: prev}, nil
		}
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		gone, stays := submit(t, c, leaf("a", 0)), submit(t, c, leaf("a", 1))
		time.Sleep(30 * time.Minute)
		require.True(t, gone.Cancel())
		require.Equal(t, Snapshot{Waiting: 1, Streams: map[string]uint64{}}, c.Stats())

		r, _ := verified(t, leaf("a", 1), results(t, stays)[0])
		require.Equal(t, uint64(8), r.Statement.Epoch)
		require.Equal(t, prev, r.Statement.Prev)
		require.Equal(t, uint64(1), r.BlockNo)
		require.Equal(t, []Stage{StageBegin, StageBegin}, rec.stages())
		require.Equal(t, Snapshot{Epoch: 8, Seq: 1, Streams: map[string]uint64{"a": 1}}, c.Stats())
	})
}

// While no nonce can be had, nothing is numbered: blocks can go to the pending
// store instead.
func TestBlocksCanBeTakenBackWhileThereAreNoClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nonce := make(chan struct{})
		cfg := testConfig(&slowSigner{})
		cfg.Claims = func(ctx context.Context) (Claims, error) {
			select {
			case <-nonce:
				return testClaims(ctx)
			case <-ctx.Done():
				return Claims{}, ctx.Err()
			}
		}
		c := newCommitter(t, cfg)
		defer closeNow(t, c)
		all := []*Ticket{submit(t, c, leaf("a", 0)), submit(t, c, leaf("a", 1))}
		synctest.Wait()
		for _, ticket := range all {
			require.True(t, ticket.Cancel())
		}
		close(nonce)
		synctest.Wait()
		require.Zero(t, c.Stats().Seq, "no group without leaves")
		require.Equal(t, uint64(1), results(t, submit(t, c, leaf("a", 2)))[0].BlockNo)
	})
}

func TestCloseDoesNotWaitForWhatIsNotInFlight(t *testing.T) {
	forever := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, change := range map[string]func(*Config){
		"begin": func(c *Config) {
			c.Begin = func(ctx context.Context) (Origin, error) { return Origin{}, forever(ctx) }
		},
		"begin failing": func(c *Config) {
			c.Begin = func(context.Context) (Origin, error) { return Origin{}, errTPM }
			c.Backoff = func(int) time.Duration { return time.Hour }
		},
		"claims": func(c *Config) {
			c.Claims = func(ctx context.Context) (Claims, error) { return Claims{}, forever(ctx) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig(&slowSigner{})
				change(&cfg)
				c := newCommitter(t, cfg)
				ticket := submit(t, c, leaf("a", 0))
				synctest.Wait()
				begin := time.Now()
				closeNow(t, c)
				require.Zero(t, time.Since(begin))
				_, err := ticket.Result()
				require.ErrorIs(t, err, ErrClosed)
				require.True(t, ticket.Cancel())
			})
		})
	}
}
