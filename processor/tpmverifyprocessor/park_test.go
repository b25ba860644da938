package tpmverifyprocessor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/signtest"
	"github.com/telemark-otel/telemark/internal/verdict"
)

var nonceID, storageID = component.MustNewID("nonce"), component.MustNewID("file_storage")

// standIn is a key source that knows edge-b, and edge-a while it answers.
type standIn struct {
	silent atomic.Bool
	keys   []*verdict.Key
}

func newRegistry(machines []*signtest.Machine) *standIn {
	r := &standIn{}
	for _, m := range machines {
		r.keys = append(r.keys, &verdict.Key{
			KID:       string(m.KID),
			Name:      m.Name,
			Algorithm: receipt.ES256,
			Public:    &m.Key.PublicKey,
			Evidence:  policy.Vouched,
			Policy:    &policy.Policy{Freshness: policy.Stale, LiveWithin: time.Minute},
		})
	}
	return r
}

func (r *standIn) Lookup(kid []byte) (*verdict.Key, error) {
	for _, k := range r.keys {
		if k.KID == string(kid) && (k.Name != "edge-a" || !r.silent.Load()) {
			return k, nil
		}
	}
	if r.silent.Load() {
		return nil, fmt.Errorf("ask the registry: %w", verdict.ErrUnavailable)
	}
	return nil, nil
}

func (r *standIn) Names(string, string) bool                                 { return false }
func (r *standIn) Binds(string) bool                                         { return false }
func (r *standIn) Start(context.Context, func(*componentstatus.Event)) error { return nil }
func (r *standIn) Shutdown(context.Context) error                            { return nil }

// newParkRig returns a rig whose registry is silent, over storage in dir unless
// that is "".
func newParkRig(t *testing.T, ext storage.Extension, change func(*Config)) (*rig, *standIn) {
	t.Helper()
	r := prepareRig(t, block.Logs, withConfig(func(c *Config) {
		if ext != nil {
			c.Park.Storage = &storageID
		}
		if change != nil {
			change(c)
		}
	}))
	reg := newRegistry(r.machines)
	reg.silent.Store(true)
	r.p.keys = reg
	if ext != nil {
		r.host.extensions[storageID] = ext
	}
	require.NoError(t, r.p.Start(t.Context(), r.host))
	return r, reg
}

func (r *rig) shutdown() {
	require.NoError(r.t, r.p.Shutdown(context.WithoutCancel(r.t.Context())))
}

func (r *rig) good() digest.Batch {
	d := signtest.Data(block.Logs, "edge-b", 2)
	r.machines[1].Sign(r.t, stream, 0, d)
	return d
}

func TestUndecidedBlockWithoutStorageIsAskedForAgain(t *testing.T) {
	r, reg := newParkRig(t, nil, nil)
	defer r.shutdown()
	d := r.signed(0)
	err := r.send(signtest.Copy(d), r.good())
	require.ErrorIs(t, err, errDeferred)
	require.False(t, consumererror.IsPermanent(err))
	require.Equal(t, 1, r.take().Len(), "the rest was delivered")
	require.Zero(t, r.refusedAll())
	reg.silent.Store(false)
	require.NoError(t, r.send(d))
	require.Equal(t, 1, r.take().Len())
}

func TestUndecidedBlockIsParkedAndJudgedWhenTheSourceIsBack(t *testing.T) {
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r, reg := newParkRig(t, ext, nil)
	defer r.shutdown()
	d := signtest.Data(block.Logs, "edge-a", 4)
	plain := signtest.Copy(d)
	r.machines[0].Sign(t, stream, 0, d)
	forged := r.signed(0)
	changeValue(forged)
	unknown := signtest.NewMachine(t, "edge-z", time.Now())
	unknown.Fetch(t, r.authority, time.Now())
	stranger := signtest.Data(block.Logs, "edge-z", 1)
	unknown.Sign(t, stream, 0, stranger)
	require.NoError(t, r.send(d, r.good(), forged, stranger), "acknowledged, since it is on disk")
	require.Equal(t, 1, r.take().Len())
	require.EqualValues(t, 3, r.count("tpmverify_parked_blocks"))
	require.Positive(t, r.count("tpmverify_parked_bytes"))

	require.False(t, r.p.park.tryAll(t.Context(), r.p.logger, r.p.park.waiting(), r.p.unpark))
	require.EqualValues(t, 3, r.count("tpmverify_parked_blocks"))
	reg.silent.Store(false)
	require.True(t, r.p.park.tryAll(t.Context(), r.p.logger, r.p.park.waiting(), r.p.unpark))
	require.Zero(t, r.count("tpmverify_parked_blocks"))
	require.Zero(t, r.count("tpmverify_parked_bytes"))
	got := r.take()
	require.Equal(t, 1, got.Len())
	requireUntouched(t, plain, got.At(0))
	require.EqualValues(t, 1, r.refused(reason.DigestMismatch))
	require.EqualValues(t, 1, r.refused(reason.UnknownKey))
}

