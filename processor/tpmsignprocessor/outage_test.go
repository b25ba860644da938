package tpmsignprocessor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadatatest"
)

func TestTPMOutageUnderLoadLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = 50 * time.Millisecond
		s := newSUT(t, testConfig(), next).start(hostWith(tpm))
		time.AfterFunc(5*time.Second, func() { tpm.dead.Store(true) })
		time.AfterFunc(20*time.Second, func() { tpm.unready.Store(true) }) // noticed late
		time.AfterFunc(65*time.Second, func() { tpm.dead.Store(false); tpm.unready.Store(false) })

		var clients sync.WaitGroup
		var want []string
		for c := range 4 {
			mine := names(fmt.Sprintf("c%d-", c), 300)
			want = append(want, mine...)
			clients.Go(func() {
				for _, name := range mine {
					require.NoError(t, s.send(logsOf(name)))
					time.Sleep(250 * time.Millisecond)
				}
			})
		}
		clients.Wait()
		time.Sleep(10 * time.Second)
		require.Zero(t, s.pendingBlocks())
		s.stop()
		next.requireContiguous(t)
		slices.Sort(want)
		require.Equal(t, want, next.accepted())
	})
}

func TestPendingBlocksShareGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = 200 * time.Millisecond
		tpm.unready.Store(true)
		s := newSUT(t, testConfig(), next).start(hostWith(tpm))
		for _, name := range names("p", 1000) {
			require.NoError(t, s.send(logsOf(name)))
		}
		tpm.unready.Store(false)
		began := time.Now()
		for s.pendingBlocks() > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		require.Less(t, time.Since(began), 2*time.Second, "1,000 single signatures would take 200 s")
		s.stop()
		next.requireContiguous(t)
	})
}

func TestLiveTrafficIsNotHeldUpByPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		var down atomic.Bool
		down.Store(true)
		next.fail = func(int) error {
			if down.Load() {
				return errDown
			}
			return nil
		}
		s := newSUT(t, testConfig(), next).start(hostWith(newFakeTPM(t, 1)))
		require.NoError(t, s.send(logsOf("old")))
		time.Sleep(time.Minute) // the worker waits for its next attempt
		down.Store(false)
		began := time.Now()
		require.NoError(t, s.send(logsOf("new")))
		require.Zero(t, time.Since(began))
		require.Equal(t, []string{"new"}, next.accepted())
		time.Sleep(2 * maxPause)
		require.Equal(t, []string{"new", "old"}, next.accepted())
		s.stop()
	})
}

func TestCommitterThatClosesGivesUnsignedBlocksBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = time.Second
		s := newSUT(t, testConfig(), next).start(hostWith(tpm))
		var sent sync.WaitGroup
		sent.Go(func() { require.NoError(t, s.send(logsOf("in flight"))) })
		synctest.Wait()
		sent.Go(func() { require.NoError(t, s.send(logsOf("waiting"))) })
		synctest.Wait()
		tpm.close()
		sent.Wait()
		require.Equal(t, []string{"in flight"}, next.accepted())
		require.Equal(t, 1, s.pendingBlocks())
		require.ErrorIs(t, s.Shutdown(t.Context()), errShutdownLost)
		next.requireContiguous(t)
	})
}

// What of a request is signed when the committer closes leaves, and the rest is
// kept. When that cannot be, the caller keeps all of it, and numbers are lost.
func TestRequestSignedInPartLeavesInPartOrNotAtAll(t *testing.T) {
	for name, full := range map[string]bool{"rest is kept": false, "rest cannot be kept": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := newVerifier(block.Logs)
				tpm := newFakeTPM(t, 1, func(c *group.Config) { c.MaxGroup = 2 })
				tpm.delay = time.Second
				s, tel, _ := metered(t, testConfig(func(c *Config) { c.Pending.MaxBlocks = 1 }), next)
				s.start(hostWith(tpm))
				answered := make(chan error, 1)
				go func() { answered <- s.send(batch(block.Logs, []string{"a"}, []string{"b"}, []string{"c"})) }()
				synctest.Wait()
				tpm.unready.Store(true)
				if full {
					require.NoError(t, s.send(logsOf("fills pending")))
				}
				tpm.close()
				err := <-answered
				require.Equal(t, 1, s.pendingBlocks())
				_ = s.Shutdown(t.Context())
				next.requireContiguous(t)
				if !full {
					require.NoError(t, err)
					require.Equal(t, []string{"a", "b"}, next.accepted())
					metadatatest.AssertEqualTpmsignSignedBlocks(t, tel, points(point(2)), metricdatatest.IgnoreTimestamp())
					return
				}
				require.ErrorIs(t, err, errPendingFull)
				require.Zero(t, next.seen())
				metadatatest.AssertEqualTpmsignLostNumbers(t, tel, points(point(2)), metricdatatest.IgnoreTimestamp())
				metadatatest.AssertEqualTpmsignRefusedRequests(t, tel, points(point(1)), metricdatatest.IgnoreTimestamp())
			})
		})
	}
}

