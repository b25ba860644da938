package tpmextension

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/receipt"
)

func TestEpochRisesOverRestartsAndNamesTheStatementBefore(t *testing.T) {
	device, keys, store := "swtpm:"+shortDir(t), t.TempDir(), t.TempDir()
	var last *receipt.Receipt
	for epoch := uint64(1); epoch <= 3; epoch++ {
		t.Run("start", func(t *testing.T) {
			a := startAgent(t, withStorage(t, store), testConfig(device, keys, stored))
			got := a.sign(t, leaves("s", 3))
			require.Equal(t, epoch, got[0].Statement.Epoch)
			require.Equal(t, uint64(1), got[0].BlockNo)
			if last != nil {
				require.Equal(t, statementHash(t, last), got[0].Statement.Prev)
				require.Equal(t, last.Statement.KID, got[0].Statement.KID)
			}
			more := a.sign(t, leaves("s", 2))
			require.Equal(t, statementHash(t, got[0]), more[0].Statement.Prev)
			require.Equal(t, uint64(2), more[0].Statement.Seq)
			last = more[1]
			require.NoError(t, a.Shutdown(t.Context()))
		})
	}
}

func TestEpochIsDurableBeforeTheFirstReceipt(t *testing.T) {
	device, keys, store := "swtpm:"+shortDir(t), t.TempDir(), t.TempDir()
	for range 2 { // starts that never sign anything
		t.Run("idle", func(t *testing.T) {
			host := withStorage(t, store)
			a := startAgent(t, host, testConfig(device, keys, stored))
			require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
			require.NoError(t, a.Shutdown(t.Context()))
		})
	}
	a := startAgent(t, withStorage(t, store), testConfig(device, keys, stored))
	require.Equal(t, uint64(3), a.sign(t, leaves("s", 1))[0].Statement.Epoch)
}

// The process dies without a word: what it left on disk is all there is.
func TestCrashLosesNoLinkOfTheChain(t *testing.T) {
	soft := newSoftware(t)
	soft.start(t)
	keys, store := t.TempDir(), t.TempDir()
	a := startAgent(t, withStorage(t, store), testConfig(soft.device(), keys, stored))
	a.sign(t, leaves("s", 2))
	last := a.sign(t, leaves("s", 3))[0]
	keys2, store2 := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "store")
	require.NoError(t, exec.Command("cp", "-a", keys, keys2).Run())
	require.NoError(t, exec.Command("cp", "-a", store, store2).Run())
	soft.kill()

	soft.start(t)
	b := startAgent(t, withStorage(t, store2), testConfig(soft.device(), keys2, stored))
	next := b.sign(t, leaves("s", 1))[0]
	require.Equal(t, last.Statement.KID, next.Statement.KID)
	require.Equal(t, last.Statement.Epoch+1, next.Statement.Epoch)
	require.Equal(t, statementHash(t, last), next.Statement.Prev)
}

func TestWithoutStorageTheTPMCountsEpochs(t *testing.T) {
	device, keys := "swtpm:"+shortDir(t), t.TempDir()
	var before uint64
	for range 3 {
		a := startAgent(t, &testHost{}, testConfig(device, keys))
		got := a.sign(t, leaves("s", 1))[0].Statement
		require.Greater(t, got.Epoch, before)
		require.Equal(t, block.Digest{}, got.Prev)
		before = got.Epoch
		require.NoError(t, a.Shutdown(t.Context()))
	}
}

func TestLostStorageDoesNotMakeEpochsFall(t *testing.T) {
	device, keys := "swtpm:"+shortDir(t), t.TempDir()
	a := startAgent(t, withStorage(t, t.TempDir()), testConfig(device, keys, stored))
	require.Equal(t, uint64(1), a.sign(t, leaves("s", 1))[0].Statement.Epoch)
	require.NoError(t, a.Shutdown(t.Context()))

	b := startAgent(t, withStorage(t, t.TempDir()), testConfig(device, keys, stored))
	require.InDelta(t, time.Now().Unix(), b.sign(t, leaves("s", 1))[0].Statement.Epoch, 60)
}