func TestParkedBlockIsTriedByItself(t *testing.T) {
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r, reg := newParkRig(t, ext, nil)
	defer r.shutdown()
	require.NoError(t, r.send(r.signed(0)))
	reg.silent.Store(false)
	require.Eventually(t, func() bool { return r.calls() == 1 }, 10*time.Second, 10*time.Millisecond)
}

// TestParkedBlockOutlivesTheProcess kills the collector while blocks are
// parked, and again between the delivery of a parked block and its removal.
func TestParkedBlockOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	ext, stop := openStorage(t, dir)
	one, _ := newParkRig(t, ext, nil)
	d := one.signed(0)
	require.NoError(t, one.send(d))
	one.shutdown()
	stop()

	ext, stop = openStorage(t, dir)
	two := prepareRig(t, block.Logs, withConfig(func(c *Config) { c.Park.Storage = &storageID }))
	two.machines, two.authority = one.machines, one.authority
	two.trust(two.machines...)
	two.host.extensions[nonceID] = &nonces{authority: two.authority, windows: two.windows}
	two.host.extensions[storageID] = ext
	two.p.keys = newRegistry(two.machines)
	require.NoError(t, two.p.Start(t.Context(), two.host))
	waiting := two.p.park.waiting()
	require.Len(t, waiting, 1)
	e, err := two.p.park.get(t.Context(), waiting[0])
	require.NoError(t, err)
	require.True(t, two.p.unpark(t.Context(), e.at, e.blocks))
	require.Equal(t, 1, two.take().Len())
	// Killed here: the entry is still on disk.
	two.shutdown()
	stop()

	ext, stop = openStorage(t, dir)
	defer stop()
	three := prepareRig(t, block.Logs, withConfig(func(c *Config) { c.Park.Storage = &storageID }), withWindows(two.windows))
	three.host.extensions[nonceID] = &nonces{authority: one.authority, windows: two.windows}
	three.host.extensions[storageID] = ext
	three.p.keys = newRegistry(one.machines)
	require.NoError(t, three.p.Start(t.Context(), three.host))
	defer three.shutdown()
	require.True(t, three.p.park.tryAll(t.Context(), three.p.logger, three.p.park.waiting(), three.p.unpark))
	require.Zero(t, three.take().Len())
	require.EqualValues(t, 1, three.count("tpmverify_duplicate_blocks"))
	require.Empty(t, three.p.park.waiting())
}

func TestParkIsBounded(t *testing.T) {
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r, _ := newParkRig(t, ext, func(c *Config) { c.Park.MaxBytes = 4096 })
	defer r.shutdown()
	var err error
	sent := 0
	for ; sent < 100 && err == nil; sent++ {
		err = r.send(r.signed(0))
	}
	require.ErrorIs(t, err, errParkFull)
	require.ErrorIs(t, err, errDeferred)
	require.Greater(t, sent, 1)
	require.LessOrEqual(t, r.count("tpmverify_parked_bytes"), int64(4096))
	require.NoError(t, r.send(r.good()), "others pass")
}

func TestParkedTooLongIsRefused(t *testing.T) {
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r, _ := newParkRig(t, ext, func(c *Config) { c.Park.Wait = time.Hour })
	defer r.shutdown()
	require.NoError(t, r.send(r.signed(0)))
	r.advance(2 * time.Hour)
	require.True(t, r.p.park.tryAll(t.Context(), r.p.logger, r.p.park.waiting(), r.p.unpark))
	require.EqualValues(t, 1, r.refused(reason.KeyUnavailable))
	require.Zero(t, r.take().Len())
}

func TestParkedBlockStaysWhenTheNextComponentIsBusy(t *testing.T) {
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r, reg := newParkRig(t, ext, nil)
	defer r.shutdown()
	require.NoError(t, r.send(r.signed(0)))
	reg.silent.Store(false)
	r.setAnswer(func(context.Context, digest.Batch) error { return errBusy })
	require.False(t, r.p.park.tryAll(t.Context(), r.p.logger, r.p.park.waiting(), r.p.unpark))
	require.Len(t, r.p.park.waiting(), 1)
	r.setAnswer(nil)
	require.True(t, r.p.park.tryAll(t.Context(), r.p.logger, r.p.park.waiting(), r.p.unpark))
	require.Equal(t, 1, r.take().Len())
}

