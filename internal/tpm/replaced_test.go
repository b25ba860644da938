package tpm

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"
)

// Whoever provisions a machine again may put another key where ours was. It is
// not asked to sign: the TPM would count each attempt, and then refuse everybody.
func TestKeyThatTookTheHandleMeanwhileIsNotAskedOverAndOver(t *testing.T) {
	t.Parallel()
	const handle = 0x81020003
	d, own := fixture(t)
	require.NoError(t, own.Close())
	k := openKey(t, d, KeyOptions{Handle: handle})
	requireSigns(t, k, k.PublicKey())

	evict(t, d, handle)
	other := protectedKey(t, d, handle)
	for range 5 {
		_, err := k.Sign(t.Context(), make([]byte, 32))
		require.ErrorIs(t, err, ErrHandleTaken)
		require.Equal(t, Permanent, Classify(err))
	}
	p, err := d.Properties(t.Context())
	require.NoError(t, err)
	require.False(t, p.InLockout)
	require.LessOrEqual(t, p.LockoutCounter, uint32(1))

	evict(t, d, handle)
	requireSigns(t, k, k.PublicKey())
	info, err := d.HandleInfo(t.Context(), handle)
	require.NoError(t, err)
	require.Equal(t, k.Info(), info, "and not %x", other.Buffer)
}

// evict empties a persistent handle.
func evict(t *testing.T, d *Device, handle uint32) {
	t.Helper()
	_, err := ask(t.Context(), d, "evicting", func(l *link) (*tpm2.EvictControlResponse, error) {
		o, err := l.persistent(handle)
		if err != nil {
			return nil, err
		}
		return exec(l, tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     tpm2.NamedHandle{Handle: tpm2.TPMHandle(handle), Name: o.name},
			PersistentHandle: tpm2.TPMHandle(handle),
		})
	})
	require.NoError(t, err)
}

// protectedKey makes a signing key with an auth value of its own, under
// dictionary attack protection, and keeps it at a persistent handle.
func protectedKey(t *testing.T, d *Device, handle uint32) tpm2.TPM2BName {
	t.Helper()
	template := ES256.signingTemplate()
	template.ObjectAttributes.NoDA = false
	name, err := ask(t.Context(), d, "provisioning", func(l *link) (name tpm2.TPM2BName, err error) {
		rsp, err := exec(l, tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(template),
			InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("theirs")}}},
		})
		if err != nil {
			return name, err
		}
		defer l.flushQuietly(rsp.ObjectHandle)
		_, err = exec(l, tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
			PersistentHandle: tpm2.TPMHandle(handle),
		})
		return rsp.Name, err
	})
	require.NoError(t, err)
	return name
}
