package replay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

const keep = 24*time.Hour + 30*time.Second

func TestNinthEpochRetiresTheLowest(t *testing.T) {
	l := memory(t)
	for e := uint64(1); e <= 8; e++ {
		accept(t, l, t0, blk(1, inEpoch(e)))
	}
	accept(t, l, t0, blk(2, inEpoch(1)))
	accept(t, l, t0, blk(1, inEpoch(9)))
	refused(t, l, t0, blk(3, inEpoch(1)), reason.EpochRetired)
	refused(t, l, t0, blk(1, inEpoch(1)), reason.EpochRetired)
	accept(t, l, t0, blk(2, inEpoch(2)))
	r := sweep(t, l, t0)
	require.Equal(t, 8, r.LiveEpochs)
	require.Equal(t, 8, r.Streams)
}

func TestRetiringTheEpochOfAClaimLosesNoClaim(t *testing.T) {
	l := memory(t)
	for e := uint64(1); e <= 8; e++ {
		accept(t, l, t0, blk(1, inEpoch(e)))
	}
	// One request with both, as a gateway puts them together.
	outcomes, err := l.Claim(t.Context(), t0, []Block{blk(2, inEpoch(1)), blk(1, inEpoch(9))})
	require.NoError(t, err)
	claims := []Claim{outcomes[0].Claim, outcomes[1].Claim}
	lost, err := l.Confirm(t.Context(), t0, claims)
	require.NoError(t, err)
	require.Zero(t, lost, "nothing of the retired epoch can come twice")
	refused(t, l, t0, blk(2, inEpoch(1)), reason.EpochRetired)
}

func TestEpochBelowEightLiveOnesIsRetired(t *testing.T) {
	l := memory(t)
	for e := uint64(11); e <= 18; e++ {
		accept(t, l, t0, blk(1, inEpoch(e)))
	}
	refused(t, l, t0, blk(1, inEpoch(10)), reason.EpochRetired)
	accept(t, l, t0, blk(2, inEpoch(11)))
}

func TestOldEpochIsRetiredWhenNothingOfItCanBeFresh(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1), blk(4))
	began := t0.Add(10 * time.Hour)
	accept(t, l, began, blk(1, inEpoch(2), issued(began)))
	// Blocks of epoch 1 may have been signed until epoch 2 began, and be under way.
	sweep(t, l, began.Add(keep))
	accept(t, l, began.Add(keep), blk(5, issued(began.Add(-time.Second))))
	r := sweep(t, l, began.Add(keep+time.Millisecond))
	require.Equal(t, 1, r.LiveEpochs)
	refused(t, l, began.Add(keep+time.Second), blk(6), reason.EpochRetired)
	refused(t, l, began.Add(keep+time.Second), blk(1), reason.EpochRetired)
}

func TestLatestEpochGoesOnAfterAWeekOffline(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2, 4)
	week := t0.Add(7 * 24 * time.Hour)
	sweep(t, l, week)
	refused(t, l, week, blk(2), reason.Duplicate)
	refused(t, l, week, blk(3), reason.TooLate)
	accept(t, l, week, blk(5, issued(week)))
	require.Zero(t, status1(t, l, logs).GapsOpen)
}

func TestCleanupForgetsWindowsAndKeepsFloors(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1, inEpoch(3)), blk(1, inEpoch(3), inStream("b")))
	removed, err := l.Cleanup(t.Context(), t0.Add(keep))
	require.NoError(t, err)
	require.Zero(t, removed, "not expired yet")
	removed, err = l.Cleanup(t.Context(), t0.Add(keep+time.Millisecond))
	require.NoError(t, err)
	require.Equal(t, 2, removed)

	for _, again := range []*Local{l, open(t, t0.Add(2*keep), d.reload())} {
		now := t0.Add(2 * keep)
		refused(t, again, now, blk(1, inEpoch(2)), reason.EpochRetired)
		accept(t, again, now, blk(7, inEpoch(3), issued(now))) // old blocks are expired by their nonces
		require.Zero(t, sweep(t, again, now.Add(time.Hour)).GapsReported, "what was forgotten is no gap")
	}
	require.Less(t, len(d.values), 7)
}

