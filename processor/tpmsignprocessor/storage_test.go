package tpmsignprocessor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadatatest"
)

var storageID = component.MustNewID("file_storage")

func withStorage(c *Config) { c.Pending.Storage = &storageID }

// openFiles starts a real file_storage over dir.
func openFiles(tb testing.TB, dir string) extension.Extension {
	tb.Helper()
	f := filestorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory = dir
	ext, err := f.Create(context.Background(), extensiontest.NewNopSettings(f.Type()), cfg)
	require.NoError(tb, err)
	require.NoError(tb, ext.Start(context.Background(), componenttest.NewNopHost()))
	tb.Cleanup(func() { require.NoError(tb, ext.Shutdown(context.Background())) })
	return ext
}

// copyOf is what a crash leaves of a storage directory.
func copyOf(tb testing.TB, dir string) string {
	tb.Helper()
	to := tb.TempDir()
	files, err := os.ReadDir(dir)
	require.NoError(tb, err)
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		require.NoError(tb, err)
		require.NoError(tb, os.WriteFile(filepath.Join(to, f.Name()), b, 0o600))
	}
	return to
}

// closing makes sure that a killed processor's storage is closed at the end.
func (s *sut) closing() *sut {
	r := s.running.Load()
	s.tb.Cleanup(func() { _ = r.queue.store.close(context.Background()) })
	return s
}

func storedHost(tb testing.TB, tpm *fakeTPM, dir string) fakeHost {
	return fakeHost{tpmID: tpm, storageID: openFiles(tb, dir)}
}

// spoil overwrites a key of the storage of the processor for logs.
func spoil(tb testing.TB, dir string, change func(storage.Client)) {
	tb.Helper()
	client, err := openFiles(tb, dir).(storage.Extension).GetClient(context.Background(), component.KindProcessor,
		component.MustNewIDWithName("tpmsign", "edge"), block.Logs.String())
	require.NoError(tb, err)
	change(client)
	require.NoError(tb, client.Close(context.Background()))
}

func eventually(tb testing.TB, condition func() bool, what string) {
	tb.Helper()
	require.Eventually(tb, condition, 20*time.Second, 2*time.Millisecond, what)
}

func TestCorruptRecordIsSkippedAndTheOthersGoOn(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"flipped bit": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":         func(b []byte) []byte { return b[:len(b)-1] },
		"empty":       func([]byte) []byte { return []byte{} },
		"version":     func([]byte) []byte { return reseal(9, 's', 'L', nil) },
		"state":       func([]byte) []byte { return reseal(recordVersion, 'x', 'L', nil) },
		"signal":      func([]byte) []byte { return reseal(recordVersion, 'u', 'M', nil) },
		"no OTLP":     func([]byte) []byte { return reseal(recordVersion, 's', 'L', []byte{0xff, 0xff}) },
		"no OTLP, unsigned": func([]byte) []byte {
			return reseal(recordVersion, 'u', 'L', []byte{0xff, 0xff})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tpm := newFakeTPM(t, 1)
			tpm.unready.Store(true)
			next := newVerifier(block.Logs)
			s := newSUT(t, testConfig(withStorage), next).start(storedHost(t, tpm, dir)).closing()
			for _, name := range []string{"a", "b", "c"} {
				require.NoError(t, s.send(logsOf(name)))
			}
			left := copyOf(t, dir)
			s.kill()
			spoil(t, left, func(c storage.Client) {
				value, err := c.Get(t.Context(), recordKey(1))
				require.NoError(t, err)
				require.NoError(t, c.Set(t.Context(), recordKey(1), damage(value)))
			})

			s2, tel, _ := metered(t, testConfig(withStorage), next)
			s2.start(storedHost(t, newFakeTPM(t, 2), left))
			eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
			s2.stop()
			next.requireContiguous(t)
			require.Equal(t, []string{"a", "c"}, next.accepted())
			metadatatest.AssertEqualTpmsignCorruptRecords(t, tel, points(point(1)), metricdatatest.IgnoreTimestamp())
		})
	}
}

func reseal(version, state, signal byte, payload []byte) []byte {
	b := record{state: recordState(state), signal: block.Signal(signal), blocks: 1, payload: payload}.encode()
	if version != recordVersion {
		b = append([]byte{version}, b[1:]...)
	}
	return b
}

