package replay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

func TestFragmentsInAnyOrderMakeTheBlock(t *testing.T) {
	l := memory(t)
	for _, f := range [][][]uint32{at(4, 5), at(0), at(3, 2, 1)} {
		o := claim1(t, l, t0, blk(1, parts(6, f...)))
		require.Empty(t, o.Reason)
		require.Nil(t, o.Keep)
		require.Len(t, o.Claim.Items, len(f))
		confirm(t, l, t0, o)
	}
	s := status1(t, l, logs)
	require.Equal(t, uint64(1), s.Verified)
	require.Zero(t, s.ItemsMissing)
	refused(t, l, t0, blk(1, parts(6, at(0)...)), reason.Duplicate)
	refused(t, l, t0, blk(1, parts(6)), reason.Duplicate)
	require.Zero(t, l.keys[keyID{scopeA, kidA}].partialBytes)
}

func TestReplayedItemsAreLeftOut(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, parts(6, at(0, 1)...)))
	o := claim1(t, l, t0, blk(1, parts(6, at(1, 2, 0, 3)...)))
	require.Equal(t, []bool{false, true, false, true}, o.Keep)
	require.Equal(t, []uint32{2, 3}, o.Claim.Items)
	require.Zero(t, o.Held)
	confirm(t, l, t0, o)
	refused(t, l, t0, blk(1, parts(6, at(2)...)), reason.Duplicate)
}

func TestItemsInDeliveryElsewhereAreHeld(t *testing.T) {
	l := memory(t)
	first := claim1(t, l, t0, blk(1, parts(4, at(0, 1)...)))
	second := claim1(t, l, t0, blk(1, parts(4, at(1, 2)...)))
	require.Equal(t, []bool{false, true}, second.Keep)
	require.Equal(t, 1, second.Held)
	refused(t, l, t0, blk(1, parts(4, at(0)...)), reason.InFlight)
	release(t, l, t0, first)
	confirm(t, l, t0, second)
	accept(t, l, t0, blk(1, parts(4, at(0, 1)...)))
	accept(t, l, t0, blk(1, parts(4, at(3)...)))
	require.Equal(t, uint64(1), status1(t, l, logs).Verified)
}

func TestEqualItemsAreAcceptedAsOftenAsSigned(t *testing.T) {
	l := memory(t)
	equal := []uint32{1, 3, 4}
	o := claim1(t, l, t0, blk(1, parts(6, equal, []uint32{0}, equal)))
	require.ElementsMatch(t, []uint32{1, 0, 3}, o.Claim.Items)
	confirm(t, l, t0, o)
	o = claim1(t, l, t0, blk(1, parts(6, equal, equal)))
	require.Equal(t, []bool{true, false}, o.Keep)
	confirm(t, l, t0, o)
	refused(t, l, t0, blk(1, parts(6, equal)), reason.Duplicate)
	accept(t, l, t0, blk(1, parts(6, at(2, 5)...)))
	require.Equal(t, uint64(1), status1(t, l, logs).Verified)
}

func TestWholeBlockAfterAFragmentDeliversTheRest(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, parts(4, at(2)...)))
	o := claim1(t, l, t0, blk(1, parts(4)))
	require.Equal(t, []bool{true, true, false, true}, o.Keep)
	confirm(t, l, t0, o)
	require.Equal(t, uint64(1), status1(t, l, logs).Verified)
}

func TestFragmentOfABlockInDeliveryIsInFlight(t *testing.T) {
	l := memory(t)
	o := claim1(t, l, t0, blk(1, parts(4)))
	require.Nil(t, o.Claim.Items)
	refused(t, l, t0, blk(1, parts(4, at(1)...)), reason.InFlight)
	confirm(t, l, t0, o)
	refused(t, l, t0, blk(1, parts(4, at(1)...)), reason.Duplicate)
}