func TestCleanupRetiresAnEpochWithoutNonces(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, issued(time.Time{})))
	_, err := l.Cleanup(t.Context(), t0.Add(keep+time.Second))
	require.NoError(t, err)
	refused(t, l, t0.Add(2*keep), blk(1, issued(time.Time{})), reason.EpochRetired)
}

func TestSkippedEpochIsReportedOnce(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1, inEpoch(3)))
	accept(t, l, t0, blk(1, inEpoch(6)))
	require.Zero(t, sweep(t, l, t0.Add(time.Second)).EpochsSkipped)
	require.Equal(t, uint64(2), sweep(t, l, t0.Add(time.Minute)).EpochsSkipped)
	require.Zero(t, sweep(t, l, t0.Add(time.Hour)).EpochsSkipped)
	require.Zero(t, sweep(t, open(t, t0, d.reload()), t0.Add(time.Hour)).EpochsSkipped)
}

func TestSilentStreamIsReportedOnce(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1), blk(1, inStream("b")), blk(1, inStream("bye"), farewell))
	require.Empty(t, sweep(t, l, t0.Add(179*time.Second)).Silent)
	accept(t, l, t0.Add(179*time.Second), blk(2, inStream("b")))
	r := sweep(t, l, t0.Add(180*time.Second))
	require.Len(t, r.Silent, 1, "one spoke, one said goodbye")
	require.Equal(t, logs, r.Silent[0].Stream)
	require.Equal(t, 1, r.SilentNow)
	require.True(t, status1(t, l, logs).Silent)
	require.True(t, status1(t, l, "bye").Farewell)
	require.Empty(t, sweep(t, l, t0.Add(181*time.Second)).Silent)

	accept(t, l, t0.Add(182*time.Second), blk(2))
	require.Zero(t, sweep(t, l, t0.Add(182*time.Second)).SilentNow)
	require.Len(t, sweep(t, l, t0.Add(time.Hour)).Silent, 2)
}

func TestReplayDoesNotKeepADeadStreamAlive(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1))
	refused(t, l, t0.Add(2*time.Minute), blk(1), reason.Duplicate)
	require.Len(t, sweep(t, l, t0.Add(3*time.Minute)).Silent, 1)
}

func TestBlockAfterFarewellTakesItBack(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(2, farewell))
	accept(t, l, t0, blk(1))
	require.True(t, status1(t, l, logs).Farewell)
	accept(t, l, t0, blk(3))
	require.False(t, status1(t, l, logs).Farewell)
	require.Len(t, sweep(t, l, t0.Add(time.Hour)).Silent, 1)
}

func TestRestartedMachineIsNotSilentInItsOldEpoch(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1), blk(1, inStream("gone")))
	accept(t, l, t0.Add(time.Minute), blk(1, inEpoch(2)))
	r := sweep(t, l, t0.Add(200*time.Second))
	require.Len(t, r.Silent, 1, "a stream that did not come back is silent")
	require.Equal(t, "gone", r.Silent[0].Stream)
}

func TestDownTimeOfTheStoreIsNoSilence(t *testing.T) {
	d := newDisk()
	accept(t, open(t, t0, d), t0, blk(1))
	l := open(t, t0.Add(time.Hour), d.reload())
	require.Empty(t, sweep(t, l, t0.Add(time.Hour+time.Minute)).Silent)
	require.Len(t, sweep(t, l, t0.Add(time.Hour+3*time.Minute)).Silent, 1)
}

func TestReplayAfterACleanupByAClockThatWasAheadIsTooLate(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	acceptNumbers(t, l, t0, 1, 2)
	_, err := l.Cleanup(t.Context(), t0.Add(3*24*time.Hour)) // the clock is wrong by three days
	require.NoError(t, err)
	for _, l := range []*Local{l, open(t, t0, d.reload())} {
		now := t0.Add(time.Minute) // and is set right
		refused(t, l, now, blk(1), reason.TooLate)
		refused(t, l, now, blk(3), reason.TooLate) // it cannot be told from one that was accepted
		accept(t, l, now, blk(4, issued(now)))
	}
}
