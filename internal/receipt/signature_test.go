package receipt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"math/big"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/veraison/go-cose"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

const sha256Opts = crypto.SHA256

func parseDER(t testing.TB, der []byte) (r, s *big.Int) {
	t.Helper()
	var sig struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &sig)
	require.NoError(t, err)
	require.Empty(t, rest)
	return sig.R, sig.S
}

func exampleRoot(t testing.TB, r *Receipt) block.Digest {
	t.Helper()
	leaf := exampleLeaves()[1]
	root, err := r.Root(leaf.Hash())
	require.NoError(t, err)
	return root
}

// Our receipts are COSE_Sign1 messages for an implementation that is not ours.
func TestReceiptsVerifyUnderGoCOSE(t *testing.T) {
	r := exampleReceipt(t)
	wire, err := r.Encode()
	require.NoError(t, err)
	root := exampleRoot(t, r)

	var message cose.Sign1Message
	require.NoError(t, message.UnmarshalCBOR(wire))
	require.Nil(t, message.Payload, "detached")
	alg, err := message.Headers.Protected.Algorithm()
	require.NoError(t, err)
	require.Equal(t, cose.AlgorithmES256, alg)
	require.Equal(t, r.Statement.KID, message.Headers.Protected[cose.HeaderLabelKeyID])

	verifier, err := cose.NewVerifier(cose.AlgorithmES256, exampleKey(t).Public())
	require.NoError(t, err)
	message.Payload = root[:]
	require.NoError(t, message.Verify(nil, verifier))
	message.Payload = make([]byte, 32)
	require.Error(t, message.Verify(nil, verifier))

	message.Payload = nil
	again, err := message.MarshalCBOR()
	require.NoError(t, err)
	require.Equal(t, wire, again, "it encodes them the same way")
}

// And what it signs over our protected header, we take.
func TestSignaturesOfGoCOSEVerify(t *testing.T) {
	r := exampleReceipt(t)
	root := exampleRoot(t, r)
	signer, err := cose.NewSigner(cose.AlgorithmES256, exampleKey(t))
	require.NoError(t, err)
	message := cose.NewSign1Message()
	message.Headers.RawProtected = appendBytes(nil, r.Protected)
	message.Headers.RawUnprotected = []byte{0xa0}
	require.NoError(t, message.Headers.UnmarshalFromRaw())
	message.Payload = root[:]
	require.NoError(t, message.Sign(rand.Reader, nil, signer))
	require.NoError(t, VerifySignature(ES256, exampleKey(t).Public(), SigStructure(r.Protected, root), message.Signature))
}

func TestKeysThatDoNotFitTheAlgorithmAreRefused(t *testing.T) {
	r := exampleReceipt(t)
	message := SigStructure(r.Protected, exampleRoot(t, r))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	good := exampleKey(t).Public().(*ecdsa.PublicKey)
	var none *ecdsa.PublicKey

	cache := NewSignatureCache(4)
	for name, c := range map[string]struct {
		alg  Algorithm
		pub  crypto.PublicKey
		sig  []byte
		want reason.Reason
	}{
		"right":            {ES256, good, r.Signature, ""},
		"algorithm":        {-36, good, r.Signature, reason.AlgorithmUnknown},
		"P-384 key":        {ES256, p384.Public(), r.Signature, reason.CurveMismatch},
		"Edwards key":      {ES256, edwards, r.Signature, reason.CurveMismatch},
		"no key":           {ES256, nil, r.Signature, reason.CurveMismatch},
		"nil key":          {ES256, none, r.Signature, reason.CurveMismatch},
		"key by value":     {ES256, *good, r.Signature, reason.CurveMismatch},
		"signature short":  {ES256, good, r.Signature[1:], reason.SignatureInvalid},
		"signature long":   {ES256, good, append(bytes.Clone(r.Signature), 0), reason.SignatureInvalid},
		"signature zero":   {ES256, good, make([]byte, 64), reason.SignatureInvalid},
		"signature of 1s":  {ES256, good, bytes.Repeat([]byte{0xff}, 64), reason.SignatureInvalid},
		"no signature":     {ES256, good, nil, reason.SignatureInvalid},
		"r and s reversed": {ES256, good, append(bytes.Clone(r.Signature[32:]), r.Signature[:32]...), reason.SignatureInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, reason.Of(VerifySignature(c.alg, c.pub, message, c.sig)))
			for range 2 {
				require.Equal(t, c.want, reason.Of(verifyBy(cache, c.alg, c.pub, message, c.sig)))
			}
		})
	}
}

