package replay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

func TestReplayedBlockIsDuplicate(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2, 3)
	for _, n := range []uint64{1, 2, 3} {
		refused(t, l, t0.Add(time.Hour), blk(n), reason.Duplicate)
	}
	require.Equal(t, uint64(3), status1(t, l, logs).Duplicates)
}

func TestSameBlockTwiceInOneRequestIsDuplicate(t *testing.T) {
	l := memory(t)
	out := claimAll(t, l, t0, blk(1), blk(1), blk(2))
	require.Empty(t, out[0].Reason)
	require.Equal(t, reason.Duplicate, out[1].Reason)
	require.Empty(t, out[2].Reason)
}

func TestBlockInDeliveryElsewhereIsInFlight(t *testing.T) {
	l := memory(t)
	o := claim1(t, l, t0, blk(1))
	refused(t, l, t0, blk(1), reason.InFlight)
	release(t, l, t0, o)
	again := claim1(t, l, t0, blk(1))
	require.Empty(t, again.Reason)
	require.True(t, again.Redelivery, "behind a fan-out some may have it")
	confirm(t, l, t0, again)
	refused(t, l, t0, blk(1), reason.Duplicate)
}

func TestOvertakenOwnerCannotConfirm(t *testing.T) {
	l := memory(t)
	slow := claim1(t, l, t0, blk(1))
	refused(t, l, t0.Add(29*time.Second), blk(1), reason.InFlight)
	fast := claim1(t, l, t0.Add(31*time.Second), blk(1))
	require.Empty(t, fast.Reason)
	require.True(t, fast.Redelivery)
	lost, err := l.Confirm(t.Context(), t0.Add(32*time.Second), []Claim{slow.Claim})
	require.NoError(t, err)
	require.Equal(t, 1, lost)
	release(t, l, t0.Add(32*time.Second), slow)
	refused(t, l, t0.Add(32*time.Second), blk(1), reason.InFlight)
	confirm(t, l, t0.Add(33*time.Second), fast)
	refused(t, l, t0.Add(time.Minute), blk(1), reason.Duplicate)
}

func TestSlowOwnerMayConfirmWhenNobodyOvertook(t *testing.T) {
	l := memory(t)
	o := claim1(t, l, t0, blk(1))
	sweep(t, l, t0.Add(time.Minute))
	confirm(t, l, t0.Add(2*time.Minute), o)
	refused(t, l, t0.Add(2*time.Minute), blk(1), reason.Duplicate)
}

func TestForgedTokenConfirmsNothing(t *testing.T) {
	l := memory(t)
	o := claim1(t, l, t0, blk(1))
	wrong := o.Claim
	wrong.Token++
	other := o.Claim
	other.Block.Stream = "no-such-stream"
	lost, err := l.Confirm(t.Context(), t0, []Claim{wrong, other, {Block: o.Claim.Block}})
	require.NoError(t, err)
	require.Equal(t, 2, lost, "token 0 means that there was no claim")
	refused(t, l, t0, blk(1), reason.InFlight)
}

func TestGapIsReportedAndStaysOpen(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 5)
	require.Zero(t, sweep(t, l, t0.Add(59*time.Second)).GapsReported)
	require.Equal(t, uint64(3), status1(t, l, logs).GapsOpen)
	require.Zero(t, status1(t, l, logs).GapsReported)

	require.Equal(t, uint64(3), sweep(t, l, t0.Add(time.Minute)).GapsReported)
	require.Zero(t, sweep(t, l, t0.Add(2*time.Minute)).GapsReported, "once")
	require.Equal(t, uint64(3), status1(t, l, logs).GapsReported)

	late := claim1(t, l, t0.Add(23*time.Hour), blk(3))
	require.Empty(t, late.Reason)
	require.True(t, late.Late)
	confirm(t, l, t0.Add(23*time.Hour), late)
	require.Equal(t, uint64(1), sweep(t, l, t0.Add(23*time.Hour)).LateFills)
	s := status1(t, l, logs)
	require.Equal(t, uint64(2), s.GapsOpen)
	require.Equal(t, uint64(1), s.LateFills)
}

