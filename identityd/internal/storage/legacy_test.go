package storage

import (
	"crypto/ed25519"
	"encoding/hex"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func legacyOf(t *testing.T) Source {
	t.Helper()
	ppid, err := hex.DecodeString("000102030405060708090a0b0c0d0e0f")
	require.NoError(t, err)
	s, err := Legacy(ed25519.PublicKey(secret(0xaa)), ppid)
	require.NoError(t, err)
	return s
}

func TestLegacyKeyIsThatOfTheFirstGeneration(t *testing.T) {
	s := legacyOf(t)
	require.Equal(t, LegacyKey, s.Kind())
	for range 2 {
		k, err := s.Release(t.Context(), ID{1}, nil)
		require.NoError(t, err)
		// printf 'aa…(32)000102…0f' | xxd -r -p | sha256sum
		require.Equal(t, "8ec4bcc4be7b8111c283ad253cb8b31786bb9d7092f49da393a626186ff8de6f", hex.EncodeToString(k.b[:]))
		k.Wipe()
	}
}

func TestLegacyKeyIsWarnedOf(t *testing.T) {
	require.Contains(t, legacyOf(t).Warning(), "whoever reads the disk can decrypt it")
	require.Empty(t, given(1).Warning())
}

func TestLegacyKeyNeedsOwnerAndPPID(t *testing.T) {
	for _, c := range []struct{ owner, ppid int }{{0, 16}, {31, 16}, {33, 16}, {32, 0}} {
		_, err := Legacy(make([]byte, c.owner), make([]byte, c.ppid))
		refused(t, KeyInvalid, err)
	}
}

// TestNothingButItsOptionSelectsTheLegacyKey: the host writes the header, and
// would like the volume to be made, or opened, with a key that it can compute.
func TestNothingButItsOptionSelectsTheLegacyKey(t *testing.T) {
	path := place(t)
	d := open(t, path)
	require.NoError(t, d.Create(t.Context(), ID{1}, given(1)))
	header := filepath.Join(path, nameVolume, nameHeader)
	replace(t, header, `"owner"`, `"legacy"`)
	_, err := d.Mount(t.Context(), ID{1}, given(1))
	refused(t, SourceOther, err)
	_, err = d.Mount(t.Context(), ID{1}, legacyOf(t))
	refused(t, KeyWrong, err)
	replace(t, header, `"legacy"`, `"owner"`)

	// A volume of the legacy key in place of the owner's.
	other := place(t)
	o := open(t, other)
	require.NoError(t, o.Create(t.Context(), ID{1}, legacyOf(t)))
	replace(t, filepath.Join(other, nameVolume, nameHeader), `"legacy"`, `"owner"`)
	_, err = o.Mount(t.Context(), ID{1}, given(1))
	refused(t, KeyWrong, err)
	// The right key, said to come from elsewhere: the header is authenticated.
	key, err := legacyOf(t).Release(t.Context(), ID{1}, nil)
	require.NoError(t, err)
	_, err = o.Mount(t.Context(), ID{1}, Owner(key))
	refused(t, ConfChanged, err)
	replace(t, filepath.Join(other, nameVolume, nameHeader), `"owner"`, `"legacy"`)
	_, err = o.Mount(t.Context(), ID{1}, legacyOf(t))
	require.NoError(t, err)
}
