package seal_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/registryd/internal/seal"
)

var key = bytes.Repeat([]byte{7}, seal.KeySize)

func TestSealedForOnePurposeDoesNotOpenForAnother(t *testing.T) {
	sealed, err := seal.Seal(key, "session", []byte("data"), []byte("plain"))
	require.NoError(t, err)
	require.NotContains(t, string(sealed), "plain")
	plain, err := seal.Open(key, "session", []byte("data"), sealed)
	require.NoError(t, err)
	require.Equal(t, "plain", string(plain))

	_, err = seal.Open(key, "token", []byte("data"), sealed)
	require.ErrorIs(t, err, seal.ErrNotSealed, "another purpose")
	_, err = seal.Open(key, "session", []byte("other"), sealed)
	require.ErrorIs(t, err, seal.ErrNotSealed, "other data beside it")
	_, err = seal.Open(bytes.Repeat([]byte{8}, seal.KeySize), "session", []byte("data"), sealed)
	require.ErrorIs(t, err, seal.ErrNotSealed, "another registry")
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		_, err := seal.Open(key, "session", []byte("data"), changed)
		require.ErrorIs(t, err, seal.ErrNotSealed, "byte %d", i)
		_, err = seal.Open(key, "session", []byte("data"), sealed[:i])
		require.ErrorIs(t, err, seal.ErrNotSealed, "cut at %d", i)
	}
}

func TestKeyOfAnotherLengthIsAnErrorAndNotAForgery(t *testing.T) {
	_, err := seal.Seal(key[1:], "session", nil, nil)
	require.Error(t, err)
	_, err = seal.Open(key[1:], "session", nil, make([]byte, 100))
	require.Error(t, err)
	require.NotErrorIs(t, err, seal.ErrNotSealed)
}