// TestNothingUnsignedEverLeaves throws everything at once at a processor:
// slow, dying and unready TPMs, a next consumer that refuses and mutates,
// callers that go away. Whatever happens, each block handed out has a valid
// receipt, what a caller was told yes about arrives, and no number is missing
// but those that were reported as lost or refused for good.
func TestNothingUnsignedEverLeaves(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { storm(t, seed) })
		})
	}
}

func storm(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	signal := allSignals[seed%3]
	next := newVerifier(signal)
	if next.mutates = seed%2 == 1; next.mutates {
		next.mangle = func(b digest.Batch) { b.Filter(func(int) bool { return false }) }
	}
	var calm atomic.Bool
	var refusedForGood atomic.Int64
	next.fail = func(int) error { // called under the verifier's lock
		if calm.Load() {
			return nil
		}
		switch random.IntN(10) {
		case 0, 1, 2:
			return errDown
		case 3:
			refusedForGood.Add(1)
			return consumererror.NewPermanent(errDown)
		default:
			return nil
		}
	}
	tpm := newFakeTPM(t, 1)
	tpm.delay = time.Duration(1+seed%5) * 100 * time.Millisecond
	cfg := testConfig(withHeartbeat, func(c *Config) {
		c.Heartbeat.Interval = 3 * time.Second
		c.Pending.Wait = 300 * time.Millisecond
		c.Pending.MaxBlocks = 40
		c.Coalesce = seed%2 == 0
		c.MaxBlockItems = int(seed % 4)
		c.Tolerate = [][]string{nil, {"split"}, {"enrich"}, {"split", "enrich"}}[seed%4]
	})
	s := newSUT(t, cfg, next).start(hostWith(tpm))

	var mu sync.Mutex
	yes := map[string]bool{}
	var clients sync.WaitGroup
	for c := range 5 {
		mine := rand.New(rand.NewPCG(seed, uint64(c)+1))
		clients.Go(func() {
			for i := range 60 {
				name := fmt.Sprintf("c%d-%d", c, i)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+mine.IntN(1500))*time.Millisecond)
				err := s.consume(ctx, batch(signal, []string{name, name + "'"}, []string{name + "''"}))
				cancel()
				if err == nil {
					mu.Lock()
					yes[name] = true
					mu.Unlock()
				}
				time.Sleep(time.Duration(mine.IntN(300)) * time.Millisecond)
			}
		})
	}
	clients.Go(func() {
		trouble := rand.New(rand.NewPCG(seed, 99))
		for range 40 {
			tpm.dead.Store(trouble.IntN(3) == 0)
			tpm.unready.Store(trouble.IntN(3) == 0)
			time.Sleep(time.Duration(trouble.IntN(1000)) * time.Millisecond)
		}
	})
	clients.Wait()
	calm.Store(true)
	tpm.dead.Store(false)
	tpm.unready.Store(false)
	for i := 0; s.pendingBlocks() > 0; i++ {
		require.Less(t, i, 10_000, "pending is never worked off")
		time.Sleep(100 * time.Millisecond)
	}
	s.stop()

	next.requireValid(t)
	_, again := next.blocks()
	require.Zero(t, again, "nothing comes twice while the process lives")
	arrived := map[string]bool{}
	for _, name := range next.accepted() {
		require.False(t, arrived[name], "%s came in two blocks", name)
		arrived[name] = true
	}
	missing := 0
	for name := range yes {
		if !arrived[name] {
			missing++ // from pending, refused for good
		}
	}
	require.LessOrEqual(t, int64(missing), refusedForGood.Load())
	// At most 3 blocks are in a request, 6 after cutting.
	require.LessOrEqual(t, int64(len(next.gaps())), 6*refusedForGood.Load())
	if refusedForGood.Load() == 0 {
		next.requireContiguous(t)
	}
}

