package tpmsignprocessor

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.uber.org/multierr"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadatatest"
)

var (
	errDown    = errors.New("downstream is down")
	errRefused = consumererror.NewPermanent(errors.New("downstream does not want it"))
)

var allSignals = []block.Signal{block.Metrics, block.Logs, block.Traces}

func TestEveryBlockLeavesWithItsReceipt(t *testing.T) {
	for _, signal := range allSignals {
		for _, tolerate := range [][]string{nil, {"split"}, {"enrich"}, {"split", "enrich"}} {
			t.Run(signal.String()+" "+stringOf(tolerate), func(t *testing.T) {
				next := newVerifier(signal)
				s := newSUT(t, testConfig(func(c *Config) { c.Tolerate = tolerate }), next).start(hostWith(newFakeTPM(t, 7)))
				require.NoError(t, s.send(batch(signal, []string{"a", "b"}, []string{"c"})))
				require.NoError(t, s.send(batch(signal, []string{"d"})))
				s.stop()
				next.requireContiguous(t)
				require.Equal(t, []string{"a", "b", "c", "d"}, next.accepted())
				require.Equal(t, 1, next.came(number{7, "tpmsign/edge:" + signal.String(), 3}))
			})
		}
	}
}

func stringOf(tolerate []string) string {
	tol, _ := (&Config{Tolerate: tolerate}).tolerances()
	return tol.String()
}

func TestEmptyRequestIsNobodysBlock(t *testing.T) {
	next := newVerifier(block.Logs)
	tpm := newFakeTPM(t, 1)
	s := newSUT(t, testConfig(), next).start(hostWith(tpm))
	require.NoError(t, s.send(digest.NewBatch(block.Logs)))
	require.NoError(t, s.send(batch(block.Logs, []string{"a"})))
	s.stop()
	require.Equal(t, 1, next.seen())
	require.EqualValues(t, 1, tpm.submitted.Load())
}

func TestCoalesceMergesEqualResources(t *testing.T) {
	next := newVerifier(block.Logs)
	s := newSUT(t, testConfig(func(c *Config) { c.Coalesce = true }), next).start(hostWith(newFakeTPM(t, 1)))
	b := digest.NewBatch(block.Logs)
	addBlock(b, "web", []string{"1"})
	addBlock(b, "db", []string{"2"})
	addBlock(b, "web", []string{"3"})
	require.NoError(t, s.send(b))
	s.stop()
	next.requireContiguous(t)
	different, _ := next.blocks()
	require.Equal(t, 2, different)
	require.Equal(t, []string{"1", "2", "3"}, next.accepted())
}

func TestLargeBlockIsCutBeforeSigning(t *testing.T) {
	for _, signal := range allSignals {
		t.Run(signal.String(), func(t *testing.T) {
			next := newVerifier(signal)
			s := newSUT(t, testConfig(func(c *Config) { c.MaxBlockItems = 10 }), next).start(hostWith(newFakeTPM(t, 1)))
			want := names("i", 25)
			require.NoError(t, s.send(batch(signal, want)))
			s.stop()
			next.requireContiguous(t)
			different, _ := next.blocks()
			require.Equal(t, 3, different)
			require.Equal(t, want, next.accepted())
		})
	}
}

func TestSlowSignatureGoesPendingAndArrivesWithItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = 5 * time.Second // longer than wait
		s, tel, _ := metered(t, testConfig(), next)
		s.start(hostWith(tpm))

		began := time.Now()
		require.NoError(t, s.send(logsOf("in flight")))
		require.Equal(t, defaultPendingWait, time.Since(began))
		require.Equal(t, 1, s.pendingBlocks())
		require.NoError(t, s.send(logsOf("taken back"))) // its group is not closed yet
		require.Equal(t, 2, s.pendingBlocks())
		metadatatest.AssertEqualTpmsignPendedBlocks(t, tel, points(point(2, "cause", "slow_signature")), metricdatatest.IgnoreTimestamp())
		require.Zero(t, next.seen())

		time.Sleep(time.Minute)
		require.Zero(t, s.pendingBlocks())
		next.requireContiguous(t)
		require.Equal(t, []string{"in flight", "taken back"}, next.accepted())
		different, again := next.blocks()
		require.Equal(t, 2, different)
		require.Zero(t, again)
		s.stop()
	})
}