func TestFragmentAfterADeadOwnerOfTheWholeBlockIsRedelivery(t *testing.T) {
	l := memory(t)
	dead := claim1(t, l, t0, blk(1, parts(4)))
	o := claim1(t, l, t0.Add(time.Minute), blk(1, parts(4, at(1)...)))
	require.True(t, o.Redelivery)
	lost, err := l.Confirm(t.Context(), t0.Add(time.Minute), []Claim{dead.Claim})
	require.NoError(t, err)
	require.Equal(t, 1, lost)
	confirm(t, l, t0.Add(time.Minute), o)
	rest := claim1(t, l, t0.Add(time.Minute), blk(1, parts(4, at(0, 2, 3)...)))
	require.True(t, rest.Redelivery)
	confirm(t, l, t0.Add(time.Minute), rest)
	require.Equal(t, uint64(1), status1(t, l, logs).Verified)
}

func TestOvertakenFragmentConfirmsOnlyWhatItStillHolds(t *testing.T) {
	l := memory(t)
	slow := claim1(t, l, t0, blk(1, parts(4, at(0, 1)...)))
	fast := claim1(t, l, t0.Add(time.Minute), blk(1, parts(4, at(1, 2)...)))
	require.True(t, fast.Redelivery)
	confirm(t, l, t0.Add(time.Minute), slow) // item 0 is still its own
	refused(t, l, t0.Add(time.Minute), blk(1, parts(4, at(1)...)), reason.InFlight)
	refused(t, l, t0.Add(time.Minute), blk(1, parts(4, at(0)...)), reason.Duplicate)
	release(t, l, t0.Add(time.Minute), fast)
	accept(t, l, t0.Add(time.Minute), blk(1, parts(4, at(1, 2, 3)...)))
	require.Equal(t, uint64(1), status1(t, l, logs).Verified)
}

func TestAnotherItemCountUnderTheSameNumberIsEquivocation(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, parts(4, at(0)...)))
	refused(t, l, t0, blk(1, signedBy(2), parts(5, at(1)...)), reason.Equivocation)
	refused(t, l, t0, blk(1, signedBy(2)), reason.Equivocation)
}

func TestItemsOutsideTheBlockClaimNothing(t *testing.T) {
	l := memory(t)
	refused(t, l, t0, blk(1, parts(2, at(7)...)), reason.Duplicate)
	require.Zero(t, l.keys[keyID{scopeA, kidA}].partialBytes)
	require.Empty(t, status1(t, l, logs).ItemsMissing)
	accept(t, l, t0, blk(1, parts(2)))
}

func TestMissingItemsAreReportedOnce(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, parts(10, at(0, 1, 2)...)))
	require.Zero(t, sweep(t, l, t0.Add(59*time.Second)).ItemsMissing)
	require.Equal(t, uint64(7), sweep(t, l, t0.Add(time.Minute)).ItemsMissing)
	require.Zero(t, sweep(t, l, t0.Add(time.Hour)).ItemsMissing)
	require.Equal(t, uint64(7), status1(t, l, logs).ItemsMissing)
	require.Zero(t, status1(t, l, logs).GapsOpen, "the block is there, in part")
}

func TestIncompleteBlockIsGivenUpWithItsHole(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1), blk(3, parts(4, at(0)...)), blk(5))
	require.Equal(t, uint64(2), sweep(t, l, t0.Add(time.Minute)).GapsReported)
	require.Equal(t, uint64(2), sweep(t, l, t0.Add(keep)).GapsClosed)
	for n := uint64(2); n <= 4; n++ {
		refused(t, l, t0.Add(keep), blk(n, parts(4, at(1)...)), reason.TooLate)
	}
	require.Zero(t, l.keys[keyID{scopeA, kidA}].partialBytes)
	require.Zero(t, status1(t, l, logs).ItemsMissing)
}

func TestBitmapsOfOneKeyAreBounded(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxPartial = 100 })
	accept(t, l, t0, blk(1, parts(300, at(0)...)))
	refused(t, l, t0, blk(2, parts(300, at(0)...)), reason.WindowFull)
	refused(t, l, t0, blk(2, parts(1<<24, at(0)...)), reason.WindowFull)
	accept(t, l, t0, blk(2, parts(300)))
	require.Equal(t, uint64(1), status1(t, l, logs).Verified)
}

