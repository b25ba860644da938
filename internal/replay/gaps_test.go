package replay

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

// What was reported as missing is missing still, came late, or was given up:
// whatever happens in between, over restarts and with few ranges.
func TestEveryReportedGapIsAccountedFor(t *testing.T) {
	for range 40 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { runGaps(t, seed) })
	}
}

func runGaps(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 2))
	limits := func(l *Limits) {
		l.MaxDelay, l.GapTimeout, l.ClaimLease = 5*time.Minute, 20*time.Second, 10*time.Second
		l.MaxRanges = 8
	}
	d, now := newDisk(), t0
	l := open(t, now, d, limits)
	var total SweepReport
	count := func() {
		s := sweep(t, l, now)
		total.GapsReported += s.GapsReported
		total.GapsClosed += s.GapsClosed
		total.LateFills += s.LateFills
	}
	next := uint64(1)
	for range 400 {
		n := next
		if r.IntN(3) == 0 {
			n = max(1, next-min(next-1, r.Uint64N(30)))
		} else {
			next += 1 + r.Uint64N(2)*r.Uint64N(3)
		}
		o := claim1(t, l, now, blk(n, signedBy(1)))
		require.NotEqual(t, reason.Equivocation, o.Reason)
		switch k := r.IntN(10); {
		case o.Reason != "":
		case k < 7:
			confirm(t, l, now, o)
		case k < 9:
			release(t, l, now, o)
		default: // its owner dies
		}
		if r.IntN(4) == 0 {
			now = now.Add(time.Duration(r.IntN(15)) * time.Second)
			count()
		}
		if r.IntN(40) == 0 {
			count() // what is only in memory is lost with a process
			d = d.reload()
			l = open(t, now, d, limits)
		}
	}
	now = now.Add(time.Minute)
	count()
	s := status1(t, l, logs)
	require.Equal(t, s.GapsOpen, s.GapsReported, "all are due")
	require.Equal(t, total.GapsReported, s.GapsReported+total.LateFills+total.GapsClosed)
	require.Equal(t, total.LateFills, s.LateFills)
	require.Equal(t, total.GapsClosed, s.GapsClosed)

	now = now.Add(time.Hour)
	count()
	s = status1(t, l, logs)
	require.Zero(t, s.GapsOpen)
	require.Equal(t, total.GapsReported, total.LateFills+total.GapsClosed)
	require.Equal(t, s.LastBlock, s.Verified+s.GapsClosed, "every number was accepted or given up")
}