func TestDamagedParkIsRefusedAtStartAndDamagedEntriesAreGivenUp(t *testing.T) {
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	client, err := ext.GetClient(t.Context(), component.KindProcessor, component.MustNewID("tpmverify"), "park-logs")
	require.NoError(t, err)
	require.NoError(t, client.Set(t.Context(), parkTail, numberValue(1<<40)))
	r := prepareRig(t, block.Logs)
	_, err = openPark(t.Context(), client, r.cfg.Park, block.Logs, r.p.meters)
	require.ErrorIs(t, err, errParkDamaged)
	require.NoError(t, client.Set(t.Context(), parkTail, []byte("x")))
	_, err = openPark(t.Context(), client, r.cfg.Park, block.Logs, r.p.meters)
	require.ErrorIs(t, err, errParkDamaged)

	entry := func(version byte, rest string) []byte {
		return append([]byte{version}, "\x00\x00\x00\x00\x00\x00\x00\x00"+rest...)
	}
	damaged := [][]byte{
		{parkVersion, 1},
		entry(1, strings.Repeat("\x01", 20)),
		entry(2, ""),
		entry(2, "\xc8"+strings.Repeat("\x01", 199)), // the peer is cut off
		entry(2, "\x01p"+strings.Repeat("\x01", 20)),
		entry(3, ""),
	}
	require.NoError(t, client.Set(t.Context(), parkTail, numberValue(uint64(len(damaged)))))
	for n, value := range damaged {
		require.NoError(t, client.Set(t.Context(), entryKey(uint64(n)), value))
	}
	p, err := openPark(t.Context(), client, r.cfg.Park, block.Logs, r.p.meters)
	require.NoError(t, err)
	require.True(t, p.tryAll(t.Context(), r.p.logger, p.waiting(), r.p.unpark))
	require.Empty(t, p.waiting())
	require.Equal(t, len(damaged), r.logs.FilterMessageSnippet("given up").Len())
	require.NoError(t, p.close(t.Context()))
}

// TestParkedFragmentIsKeptWhileAnotherRequestHoldsSomeOfItsItems: that request
// may fail, and the rest was refused for good.
func TestParkedFragmentIsKeptWhileAnotherRequestHoldsSomeOfItsItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, block.Logs)
		d := r.signed(block.Split)
		var first atomic.Bool
		r.setAnswer(func(context.Context, digest.Batch) error {
			if !first.Swap(true) {
				time.Sleep(time.Second)
				return errBusy
			}
			return consumererror.NewPermanent(errBusy)
		})
		var wait sync.WaitGroup
		wait.Go(func() { require.ErrorIs(t, r.send(fragment(d, 0, 2)), errBusy) })
		synctest.Wait()
		require.False(t, r.p.unpark(t.Context(), r.now(), signtest.Copy(d)))
		wait.Wait()
		r.setAnswer(nil)
		require.True(t, r.p.unpark(t.Context(), r.now(), signtest.Copy(d)))
		require.Equal(t, 2, r.take().Items())
	})
}

// full is a storage whose writes begin to fail.
type full struct {
	storage.Extension
	now atomic.Bool
}

func (f *full) GetClient(ctx context.Context, k component.Kind, id component.ID, name string) (storage.Client, error) {
	c, err := f.Extension.GetClient(ctx, k, id, name)
	return &fullClient{c, f}, err
}

type fullClient struct {
	storage.Client
	disk *full
}

func (c *fullClient) Batch(ctx context.Context, ops ...*storage.Operation) error {
	if c.disk.now.Load() {
		return errors.New("no space left on device")
	}
	return c.Client.Batch(ctx, ops...)
}

// learning is a source of keys that does not know all of them yet.
type learning struct {
	*standIn
	known atomic.Bool
}

func (*learning) Changed() <-chan struct{} { return nil }
func (*learning) Asking() bool             { return false }
func (l *learning) Known() bool            { return l.known.Load() }

// TestParkedBlockIsDeliveredOnceWhileItCannotBeRemoved has blocks that claim
// nothing, so that no window would find them to be duplicates.
func TestParkedBlockIsDeliveredOnceWhileItCannotBeRemoved(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		data   func(*rig) digest.Batch
	}{
		"unsigned":  {func(c *Config) { c.Unsigned = UnsignedTag }, func(*rig) digest.Batch { return signtest.Data(block.Logs, "somebody", 2) }},
		"check":     {func(c *Config) { c.Mode = ModeCheck }, func(r *rig) digest.Batch { return r.signed(0) }},
		"claimable": {func(*Config) {}, func(r *rig) digest.Batch { return r.signed(0) }},
	} {
		t.Run(name, func(t *testing.T) {
			files, stop := openStorage(t, t.TempDir())
			defer stop()
			disk := &full{Extension: files}
			r := prepareRig(t, block.Logs, withConfig(func(cfg *Config) {
				cfg.Park.Storage = &storageID
				c.change(cfg)
			}))
			reg := &learning{standIn: newRegistry(r.machines)}
			reg.silent.Store(true)
			r.p.keys = reg
			r.host.extensions[storageID] = disk
			require.NoError(t, r.p.Start(t.Context(), r.host))
			defer r.shutdown()
			require.NoError(t, r.send(c.data(r)))
			require.Zero(t, r.calls())

			try := func() { r.p.park.tryAll(t.Context(), r.p.logger, r.p.park.waiting(), r.p.unpark) }
			disk.now.Store(true)
			reg.known.Store(true)
			reg.silent.Store(false)
			for range 5 {
				try()
			}
			require.Equal(t, 1, r.calls())
			require.Len(t, r.p.park.waiting(), 1)
			disk.now.Store(false)
			try()
			require.Equal(t, 1, r.calls())
			require.Empty(t, r.p.park.waiting())
		})
	}
}
