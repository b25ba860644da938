package tpm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

func TestEveryAlgorithmSignsAndComesBack(t *testing.T) {
	t.Parallel()
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			t.Parallel()
			soft, dir := tpmtest.New(t), t.TempDir()
			d := openDevice(t, soft, Options{Algorithm: a})
			k := openKey(t, d, KeyOptions{Dir: dir})
			require.Equal(t, a, k.Algorithm())
			require.Equal(t, string(a), k.Info().Alg)
			kid, pub := k.KID(), k.PublicKey()
			requireSigns(t, k, pub)
			certified, err := k.Certify(t.Context(), []byte("nonce"))
			require.NoError(t, err)
			require.NotEmpty(t, certified.Signature)
			requireSigns(t, k, pub)
			require.NoError(t, k.Close())

			info, err := ReadKeyInfo(dir)
			require.NoError(t, err)
			require.Equal(t, string(a), info.Alg)
			k = openKey(t, d, KeyOptions{Dir: dir})
			require.Equal(t, kid, k.KID())
			requireSigns(t, k, pub)
			require.NoError(t, k.Close())
		})
	}
}

func TestKeyKeepsItsAlgorithm(t *testing.T) {
	t.Parallel()
	soft, dir := tpmtest.New(t), t.TempDir()
	d := openDevice(t, soft, Options{})
	require.NoError(t, openKey(t, d, KeyOptions{Dir: dir}).Close())
	require.NoError(t, d.Close())
	d = openDevice(t, soft, Options{Algorithm: PS256})
	_, err := d.OpenKey(t.Context(), KeyOptions{Dir: dir})
	require.ErrorIs(t, err, ErrOtherAlgorithm)
	require.ErrorContains(t, err, "ES256")
	require.Equal(t, Permanent, Classify(err))
}

func TestDigestOfAnotherHashIsNotSigned(t *testing.T) {
	t.Parallel()
	_, k := fixture(t)
	_, err := k.Sign(t.Context(), make([]byte, 48))
	require.ErrorContains(t, err, "digest of 48 bytes, ES256 signs 32")
}

func TestAlgorithmsAreReadByTheirNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Algorithm{"": ES256, "sha256": ES256, "ES256": ES256, "ES384": ES384, "PS256": PS256} {
		got, err := ParseAlgorithm(name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, name := range []string{"es256", "RS256", "sha384", "none"} {
		_, err := ParseAlgorithm(name)
		require.ErrorContains(t, err, "ES256, ES384 or PS256")
		_, err = Open(t.Context(), "unix:/nowhere", Options{Algorithm: Algorithm(name)})
		require.ErrorContains(t, err, "no algorithm")
	}
}
