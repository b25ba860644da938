package tpm

import (
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

func TestPersistentHandle(t *testing.T) {
	t.Parallel()
	const handle = 0x81020001
	soft := tpmtest.Start(t)
	dir := filepath.Join(t.TempDir(), "key")
	d := openDevice(t, soft.Device(), Options{})
	k := openKey(t, d, KeyOptions{Dir: dir, Handle: handle})
	pub := k.PublicKey()
	requireSigns(t, k, pub)
	objects, sessions := held(t, d)
	require.Zero(t, objects, "a persistent key takes no room")
	require.Equal(t, 1, sessions)

	require.NoError(t, k.Close())
	require.NoError(t, d.Close())
	soft.Restart()
	d = openDevice(t, soft.Device(), Options{})
	k = openKey(t, d, KeyOptions{Dir: dir, Handle: handle})
	requireSigns(t, k, pub)

	t.Run("is never overwritten by a new key", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "key")
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: other, Handle: handle})
		require.ErrorIs(t, err, ErrHandleTaken)
		require.Equal(t, Permanent, Classify(err))
		require.NoFileExists(t, filepath.Join(other, recordFile))
	})
	t.Run("is never overwritten by an old key", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "key")
		require.NoError(t, openKey(t, d, KeyOptions{Dir: other}).Close())
		_, err := d.OpenKey(t.Context(), KeyOptions{Dir: other, Handle: handle})
		require.ErrorIs(t, err, ErrHandleTaken)
		requireSigns(t, k, pub)
	})
	t.Run("comes back after it was evicted", func(t *testing.T) {
		require.NoError(t, k.Close())
		_, err := ask(t.Context(), d, "evicting", func(l *link) (*tpm2.EvictControlResponse, error) {
			o, err := l.persistent(handle)
			if err != nil {
				return nil, err
			}
			return exec(l, tpm2.EvictControl{
				Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
				ObjectHandle:     tpm2.NamedHandle{Handle: handle, Name: o.name},
				PersistentHandle: handle,
			})
		})
		require.NoError(t, err)
		k = openKey(t, d, KeyOptions{Dir: dir, Handle: handle})
		requireSigns(t, k, pub)
		info, err := d.HandleInfo(t.Context(), handle)
		require.NoError(t, err)
		require.Equal(t, k.Info(), info)
	})
	t.Run("is described, and nothing else is", func(t *testing.T) {
		_, err := d.HandleInfo(t.Context(), handle+1)
		require.ErrorContains(t, err, "nothing is there")
		_, err = ask(t.Context(), d, "persisting another", func(l *link) (*tpm2.EvictControlResponse, error) {
			o, err := l.primary(tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
			if err != nil {
				return nil, err
			}
			defer l.flushQuietly(o.handle)
			return exec(l, tpm2.EvictControl{
				Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
				ObjectHandle:     tpm2.NamedHandle{Handle: o.handle, Name: o.name},
				PersistentHandle: handle + 1,
			})
		})
		require.NoError(t, err)
		_, err = d.HandleInfo(t.Context(), handle+1)
		require.ErrorContains(t, err, "not that of a signing key")
		require.Equal(t, Permanent, Classify(err))
		_, err = d.OpenKey(t.Context(), KeyOptions{Dir: t.TempDir(), Handle: handle + 1})
		require.ErrorIs(t, err, ErrHandleTaken)
	})
}

func TestHierarchyAuthValues(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	d := openDevice(t, soft.Device(), Options{})
	for hierarchy, auth := range map[tpm2.TPMHandle]string{tpm2.TPMRHOwner: "owner!", tpm2.TPMRHEndorsement: "endorsement!"} {
		_, err := ask(t.Context(), d, "setting", func(l *link) (*tpm2.HierarchyChangeAuthResponse, error) {
			return exec(l, tpm2.HierarchyChangeAuth{
				AuthHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)},
				NewAuth:    tpm2.TPM2BAuth{Buffer: []byte(auth)},
			})
		})
		require.NoError(t, err)
	}
	_, err := d.OpenKey(t.Context(), KeyOptions{Dir: t.TempDir()})
	require.Equal(t, Permanent, Classify(err))
	require.NoError(t, d.Close())

	d = openDevice(t, soft.Device(), Options{OwnerAuth: []byte("owner!"), EndorsementAuth: []byte("endorsement!")})
	k := openKey(t, d, KeyOptions{Handle: 0x81020002})
	requireSigns(t, k, k.PublicKey())
	_, err = k.Certify(t.Context(), nil)
	require.NoError(t, err)
	_, err = d.Increment(t.Context(), 0)
	require.NoError(t, err)
	activate(t, d, EKECCP256)
	objects, sessions := held(t, d)
	require.Zero(t, objects)
	require.Equal(t, 1, sessions)
}
