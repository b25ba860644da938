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
