package replay

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

func TestConcurrentCallsShareOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := open(t, t0, d)
		d.before = func() { time.Sleep(10 * time.Millisecond) }
		writes := d.writes
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() { accept(t, l, t0, blk(uint64(i)+1, inStream(fmt.Sprint("s", i)))) })
		}
		wg.Wait()
		// One claim goes alone, the others share; then the confirms, likewise.
		require.LessOrEqual(t, d.writes-writes, 4)
		require.Equal(t, 50, sweep(t, l, t0).Streams)
	})
}

func TestClaimIsOnDiskBeforeItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := open(t, t0, d)
		gate := make(chan struct{})
		d.before = func() { <-gate }
		var returned atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			claim1(t, l, t0, blk(1))
			returned.Store(true)
		})
		synctest.Wait()
		require.False(t, returned.Load())
		gate <- struct{}{}
		wg.Wait()
		require.True(t, claim1(t, open(t, t0, d.reload()), t0, blk(1)).Redelivery)
	})
}

func TestCallerThatGivesUpClaimsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := open(t, t0, d)
		gate := make(chan struct{})
		d.before = func() { <-gate }
		var wg sync.WaitGroup
		wg.Go(func() { claim1(t, l, t0, blk(1)) })
		synctest.Wait() // it writes
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			_, err := l.Claim(ctx, t0, []Block{blk(2)})
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, &reason.Error{Reason: reason.StoreUnavailable})
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(gate)
		wg.Wait()
		require.False(t, claim1(t, l, t0, blk(2)).Redelivery)
	})
}

func TestOneFailedWriteFailsAllWhoSharedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := open(t, t0, d)
		d.before = func() { time.Sleep(10 * time.Millisecond) }
		d.failAt = d.writes + 2
		var failed atomic.Int32
		var wg sync.WaitGroup
		wg.Go(func() { claim1(t, l, t0, blk(100)) })
		time.Sleep(time.Millisecond) // it writes, the others come together
		for i := range 20 {
			wg.Go(func() {
				if _, err := l.Claim(t.Context(), t0, []Block{blk(uint64(i) + 1)}); err != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		require.Equal(t, int32(20), failed.Load())
		require.Equal(t, uint64(1), status1(t, l, logs).InFlight)
	})
}

func TestRacingDeliveriesConfirmEachBlockOnce(t *testing.T) {
	const blocks, workers = 300, 8
	l := open(t, t0, newDisk())
	var delivered [blocks + 1]atomic.Int32
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for from := 1; from <= blocks; {
				batch := make([]Block, 0, 10)
				for n := from; n < from+10 && n <= blocks; n++ {
					batch = append(batch, blk(uint64(n)))
				}
				if deliver(t, l, batch, w, &delivered) {
					from += 10
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			sweep(t, l, t0)
			_, _ = l.Status(t.Context(), StatusQuery{})
			l.Refused(scopeA, kidB, "x", reason.DigestMismatch)
		}
	})
	wg.Wait()
	for n := 1; n <= blocks; n++ {
		require.Equal(t, int32(1), delivered[n].Load(), "block %d", n)
	}
	require.Equal(t, uint64(blocks), status1(t, l, logs).Verified)
}

// deliver claims a batch and confirms or, now and then, releases; true when
// nothing of it is in flight elsewhere any more.
func deliver(t *testing.T, l *Local, batch []Block, worker int, delivered *[301]atomic.Int32) bool {
	out, err := l.Claim(t.Context(), t0, batch)
	if err != nil {
		t.Error(err)
		return true
	}
	settled := true
	var claims, back []Claim
	for i := range out {
		switch out[i].Reason {
		case "":
			if (int(out[i].Claim.Token)+worker)%5 == 0 {
				back = append(back, out[i].Claim)
				settled = false
				continue
			}
			delivered[batch[i].No].Add(1)
			claims = append(claims, out[i].Claim)
		case reason.InFlight:
			settled = false
		case reason.Duplicate:
		default:
			t.Errorf("block %d: %s", batch[i].No, out[i].Reason)
		}
	}
	if lost, err := l.Confirm(t.Context(), t0, claims); err != nil || lost != 0 {
		t.Errorf("confirm: lost %d, %v", lost, err)
	}
	if err := l.Release(t.Context(), t0, back); err != nil {
		t.Error(err)
	}
	return settled
}
