package tpmsignprocessor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// slowStorage takes its time for a batch. Contexts are nothing to it, as to
// file_storage.
type slowStorage struct {
	extension.Extension
	takes   atomic.Int64                       // ns
	lies    atomic.Bool                        // done, and said to have failed
	each    atomic.Pointer[func(*slowStorage)] // called before a batch
	batches atomic.Int64
}

func (s *slowStorage) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	client, err := s.Extension.(storage.Extension).GetClient(ctx, kind, id, name)
	return slowClient{client, s}, err
}

type slowClient struct {
	storage.Client
	s *slowStorage
}

var errLie = errors.New("i/o timeout")

func (c slowClient) Batch(ctx context.Context, ops ...*storage.Operation) error {
	c.s.batches.Add(1)
	if each := c.s.each.Load(); each != nil {
		(*each)(c.s)
	}
	lies := c.s.lies.Load()
	time.Sleep(time.Duration(c.s.takes.Load()))
	err := c.Client.Batch(ctx, ops...)
	if err == nil && lies {
		return errLie
	}
	return err
}

func TestCallerIsAnsweredWhenThePendingStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		files := &slowStorage{Extension: openFiles(t, dir)}
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		files.takes.Store(int64(time.Minute))
		before := files.batches.Load()
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				began := time.Now()
				err := s.consume(ctx, logsOf(fmt.Sprint("p", i)))
				require.ErrorIs(t, err, errPendingStorage)
				require.ErrorIs(t, err, errStorageHangs)
				require.False(t, consumererror.IsPermanent(err))
				require.Equal(t, 500*time.Millisecond, time.Since(began))
			})
		}
		callers.Wait()
		require.EqualValues(t, 1, files.batches.Load()-before, "one write goes on in the background, the others never began")
		require.Zero(t, s.pendingBlocks())
		files.takes.Store(0)
		time.Sleep(2 * time.Minute) // it is done, and undone
		left := copyOf(t, dir)      // what a crash leaves

		tpm.unready.Store(false)
		for i := range 100 { // as they were told
			require.NoError(t, s.send(logsOf(fmt.Sprint("p", i))))
		}
		s.stop()
		s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
		require.Zero(t, s2.pendingBlocks())
		s2.stop()
		next.requireContiguous(t)
		require.Len(t, next.accepted(), 100)
	})
}

func TestDataOfACallerThatHasLeftIsNotAwaitedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &slowStorage{Extension: openFiles(t, t.TempDir())}
		tpm := newFakeTPM(t, 1)
		tpm.delay = time.Minute
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		go func() { _ = s.send(logsOf("in flight")) }()
		synctest.Wait()
		for name, tt := range map[string]struct {
			takes time.Duration
			want  error
		}{
			"kept":       {goneGrace / 2, nil},
			"given back": {10 * goneGrace, errPendingStorage},
		} {
			files.takes.Store(int64(tt.takes))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			began := time.Now()
			require.ErrorIs(t, s.consume(ctx, logsOf(name)), tt.want)
			cancel()
			require.LessOrEqual(t, time.Since(began), 100*time.Millisecond+goneGrace)
			files.takes.Store(0)
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Minute)
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"in flight", "kept"}, next.accepted())
	})
}

// Answers and writes race, and some writes fail that were done. Nothing comes
// that its sender was told to send again, and everything else does, after a
// restart in order too.
func TestNothingComesThatWasGivenBack(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { races(t, seed) })
		})
	}
}