// key.json has the form of a keys.file, so people write into it.
func TestEditedKeyFileAndLostStorageDoNotMakeEpochsFall(t *testing.T) {
	for name, edit := range map[string]func(string) error{
		"edited": func(file string) error {
			return os.WriteFile(file, []byte(`{"keys":[{"labels":{"site":"a"}}]}`), 0o600)
		},
		"lost": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			device, keys := "swtpm:"+shortDir(t), t.TempDir()
			a := startAgent(t, withStorage(t, t.TempDir()), testConfig(device, keys, stored))
			require.Equal(t, uint64(1), a.sign(t, leaves("s", 1))[0].Statement.Epoch)
			require.NoError(t, a.Shutdown(t.Context()))

			require.NoError(t, edit(filepath.Join(keys, publicKeyFile)))
			b := startAgent(t, withStorage(t, t.TempDir()), testConfig(device, keys, stored))
			require.InDelta(t, time.Now().Unix(), b.sign(t, leaves("s", 1))[0].Statement.Epoch, 60)
		})
	}
}

func TestClockThatIsNotSetDoesNotStandInForLostEpochs(t *testing.T) {
	now := time.Unix(90, 0) // no battery, 90 s after power came
	epochs := &storedEpochs{client: &brokenStorage{values: map[string][]byte{}}, now: func() time.Time { return now }}
	_, err := epochs.next(t.Context(), keyFacts{kid: testKID})
	require.ErrorIs(t, err, errClockUnset)
	require.False(t, fatal(err), "it will be set")
	now = firstEpochTime.Add(time.Hour)
	got, err := epochs.next(t.Context(), keyFacts{kid: testKID})
	require.NoError(t, err)
	require.Equal(t, uint64(now.Unix())+1, got.epoch)
}

func TestDamagedEpochIsPermanentAndNothingIsSigned(t *testing.T) {
	device, keys, store := "swtpm:"+shortDir(t), t.TempDir(), t.TempDir()
	a := startAgent(t, withStorage(t, store), testConfig(device, keys, stored))
	kid := a.sign(t, leaves("s", 1))[0].Statement.KID
	require.NoError(t, a.Shutdown(t.Context()))

	host := withStorage(t, store)
	id := component.NewID(component.MustNewType("tpm"))
	client, err := openStorage(t.Context(), host, storageID, id)
	require.NoError(t, err)
	require.NoError(t, client.Set(t.Context(), stateKey(kid), []byte("nonsense")))
	require.NoError(t, client.Close(t.Context()))

	b := startAgent(t, host, testConfig(device, keys, stored))
	require.ErrorIs(t, host.waitFor(t, componentstatus.StatusPermanentError), errStateDamaged)
	pending(t, b.submit(t, leaves("s", 1)), "the epoch is not known")
	require.False(t, b.CanSign())
}

func statementHash(t *testing.T, r *receipt.Receipt) block.Digest {
	t.Helper()
	leaf := receipt.Leaf{Signal: block.Logs, Stream: r.Stream, BlockNo: r.BlockNo, Items: r.Items, Digest: r.Digest}
	root, err := r.Root(leaf.Hash())
	require.NoError(t, err)
	return receipt.StatementHash(receipt.SigStructure(r.Protected, root))
}

// brokenStorage is a storage extension in memory that can refuse to write.
type brokenStorage struct {
	component.StartFunc
	component.ShutdownFunc
	storage.Client

	broken atomic.Bool
	hangs  atomic.Pointer[chan struct{}] // until it is closed
	mu     sync.Mutex
	values map[string][]byte
}

func (b *brokenStorage) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return b, nil
}

func (b *brokenStorage) Get(_ context.Context, key string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.values[key], nil
}

