package tpmverifyprocessor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// signed returns a signed block of edge-a with four items.
func (r *rig) signed(tolerances block.Tolerance) digest.Batch {
	d := signtest.Data(r.signal, "edge-a", 4)
	r.machines[0].Sign(r.t, stream, tolerances, d)
	return d
}

func TestRetryableErrorGivesTheClaimBack(t *testing.T) {
	for _, signal := range signals {
		t.Run(signal.String(), func(t *testing.T) {
			r := newRig(t, signal)
			d := r.signed(0)
			bad := r.signed(0)
			changeValue(bad)
			r.setAnswer(func(context.Context, digest.Batch) error { return errBusy })
			err := r.send(signtest.Copy(d), signtest.Copy(bad))
			require.ErrorIs(t, err, errBusy)
			require.False(t, consumererror.IsPermanent(err))
			require.Zero(t, r.status().InFlight)
			require.Zero(t, r.count("tpmverify_verified_blocks"))
			require.Zero(t, r.refusedAll(), "the bad block comes again and is counted then")

			r.setAnswer(nil)
			require.NoError(t, r.send(d, bad))
			got := r.take()
			require.Equal(t, 1, got.Len())
			require.Equal(t, "true", attr(got.At(0), attrRedelivery), "behind a fan-out some may have it")
			require.EqualValues(t, 1, r.count("tpmverify_redeliveries"))
			require.EqualValues(t, 1, r.refused(reason.DigestMismatch))
			require.Zero(t, r.count("tpmverify_duplicate_blocks"))
		})
	}
}

// TestDataThatAFanOutTookInPartIsMarkedWhenItComesAgain has two consumers behind
// the processor, of which one is busy.
func TestDataThatAFanOutTookInPartIsMarkedWhenItComesAgain(t *testing.T) {
	for _, tolerances := range []block.Tolerance{0, block.Split} {
		r := newRig(t, block.Logs)
		d := r.signed(tolerances)
		taken := digest.NewBatch(block.Logs)
		busy := true
		r.setAnswer(func(_ context.Context, b digest.Batch) error {
			moveAll(signtest.Copy(b), taken)
			if busy {
				return errBusy
			}
			return nil
		})
		require.ErrorIs(t, r.send(signtest.Copy(d)), errBusy)
		busy = false
		require.NoError(t, r.send(signtest.Copy(d)))
		require.Equal(t, 2, taken.Len())
		require.Empty(t, attr(taken.At(0), attrRedelivery))
		require.Equal(t, "true", attr(taken.At(1), attrRedelivery))
		require.EqualValues(t, 1, r.count("tpmverify_redeliveries"))
		require.EqualValues(t, 1, r.count("tpmverify_verified_blocks"))
		require.NoError(t, r.send(d))
		require.Equal(t, 2, taken.Len())
	}
}

func TestPermanentErrorIsCountedAndNeverDeliveredAgain(t *testing.T) {
	r := newRig(t, block.Logs)
	d := r.signed(0)
	r.setAnswer(func(context.Context, digest.Batch) error {
		return consumererror.NewPermanent(errors.New("schema"))
	})
	err := r.send(signtest.Copy(d))
	require.True(t, consumererror.IsPermanent(err))
	require.EqualValues(t, 1, r.refused(reason.RefusedDownstream))
	require.EqualValues(t, 1, r.status().Refused[reason.RefusedDownstream])
	require.Zero(t, r.count("tpmverify_verified_blocks"))

	r.setAnswer(nil)
	require.NoError(t, r.send(d))
	require.Zero(t, r.take().Len())
	require.EqualValues(t, 1, r.count("tpmverify_duplicate_blocks"))
}

// TestDataThatTheNextComponentRefusesIsNamedInTheLog takes the words for it before
// the next component owns the data, which may do with it what it likes.
func TestDataThatTheNextComponentRefusesIsNamedInTheLog(t *testing.T) {
	for _, mode := range []Mode{ModeEnforce, ModeCheck} {
		r := newRig(t, block.Logs, withConfig(func(c *Config) { c.Mode = mode }))
		r.setAnswer(func(_ context.Context, b digest.Batch) error {
			b.At(0).Attributes().Remove("service.name")
			b.At(0).Attributes().Remove("host.name")
			return consumererror.NewPermanent(errors.New("schema"))
		})
		require.Error(t, r.p.consume(from(t, "192.0.2.7:4317"), r.signed(0)))
		require.Len(t, r.lines(), 1)
		line := r.lines()[0]
		require.Equal(t, string(reason.RefusedDownstream), line["reason"])
		require.Equal(t, "192.0.2.7:4317", line["peer"])
		require.Equal(t, "shop", line["service.name"])
		require.Equal(t, "edge-a", line["host.name"])
		require.Equal(t, stream, line["stream"])
	}
}