func TestBlockMissingAtStreamStartIsAGap(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 3)
	require.Equal(t, uint64(2), sweep(t, l, t0.Add(time.Minute)).GapsReported)
	acceptNumbers(t, l, t0.Add(time.Minute), 1, 2)
	require.Zero(t, status1(t, l, logs).GapsOpen)
}

func TestRunningStreamMakesNoFalseGapInANewStore(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0.Add(time.Minute), 1000, 1002)
	require.Equal(t, uint64(1), sweep(t, l, t0.Add(3*time.Minute)).GapsReported, "only 1001")
	o := claim1(t, l, t0.Add(3*time.Minute), blk(998))
	require.Empty(t, o.Reason, "what comes late from before is still accepted")
	require.False(t, o.Late)
	confirm(t, l, t0.Add(3*time.Minute), o)
	require.Equal(t, uint64(1), status1(t, l, logs).GapsOpen)

	old := memory(t)
	require.NoError(t, old.Listen(t.Context(), t0, blk(1).Scope))
	require.NoError(t, old.Listen(t.Context(), t0.Add(time.Hour), blk(1).Scope))
	acceptNumbers(t, old, t0.Add(time.Hour), 1000)
	require.Equal(t, uint64(999), sweep(t, old, t0.Add(2*time.Hour)).GapsReported, "an old scope knows better")
}

func TestNewScopeOnAnOldStoreMakesNoFalseGap(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	require.NoError(t, l.Listen(t.Context(), t0, blk(1).Scope))
	acceptNumbers(t, l, t0, 1)
	l = open(t, t0.Add(time.Hour), d)
	quarantine := func(b *Block) { b.Scope = "quarantine" }
	require.NoError(t, l.Listen(t.Context(), t0.Add(time.Hour), "quarantine"))
	now := t0.Add(time.Hour + time.Second)
	accept(t, l, now, blk(500, quarantine), blk(300, quarantine, inStream("tpmsign:metrics")))
	require.Zero(t, sweep(t, l, now.Add(2*time.Minute)).GapsReported)

	l = open(t, now.Add(time.Hour), d)
	accept(t, l, now.Add(time.Hour), blk(40, quarantine, inStream("tpmsign:traces")))
	require.Zero(t, sweep(t, l, now.Add(2*time.Hour)).GapsReported, "that it joined is known after a restart")
}

func TestGatewayThatDropsTheBeginningOfAStreamOfAKnownEpochIsNoticed(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1)
	accept(t, l, t0.Add(time.Minute), blk(900, inStream("tpmsign:metrics")))
	require.Equal(t, uint64(899), sweep(t, l, t0.Add(3*time.Minute)).GapsReported)
}

func TestGatewayThatDropsTheBeginningOfTheNextEpochIsNoticed(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1)
	accept(t, l, t0.Add(time.Minute), blk(900, inEpoch(2)))
	require.Equal(t, uint64(899), sweep(t, l, t0.Add(3*time.Minute)).GapsReported)
}

func TestHoleIsClosedAfterMaxDelayAndThenTooLate(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 5)
	sweep(t, l, t0.Add(time.Minute))
	keep := 24*time.Hour + 30*time.Second
	require.Zero(t, sweep(t, l, t0.Add(keep-time.Millisecond)).GapsClosed)
	require.Equal(t, uint64(3), sweep(t, l, t0.Add(keep)).GapsClosed)
	for _, n := range []uint64{2, 3, 4} {
		refused(t, l, t0.Add(keep), blk(n), reason.TooLate)
	}
	refused(t, l, t0.Add(keep), blk(5), reason.Duplicate)
	s := status1(t, l, logs)
	require.Equal(t, uint64(3), s.GapsClosed)
	require.Zero(t, s.GapsOpen)
}

