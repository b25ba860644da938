package tpmsignprocessor

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

func TestUnsignedPendingSurvivesKillAndIsSignedInTheNewEpoch(t *testing.T) {
	for _, signal := range allSignals {
		t.Run(signal.String(), func(t *testing.T) {
			dir := t.TempDir()
			next := newVerifier(signal)
			tpm := newFakeTPM(t, 1)
			require.NoError(t, newSUT(t, testConfig(withStorage), next).start(storedHost(t, tpm, t.TempDir())).Shutdown(t.Context()))

			s := newSUT(t, testConfig(withStorage), next).start(storedHost(t, tpm, dir)).closing()
			require.NoError(t, s.send(batch(signal, []string{"before"})))
			tpm.unready.Store(true)
			require.NoError(t, s.send(batch(signal, []string{"a", "b"}, []string{"c"})))
			require.NoError(t, s.send(batch(signal, []string{"d"})))
			left := copyOf(t, dir)
			s.kill()

			s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
			eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
			s2.stop()
			next.requireContiguous(t)
			require.Equal(t, []string{"a", "b", "before", "c", "d"}, next.accepted())
			require.Equal(t, 1, next.came(number{2, "tpmsign/edge:" + signal.String(), 3}))

			// And nothing is left for a third start.
			s3 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 3), left))
			require.Zero(t, s3.pendingBlocks())
			s3.stop()
		})
	}
}

func TestSignedPendingComesAgainAfterKillAsTheVerySameBlock(t *testing.T) {
	dir := t.TempDir()
	next := newVerifier(block.Logs)
	var down atomic.Bool
	down.Store(true)
	// The next consumer takes the data and says that it did not: the worst case.
	next.fail = func(int) error { return nil }
	s := newSUT(t, testConfig(withStorage), next)
	s.next = func(ctx context.Context, b digest.Batch) error {
		err := next.ConsumeLogs(ctx, b.Logs())
		if down.Load() {
			return errDown
		}
		return err
	}
	s.start(storedHost(t, newFakeTPM(t, 1), dir)).closing()
	require.NoError(t, s.send(logsOf("a")))
	require.NoError(t, s.send(logsOf("b")))
	left := copyOf(t, dir)
	s.kill()

	s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
	eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
	require.NoError(t, s2.send(logsOf("c")))
	s2.stop()
	next.requireContiguous(t)
	different, again := next.blocks()
	require.Equal(t, 3, different, "nothing was signed twice")
	require.Positive(t, again)
	require.Equal(t, []string{"a", "b", "c"}, next.accepted())
}

func TestSignedFormIsDurableBeforeItIsFirstHandedOut(t *testing.T) {
	dir := t.TempDir()
	tpm := newFakeTPM(t, 1)
	tpm.unready.Store(true)
	next := newVerifier(block.Logs)
	var left string
	s := newSUT(t, testConfig(withStorage), next)
	handedOut := make(chan struct{})
	s.next = func(ctx context.Context, b digest.Batch) error {
		if left == "" {
			left = copyOf(t, dir) // the crash comes while the next consumer works
			close(handedOut)
		}
		return next.ConsumeLogs(ctx, b.Logs())
	}
	s.start(storedHost(t, tpm, dir)).closing()
	for _, name := range names("p", 10) {
		require.NoError(t, s.send(logsOf(name)))
	}
	tpm.unready.Store(false)
	<-handedOut
	eventually(t, func() bool { return len(next.accepted()) == 10 }, "all are delivered")
	s.kill()

	s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
	eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
	s2.stop()
	next.requireContiguous(t)
	different, again := next.blocks()
	require.Equal(t, 20, different+again)
	require.Positive(t, again)
	for _, n := range next.numbers() {
		if n.epoch == 2 {
			require.LessOrEqual(t, n.no, uint64(10-again), "what had been handed out is not signed again")
		}
	}
}

func TestKillWhileTheGroupIsInFlightLosesNothing(t *testing.T) {
	dir := t.TempDir()
	tpm := newFakeTPM(t, 1)
	tpm.dead.Store(true)
	next := newVerifier(block.Logs)
	cfg := testConfig(withStorage, func(c *Config) { c.Pending.Wait = 20 * time.Millisecond })
	s := newSUT(t, cfg, next).start(storedHost(t, tpm, dir)).closing()
	for _, name := range names("p", 5) {
		require.NoError(t, s.send(logsOf(name)))
	}
	left := copyOf(t, dir)
	s.kill()
	tpm.crash()

	s2 := newSUT(t, cfg, next).start(storedHost(t, newFakeTPM(t, 2), left))
	eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
	s2.stop()
	next.requireContiguous(t)
	require.Equal(t, names("p", 5), next.accepted())
}

func TestKillAtEveryStorageWriteLosesNothingThatWasAccepted(t *testing.T) {
	const requests = 6
	for crashAt := 1; crashAt <= 14; crashAt++ {
		t.Run(fmt.Sprint(crashAt), func(t *testing.T) {
			dir := t.TempDir()
			next := newVerifier(block.Logs)
			tpm := newFakeTPM(t, 1)
			crasher := &crashingStorage{Extension: openFiles(t, dir), at: int64(crashAt)}
			crasher.crash = func() { crasher.left = copyOf(t, dir) }
			s := newSUT(t, testConfig(withStorage), next)
			// After the crash nothing counts any more: neither answers nor deliveries.
			s.next = func(ctx context.Context, b digest.Batch) error {
				if crasher.writes.Load() >= crasher.at {
					return errDown
				}
				return next.ConsumeLogs(ctx, b.Logs())
			}
			s.start(fakeHost{tpmID: tpm, storageID: crasher})
			s.closing()
			var accepted []string
			for i, name := range names("p", requests) {
				tpm.unready.Store(i%2 == 0)
				if s.send(logsOf(name)) == nil && crasher.writes.Load() < crasher.at {
					accepted = append(accepted, name)
				}
			}
			tpm.unready.Store(false)
			eventually(t, func() bool { return s.pendingBlocks() == 0 || crasher.writes.Load() >= crasher.at }, "crash or end")
			s.kill()
			if crasher.left == "" {
				return // fewer writes than that
			}
			s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), crasher.left))
			eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
			s2.stop()
			next.requireValid(t)
			for _, gap := range next.gaps() {
				// Numbered, and the crash came before that was on record: its data
				// comes in the new epoch, the number never.
				require.EqualValues(t, 1, gap.epoch)
			}
			for _, name := range accepted {
				require.Contains(t, next.accepted(), name)
			}
		})
	}
}

// crashingStorage takes a picture of the storage before its at-th write.
type crashingStorage struct {
	extension.Extension
	at     int64
	writes atomic.Int64
	crash  func()
	left   string
}

func (c *crashingStorage) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	client, err := c.Extension.(storage.Extension).GetClient(ctx, kind, id, name)
	return &crashingClient{Client: client, s: c}, err
}

type crashingClient struct {
	storage.Client
	s *crashingStorage
}

func (c *crashingClient) Batch(ctx context.Context, ops ...*storage.Operation) error {
	writes := slices.ContainsFunc(ops, func(op *storage.Operation) bool { return op.Type != storage.Get })
	if writes && c.s.writes.Add(1) == c.s.at {
		c.s.crash()
	}
	return c.Client.Batch(ctx, ops...)
}