func TestFragmentsOfOneBlockAreBounded(t *testing.T) {
	l := memory(t)
	for i := range uint32(maxFragments) {
		require.Empty(t, claim1(t, l, t0, blk(1, parts(1000, at(i)...))).Reason)
	}
	refused(t, l, t0, blk(1, parts(1000, at(999)...)), reason.WindowFull)
}

func TestGatewayThatTakesAnItemOutOfEveryBlockDoesNotFillTheWindow(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d, func(l *Limits) { l.MaxRanges = 8 })
	now := t0
	for n := uint64(1); n <= 100; n++ {
		accept(t, l, now, blk(n, parts(3, at(0, 1)...)))
		now = now.Add(30 * time.Second)
		sweep(t, l, now)
	}
	refused(t, l, now, blk(1, parts(3, at(2)...)), reason.TooLate)
	refused(t, l, now, blk(1, parts(3, at(0)...)), reason.TooLate)
	accept(t, l, now, blk(100, parts(3, at(2)...)))
	require.LessOrEqual(t, len(l.keys[keyID{scopeA, kidA}].epochs[0].windows[0].partials), 8)
	refused(t, open(t, now, d.reload()), now, blk(50, parts(3, at(0)...)), reason.TooLate)
}

func TestIncompleteBlocksOfOneStreamDoNotKeepOutAnother(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxPartial = 100 })
	accept(t, l, t0, blk(1, parts(300, at(0)...)))
	other := blk(1, inStream("b"), parts(300, at(0)...))
	refused(t, l, t0.Add(time.Second), other, reason.WindowFull)
	sweep(t, l, t0.Add(time.Minute)) // what is missing of the first is reported
	accept(t, l, t0.Add(time.Minute), other)
	refused(t, l, t0.Add(time.Minute), blk(1, parts(300, at(1)...)), reason.TooLate)
}

func TestIncompleteBlockIsGivenUpAfterMaxDelay(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, parts(3, at(0)...)))
	sweep(t, l, t0.Add(keep-time.Millisecond))
	require.Equal(t, uint64(2), status1(t, l, logs).ItemsMissing)
	sweep(t, l, t0.Add(keep))
	require.Zero(t, status1(t, l, logs).ItemsMissing)
	require.Zero(t, l.keys[keyID{scopeA, kidA}].partialBytes)
	refused(t, l, t0.Add(keep), blk(1, parts(3, at(1)...)), reason.TooLate)
}

func TestItemsDeliveredAgainAfterAFailureAreRedelivery(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	out := claimAll(t, l, t0, blk(1, parts(4, at(0)...)), blk(1, parts(4, at(1)...)), blk(1, parts(4, at(2)...)))
	confirm(t, l, t0, out[1])
	release(t, l, t0, out[0])
	release(t, l, t0, out[2])
	for i, l := range []*Local{open(t, t0, d.reload()), l} {
		fresh := claim1(t, l, t0, blk(1, parts(4, at(3)...)))
		require.Equal(t, i == 0, fresh.Redelivery, "nobody had this item, which is forgotten in a crash")
		again := claim1(t, l, t0, blk(1, parts(4, at(0, 1, 2)...)))
		require.True(t, again.Redelivery)
		require.Equal(t, []uint32{0, 2}, again.Claim.Items)
		confirm(t, l, t0, fresh, again)
		require.Equal(t, uint64(1), status1(t, l, logs).Verified)
	}
}

func TestMillionEqualItemsAreClaimedInOnePass(t *testing.T) {
	const total = 1 << 20
	equal := make([]uint32, total)
	for i := range equal {
		equal[i] = uint32(i)
	}
	arrived := make([][]uint32, total-1)
	for i := range arrived {
		arrived[i] = equal
	}
	l := memory(t)
	first := claim1(t, l, t0, blk(1, parts(total, arrived...))) // a pass for each item would take an hour
	require.Len(t, first.Claim.Items, total-1)
	refused(t, l, t0, blk(1, parts(total, equal[:1])), reason.InFlight)
	release(t, l, t0, first)
	again := claim1(t, l, t0, blk(1, parts(total, arrived...)))
	require.Len(t, again.Claim.Items, total-1)
	require.True(t, again.Redelivery, "all but one were claimed before")
	confirm(t, l, t0, again)
	accept(t, l, t0, blk(1, parts(total, equal)))
	require.Equal(t, uint64(1), status1(t, l, logs).Verified)
}

