package replay

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

var (
	inBerlin  = LatLon{52.52, 13.405}
	inParis   = LatLon{48.8566, 2.3522}
	inPotsdam = LatLon{52.3906, 13.0645}
)

// says gives a block a position that was taken at taken, under a limit of 1000 km/h.
func says(p LatLon, taken time.Time) func(*Block) {
	return func(b *Block) {
		b.Location = &p
		b.Travel = &Travel{Taken: taken.Unix(), MaxSpeed: 1000 / 3.6}
	}
}

func TestImpossibleTravelIsRefusedAndNotLearned(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, says(inBerlin, t0)))
	for n := range uint64(3) {
		o := claim1(t, l, t0.Add(time.Minute), blk(2+n, says(inParis, t0.Add(time.Minute))))
		require.Equal(t, reason.ImpossibleTravel, o.Reason)
		require.NotNil(t, o.Travel)
		require.Greater(t, o.Travel.Metres, 800_000.0)
		require.Zero(t, o.Claim.Token)
	}
	accept(t, l, t0.Add(2*time.Minute), blk(5, says(inBerlin, t0.Add(2*time.Minute))))
	accept(t, l, t0.Add(3*time.Hour), blk(6, says(inParis, t0.Add(3*time.Hour))), blk(7, says(inParis, t0.Add(3*time.Hour))))
}

func TestTwoPlacesInOneRequestAreHeldAgainstEachOther(t *testing.T) {
	l := memory(t)
	out := claimAll(t, l, t0, blk(1, says(inBerlin, t0)), blk(2, says(inParis, t0)), blk(3, says(inBerlin, t0)))
	require.Empty(t, out[0].Reason)
	require.Equal(t, reason.ImpossibleTravel, out[1].Reason)
	require.Empty(t, out[2].Reason)
}

func TestWhatIsRefusedForAnotherReasonIsNotLearned(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, says(inBerlin, t0)), blk(2, inEpoch(2), says(inBerlin, t0)))
	refused(t, l, t0, blk(1, says(inParis, t0.Add(time.Hour))), reason.Duplicate)
	forged := blk(3, signedBy(1), says(inParis, t0.Add(3*time.Hour)))
	forged.Statement[0] ^= 1
	refused(t, l, t0.Add(3*time.Hour), forged, reason.Equivocation)
	accept(t, l, t0.Add(3*time.Hour), blk(4, says(inBerlin, t0.Add(3*time.Hour))))
}

func TestDuplicateStaysOneWhereverItSaysItIs(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, says(inBerlin, t0)))
	accept(t, l, t0.Add(6*time.Hour), blk(2, says(inParis, t0.Add(6*time.Hour))))
	refused(t, l, t0.Add(6*time.Hour), blk(1, says(inParis, t0)), reason.Duplicate)
}

func TestLateFixIsHeldAgainstItsNeighbours(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, says(inBerlin, t0.Add(-4*time.Hour))), blk(4, says(inParis, t0)))
	accept(t, l, t0, blk(2, says(inPotsdam, t0.Add(-2*time.Hour))))
	refused(t, l, t0, blk(3, says(inPotsdam, t0.Add(-time.Minute))), reason.ImpossibleTravel)
}

func TestFixFromTheFutureDoesNotShutTheMachineOut(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, says(inBerlin, t0.Add(1000*time.Hour))))
	accept(t, l, t0.Add(time.Minute), blk(2, says(inBerlin, t0.Add(time.Minute))))
	refused(t, l, t0.Add(time.Minute), blk(3, says(inParis, t0.Add(2000*time.Hour))), reason.ImpossibleTravel)
}

func TestKeysScopesAndPoliciesDoNotMixTheirJourneys(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, says(inBerlin, t0)))
	accept(t, l, t0, blk(1, says(inParis, t0), func(b *Block) { b.KID = kidB }))
	accept(t, l, t0, blk(1, says(inParis, t0), inScope("tpmverify/b")))
	accept(t, l, t0, blk(2, func(b *Block) { b.Location = &inParis })) // no policy, no judgement
	refused(t, l, t0, blk(3, says(inParis, t0)), reason.ImpossibleTravel)
}

func TestJourneyOutlivesAProcess(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1, says(inBerlin, t0)))
	l = open(t, t0.Add(time.Minute), d.reload())
	refused(t, l, t0.Add(time.Minute), blk(2, says(inParis, t0.Add(time.Minute))), reason.ImpossibleTravel)
	accept(t, l, t0.Add(time.Minute), blk(3, says(inBerlin, t0.Add(time.Minute))))
	require.NoError(t, l.Close(t.Context()))

	old := d.reload()
	for key := range old.values {
		if strings.Contains(key, "/t/") {
			delete(old.values, key)
		}
	}
	l = open(t, t0.Add(time.Minute), old) // as one that was written before there were tracks
	accept(t, l, t0.Add(time.Minute), blk(4, says(inParis, t0.Add(time.Minute))))
}

func TestDamagedJourneyIsADamagedStore(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1, says(inBerlin, t0)))
	require.NoError(t, l.Close(t.Context()))
	for key, value := range d.values {
		if strings.Contains(key, "/t/") {
			value[len(value)/2] ^= 1
		}
	}
	_, opened, err := Open(t.Context(), t0, options(d.reload()))
	require.NoError(t, err)
	require.ErrorIs(t, opened.Lost, errDamaged)
}

func TestJourneyIsForgottenWithTheWindows(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	accept(t, l, t0, blk(1, says(inBerlin, t0)))
	later := t0.Add(48 * time.Hour)
	_, err := l.Cleanup(t.Context(), later)
	require.NoError(t, err)
	l = open(t, later, d.reload())
	accept(t, l, later, blk(1, inEpoch(2), issued(later), says(inParis, t0)))
}
