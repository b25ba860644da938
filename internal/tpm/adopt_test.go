package tpm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

const loadKept = "\ntpm2_load -Q -C p.ctx -u key.pub -r key.priv -c key.ctx; flush\ntpm2_evictcontrol -Q -C o -c key.ctx 0x81000041; flush"

func TestKeyAtAHandleIsAdopted(t *testing.T) {
	t.Parallel()
	const handle = 0x81000041
	soft := tpmtest.Start(t)
	work, dir := t.TempDir(), filepath.Join(t.TempDir(), "key")
	soft.Tools(work, makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -p secret`)+loadKept)
	d := openDevice(t, soft.Device(), Options{})

	_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir, Handle: handle})
	require.ErrorIs(t, err, ErrHandleTaken, "nobody has asked for it")
	adopt := &Import{Adopt: true, Auth: []byte("wrong")}
	_, err = d.OpenKey(t.Context(), KeyOptions{Dir: dir, Handle: handle, Import: adopt})
	require.ErrorIs(t, err, ErrWrongAuth)
	require.NoFileExists(t, filepath.Join(dir, recordFile))
	adopt.Auth = []byte("secret")
	k := openKey(t, d, KeyOptions{Dir: dir, Handle: handle, Name: "edge-a", Import: adopt})
	pub := k.PublicKey()
	requireSigns(t, k, pub)
	require.Len(t, k.Cautions(), 2)
	objects, sessions := held(t, d)
	require.Zero(t, objects)
	require.Equal(t, 1, sessions)
	_, err = k.Certify(t.Context(), nil)
	require.NoError(t, err)
	info, err := d.HandleInfo(t.Context(), handle)
	require.NoError(t, err)
	require.Equal(t, k.Info().KID, info.KID)

	require.NoError(t, k.Close())
	require.NoError(t, d.Close())
	soft.Restart()
	d = openDevice(t, soft.Device(), Options{})
	k = openKey(t, d, KeyOptions{Dir: dir})
	requireSigns(t, k, pub)
	require.NoError(t, k.Close(), "and the handle need not be said again")
	_, err = d.OpenKey(t.Context(), KeyOptions{Dir: dir, Handle: handle + 1})
	require.ErrorIs(t, err, ErrOtherHandle)
	require.ErrorContains(t, err, "0x81000041")
	require.Equal(t, Permanent, Classify(err))

	t.Run("is gone when it was evicted", func(t *testing.T) {
		require.NoError(t, d.Close())
		soft.Tools(work, "tpm2_evictcontrol -Q -C o -c 0x81000041")
		d = openDevice(t, soft.Device(), Options{})
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir})
		require.ErrorIs(t, err, ErrNothingThere)
		require.Equal(t, Permanent, Classify(err))
	})
	t.Run("is not taken for another one in its place", func(t *testing.T) {
		require.NoError(t, d.Close())
		soft.Tools(t.TempDir(), makeKey(toolsECC, `-G ecc256:ecdsa-sha256 -p secret`)+loadKept)
		d = openDevice(t, soft.Device(), Options{})
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir})
		require.ErrorIs(t, err, ErrHandleTaken)
	})
}

func TestWhatCannotSignIsNotAdopted(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	soft.Tools(t.TempDir(), makeKey(toolsECC, `-G ecc`)+loadKept)
	d := openDevice(t, soft.Device(), Options{})
	dir := filepath.Join(t.TempDir(), "key")
	for handle, want := range map[uint32]error{0x81000041: ErrUnfit, 0x81000042: ErrNothingThere} {
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir, Handle: handle, Import: &Import{Adopt: true}})
		require.ErrorIs(t, err, want)
		_, err = d.HandleInfo(t.Context(), handle)
		require.ErrorIs(t, err, want)
	}
	require.NoFileExists(t, filepath.Join(dir, recordFile))
}

func TestImportedKeyIsKeptAtAHandle(t *testing.T) {
	t.Parallel()
	const handle = 0x81000041
	soft := tpmtest.Start(t)
	work := t.TempDir()
	soft.Tools(work, makeKey(toolsECC, `-G ecc256:ecdsa-sha256`))
	b, err := readBlobs(t, work)
	require.NoError(t, err)
	d := openDevice(t, soft.Device(), Options{})
	dir := filepath.Join(t.TempDir(), "key")
	k := openKey(t, d, KeyOptions{Dir: dir, Handle: handle, Import: &Import{Blobs: b}})
	requireSigns(t, k, k.PublicKey())
	info, err := d.HandleInfo(t.Context(), handle)
	require.NoError(t, err)
	require.Equal(t, k.Info().KID, info.KID)
	require.NoError(t, k.Close())

	t.Run("also when it is there already", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(dir))
		k := openKey(t, d, KeyOptions{Dir: dir, Handle: handle, Import: &Import{Blobs: b}})
		requireSigns(t, k, k.PublicKey())
		require.NoError(t, k.Close())
	})
	t.Run("and nothing is taken over when another one is there", func(t *testing.T) {
		require.NoError(t, k.Close())
		kept := openKey(t, d, KeyOptions{Handle: handle + 1})
		requireSigns(t, kept, kept.PublicKey())
		require.NoError(t, kept.Close())
		fresh := filepath.Join(t.TempDir(), "key")
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: fresh, Handle: handle + 1, Import: &Import{Blobs: b}})
		require.ErrorIs(t, err, ErrHandleTaken)
		require.NoFileExists(t, filepath.Join(fresh, recordFile), "the import can be repeated with another handle")
	})
	t.Run("and loaded from its blobs when it was evicted", func(t *testing.T) {
		require.NoError(t, d.Close())
		soft.Tools(work, "tpm2_evictcontrol -Q -C o -c 0x81000041")
		d = openDevice(t, soft.Device(), Options{})
		k := openKey(t, d, KeyOptions{Dir: dir})
		requireSigns(t, k, k.PublicKey())
	})
}