func TestDamagedIndexDoesNotLoseRecords(t *testing.T) {
	for _, damaged := range [][]string{{keyIndexA}, {keyIndexB}} {
		t.Run(fmt.Sprint(damaged), func(t *testing.T) {
			dir := t.TempDir()
			tpm := newFakeTPM(t, 1)
			tpm.unready.Store(true)
			next := newVerifier(block.Logs)
			s := newSUT(t, testConfig(withStorage), next).start(storedHost(t, tpm, dir)).closing()
			require.NoError(t, s.send(logsOf("a")))
			left := copyOf(t, dir)
			s.kill()
			spoil(t, left, func(c storage.Client) {
				for _, key := range damaged {
					require.NoError(t, c.Set(t.Context(), key, []byte("damaged")))
				}
			})
			s2 := newSUT(t, testConfig(withStorage), next).start(storedHost(t, newFakeTPM(t, 2), left))
			eventually(t, func() bool { return s2.pendingBlocks() == 0 }, "pending is worked off")
			s2.stop()
			require.Equal(t, []string{"a"}, next.accepted())
		})
	}
}

func TestLostIndexStartsBeyondEveryRecord(t *testing.T) {
	dir := t.TempDir()
	spoil(t, dir, func(c storage.Client) {
		require.NoError(t, c.Set(t.Context(), keyIndexA, []byte("damaged")))
		require.NoError(t, c.Set(t.Context(), keyIndexB, []byte("damaged")))
		require.NoError(t, c.Set(t.Context(), recordKey(3), []byte("somebody's data")))
	})
	tpm := newFakeTPM(t, 1)
	tpm.unready.Store(true)
	next := newVerifier(block.Logs)
	s := newSUT(t, testConfig(withStorage), next).start(storedHost(t, tpm, dir))
	for _, name := range names("p", 5) {
		require.NoError(t, s.send(logsOf(name)))
	}
	tpm.unready.Store(false)
	s.stop()
	require.Equal(t, names("p", 5), next.accepted())
	spoil(t, dir, func(c storage.Client) {
		value, err := c.Get(t.Context(), recordKey(3))
		require.NoError(t, err)
		require.Equal(t, "somebody's data", string(value))
	})
}

// brokenStorage fails writes while broken is set, and with readOnly as a file
// system does after an I/O error.
type brokenStorage struct {
	extension.Extension
	broken   atomic.Bool
	readOnly atomic.Bool
}

func (b *brokenStorage) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	client, err := b.Extension.(storage.Extension).GetClient(ctx, kind, id, name)
	return &brokenClient{Client: client, s: b}, err
}

type brokenClient struct {
	storage.Client
	s *brokenStorage
}

func (c *brokenClient) Batch(ctx context.Context, ops ...*storage.Operation) error {
	if err := ctx.Err(); err != nil {
		return err // as storage over a network does
	}
	for _, op := range ops {
		if op.Type == storage.Set && c.s.broken.Load() {
			return storage.ErrStorageFull
		}
		if op.Type != storage.Get && c.s.readOnly.Load() {
			return syscall.EROFS
		}
	}
	return c.Client.Batch(ctx, ops...)
}

func TestFullStorageRefusesWhatIsNotNumbered(t *testing.T) {
	files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
	tpm := newFakeTPM(t, 1)
	next := newVerifier(block.Logs)
	s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
	files.broken.Store(true)
	require.NoError(t, s.send(logsOf("a")), "nothing has to be stored for what goes through")
	tpm.unready.Store(true)
	err := s.send(logsOf("b"))
	require.ErrorIs(t, err, errPendingStorage)
	require.ErrorIs(t, err, storage.ErrStorageFull)
	require.Zero(t, s.pendingBlocks())
	files.broken.Store(false)
	tpm.unready.Store(false)
	require.NoError(t, s.send(logsOf("b")))
	s.stop()
	next.requireContiguous(t)
	require.Equal(t, []string{"a", "b"}, next.accepted())
}

