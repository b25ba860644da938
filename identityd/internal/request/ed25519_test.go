package request

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"math/big"
	"testing"

	"filippo.io/edwards25519"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// The eight points of low order, and their other spellings that decoders take.
var lowOrderPoints = map[string]reason.Reason{
	"0100000000000000000000000000000000000000000000000000000000000000": reason.PubkeyLowOrder, // order 1
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": reason.PubkeyLowOrder, // order 2
	"0000000000000000000000000000000000000000000000000000000000000000": reason.PubkeyLowOrder, // order 4
	"0000000000000000000000000000000000000000000000000000000000000080": reason.PubkeyLowOrder,
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05": reason.PubkeyLowOrder, // order 8
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85": reason.PubkeyLowOrder,
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a": reason.PubkeyLowOrder,
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa": reason.PubkeyLowOrder,
	"0100000000000000000000000000000000000000000000000000000000000080": reason.PubkeyNonCanonical,
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff": reason.PubkeyNonCanonical,
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": reason.PubkeyNonCanonical,
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff": reason.PubkeyNonCanonical,
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": reason.PubkeyNonCanonical,
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff": reason.PubkeyNonCanonical,
}

func TestLowOrderAndNonCanonicalKeysAreRefused(t *testing.T) {
	for digits, want := range lowOrderPoints {
		key := unhex(t, digits)
		require.Equal(t, want, reason.Of(Key(key)), digits)
		// What the library takes: R = identity, S = 0 fits every message under a
		// key of order 1.
		forged := make([]byte, 64)
		forged[0] = 1
		require.Equal(t, want, reason.Of(Verify(key, []byte("anything"), forged)), digits)
	}
	identity := unhex(t, "0100000000000000000000000000000000000000000000000000000000000000")
	require.True(t, ed25519.Verify(identity, []byte("anything"), append(bytes.Clone(identity), make([]byte, 32)...)), "the library would take it")

	require.Equal(t, reason.PubkeyMalformed, reason.Of(Key(unhex(t, "0200000000000000000000000000000000000000000000000000000000000000"))))
	require.Equal(t, reason.PubkeyMalformed, reason.Of(Key(nil)))
	require.Equal(t, reason.PubkeyMalformed, reason.Of(Key(make([]byte, 33))))
}

func TestKeyWithAPartOfLowOrderIsRefused(t *testing.T) {
	key := keyOf(1).Public().(ed25519.PublicKey)
	require.NoError(t, Key(key))
	p, err := new(edwards25519.Point).SetBytes(key)
	require.NoError(t, err)
	for digits, r := range lowOrderPoints {
		if r != reason.PubkeyLowOrder || digits[:2] == "01" {
			continue
		}
		torsion, err := new(edwards25519.Point).SetBytes(unhex(t, digits))
		require.NoError(t, err)
		mixed := new(edwards25519.Point).Add(p, torsion).Bytes()
		require.Equal(t, reason.PubkeyLowOrder, reason.Of(Key(mixed)), digits)
	}
}

func TestSecondSpellingOfASignatureIsRefused(t *testing.T) {
	key, message := keyOf(1), []byte("message")
	public := key.Public().(ed25519.PublicKey)
	signature := ed25519.Sign(key, message)
	require.NoError(t, Verify(public, message, signature))

	// S + L fits the equation as well as S does.
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := bytes.Clone(signature[32:])
	reverse(s)
	raised := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	reverse(raised)
	require.Equal(t, reason.SignatureNonCanonical, reason.Of(Verify(public, message, append(bytes.Clone(signature[:32]), raised...))))

	for digits := range lowOrderPoints {
		changed := append(unhex(t, digits), signature[32:]...)
		require.Equal(t, reason.SignatureNonCanonical, reason.Of(Verify(public, message, changed)), digits)
	}
	for i := range signature {
		changed := bytes.Clone(signature)
		changed[i] ^= 1
		require.Contains(t, []reason.Reason{reason.SignatureInvalid, reason.SignatureNonCanonical}, reason.Of(Verify(public, message, changed)))
	}
	require.Equal(t, reason.SignatureMalformed, reason.Of(Verify(public, message, signature[:63])))
	require.Equal(t, reason.SignatureInvalid, reason.Of(Verify(public, []byte("massage"), signature)))
	require.Equal(t, reason.SignatureInvalid, reason.Of(Verify(keyOf(2).Public().(ed25519.PublicKey), message, signature)))
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

func TestSignatureHasOneSpellingInTheHeader(t *testing.T) {
	digits := hex.EncodeToString(ed25519.Sign(keyOf(1), nil))
	_, err := header(digits)
	require.NoError(t, err)
	for _, value := range []string{digits[:126], digits + "00", "0x" + digits[2:], " " + digits, digits[:127] + "G", digits[:127] + "A", digits + "\n"} {
		_, err = header(value)
		require.Equal(t, reason.SignatureMalformed, reason.Of(err), value)
	}
	_, err = header("")
	require.Equal(t, reason.SignatureMissing, reason.Of(err))
}