func TestUnreadyTPMDoesNotHoldTheCallerUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		s := newSUT(t, testConfig(), next).start(hostWith(tpm))
		began := time.Now()
		require.NoError(t, s.send(logsOf("a")))
		require.Zero(t, time.Since(began))
		time.Sleep(time.Hour)
		require.Zero(t, next.seen())
		require.Zero(t, tpm.submitted.Load())

		tpm.unready.Store(false)
		time.Sleep(time.Second)
		require.Equal(t, []string{"a"}, next.accepted())
		s.stop()
	})
}

func TestCallerThatGivesUpLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = time.Second
		s, tel, _ := metered(t, testConfig(), next)
		s.start(hostWith(tpm))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		require.NoError(t, s.consume(ctx, logsOf("numbered")))
		require.NoError(t, s.send(logsOf("b")))
		require.ErrorIs(t, s.consume(ctx, logsOf("never taken")), context.DeadlineExceeded)
		time.Sleep(10 * time.Second)
		next.requireContiguous(t)
		require.Equal(t, []string{"b", "numbered"}, next.accepted())
		metadatatest.AssertEqualTpmsignPendedBlocks(t, tel, points(point(1, "cause", "caller_gone")), metricdatatest.IgnoreTimestamp())
		latency := addedLatency(t, tel)
		require.EqualValues(t, 1, latency.Count, "what was held in pending has none")
		require.InDelta(t, 1.9, latency.Sum, 1e-9, "what the first signature still took, and its own")
		s.stop()
	})
}

func TestRetryableRefusalIsOursAndComesAgainWithTheSameReceipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		var receipts []string
		next.fail = func(n int) error {
			if n <= 5 {
				return errDown
			}
			return nil
		}
		s, tel, _ := metered(t, testConfig(), &verifier{signal: block.Logs})
		s.next = func(ctx context.Context, b digest.Batch) error {
			p, err := b.At(0).Proof()
			require.NoError(t, err)
			receipts = append(receipts, string(p.Receipt))
			return next.ConsumeLogs(ctx, b.Logs())
		}
		s.start(hostWith(newFakeTPM(t, 1)))
		require.NoError(t, s.send(logsOf("a")))
		time.Sleep(time.Minute)
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"a"}, next.accepted())
		require.Len(t, receipts, 6)
		metadatatest.AssertEqualTpmsignPendedBlocks(t, tel, points(point(1, "cause", "downstream")), metricdatatest.IgnoreTimestamp())
		metadatatest.AssertEqualTpmsignDownstreamRetries(t, tel, points(point(5)), metricdatatest.IgnoreTimestamp())
		for _, r := range receipts {
			require.Equal(t, receipts[0], r)
		}
	})
}

func TestPermanentRefusalIsTheCallersAndAGap(t *testing.T) {
	next := newVerifier(block.Logs)
	next.fail = func(n int) error {
		if n == 2 {
			return errRefused
		}
		return nil
	}
	s, tel, _ := metered(t, testConfig(), next)
	s.start(hostWith(newFakeTPM(t, 1)))
	require.NoError(t, s.send(logsOf("a")))
	require.ErrorIs(t, s.send(batch(block.Logs, []string{"b"}, []string{"b'", "b''"})), errRefused)
	require.NoError(t, s.send(logsOf("c")))
	s.stop()
	next.requireValid(t)
	require.ElementsMatch(t, []number{{1, "tpmsign/edge:logs", 2}, {1, "tpmsign/edge:logs", 3}}, next.gaps())
	require.Equal(t, []string{"a", "c"}, next.accepted())
	metadatatest.AssertEqualTpmsignDownstreamRefusedBlocks(t, tel, points(point(2)), metricdatatest.IgnoreTimestamp())
}

func TestFanOutIsPermanentOnlyWhenAllItsBranchesAre(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"plain":                          {errDown, false},
		"permanent":                      {errRefused, true},
		"wrapped":                        {consumererror.NewDownstream(errRefused), true},
		"one branch is worth a retry":    {multierr.Append(errRefused, errDown), false},
		"all branches refuse":            {multierr.Append(errRefused, errRefused), true},
		"the mark stands around a join":  {consumererror.NewPermanent(multierr.Append(errDown, errDown)), true},
		"a join within a branch":         {errors.Join(errRefused, errors.Join(errRefused, errDown)), false},
		"a permanent join in a branch":   {errors.Join(errRefused, consumererror.NewPermanent(errors.Join(errDown, errDown))), true},
		"a join without permanent ones":  {errors.Join(errDown, context.Canceled), false},
		"a marked join beside a failure": {errors.Join(consumererror.NewPermanent(errors.Join(errDown)), errDown), false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, permanent(tt.err)) })
	}
}