func TestDownstreamFlappingKeepsEveryNumber(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 0))
				next := newVerifier(block.Logs)
				next.fail = func(int) error {
					if random.IntN(2) == 0 {
						return errDown
					}
					return nil
				}
				s := newSUT(t, testConfig(), next).start(hostWith(newFakeTPM(t, 1)))
				want := names("p", 200)
				for _, name := range want {
					require.NoError(t, s.send(logsOf(name)))
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(time.Hour)
				s.stop()
				next.requireContiguous(t)
				require.Equal(t, want, next.accepted())
				different, again := next.blocks()
				require.Equal(t, 200, different)
				require.Zero(t, again)
			})
		})
	}
}

func TestTPMThatTakesNoMoreMakesRequestsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		s := newSUT(t, testConfig(), next).start(hostWith(tpm))
		for _, refusal := range []error{group.ErrFull, group.ErrClosed} {
			tpm.refusing.Store(&refusal)
			require.NoError(t, s.send(logsOf(refusal.Error())))
			time.Sleep(time.Minute)
			require.Equal(t, 1, s.pendingBlocks())
			tpm.refusing.Store(nil)
			time.Sleep(time.Second)
			require.Zero(t, s.pendingBlocks())
		}
		s.stop()
		next.requireContiguous(t)
		require.Len(t, next.accepted(), 2)
	})
}

func TestBlockThatTheTPMRefusesForGoodIsNotRetriedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		s, tel, _ := metered(t, testConfig(), next)
		tpm := newFakeTPM(t, 1)
		s.start(hostWith(tpm))
		tpm.unready.Store(true)
		require.NoError(t, s.send(logsOf("pending")))
		tpm.refusing.Store(&group.ErrLeaf)
		tpm.unready.Store(false)
		time.Sleep(time.Second)
		require.Zero(t, s.pendingBlocks())
		require.NoError(t, s.send(logsOf("at once")))
		metadatatest.AssertEqualTpmsignRefusedBlocks(t, tel,
			points(point(2, "reason", string(reason.InvalidValue))), metricdatatest.IgnoreTimestamp())
		s.stop()
		require.Zero(t, next.seen())
	})
}

func TestShutdownTakesBackWhatIsNotNumbered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		s := newSUT(t, testConfig(), newVerifier(block.Logs)).start(hostWith(tpm))
		require.NoError(t, s.send(logsOf("a")))
		time.Sleep(time.Second)
		tpm.dead.Store(true)
		tpm.unready.Store(false) // "a" is numbered and hangs
		time.Sleep(time.Second)
		tpm.unready.Store(true)
		require.NoError(t, s.send(logsOf("b")))
		tpm.unready.Store(false) // "b" waits for a group
		time.Sleep(time.Second)
		require.Equal(t, 2, tpm.committer.Stats().Waiting, "one of them in flight")
		require.ErrorIs(t, s.Shutdown(t.Context()), errShutdownLost)
		require.Equal(t, 1, tpm.committer.Stats().Waiting)
		tpm.close()
	})
}

// The Collector may give a request's memory back to a pool when it was answered.
func TestMemoryOfAnAnsweredRequestIsNotReadAgain(t *testing.T) {
	for _, signal := range allSignals {
		t.Run(signal.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := newVerifier(signal)
				tpm := newFakeTPM(t, 1)
				tpm.delay = time.Minute
				s := newSUT(t, testConfig(), next).start(hostWith(tpm))
				b := batch(signal, []string{"a"})
				require.NoError(t, s.send(b))
				require.Equal(t, 1, s.pendingBlocks(), "its group is closed")
				b.Filter(func(int) bool { return false })
				time.Sleep(2 * time.Minute)
				s.stop()
				next.requireContiguous(t)
				require.Equal(t, []string{"a"}, next.accepted())
			})
		})
	}
}

func TestReadOnlyRefusalIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Metrics)
		s := newSUT(t, testConfig(), next)
		first := true
		s.next = func(ctx context.Context, b digest.Batch) error {
			b.Metrics().MarkReadOnly() // as a fan-out does
			if first {
				first = false
				return errDown
			}
			return next.ConsumeMetrics(ctx, b.Metrics())
		}
		s.start(hostWith(newFakeTPM(t, 1)))
		require.NoError(t, s.send(batch(block.Metrics, []string{"a"})))
		time.Sleep(time.Second)
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"a"}, next.accepted())
	})
}
