package tpmattest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"math/big"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// What a TPM's word begins with (part 2, section 6.2 and 6.9).
const (
	generated     uint32 = 0xFF544347
	attestCertify uint16 = 0x8017
	attestQuote   uint16 = 0x8018
)

// attestReasons are the reasons by which an attestation of one type is refused.
type attestReasons struct {
	typ                                        uint16
	malformed, magic, kind, nonce, signatureBy api.Reason
}

var (
	certifyReasons = attestReasons{attestCertify, api.CertifyMalformed, api.CertifyMagic, api.CertifyType, api.CertifyNonce, api.CertifySignature}
	quoteReasons   = attestReasons{attestQuote, api.PCRQuoteMalformed, api.PCRQuoteMalformed, api.PCRQuoteMalformed, api.PCRQuoteNonce, api.PCRQuoteSignature}
)

const maxName = 2 + maxDigest

// maxExtraData is a TPM2B_DATA: a digest and what else a TPMT_HA may have.
const maxExtraData = 2 + maxDigest

// open checks an attestation up to what it is about: its form and type, its
// signature, and that it answers our question. The one who made it is ak,
// which is restricted, so that nothing else that it signed begins with magic.
// It is a TPMS_ATTEST (part 2, section 10.12.12):
//
//	u32 magic | u16 type | TPM2B qualifiedSigner | TPM2B extraData |
//	u64 clock | u32 resetCount | u32 restartCount | u8 safe | u64 firmwareVersion | attested
func (a *AK) open(e *api.Attestation, qualifying []byte, why *attestReasons) (*cursor, error) {
	if len(e.Attest) > api.MaxAttest || len(e.Signature) > api.MaxSignature {
		return nil, api.Refuse(why.malformed, "larger than any attestation")
	}
	c := &cursor{rest: e.Attest}
	magic, typ := c.u32(), c.u16()
	switch {
	case c.bad:
		return nil, api.Refuse(why.malformed, "cut short")
	case magic != generated:
		return nil, api.Refuse(why.magic, "begins with %08x", magic)
	case typ != why.typ:
		return nil, api.Refuse(why.kind, "an attestation of type %#04x", typ)
	}
	signer := c.sized(maxName)
	extra := c.sized(maxExtraData)
	c.take(8 + 4 + 4) // clock, resetCount, restartCount
	safe := c.u8()
	c.take(8) // firmwareVersion
	if c.bad || safe > 1 || !isName(signer) {
		return nil, api.Refuse(why.malformed, "not a TPMS_ATTEST")
	}
	if err := a.verify(e.Attest, e.Signature); err != nil {
		if errors.Is(err, errSignatureForm) {
			return nil, api.Because(why.malformed, err)
		}
		return nil, api.Because(why.signatureBy, err)
	}
	if !bytes.Equal(extra, qualifying) {
		return nil, api.Refuse(why.nonce, "extraData is not what was asked for")
	}
	return c, nil
}

var (
	errSignatureForm   = errors.New("not a TPMT_SIGNATURE")
	errSignatureScheme = errors.New("signed by another scheme than the key's")
	errSignature       = errors.New("the signature is not the key's")
)

// verify checks a TPMT_SIGNATURE (part 2, section 11.3.4), by the scheme that
// the key has and no other:
//
//	u16 ECDSA  | u16 hash | TPM2B r | TPM2B s
//	u16 RSASSA | u16 hash | TPM2B signature
func (a *AK) verify(message, signature []byte) error {
	c := &cursor{rest: signature}
	got := scheme{alg: c.u16(), hash: c.u16()}
	if c.bad {
		return errSignatureForm
	}
	if got != a.scheme {
		return errSignatureScheme
	}
	h := hashOf(got.hash)
	if h == 0 { // an AK that ParseAK did not make
		return errSignatureScheme
	}
	hash := h.New()
	hash.Write(message)
	digest := hash.Sum(nil)
	switch key := a.Public.(type) {
	case *ecdsa.PublicKey:
		size := (key.Curve.Params().BitSize + 7) / 8
		r, s := c.sized(size), c.sized(size)
		if !c.done() {
			return errSignatureForm
		}
		if !ecdsa.Verify(key, digest, new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
			return errSignature
		}
		return nil
	case *rsa.PublicKey:
		sig := c.sized(key.Size())
		if !c.done() {
			return errSignatureForm
		}
		if rsa.VerifyPKCS1v15(key, h, digest, sig) != nil {
			return errSignature
		}
		return nil
	default:
		return errSignatureScheme
	}
}

// VerifyCertify checks that ak certified key with this qualifying data. The
// attested part is a TPMS_CERTIFY_INFO (part 2, section 10.12.3):
//
//	TPM2B name | TPM2B qualifiedName
//
// The Name stands for the key and all its attributes. The qualified name stands
// for its ancestors too; they are not known here, and need not be: a key that
// is fixed to its TPM has ancestors that are.
func VerifyCertify(a *api.Attestation, ak *AK, key *Key, qualifying []byte) error {
	c, err := ak.open(a, qualifying, &certifyReasons)
	if err != nil {
		return err
	}
	name, qualified := c.sized(maxName), c.sized(maxName)
	if !c.done() || !isName(name) || !isName(qualified) {
		return api.Refuse(api.CertifyMalformed, "not a TPMS_CERTIFY_INFO")
	}
	if !bytes.Equal(name, key.Name) {
		return api.Refuse(api.CertifyName, "certified is %x", name)
	}
	return nil
}