func races(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 3))
	files := &slowStorage{Extension: openFiles(t, t.TempDir())}
	tpm := newFakeTPM(t, 1)
	tpm.unready.Store(true)
	next := newVerifier(block.Logs)
	cfg := testConfig(withStorage)
	s := newSUT(t, cfg, next).start(fakeHost{tpmID: tpm, storageID: files})
	trouble := func(s *slowStorage) { // with the TPM not ready, one batch at a time
		s.lies.Store(random.IntN(4) == 0)
		s.takes.Store(random.Int64N(4) * int64(10*time.Millisecond))
	}
	files.each.Store(&trouble)
	var mu sync.Mutex
	var want []string
	var clients sync.WaitGroup
	for c := range 5 {
		clients.Go(func() {
			for i := range 20 {
				name := fmt.Sprintf("c%d-%02d", c, i)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%8)*10*time.Millisecond+time.Millisecond*time.Duration(i/8))
				if s.consume(ctx, logsOf(name)) == nil {
					mu.Lock()
					want = append(want, name)
					mu.Unlock()
				}
				cancel()
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	clients.Wait()
	time.Sleep(time.Second)
	files.each.Store(nil)
	files.takes.Store(0)
	files.lies.Store(false)
	if seed%2 == 0 {
		tpm.unready.Store(false)
	}
	s.stop()
	s2 := newSUT(t, cfg, next).start(fakeHost{tpmID: newFakeTPM(t, 2), storageID: files})
	time.Sleep(time.Minute)
	s2.stop()
	next.requireContiguous(t)
	require.NotEmpty(t, want)
	require.Less(t, len(want), 100)
	require.ElementsMatch(t, want, next.accepted())
	different, again := next.blocks()
	require.Equal(t, []int{len(want), 0}, []int{different, again})
}

// The storage took the record, and its answer got lost.
func TestWriteThatFailedAndWasDoneDoesNotComeAgain(t *testing.T) {
	for name, wait := range map[string]time.Duration{"an orderly end": 0, "a crash, later": 2 * maxPause} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				files := &slowStorage{Extension: openFiles(t, dir)}
				tpm := newFakeTPM(t, 1)
				tpm.unready.Store(true)
				next := newVerifier(block.Logs)
				s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
				files.lies.Store(true)
				require.ErrorIs(t, s.send(logsOf("a")), errLie)
				files.lies.Store(false)
				tpm.unready.Store(false)
				require.NoError(t, s.send(logsOf("a"))) // as it was told
				time.Sleep(wait)
				left := ""
				if wait > 0 {
					left = copyOf(t, dir)
				}
				s.stop()
				if wait == 0 {
					left = copyOf(t, dir)
				}
				s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
				require.Zero(t, s2.pendingBlocks())
				s2.stop()
				next.requireContiguous(t)
				different, _ := next.blocks()
				require.Equal(t, 1, different)
				require.Equal(t, []string{"a"}, next.accepted())
			})
		})
	}
}

func TestFailedWritesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		files.broken.Store(true)
		for range 3 * maxDead {
			require.ErrorIs(t, s.send(logsOf("a")), errPendingStorage)
		}
		d := s.running.Load().queue.store.(*diskStore)
		d.acquire()
		require.Len(t, d.dead, maxDead)
		d.release()
		files.broken.Store(false)
		require.NoError(t, s.send(logsOf("a")))
		d.acquire()
		require.Empty(t, d.dead)
		d.release()
		tpm.unready.Store(false)
		s.stop()
		require.Equal(t, []string{"a"}, next.accepted())
	})
}

func TestShutdownReturnsThoughTheFarewellHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newSUT(t, testConfig(withHeartbeat), newVerifier(block.Logs))
		s.next = func(context.Context, digest.Batch) error { <-release; return nil }
		s.start(hostWith(newFakeTPM(t, 1)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		close(release)
		synctest.Wait()
	})
}

func TestShutdownReturnsThoughTheFarewellCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &slowStorage{Extension: openFiles(t, t.TempDir())}
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(withStorage, withHeartbeat), next).
			start(fakeHost{tpmID: newFakeTPM(t, 1), storageID: files})
		files.takes.Store(int64(time.Hour))
		next.failWith(func(int) error { return errDown })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		time.Sleep(24 * time.Hour) // the storage is closed when it has answered
	})
}