func TestHoleIsNotClosedUnderADelivery(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 4)
	sweep(t, l, t0.Add(time.Minute))
	late := t0.Add(24*time.Hour + 20*time.Second)
	o := claim1(t, l, late, blk(2))
	require.Zero(t, sweep(t, l, late.Add(20*time.Second)).GapsClosed)
	confirm(t, l, late.Add(20*time.Second), o)
	require.Equal(t, uint64(1), sweep(t, l, late.Add(20*time.Second)).GapsClosed)
	refused(t, l, late.Add(time.Minute), blk(2), reason.Duplicate)
	refused(t, l, late.Add(time.Minute), blk(3), reason.TooLate)
}

func TestReleasedBlockInAReportedHoleIsReportedToo(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 4)
	o := claim1(t, l, t0.Add(50*time.Second), blk(2))
	require.Equal(t, uint64(1), sweep(t, l, t0.Add(time.Minute)).GapsReported, "2 is on its way")
	release(t, l, t0.Add(61*time.Second), o)
	require.Equal(t, uint64(1), sweep(t, l, t0.Add(62*time.Second)).GapsReported)
	again := claim1(t, l, t0.Add(63*time.Second), blk(2))
	require.True(t, again.Late)
	confirm(t, l, t0.Add(63*time.Second), again)

	acceptNumbers(t, l, t0.Add(63*time.Second), 7)
	claim1(t, l, t0.Add(2*time.Minute), blk(5)) // and its owner never comes back
	require.Equal(t, uint64(1), sweep(t, l, t0.Add(124*time.Second)).GapsReported, "6")
	require.Equal(t, uint64(1), sweep(t, l, t0.Add(3*time.Minute)).GapsReported, "5")
	require.Zero(t, sweep(t, l, t0.Add(4*time.Minute)).GapsReported)
}

func TestManyHolesCloseTheLowestReportedOne(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxRanges = 4 })
	acceptNumbers(t, l, t0, 2, 4, 6, 8)
	acceptNumbers(t, l, t0, 9) // no new range
	require.Equal(t, uint64(4), sweep(t, l, t0.Add(time.Minute)).GapsReported)
	acceptNumbers(t, l, t0.Add(time.Minute), 11)
	r := sweep(t, l, t0.Add(time.Minute))
	require.Equal(t, uint64(1), r.GapsClosed)
	refused(t, l, t0.Add(time.Minute), blk(1), reason.TooLate)
	refused(t, l, t0.Add(time.Minute), blk(2), reason.Duplicate)
	acceptNumbers(t, l, t0.Add(time.Minute), 3)
}

// Who keeps back every second block of a stream, or sends them to another
// verifier, must not make wait what travels with the others.
func TestManyHolesDoNotWaitForTheirReport(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxRanges = 4 })
	acceptNumbers(t, l, t0, 2, 4, 6, 8)
	slow := claim1(t, l, t0, blk(1))
	acceptNumbers(t, l, t0, 10)
	r := sweep(t, l, t0)
	require.Equal(t, uint64(1), r.GapsReported, "3: what is being delivered is not missing")
	require.Equal(t, uint64(1), r.GapsClosed)
	refused(t, l, t0, blk(3), reason.TooLate)
	confirm(t, l, t0, slow)
	acceptNumbers(t, l, t0, 5)
	for n := uint64(12); n < 200; n += 2 {
		acceptNumbers(t, l, t0, n)
	}
	require.Equal(t, uint64(96), sweep(t, l, t0.Add(time.Minute)).GapsReported, "7, 9, … 197, each once")
}

// A range of closed holes that holds others between them is not cut short by one
// of those that is closed later.
func TestHoleClosedWithinAMergedRangeStaysTooLate(t *testing.T) {
	l := memory(t)
	var evens []Block
	for n := uint64(2); n <= 2048; n += 2 {
		evens = append(evens, blk(n))
	}
	accept(t, l, t0, evens...)
	now := t0.Add(time.Minute)
	sweep(t, l, now)
	slow := claim1(t, l, now, blk(3))
	for n := uint64(2050); n < 2050+2*80; n += 2 {
		accept(t, l, now, blk(n, issued(now)))
	}
	release(t, l, now, slow)
	accept(t, l, now, blk(2250, issued(now)))
	for n := uint64(5); n < 100; n += 2 {
		refused(t, l, now, blk(n), reason.TooLate)
	}
}