func (b *brokenStorage) Set(_ context.Context, key string, value []byte) error {
	if b.broken.Load() {
		return errors.New("no space left on device")
	}
	if end := b.hangs.Load(); end != nil {
		<-*end
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.values[key] = value
	return nil
}

func (b *brokenStorage) Close(context.Context) error { return nil }

func TestNoReceiptLeavesBeforeItsStatementIsStored(t *testing.T) {
	disk := &brokenStorage{values: map[string][]byte{}}
	host := &testHost{extensions: map[component.ID]component.Component{storageID: disk}}
	disk.broken.Store(true)
	soft := newSoftware(t)
	soft.start(t)
	a := startAgent(t, host, testConfig(soft.device(), t.TempDir(), stored))
	first := a.submit(t, leaves("s", 1))
	require.Eventually(t, func() bool {
		_, err := host.status()
		return err != nil && strings.Contains(err.Error(), "no space left")
	}, patience, time.Millisecond)
	pending(t, first, "its epoch is not stored")
	disk.broken.Store(false)
	require.Equal(t, uint64(1), signed(t, first)[0].Epoch)

	disk.broken.Store(true)
	second := a.submit(t, leaves("s", 1))
	require.Error(t, host.waitFor(t, componentstatus.StatusRecoverableError))
	pending(t, second, "its statement is not stored")
	disk.broken.Store(false)
	require.Equal(t, uint64(2), signed(t, second)[0].Seq)
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
}

func TestEpochsBeyondWhatReceiptsCarryAreRefused(t *testing.T) {
	for _, n := range []uint64{0, maxEpoch + 1} {
		_, err := countedEpochs{increment: func(context.Context) (uint64, error) { return n, nil }}.next(t.Context(), keyFacts{})
		require.ErrorIs(t, err, errEpochExceeded)
	}
	disk := &brokenStorage{values: map[string][]byte{}}
	epochs := &storedEpochs{client: disk, now: time.Now}
	require.NoError(t, epochs.save(t.Context(), testKID, group.State{Epoch: maxEpoch}))
	_, err := epochs.next(t.Context(), keyFacts{kid: testKID})
	require.ErrorIs(t, err, errEpochExceeded)
}

func TestANewKeyBeginsItsOwnChain(t *testing.T) {
	disk := &brokenStorage{values: map[string][]byte{}}
	epochs := &storedEpochs{client: disk, now: time.Now}
	require.NoError(t, epochs.save(t.Context(), testKID, group.State{Epoch: 7, Seq: 3, Prev: block.Digest{1}}))
	other := append(bytes.Clone(testKID[:33]), 0)
	got, err := epochs.next(t.Context(), keyFacts{kid: other, fresh: true})
	require.NoError(t, err)
	require.Equal(t, origin{epoch: 1}, got)
	got, err = epochs.next(t.Context(), keyFacts{kid: testKID})
	require.NoError(t, err)
	require.Equal(t, origin{epoch: 8, prev: block.Digest{1}}, got)
}

// Each start of one key is above the one before, whatever keeps the epochs: an
// epoch that is used again is an equivocation of an honest machine.
func TestEpochsNeverFallWhenWhatKeepsThemIsExchanged(t *testing.T) {
	device, keys, store := "swtpm:"+shortDir(t), t.TempDir(), t.TempDir()
	otherIndex := func(c *Config) { c.NVIndex = 0x01817E1F }
	last := &receipt.Statement{}
	for _, start := range []struct {
		name   string
		config []configure
		named  bool // the first statement names the last one of the start before
	}{
		{"with storage", []configure{stored}, false},
		{"with storage again", []configure{stored}, true},
		{"counted by the TPM", nil, false},
		{"at another index", []configure{otherIndex}, false},
		{"at the first index", nil, false},
		{"with the storage of before", []configure{stored}, false},
		{"with storage to the end", []configure{stored}, true},
	} {
		host := &testHost{}
		if len(start.config) > 0 {
			host = withStorage(t, store)
		}
		a := startAgent(t, host, testConfig(device, keys, start.config...))
		got := a.sign(t, leaves("s", 1))[0]
		require.Greater(t, got.Statement.Epoch, last.Epoch, start.name)
		require.Less(t, got.Statement.Epoch, last.Epoch+100, start.name)
		require.Equal(t, start.named, got.Statement.Prev != block.Digest{}, start.name)
		last = got.Statement
		require.NoError(t, a.Shutdown(t.Context()))
	}
}

func TestImportedKeyDoesNotBeginItsEpochsAnew(t *testing.T) {
	now := time.Unix(90, 0)
	epochs := countedEpochs{increment: func(context.Context) (uint64, error) { return 1, nil }, now: func() time.Time { return now }}
	_, err := epochs.next(t.Context(), keyFacts{kid: testKID, foreign: true})
	require.ErrorIs(t, err, errClockUnset)
	now = firstEpochTime
	got, err := epochs.next(t.Context(), keyFacts{kid: testKID, foreign: true})
	require.NoError(t, err)
	require.Equal(t, uint64(now.Unix())+1, got.epoch)
	got, err = epochs.next(t.Context(), keyFacts{kid: testKID, foreign: true, floor: 7})
	require.NoError(t, err)
	require.Equal(t, uint64(8), got.epoch)
}

func TestFileOfEpochsIsTakenForItsKeyAlone(t *testing.T) {
	dir := t.TempDir()
	floor, err := readFloor(dir, testKID)
	require.NoError(t, err)
	require.Zero(t, floor)
	require.NoError(t, writeFloor(dir, testKID, 7))
	floor, err = readFloor(dir, testKID)
	require.NoError(t, err)
	require.Equal(t, uint64(7), floor)
	other, err := readFloor(dir, append(bytes.Clone(testKID[:33]), 0))
	require.NoError(t, err)
	require.Zero(t, other)
	for _, content := range []string{"", "nonsense", `{"version": 2, "epoch": 1}`} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, epochFile), []byte(content), 0o600))
		_, err := readFloor(dir, testKID)
		require.ErrorIs(t, err, errStateDamaged, content)
		require.True(t, fatal(err))
	}
}