func TestScatteredItemsStaySmallOnDisk(t *testing.T) {
	const total = 1 << 20
	var odd [][]uint32
	for i := uint32(1); i < total; i += 2 {
		odd = append(odd, []uint32{i})
	}
	d := newDisk()
	accept(t, open(t, t0, d), t0, blk(1, parts(total, odd...)))
	size := 0
	for _, v := range d.values {
		size += len(v)
	}
	require.Less(t, size, total/8+1024, "a bit each, not a run each")
	l := open(t, t0, d.reload())
	refused(t, l, t0, blk(1, parts(total, odd...)), reason.Duplicate)
	require.Equal(t, []uint32{2}, claim1(t, l, t0, blk(1, parts(total, at(1, 2, 3)...))).Claim.Items)
}

func TestLateFragmentDoesNotPushOutItsOwnBlock(t *testing.T) {
	l := memory(t, func(l *Limits) { l.MaxPartial = 200 }) // five bitmaps of 300 items
	accept(t, l, t0, blk(1, parts(300, at(0)...)))
	accept(t, l, t0.Add(time.Second), blk(1, inStream("b"), parts(300, at(0)...)))
	sweep(t, l, t0.Add(2*time.Minute))
	busy := inStream("busy")
	claim1(t, l, t0.Add(2*time.Minute), blk(1, busy, parts(300, at(0)...)))
	claim1(t, l, t0.Add(2*time.Minute), blk(1, busy, parts(300, at(1)...)))
	accept(t, l, t0.Add(2*time.Minute), blk(1, parts(300, at(1)...))) // makes room at the cost of the other
	refused(t, l, t0.Add(2*time.Minute), blk(1, parts(300, at(0)...)), reason.Duplicate)
	refused(t, l, t0.Add(2*time.Minute), blk(1, inStream("b"), parts(300, at(1)...)), reason.TooLate)
	sum := 0
	for _, w := range l.keys[keyID{scopeA, kidA}].epochs[0].windows {
		for _, p := range w.partials {
			sum += p.bytes()
		}
	}
	require.Equal(t, sum, l.keys[keyID{scopeA, kidA}].partialBytes)
}

// A key at its bound must not have all of its incomplete blocks looked at for each
// fragment: that would hold up the windows of everybody.
func TestRoomForFragmentsIsMadeForManyAtOnce(t *testing.T) {
	const most = 512 // bitmaps of 8 bytes
	l := memory(t, func(l *Limits) { l.MaxPartial = 8 * most })
	k := func() *keyState { return l.keys[keyID{scopeA, kidA}] }
	no := uint64(0)
	fragment := func(now time.Time) Outcome {
		no++
		return claimAll(t, l, now, blk(no, issued(now), parts(2, at(0)...)))[0]
	}
	o := fragment(t0)
	for ; o.Reason == ""; o = fragment(t0) {
		confirm(t, l, t0, o)
	}
	require.Equal(t, reason.WindowFull, o.Reason, "nothing was reported yet")
	require.Greater(t, k().partialBytes, 8*most-16)
	require.Equal(t, t0.UnixMilli()+roomPause, k().noRoom, "and that is not found out again for each")

	now := t0.Add(time.Minute)
	sweep(t, l, now)
	confirm(t, l, now, fragment(now))
	require.LessOrEqual(t, k().partialBytes, 8*most*(roomParts-1)/roomParts+16)
	require.Greater(t, k().partialBytes, 8*most/2, "no more than needed")
	refused(t, l, now, blk(1, parts(2, at(1)...)), reason.TooLate) // the oldest went first
}