func TestNumberAcceptedOnceIsNeverCalledNew(t *testing.T) {
	// Ranges of closed holes are bounded: what is between merged ones may be
	// called too_late, but it is not accepted again, and what was given up is
	// never called duplicate.
	l := memory(t, func(l *Limits) { l.MaxRanges = 2 })
	now := t0
	for n := uint64(2); n < 400; n += 2 {
		o := claim1(t, l, now, blk(n))
		for o.Reason == reason.WindowFull {
			now = now.Add(time.Minute)
			sweep(t, l, now)
			o = claim1(t, l, now, blk(n))
		}
		confirm(t, l, now, o)
	}
	sweep(t, l, now.Add(25*time.Hour))
	for n := uint64(1); n < 398; n++ {
		got := claim1(t, l, now, blk(n)).Reason
		if n%2 == 1 {
			require.Equal(t, reason.TooLate, got, "block %d was given up", n)
		} else {
			require.Contains(t, []reason.Reason{reason.TooLate, reason.Duplicate}, got)
		}
	}
}

func TestTooMuchInFlightIsWindowFull(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxInFlight = 3 })
	out := claimAll(t, l, t0, blk(1), blk(2), blk(3), blk(4))
	require.Equal(t, reason.WindowFull, out[3].Reason)
	confirm(t, l, t0, out[:3]...)
	acceptNumbers(t, l, t0, 4)
}

func TestTooManyStreamsOfOneKeyAreRefusedForGood(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxStreams = 2 })
	accept(t, l, t0, blk(1), blk(1, inStream("b")))
	refused(t, l, t0, blk(1, inStream("c")), reason.StreamInvalid)
	require.NotEqual(t, reason.ClassTransient, reason.StreamInvalid.Class(), "neighbours in the request must not wait for it")
	accept(t, l, t0, blk(1, inEpoch(2), inStream("c")))
}

func TestImpossibleNumbersAreRefused(t *testing.T) {
	l := memory(t)
	for _, b := range []Block{
		blk(0, signedBy(1)), blk(1, signedBy(0)), blk(1, inEpoch(0)), blk(1 << 63), blk(1, parts(-1)), blk(1, parts(1<<24+1)),
	} {
		refused(t, l, t0, b, reason.StreamInvalid)
	}
	require.Empty(t, l.keys)
	accept(t, l, t0, blk(1<<63-1, signedBy(2)))
	require.Equal(t, uint64(1<<63-2), sweep(t, l, t0.Add(time.Minute)).GapsReported)
	accept(t, l, t0, blk(1))
	require.Equal(t, uint64(1<<63-3), sweep(t, l, t0.Add(25*time.Hour)).GapsClosed)
}

func TestScopesDeliverIndependently(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1))
	accept(t, l, t0, blk(1, inScope("tpmverify/b")))
	refused(t, l, t0, blk(1), reason.Duplicate)
}

func TestBlockGivenBackIsRedeliveryAfterARestartToo(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	out := claimAll(t, l, t0, blk(1), blk(2))
	release(t, l, t0, out[0])
	require.Equal(t, uint64(1), status1(t, l, logs).InFlight, "2; 1 is free")
	confirm(t, l, t0, out[1])
	l = open(t, t0, d.reload())
	require.Zero(t, status1(t, l, logs).InFlight)
	again := claim1(t, l, t0, blk(1))
	require.True(t, again.Redelivery)
	confirm(t, l, t0, again)
}

func TestBlocksThatNobodySendsAgainDoNotFillTheWindow(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxInFlight = 3 })
	for _, o := range claimAll(t, l, t0, blk(1), blk(2), blk(3)) {
		release(t, l, t0, o)
	}
	acceptNumbers(t, l, t0, 4, 5)
	require.Equal(t, uint64(3), sweep(t, l, t0.Add(time.Minute)).GapsReported)
	require.True(t, claim1(t, l, t0.Add(time.Minute), blk(2)).Redelivery, "though it was forgotten")
}