// TestWhatWasNotHandedOnIsNotRefusedByTheNextComponent has a quarantine that takes
// nothing: that says nothing about the machines whose data is good.
func TestWhatWasNotHandedOnIsNotRefusedByTheNextComponent(t *testing.T) {
	r := newRig(t, block.Logs, withConfig(func(c *Config) { c.Mode, c.Emit = ModeObserve, EmitRefused }))
	r.setAnswer(func(context.Context, digest.Batch) error {
		return consumererror.NewPermanent(errors.New("schema"))
	})
	bad := r.signed(0)
	changeValue(bad)
	require.Error(t, r.send(r.signed(0), bad))
	require.Zero(t, r.refused(reason.RefusedDownstream))
	require.EqualValues(t, 1, r.refused(reason.DigestMismatch))
	require.EqualValues(t, 1, r.count("tpmverify_verified_blocks"))
	require.EqualValues(t, 4, r.count("tpmverify_verified_items"))
}

func TestClaimsAreSettledWhenTheSenderHasGone(t *testing.T) {
	for name, c := range map[string]struct {
		answer error
		again  int
	}{"accepted": {nil, 0}, "busy": {errBusy, 1}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, block.Logs)
			d := r.signed(0)
			ctx, cancel := context.WithCancel(t.Context())
			r.setAnswer(func(context.Context, digest.Batch) error {
				cancel()
				return c.answer
			})
			require.ErrorIs(t, r.p.consume(ctx, signtest.Copy(d)), c.answer)
			require.Zero(t, r.status().InFlight)
			r.setAnswer(nil)
			r.take()
			require.NoError(t, r.send(d))
			require.Equal(t, c.again, r.take().Len())
		})
	}
}

func TestRequestWithNothingLeftDoesNotReachTheNextComponent(t *testing.T) {
	r := newRig(t, block.Logs)
	d := r.signed(0)
	changeValue(d)
	require.NoError(t, r.send(d))
	require.NoError(t, r.p.consume(t.Context(), digest.NewBatch(block.Logs)))
	require.Zero(t, r.calls())
}

// TestBlockInFlightElsewhere sends a block while another request holds it: the
// rest is delivered, and the answer depends on what the other one comes to.
func TestBlockInFlightElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		holds  time.Duration // how long the first delivery takes
		first  error         // how it ends
		second error         // the answer to the second request
		copies int           // of the block, delivered
	}{
		"the other one succeeds in time": {100 * time.Millisecond, nil, nil, 1},
		"the other one fails in time":    {100 * time.Millisecond, errBusy, nil, 1},
		"the other one takes long":       {10 * time.Second, nil, errInFlight, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, block.Logs)
				d := r.signed(0)
				rest := signtest.Data(block.Logs, "edge-b", 2)
				r.machines[1].Sign(t, stream, 0, rest)
				var called atomic.Bool
				r.setAnswer(func(context.Context, digest.Batch) error {
					if called.Swap(true) {
						return nil
					}
					time.Sleep(c.holds)
					return c.first
				})
				var wait sync.WaitGroup
				wait.Go(func() { require.ErrorIs(t, r.send(signtest.Copy(d)), c.first) })
				synctest.Wait()
				err := r.send(signtest.Copy(d), rest)
				require.ErrorIs(t, err, c.second)
				require.False(t, consumererror.IsPermanent(err))
				wait.Wait()
				copies, others := 0, 0
				got := r.take()
				for i := range got.Len() {
					if attr(got.At(i), "host.name") == "edge-a" {
						copies++
					} else {
						others++
					}
				}
				require.Equal(t, c.copies, copies)
				require.Equal(t, 1, others, "the rest is delivered at once")
				if c.second != nil {
					require.EqualValues(t, 1, r.count("tpmverify_in_flight_retries"))
				}

				require.NoError(t, r.send(d))
				require.Zero(t, r.take().Len(), "sent again, it is a duplicate")
			})
		})
	}
}

// failing is a store whose methods can be made to fail.
type failing struct {
	replay.Store
	mu             sync.Mutex
	claim, confirm error
}

func (f *failing) set(claim, confirm error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claim, f.confirm = claim, confirm
}

func (f *failing) Claim(ctx context.Context, now time.Time, blocks []replay.Block) ([]replay.Outcome, error) {
	f.mu.Lock()
	err := f.claim
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Store.Claim(ctx, now, blocks)
}

