package replay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/reason"
)

func TestTwoStatementsUnderOneNumberAreEquivocation(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2)
	clone := blk(2)
	clone.Statement = digestOf(99)
	refused(t, l, t0, clone, reason.Equivocation)
	clone.No = 7 // a block that was never seen: still nothing is claimed
	refused(t, l, t0, clone, reason.Equivocation)
	refused(t, l, t0, blk(2), reason.Duplicate)
	require.Zero(t, status1(t, l, logs).InFlight)
}

func TestEquivocationAcrossScopesAndStreamsIsSeen(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1)
	clone := blk(1, inScope("tpmverify/b"), inStream("tpmsign:metrics"))
	clone.Statement = digestOf(99)
	refused(t, l, t0, clone, reason.Equivocation)
	require.Len(t, l.keys, 1, "nothing was made for it")
}

func TestEquivocationWithinOneRequestIsSeen(t *testing.T) {
	l := memory(t)
	clone := blk(2, signedBy(1))
	clone.Statement = digestOf(99)
	out := claimAll(t, l, t0, blk(1), clone)
	require.Empty(t, out[0].Reason)
	require.Equal(t, reason.Equivocation, out[1].Reason)
}

func TestStatementThatDoesNotNameTheKnownOneBeforeBreaksTheChain(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1)
	b := blk(2)
	b.Prev = digestOf(99)
	refused(t, l, t0, b, reason.ChainBroken)
	acceptNumbers(t, l, t0, 2)
}

func TestStatementThatTheKnownOneAfterDoesNotNameBreaksTheChain(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 2)
	b := blk(1)
	b.Statement = digestOf(99)
	refused(t, l, t0, b, reason.ChainBroken)
	acceptNumbers(t, l, t0, 1)
}

func TestReorderedStatementsAreNoAlarm(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 5, 3, 9, 1, 4, 2, 200, 8, 7, 6, 150, 199)
	require.Equal(t, uint64(12), status1(t, l, logs).Verified)
}

func TestStatementsAreCheckedUpTo64Back(t *testing.T) {
	l := memory(t)
	for n := uint64(1); n <= 100; n++ {
		acceptNumbers(t, l, t0, n)
	}
	clone := blk(200, signedBy(37))
	clone.Statement = digestOf(99)
	refused(t, l, t0, clone, reason.Equivocation)
	clone = blk(201, signedBy(35))
	clone.Statement = digestOf(99)
	require.Empty(t, claim1(t, l, t0, clone).Reason, "documented bound")
}

func TestHugeSequenceNumberBlindsOneSlotOnly(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, blk(1, signedBy(1<<62)))
	for n := uint64(2); n < 60; n++ {
		acceptNumbers(t, l, t0, n)
	}
	clone := blk(100, signedBy(50))
	clone.Statement = digestOf(99)
	refused(t, l, t0, clone, reason.Equivocation)
}

func TestEquivocationIsSeenAfterRestart(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	acceptNumbers(t, l, t0, 1, 2, 4)
	l = open(t, t0.Add(time.Minute), d.reload())
	clone := blk(9, signedBy(2))
	clone.Statement = digestOf(99)
	refused(t, l, t0, clone, reason.Equivocation)
	b := blk(3)
	b.Statement = digestOf(98)
	refused(t, l, t0, b, reason.ChainBroken)
	acceptNumbers(t, l, t0, 3)
}

func TestFingerprintsOfStoresDiffer(t *testing.T) {
	a, b := memory(t), memory(t)
	require.NotEqual(t, a.fingerprints.of(digestOf(1)), b.fingerprints.of(digestOf(1)))
}

// beginning is the first statement of an epoch, which names prev.
func beginning(epoch uint64, prev Block) Block {
	b := blk(1, inEpoch(epoch))
	b.Prev = prev.Statement
	return b
}

func TestEpochThatBeginsAtTheLastKnownStatementIsNoAlarm(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2, 3)
	first := beginning(2, blk(3))
	accept(t, l, t0, first, beginning(5, first)) // epochs between that gave nothing out
}

func TestEpochThatBeginsAtAStatementNobodySawIsNoAlarm(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2, 3)
	accept(t, l, t0, beginning(2, blk(4))) // written, and the agent died before it left
	fresh := beginning(3, blk(4))
	fresh.Prev = [32]byte{} // and a storage that was lost
	accept(t, l, t0, fresh)
	acceptNumbers(t, l, t0, 4) // or held up on the way, and here after all
}

func TestEpochThatBeginsBelowTheLastKnownStatementBreaksTheChain(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2, 3)
	refused(t, l, t0, beginning(2, blk(2)), reason.ChainBroken)
	accept(t, l, t0, beginning(2, blk(3)))
	refused(t, l, t0, beginning(3, blk(3)), reason.ChainBroken) // epoch 2 gave something out
}

func TestStatementMadeAfterTheEndOfItsEpochBreaksTheChain(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2)
	accept(t, l, t0, beginning(4, blk(2)))
	refused(t, l, t0, blk(3), reason.ChainBroken)
	refused(t, l, t0, blk(9), reason.ChainBroken)
	refused(t, l, t0, blk(1, inEpoch(3)), reason.ChainBroken)
	refused(t, l, t0, blk(2), reason.Duplicate)
}

func TestEndOfAnEpochThatArrivesLateIsHeldAgainstWhatCameSince(t *testing.T) {
	l := memory(t)
	accept(t, l, t0, beginning(2, blk(2)), blk(3))
	refused(t, l, t0, blk(2), reason.ChainBroken)
	acceptNumbers(t, l, t0, 1)
}

func TestBeginningOfAnEpochIsKnownAfterRestartAndManyStatements(t *testing.T) {
	d := newDisk()
	l := open(t, t0, d)
	acceptNumbers(t, l, t0, 1, 2)
	accept(t, l, t0, beginning(2, blk(2)))
	for n := uint64(2); n <= 100; n++ {
		accept(t, l, t0, blk(n, inEpoch(2)))
	}
	l = open(t, t0, d.reload())
	refused(t, l, t0, blk(3), reason.ChainBroken)
}

func TestOneKeySaysNothingAboutTheEpochsOfAnother(t *testing.T) {
	l := memory(t)
	acceptNumbers(t, l, t0, 1, 2, 3)
	b := beginning(2, blk(1))
	b.KID = kidB
	accept(t, l, t0, b)
	acceptNumbers(t, l, t0, 4)
}