func TestPendingFullIsRefusedBeforeAnythingIsNumbered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		s := newSUT(t, testConfig(func(c *Config) { c.Pending.MaxBlocks = 2 }), next).start(hostWith(tpm))
		require.NoError(t, s.send(logsOf("a")))
		// Too large for the room that is left.
		err := s.send(batch(block.Logs, []string{"b"}, []string{"c"}))
		require.ErrorIs(t, err, errPendingFull)
		require.False(t, consumererror.IsPermanent(err))
		require.NoError(t, s.send(logsOf("d")))
		synctest.Wait() // the TPM is looked at again in a while only
		tpm.unready.Store(false)
		require.ErrorIs(t, s.send(logsOf("e")), errPendingFull)
		require.LessOrEqual(t, tpm.submitted.Load(), int64(2))
		time.Sleep(time.Second)
		require.NoError(t, s.send(logsOf("f")))
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"a", "d", "f"}, next.accepted())
	})
}

func TestPendingIsBoundedInBytes(t *testing.T) {
	next := newVerifier(block.Logs)
	tpm := newFakeTPM(t, 1)
	tpm.unready.Store(true)
	s := newSUT(t, testConfig(func(c *Config) { c.Pending.MaxBytes = 1000 }), next).start(hostWith(tpm))
	accepted := 0
	for range 100 {
		if s.send(logsOf("0123456789")) == nil {
			accepted++
		}
	}
	_, bytes := s.running.Load().queue.size()
	require.LessOrEqual(t, bytes, int64(1000))
	require.Greater(t, accepted, 5)
	require.Less(t, accepted, 100)
	tpm.unready.Store(false)
	s.stop()
	require.Len(t, next.accepted(), accepted)
}

func TestMutatedRefusalIsNotSentAgainAndCopiesAreMadeFromThenOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		next.mangle = func(b digest.Batch) { b.Filter(func(int) bool { return false }) }
		next.fail = func(n int) error {
			if n == 1 || n == 3 || n == 4 {
				return errDown
			}
			return nil
		}
		s, tel, _ := metered(t, testConfig(), next)
		s.start(hostWith(newFakeTPM(t, 1)))
		// The first time nobody could know: the caller keeps its data.
		require.ErrorIs(t, s.send(logsOf("a")), errDown)
		require.NoError(t, s.send(logsOf("a")))
		require.NoError(t, s.send(logsOf("b"))) // refused and mangled twice
		time.Sleep(time.Minute)
		s.stop()
		next.requireValid(t)
		require.Equal(t, []string{"a", "b"}, next.accepted())
		require.Equal(t, []number{{1, "tpmsign/edge:logs", 1}}, next.gaps())
		metadatatest.AssertEqualTpmsignLostNumbers(t, tel, points(point(1)), metricdatatest.IgnoreTimestamp())
	})
}

func TestPoisonedRequestLetsTheOthersPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		var down atomic.Bool
		down.Store(true)
		s := newSUT(t, testConfig(withHeartbeat), next)
		s.next = func(ctx context.Context, b digest.Batch) error {
			if down.Load() || bodies(b.At(0))[0] == "poison" {
				return errDown
			}
			return next.ConsumeLogs(ctx, b.Logs())
		}
		s.start(hostWith(newFakeTPM(t, 1)))
		for _, name := range []string{"poison", "a", "b"} {
			require.NoError(t, s.send(logsOf(name)))
		}
		down.Store(false)
		time.Sleep(10 * time.Minute)
		next.requireValid(t)
		require.Equal(t, []string{"a", "b"}, next.accepted())
		require.Equal(t, 1, s.pendingBlocks())
		require.Greater(t, next.spoke(heartbeat), 5, "the stream is not silent for it")
		require.ErrorIs(t, s.Shutdown(t.Context()), errShutdownLost)
	})
}