func verifyBy(c *SignatureCache, alg Algorithm, pub crypto.PublicKey, message, sig []byte) error {
	_, err := c.Verify(alg, pub, message, sig)
	return err
}

// ES256 is malleable: (r, n-s) signs what (r, s) signs. Both verify; a block is
// claimed by its number, so the second is a duplicate of the first.
func TestTheOtherSOfASignatureVerifiesTooAndSaysTheSame(t *testing.T) {
	r := exampleReceipt(t)
	message := SigStructure(r.Protected, exampleRoot(t, r))
	other := *r
	s := new(big.Int).SetBytes(r.Signature[32:])
	other.Signature = bytes.Clone(r.Signature)
	s.Sub(elliptic.P256().Params().N, s).FillBytes(other.Signature[32:])
	require.NotEqual(t, r.Signature, other.Signature)
	require.NoError(t, VerifySignature(ES256, exampleKey(t).Public(), message, other.Signature))

	wire, err := other.Encode()
	require.NoError(t, err)
	got, err := Decode(wire)
	require.NoError(t, err)
	require.Equal(t, r.Statement, got.Statement)
	require.Equal(t, StatementHash(message), StatementHash(SigStructure(got.Protected, exampleRoot(t, got))))
	require.Equal(t, []any{r.Stream, r.BlockNo}, []any{got.Stream, got.BlockNo})
}

func TestRememberedSignatureDoesNotCoverAnotherPayloadOrKey(t *testing.T) {
	r := exampleReceipt(t)
	root := exampleRoot(t, r)
	message := SigStructure(r.Protected, root)
	cache := NewSignatureCache(4)
	statement, err := cache.Verify(ES256, exampleKey(t).Public(), message, r.Signature)
	require.NoError(t, err)
	require.Equal(t, StatementHash(message), statement)
	again, err := cache.Verify(ES256, exampleKey(t).Public(), message, r.Signature)
	require.NoError(t, err)
	require.Equal(t, statement, again)

	root[0] ^= 1
	require.Equal(t, reason.SignatureInvalid, reason.Of(
		verifyBy(cache, ES256, exampleKey(t).Public(), SigStructure(r.Protected, root), r.Signature)))
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	require.Equal(t, reason.SignatureInvalid, reason.Of(verifyBy(cache, ES256, stranger.Public(), message, r.Signature)))
	require.Equal(t, 1, cache.verified.len(), "what is wrong is not remembered")

	// The parts of a key are told apart by their lengths.
	require.NotEqual(t, cacheKey(ES256, []byte("ab"), []byte("c"), nil), cacheKey(ES256, []byte("a"), []byte("bc"), nil))
	require.NotEqual(t, cacheKey(ES256, nil, []byte("ab"), []byte("c")), cacheKey(ES256, nil, []byte("a"), []byte("bc")))
}

func TestSignatureCacheIsBoundedAndConcurrent(t *testing.T) {
	const entries = 8
	cache := NewSignatureCache(entries)
	key := exampleKey(t)
	type signed struct{ message, sig []byte }
	all := make([]signed, 3*entries)
	for i := range all {
		m := SigStructure([]byte{byte(i)}, block.Digest{})
		all[i] = signed{m, signES256(t, key, m)}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				for _, s := range all {
					if verifyBy(cache, ES256, key.Public(), s.message, s.sig) != nil {
						panic("a right signature was refused")
					}
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, cache.verified.len(), entries)
	require.Positive(t, cache.verified.len())
}

func TestAlgorithmNamesAreReadBack(t *testing.T) {
	for a := range algorithms {
		got, err := ParseAlgorithm(a.String())
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	_, err := ParseAlgorithm("none")
	require.Error(t, err)
	require.Equal(t, "COSE algorithm -36", Algorithm(-36).String())
}