// An epoch that cannot be written beside the key is not counted again: the TPM's
// memory wears out.
func TestEpochThatCannotBeWrittenIsCountedOnce(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "missing")
	counted := uint64(0)
	s := &signer{cfg: &Config{Key: KeyConfig{Dir: keys}}, epochs: countedEpochs{increment: func(context.Context) (uint64, error) {
		counted++
		return counted, nil
	}}}
	for range 3 {
		_, err := s.beginEpoch(t.Context(), keyFacts{kid: testKID})
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.False(t, fatal(err))
	}
	require.NoError(t, os.Mkdir(keys, 0o700))
	from, err := s.beginEpoch(t.Context(), keyFacts{kid: testKID})
	require.NoError(t, err)
	require.Equal(t, origin{epoch: 1}, from)
	require.Equal(t, uint64(1), counted)
	floor, err := readFloor(keys, testKID)
	require.NoError(t, err)
	require.Equal(t, uint64(1), floor)
}

// A disk that hangs answers nothing, no error either.
func TestStorageThatHangsIsSaid(t *testing.T) {
	disk := &brokenStorage{values: map[string][]byte{}}
	host := &testHost{extensions: map[component.ID]component.Component{storageID: disk}}
	soft := newSoftware(t)
	soft.start(t)
	a := startAgent(t, host, testConfig(soft.device(), t.TempDir(), stored, func(c *Config) { c.CommandTimeout = minCommandTimeout }))
	a.sign(t, leaves("s", 1))
	end := make(chan struct{})
	disk.hangs.Store(&end)
	ticket := a.submit(t, leaves("s", 1))
	require.ErrorIs(t, host.waitFor(t, componentstatus.StatusRecoverableError), errSaving)
	require.False(t, a.CanSign())
	pending(t, ticket, "its statement is not stored")
	disk.hangs.Store(nil)
	close(end)
	signed(t, ticket)
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
}

func TestStorageThatHangsAtTheStartIsSaid(t *testing.T) {
	end := make(chan struct{})
	disk := &brokenStorage{values: map[string][]byte{}}
	disk.hangs.Store(&end)
	host := &testHost{extensions: map[component.ID]component.Component{storageID: disk}}
	soft := newSoftware(t)
	soft.start(t)
	a := startAgent(t, host, testConfig(soft.device(), t.TempDir(), stored, func(c *Config) { c.CommandTimeout = minCommandTimeout }))
	answer := sync.OnceFunc(func() {
		disk.hangs.Store(nil)
		close(end)
	})
	t.Cleanup(answer)
	require.Eventually(t, func() bool {
		_, err := host.status()
		return errors.Is(err, errSaving)
	}, patience, time.Millisecond, "the TPM is not to blame")
	answer()
	a.sign(t, leaves("s", 1))
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
}