func (f *failing) Confirm(ctx context.Context, now time.Time, claims []replay.Claim) (int, error) {
	f.mu.Lock()
	err := f.confirm
	f.mu.Unlock()
	lost, stored := f.Store.Confirm(ctx, now, claims)
	return lost, errors.Join(err, stored)
}

func TestNothingIsDeliveredWhenTheWindowsCannotBeWritten(t *testing.T) {
	w := &failing{}
	r := newRig(t, block.Logs, func(r *rig) { w.Store = memoryWindows(t); r.windows = w })
	d := r.signed(0)
	w.set(reason.New(reason.StoreUnavailable, "disk full"), nil)
	err := r.send(signtest.Copy(d))
	require.ErrorIs(t, err, errNoWindows)
	require.False(t, consumererror.IsPermanent(err))
	require.Zero(t, r.calls())
	w.set(nil, nil)
	require.NoError(t, r.send(d))
	require.Equal(t, 1, r.take().Len())
}

func TestDeliveredBlockIsAskedForAgainWhenItCannotBeConfirmed(t *testing.T) {
	w := &failing{}
	r := newRig(t, block.Logs, func(r *rig) { w.Store = memoryWindows(t); r.windows = w })
	w.set(nil, reason.New(reason.StoreUnavailable, "disk full"))
	d := r.signed(0)
	err := r.send(signtest.Copy(d))
	require.ErrorIs(t, err, errUnconfirmed)
	require.False(t, consumererror.IsPermanent(err))
	require.Equal(t, 1, r.take().Len())
	require.EqualValues(t, 1, r.count("tpmverify_unconfirmed_claims"))
	w.set(nil, nil)
	require.NoError(t, r.send(d))
	require.Zero(t, r.take().Len())
	require.EqualValues(t, 1, r.count("tpmverify_verified_blocks"))
}

func TestDeliveryLongerThanTheLeaseIsMarkedWhenItComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, block.Logs)
		d := r.signed(0)
		var called atomic.Bool
		r.setAnswer(func(context.Context, digest.Batch) error {
			if !called.Swap(true) {
				time.Sleep(2 * time.Minute)
			}
			return nil
		})
		var wait sync.WaitGroup
		wait.Go(func() { require.NoError(t, r.send(signtest.Copy(d))) })
		time.Sleep(time.Minute)
		require.NoError(t, r.send(signtest.Copy(d)))
		again := r.take()
		require.Equal(t, 1, again.Len())
		require.Equal(t, "true", attr(again.At(0), attrRedelivery))
		require.EqualValues(t, 1, r.count("tpmverify_redeliveries"))
		wait.Wait()
		require.EqualValues(t, 1, r.count("tpmverify_lost_claims"))
	})
}

func TestConcurrentRequestsDeliverEachBlockOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const blocks, senders = 40, 8
		r := newRig(t, block.Metrics, withConfig(func(c *Config) { c.InFlightWait = time.Minute }))
		var all []digest.Batch
		for range blocks {
			all = append(all, r.signed(0))
		}
		r.setAnswer(func(context.Context, digest.Batch) error {
			time.Sleep(3 * time.Millisecond)
			return nil
		})
		// Every sender sends everything, so that all of them meet in flight.
		copies := make([][]digest.Batch, senders)
		for s := range senders {
			for _, d := range all {
				copies[s] = append(copies[s], signtest.Copy(d))
			}
		}
		var wait sync.WaitGroup
		for s := range senders {
			wait.Go(func() {
				for i := range blocks {
					require.NoError(t, r.send(copies[s][(i+s*5)%blocks]))
				}
			})
		}
		wait.Wait()
		require.Equal(t, blocks, r.take().Len())
		require.EqualValues(t, blocks, r.count("tpmverify_verified_blocks"))
		require.Zero(t, r.count("tpmverify_redeliveries"))
		require.Zero(t, r.status().GapsOpen)
	})
}

// hangingWindows are on a disk that does not answer.
type hangingWindows struct{ replay.Store }

func (hangingWindows) Claim(ctx context.Context, _ time.Time, _ []replay.Block) ([]replay.Outcome, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestWindowsThatHangDoNotKeepTheSender: he gets an answer though he sets no
// time himself.
func TestWindowsThatHangDoNotKeepTheSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, block.Logs, withWindows(hangingWindows{memoryWindows(t)}))
		began := time.Now()
		require.ErrorIs(t, r.send(r.signed(0)), errNoWindows)
		require.LessOrEqual(t, time.Since(began), settleTimeout)
		require.Zero(t, r.calls())
	})
}
