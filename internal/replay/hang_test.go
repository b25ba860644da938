package replay

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

// TestDiskThatHangsKeepsNobodyBeyondHisTime: neither who writes for the others
// nor who waits for him, and what was not durable counts for nothing.
func TestDiskThatHangsKeepsNobodyBeyondHisTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := open(t, time.Now(), d)
		accept(t, l, time.Now(), blk(1, issued(time.Now())))
		hangs := make(chan struct{})
		d.before = func() { <-hangs }
		for n := uint64(1_000_000); n < 1_000_003; n++ { // beyond any reservation
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			_, err := l.Claim(ctx, began, []Block{blk(n, issued(began))})
			require.Equal(t, reason.StoreUnavailable, reason.Of(err), "%v", err)
			require.Equal(t, time.Second, time.Since(began))
			cancel()
		}
		require.Zero(t, status1(t, l, logs).InFlight)
		close(hangs)
		synctest.Wait()
		accept(t, l, time.Now(), blk(1_000_000, issued(time.Now())))
		require.NoError(t, l.Close(t.Context()))
		require.EqualValues(t, 2, status1(t, open(t, time.Now(), d.reload()), logs).Verified)
	})
}

// TestAttemptsThatWereForgottenForRoomAreStillMarked: a window full of what could
// not be delivered makes room, and says of all of it that it may have been.
func TestAttemptsThatWereForgottenForRoomAreStillMarked(t *testing.T) {
	d := newDisk()
	few := func(lim *Limits) { lim.MaxInFlight = 4 }
	l := open(t, t0, d, few)
	for n := uint64(1); n <= 4; n++ {
		release(t, l, t0, claim1(t, l, t0, blk(n)))
	}
	o := claim1(t, l, t0, blk(5)) // the others are forgotten
	require.False(t, o.Redelivery)
	release(t, l, t0, o)
	require.True(t, claim1(t, l, t0, blk(2)).Redelivery)
	require.NoError(t, l.Close(t.Context()))
	require.True(t, claim1(t, open(t, t0, d.reload(), few), t0, blk(3)).Redelivery)
}
