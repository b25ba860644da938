package receipt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/veraison/go-cose"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
	"github.com/telemark-otel/telemark/internal/reason"
)

// agileReceipt is one of the second profile, whole and signed.
func agileReceipt(t testing.TB, alg Algorithm) (*Receipt, crypto.PublicKey) {
	t.Helper()
	s := exampleStatement()
	s.Algorithm = alg
	leaf := exampleLeaves()[0]
	tree := merkle.Build([]block.Digest{leaf.Hash()})
	s.Size = 1
	protected, err := s.EncodeProtected()
	require.NoError(t, err)
	r := &Receipt{
		Protected: protected, Statement: s, TreeSize: 1, Path: []block.Digest{},
		Stream: leaf.Stream, BlockNo: leaf.BlockNo, Digest: leaf.Digest, Items: leaf.Items,
	}
	digest := alg.Digest(SigStructure(protected, tree.Root()))
	switch alg {
	case ES384:
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		require.NoError(t, err)
		a, b, err := ecdsa.Sign(rand.Reader, key, digest)
		require.NoError(t, err)
		r.Signature = make([]byte, 96)
		a.FillBytes(r.Signature[:48])
		b.FillBytes(r.Signature[48:])
		return r, key.Public()
	case PS256:
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		r.Signature, err = rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto})
		require.NoError(t, err)
		return r, key.Public()
	default:
		t.Fatalf("algorithm %s", alg)
		return nil, nil
	}
}

func TestReceiptsOfTheAgileProfileSurviveTheWireAndVerify(t *testing.T) {
	for _, alg := range []Algorithm{ES384, PS256} {
		t.Run(alg.String(), func(t *testing.T) {
			r, pub := agileReceipt(t, alg)
			wire, err := r.Encode()
			require.NoError(t, err)
			require.Len(t, wire, r.Size())
			require.Contains(t, string(wire), ProfileAgile)
			d := NewDecoder(4)
			for range 3 { // the third is read by what the decoder remembers
				got, err := d.Decode(wire)
				require.NoError(t, err)
				require.Equal(t, r, got)
			}
			leaf := exampleLeaves()[0]
			root, err := r.Root(leaf.Hash())
			require.NoError(t, err)
			structure := SigStructure(r.Protected, root)
			cache := NewSignatureCache(4)
			for range 2 {
				require.NoError(t, verifyBy(cache, alg, pub, structure, r.Signature))
			}
			changed := bytes.Clone(r.Signature)
			changed[len(changed)-1] ^= 1
			require.Equal(t, reason.SignatureInvalid, reason.Of(verifyBy(cache, alg, pub, structure, changed)))
			require.Equal(t, reason.SignatureInvalid, reason.Of(verifyBy(cache, alg, pub, structure[1:], r.Signature)))
			require.Equal(t, reason.CurveMismatch, reason.Of(verifyBy(cache, ES256, pub, structure, r.Signature)))
		})
	}
}

func TestES384ReceiptsVerifyUnderGoCOSE(t *testing.T) {
	r, pub := agileReceipt(t, ES384)
	wire, err := r.Encode()
	require.NoError(t, err)
	var message cose.Sign1Message
	require.NoError(t, message.UnmarshalCBOR(wire))
	leaf := exampleLeaves()[0]
	root, err := r.Root(leaf.Hash())
	require.NoError(t, err)
	message.Payload = root[:]
	verifier, err := cose.NewVerifier(cose.AlgorithmES384, pub)
	require.NoError(t, err)
	require.NoError(t, message.Verify(nil, verifier))
}

// And a signature with the salt that RFC 8230 wants, which a TPM in FIPS mode
// makes, is as good.
func TestPS256SignaturesOfGoCOSEVerify(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	r, _ := agileReceipt(t, PS256)
	leaf := exampleLeaves()[0]
	root, err := r.Root(leaf.Hash())
	require.NoError(t, err)
	signer, err := cose.NewSigner(cose.AlgorithmPS256, key)
	require.NoError(t, err)
	message := cose.NewSign1Message()
	message.Headers.RawProtected = appendBytes(nil, r.Protected)
	message.Headers.RawUnprotected = []byte{0xa0}
	require.NoError(t, message.Headers.UnmarshalFromRaw())
	message.Payload = root[:]
	require.NoError(t, message.Sign(rand.Reader, nil, signer))
	require.NoError(t, VerifySignature(PS256, key.Public(), SigStructure(r.Protected, root), message.Signature))
}

// One algorithm has one profile: the same statement has one spelling.
func TestAlgorithmOfTheOtherProfileIsUnknown(t *testing.T) {
	r, _ := agileReceipt(t, ES384)
	s := *r.Statement
	for name, c := range map[string]struct {
		alg     Algorithm
		profile string
		want    reason.Reason
	}{
		"ES384 in the first":  {ES384, Profile, reason.AlgorithmUnknown},
		"PS256 in the first":  {PS256, Profile, reason.AlgorithmUnknown},
		"ES256 in the second": {ES256, ProfileAgile, reason.AlgorithmUnknown},
		"ES512 in the second": {-36, ProfileAgile, reason.AlgorithmUnknown},
		"a third":             {ES384, Profile + "-x", reason.ProfileUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			s := s
			s.Algorithm = c.alg
			h := s.header()
			*h.Claims.Profile = c.profile
			protected, err := encMode.Marshal(h)
			require.NoError(t, err)
			forged := *r
			forged.Protected = protected
			// In the first profile a signature has 64 bytes, whatever signed.
			forged.Signature = make([]byte, 64)
			_, err = Decode(forged.append(nil))
			require.Equal(t, c.want, reason.Of(err), "%v", err)
		})
	}
}

func TestSignatureOfAnotherAlgorithmsLengthIsMalformed(t *testing.T) {
	first := exampleReceipt(t)
	for _, n := range []int{0, 63, 65, 95, 96, 97, 255, 256, 257} {
		forged := *first
		forged.Signature = make([]byte, n)
		_, err := Decode(forged.append(nil))
		require.Equal(t, reason.ReceiptMalformed, reason.Of(err), "%d bytes in the first profile", n)
	}
	for _, alg := range []Algorithm{ES384, PS256} {
		r, _ := agileReceipt(t, alg)
		for _, n := range []int{0, 63, 64, 65, 95, 96, 97, 255, 256, 257} {
			if n == alg.SignatureSize() {
				continue
			}
			forged := *r
			forged.Signature = make([]byte, n)
			_, err := Decode(forged.append(nil))
			require.Equal(t, reason.ReceiptMalformed, reason.Of(err), "%d bytes with %s", n, alg)
		}
	}
}

func TestKeysThatPS256DoesNotTakeAreRefused(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	odd, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	odd.E = 3
	var none *rsa.PublicKey
	for name, pub := range map[string]crypto.PublicKey{
		"1024 bits": short.Public(), "exponent 3": odd.Public(), "nil": none, "without a number": &rsa.PublicKey{}, "ECDSA": exampleKey(t).Public(),
	} {
		require.Equal(t, reason.CurveMismatch, reason.Of(PS256.Takes(pub)), name)
	}
	require.Equal(t, reason.AlgorithmUnknown, reason.Of(Algorithm(-257).Takes(odd.Public())))
}
