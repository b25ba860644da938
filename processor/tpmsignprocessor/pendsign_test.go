package tpmsignprocessor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadatatest"
)

// A request that was numbered before it came into pending stands behind what was
// submitted from there, and is signed before it.
func TestSignedRequestDoesNotWaitForOneThatCannotBeSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tpm := newFakeTPM(t, 1)
		tpm.delay = 5 * time.Second
		next := newVerifier(block.Logs)
		dir := t.TempDir()
		s := newSUT(t, testConfig(withStorage), next).start(storedHost(t, tpm, dir))
		answered := make(chan error, 1)
		go func() { answered <- s.send(logsOf("first")) }()
		synctest.Wait()
		require.Equal(t, 1, tpm.committer.Stats().Flying)
		// A moment of trouble: the second goes straight to pending, and is submitted
		// from there while the first one's caller still waits.
		tpm.unready.Store(true)
		require.NoError(t, s.send(logsOf("second")))
		tpm.unready.Store(false)
		time.Sleep(time.Second)
		require.Equal(t, 2, tpm.committer.Stats().Waiting)
		require.NoError(t, <-answered)
		time.AfterFunc(4*time.Second, func() { tpm.dead.Store(true) }) // after the first signature
		time.Sleep(10 * time.Second)
		require.Equal(t, []string{"first"}, next.accepted())
		left := copyOf(t, dir) // what a crash leaves
		tpm.dead.Store(false)
		time.Sleep(time.Minute)
		s.stop()
		require.Equal(t, []string{"first", "second"}, next.inOrder())
		next.requireContiguous(t)

		s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
		time.Sleep(time.Minute)
		s2.stop()
		different, again := next.blocks()
		require.Equal(t, []int{3, 0}, []int{different, again}, "only the second is signed again")
	})
}

// What shares a group is delivered as it is numbered, wherever it comes from.
func TestPendingIsDeliveredInTheOrderOfItsNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tpm := newFakeTPM(t, 1)
		tpm.delay = 10 * time.Second
		next := newVerifier(block.Logs)
		cfg := testConfig(withStorage, func(c *Config) { c.Pending.Wait = 15 * time.Second })
		s := newSUT(t, cfg, next).start(storedHost(t, tpm, t.TempDir()))
		go func() { _ = s.send(logsOf("alone")) }()
		synctest.Wait()
		// One and two wait for the second group, and come into pending after three.
		for _, name := range []string{"one", "two"} {
			go func() { _ = s.send(logsOf(name)) }()
			synctest.Wait()
		}
		time.Sleep(time.Millisecond)
		tpm.unready.Store(true)
		require.NoError(t, s.send(logsOf("three")))
		tpm.unready.Store(false)
		time.Sleep(time.Minute)
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"alone", "one", "two", "three"}, next.inOrder())
	})
}

// The storage fails for a while, or for good, while what is pending gets signed.
func TestSignedFormWaitsForAStorageThatIsReadOnlyForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		files := &brokenStorage{Extension: openFiles(t, dir)}
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		for _, name := range names("p", 20) {
			require.NoError(t, s.send(logsOf(name)))
		}
		files.readOnly.Store(true)
		tpm.unready.Store(false)
		time.Sleep(recordPatience / 3)
		left := copyOf(t, dir) // what a crash leaves
		files.readOnly.Store(false)
		time.Sleep(2 * maxPause)
		require.Len(t, next.accepted(), 20)
		s.stop()

		s2 := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: newFakeTPM(t, 2), storageID: files})
		require.Zero(t, s2.pendingBlocks())
		s2.stop()
		next.requireContiguous(t)

		crashed := newVerifier(block.Logs)
		s3 := newSUT(t, testConfig(withStorage), crashed).start(storedHost(t, newFakeTPM(t, 3), left))
		time.Sleep(time.Minute)
		s3.stop()
		require.Equal(t, next.accepted(), crashed.accepted(), "nothing had been handed out")
	})
}

func TestSignedFormIsRecordedWhileTheNextComponentRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		files := &brokenStorage{Extension: openFiles(t, dir)}
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		next := newVerifier(block.Logs)
		next.failWith(func(int) error { return errDown })
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		require.NoError(t, s.send(logsOf("a")))
		require.NoError(t, s.send(logsOf("b")))
		files.readOnly.Store(true)
		tpm.unready.Store(false)
		time.Sleep(2 * recordPatience)
		require.Positive(t, next.seen(), "tried from memory")
		files.readOnly.Store(false)
		time.Sleep(2 * maxPause)
		rec, err := s.running.Load().queue.store.get(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, stateSigned, rec.state)
		s.stop() // records the second

		next.failWith(nil)
		s2 := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: newFakeTPM(t, 2), storageID: files})
		time.Sleep(time.Minute)
		s2.stop()
		require.ElementsMatch(t, []number{{1, testStream, 1}, {1, testStream, 2}}, next.numbers())
	})
}

func TestShutdownTellsWhatComesTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		tpm := newFakeTPM(t, 1)
		next := newVerifier(block.Logs)
		next.failWith(func(int) error { return errDown })
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		require.NoError(t, s.send(logsOf("recorded as signed")))
		tpm.unready.Store(true)
		for _, name := range names("p", 7) {
			require.NoError(t, s.send(logsOf(name)))
		}
		next.failWith(nil)
		files.readOnly.Store(true)
		tpm.unready.Store(false)
		time.Sleep(2 * recordPatience)
		require.Len(t, next.accepted(), 8)
		tpm.unready.Store(true)
		require.ErrorIs(t, s.send(logsOf("refused")), errPendingStorage)

		began := time.Now()
		err := s.Shutdown(t.Context())
		require.LessOrEqual(t, time.Since(began), drainTimeout)
		require.ErrorIs(t, err, errLeftBehind)
		require.ErrorContains(t, err, "8 delivered requests, of which the next start signs 7 again under new numbers")
		require.ErrorContains(t, err, "sends 1 again as they were")
		require.ErrorContains(t, err, "of 1 writes that had failed")

		files.readOnly.Store(false)
		s2 := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: newFakeTPM(t, 2), storageID: files})
		time.Sleep(time.Minute)
		s2.stop()
		different, again := next.blocks()
		require.Equal(t, []int{8 + 7, 1}, []int{different, again}, "as it was told")
	})
}

// The time to record is up before the storage works: nothing was delivered, so
// nothing comes twice, and what was signed for nothing is told.
func TestShutdownTellsWhatWasSignedForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		next := newVerifier(block.Logs)
		s, tel, logs := metered(t, testConfig(withStorage), next)
		s.start(fakeHost{tpmID: tpm, storageID: files})
		for _, name := range names("p", 3) {
			require.NoError(t, s.send(logsOf(name)))
		}
		files.readOnly.Store(true)
		tpm.unready.Store(false)
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx) // at its end, so the report may come too late for it
		synctest.Wait()
		told := logs.FilterMessageSnippet("could not be left in order").All()
		require.Len(t, told, 1)
		require.Contains(t, told[0].ContextMap()["error"], errUnrecorded.Error()+": 3 blocks")
		metadatatest.AssertEqualTpmsignLostNumbers(t, tel, points(point(3)), metricdatatest.IgnoreTimestamp())

		files.readOnly.Store(false)
		s2 := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: newFakeTPM(t, 2), storageID: files})
		time.Sleep(time.Minute)
		s2.stop()
		next.requireContiguous(t)
		require.Equal(t, names("p", 3), next.accepted())
		different, _ := next.blocks()
		require.Equal(t, 3, different)
	})
}
