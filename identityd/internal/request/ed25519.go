package request

import (
	"bytes"
	"crypto/ed25519"

	"filippo.io/edwards25519"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

// minusOne is L-1, the group's order less one.
var minusOne = func() *edwards25519.Scalar {
	var one [32]byte
	one[0] = 1
	s, err := edwards25519.NewScalar().SetCanonicalBytes(one[:])
	if err != nil {
		panic("one is a scalar")
	}
	return edwards25519.NewScalar().Negate(s)
}()

// Key checks a public key: 32 bytes, the canonical encoding of a point of the
// group that Ed25519 keys are from (RFC 8032, 5.1.3 and 5.1.5). The library's
// verification takes any encoding of any point; with one of low order, signatures
// can be made that fit many messages.
func Key(key []byte) error {
	if len(key) != ed25519.PublicKeySize {
		return reason.Refuse(reason.PubkeyMalformed, "it has %d bytes", len(key))
	}
	p, err := new(edwards25519.Point).SetBytes(key)
	if err != nil {
		return reason.Refuse(reason.PubkeyMalformed, "it is no point of the curve")
	}
	if !bytes.Equal(p.Bytes(), key) {
		return reason.Refuse(reason.PubkeyNonCanonical, "the point is written %x", p.Bytes())
	}
	if lowOrder(p) {
		return reason.Refuse(reason.PubkeyLowOrder, "the point is of low order")
	}
	// [L]P = [L-1]P + P is the identity in the right group only.
	l := new(edwards25519.Point).ScalarMult(minusOne, p)
	if l.Add(l, p).Equal(edwards25519.NewIdentityPoint()) != 1 {
		return reason.Refuse(reason.PubkeyLowOrder, "the point has a part of low order")
	}
	return nil
}

func lowOrder(p *edwards25519.Point) bool {
	return new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 1
}

// Verify checks the key, the signature's form and the signature:
//
//	R (32 bytes, canonical, not of low order) | S (32 bytes, little-endian, below L)
func Verify(key ed25519.PublicKey, message, signature []byte) error {
	if err := Key(key); err != nil {
		return err
	}
	if len(signature) != ed25519.SignatureSize {
		return reason.Refuse(reason.SignatureMalformed, "it has %d bytes", len(signature))
	}
	if _, err := edwards25519.NewScalar().SetCanonicalBytes(signature[32:]); err != nil {
		return reason.Refuse(reason.SignatureNonCanonical, "its scalar is not below the group's order")
	}
	r, err := new(edwards25519.Point).SetBytes(signature[:32])
	if err != nil {
		return reason.Refuse(reason.SignatureInvalid, "it does not begin with a point of the curve")
	}
	if !bytes.Equal(r.Bytes(), signature[:32]) || lowOrder(r) {
		return reason.Refuse(reason.SignatureNonCanonical, "the point that it begins with is of low order or not in canonical form")
	}
	if !ed25519.Verify(key, message, signature) {
		return reason.Refuse(reason.SignatureInvalid, "it does not fit key and bytes")
	}
	return nil
}

// header reads the header x-signature.
func header(value string) ([]byte, error) {
	if value == "" {
		return nil, reason.Refuse(reason.SignatureMissing, "there is none")
	}
	signature, ok := api.ParseHex(value, 2*ed25519.SignatureSize)
	if !ok || len(signature) != ed25519.SignatureSize {
		return nil, reason.Refuse(reason.SignatureMalformed, "%d characters", len(value))
	}
	return signature, nil
}