func TestFullStorageHoldsTheCallerOfANumberedRequestUntilItGetsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		next := newVerifier(block.Logs)
		recovered := time.Now().Add(3 * time.Second)
		next.fail = func(int) error {
			if time.Now().Before(recovered) {
				return errDown
			}
			return nil
		}
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: newFakeTPM(t, 1), storageID: files})
		files.broken.Store(true)
		require.NoError(t, s.send(logsOf("a")))
		require.GreaterOrEqual(t, time.Since(recovered), time.Duration(0))
		require.Zero(t, s.pendingBlocks())

		// And it goes into the store as soon as that works.
		recovered = time.Now().Add(time.Hour)
		time.AfterFunc(3*time.Second, func() { files.broken.Store(false) })
		began := time.Now()
		require.NoError(t, s.send(logsOf("b")))
		require.Less(t, time.Since(began), time.Minute)
		require.Equal(t, 1, s.pendingBlocks())
		time.Sleep(2 * time.Hour)
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"a", "b"}, next.accepted())
	})
}

func TestStorageThatRecoversTakesWhatADeadTPMHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.dead.Store(true)
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		files.broken.Store(true)
		time.AfterFunc(10*time.Second, func() { files.broken.Store(false) })
		began := time.Now()
		require.NoError(t, s.send(logsOf("a")))
		require.Less(t, time.Since(began), 10*time.Second+2*maxPause)
		require.Equal(t, 1, s.pendingBlocks())
		tpm.dead.Store(false)
		time.Sleep(time.Minute)
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"a"}, next.accepted())
	})
}

// Receivers are stopped before processors, and wait for their callers.
func TestCollectorThatStopsIsNotHeldUpByCallersWhoseDataNothingTakes(t *testing.T) {
	for name, tpmDelay := range map[string]time.Duration{
		"signed":       0,
		"being signed": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
				next := newVerifier(block.Logs)
				next.fail = func(int) error { return errDown }
				tpm := newFakeTPM(t, 1)
				tpm.delay, tpm.stopping = tpmDelay, make(chan struct{})
				s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
				files.broken.Store(true)
				stops := time.Now().Add(time.Minute)
				time.AfterFunc(time.Minute, func() { close(tpm.stopping) })
				err := s.send(logsOf("a"))
				require.ErrorIs(t, err, errPendingStorage)
				require.False(t, consumererror.IsPermanent(err), "the caller keeps it")
				require.Equal(t, drainTimeout, time.Since(stops))
				files.broken.Store(false)
				tpm.crash()
				s.stop()
			})
		})
	}
}

func TestCallerThatLeavesANumberedRequestThatNothingCanHoldIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		next := newVerifier(block.Logs)
		next.fail = func(int) error { return errDown }
		tpm := newFakeTPM(t, 1)
		s, tel, _ := metered(t, testConfig(withStorage), next)
		s.start(fakeHost{tpmID: tpm, storageID: files})
		lost := func(numbers int64) {
			t.Helper()
			metadatatest.AssertEqualTpmsignLostNumbers(t, tel, points(point(numbers)), metricdatatest.IgnoreTimestamp())
		}
		files.broken.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.consume(ctx, batch(block.Logs, []string{"a"}, []string{"a'", "a''"}))
		require.ErrorIs(t, err, errPendingStorage)
		require.ErrorIs(t, err, errDown)
		lost(2)

		// The same while the signature is still to come.
		tpm.delay = time.Hour
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.ErrorIs(t, s.consume(ctx, batch(block.Logs, []string{"b"}, []string{"b'"}, []string{"b''"})), errPendingStorage)
		lost(2 + 3)
		require.ErrorIs(t, s.Shutdown(t.Context()), errLeftBehind, "what failed may have been done after all")
	})
}

func TestCallerThatGoesAwayDoesNotStopItsDataFromBeingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = time.Second
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		for _, name := range []string{"numbered", "not numbered"} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			require.NoError(t, s.consume(ctx, logsOf(name)))
			cancel()
		}
		require.Equal(t, 2, s.pendingBlocks())
		time.Sleep(time.Minute)
		s.stop()
		next.requireContiguous(t)
		require.Equal(t, []string{"not numbered", "numbered"}, next.accepted())
	})
}

func TestSignedFormThatCannotBeRecordedIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		next := newVerifier(block.Logs)
		s, _, logs := metered(t, testConfig(withStorage), next)
		s.start(fakeHost{tpmID: tpm, storageID: files})
		for _, name := range names("p", 3) {
			require.NoError(t, s.send(logsOf(name)))
		}
		files.broken.Store(true)
		tpm.unready.Store(false)
		time.Sleep(recordPatience / 2)
		require.Zero(t, next.seen(), "the storage may work again in a moment")
		time.Sleep(recordPatience)
		require.Len(t, next.accepted(), 3, "delivered from memory")
		require.Equal(t, 1, logs.FilterMessageSnippet("signed again under new numbers and come twice").FilterLevelExact(zap.ErrorLevel).Len())
		err := s.Shutdown(t.Context())
		require.ErrorIs(t, err, storage.ErrStorageFull, "their unsigned form is still there")
		require.ErrorIs(t, err, errLeftBehind)
		require.ErrorContains(t, err, "3 delivered requests, of which the next start signs 3 again")
		next.requireContiguous(t)
	})
}

func TestTwoPipelinesOfOneNameMayNotShareStorage(t *testing.T) {
	for _, stream := range []string{"", "named"} {
		host := storedHost(t, newFakeTPM(t, 1), t.TempDir())
		next := newVerifier(block.Logs)
		cfg := testConfig(withStorage, func(c *Config) { c.Stream = stream })
		s := newSUT(t, cfg, next).start(host)
		require.ErrorIs(t, newSUT(t, cfg, next).Start(t.Context(), host), errStreamTwice)
		s.stop()
		newSUT(t, cfg, next).start(host).stop()
	}
}

// What was delivered while the storage was broken is still there, unsigned: it
// would be signed again after a restart, under a number that nobody knows.
func TestWhatCouldNotBeRemovedDoesNotComeAgain(t *testing.T) {
	for name, afterwards := range map[string]func(*sut, *fakeTPM, *brokenStorage){
		"removed with the next": func(s *sut, tpm *fakeTPM, files *brokenStorage) {
			files.broken.Store(false)
			tpm.unready.Store(true)
			require.NoError(s.tb, s.send(logsOf("b")))
			tpm.unready.Store(false)
			time.Sleep(time.Second)
			require.Zero(s.tb, s.pendingBlocks())
			s.stop()
		},
		"removed when the storage works, before a crash": func(s *sut, _ *fakeTPM, files *brokenStorage) {
			files.broken.Store(false)
			time.Sleep(2 * maxPause)
			r := s.running.Load()
			s.kill()
			client := r.queue.store.(*diskStore).client
			require.NoError(s.tb, client.Close(context.Background()))
		},
		"removed at shutdown": func(s *sut, _ *fakeTPM, files *brokenStorage) {
			files.broken.Store(false)
			s.stop()
		},
		"removed when the storage works during shutdown": func(s *sut, _ *fakeTPM, files *brokenStorage) {
			time.AfterFunc(time.Second, func() { files.broken.Store(false) })
			s.stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				files := &brokenStorage{Extension: openFiles(t, t.TempDir())}
				tpm := newFakeTPM(t, 1)
				tpm.unready.Store(true)
				next := newVerifier(block.Logs)
				s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
				require.NoError(t, s.send(logsOf("a")))
				files.broken.Store(true)
				tpm.unready.Store(false)
				time.Sleep(2 * recordPatience)
				require.Equal(t, []string{"a"}, next.accepted(), "delivered from memory")
				afterwards(s, tpm, files)

				want := next.seen()
				s2 := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: newFakeTPM(t, 2), storageID: files})
				time.Sleep(time.Minute)
				require.Zero(t, s2.pendingBlocks())
				s2.stop()
				require.Equal(t, want, next.seen())
			})
		})
	}
}

func TestShutdownWithoutTimeStillClosesTheStorage(t *testing.T) {
	tpm, files := newFakeTPM(t, 1), openFiles(t, t.TempDir())
	next := newVerifier(block.Logs)
	for range 20 {
		s := newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = s.Shutdown(ctx)
	}
	newSUT(t, testConfig(withStorage), next).start(fakeHost{tpmID: tpm, storageID: files}).stop()
}
