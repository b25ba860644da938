package tpmattest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"io"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// EK is an endorsement key that follows one of the accepted templates.
type EK struct {
	Public crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	Hash   string           // api.EKHash
	Name   []byte           // TPM Name

	public tpm2.TPMTPublic // made from the template, not from what came
}

// template is a default template of TCG EK Credential Profile 2.5, annex B.
type template struct {
	typ        uint16
	nameAlg    uint16
	attributes attributes
	policy     []byte
	symBits    uint16
	rsaBits    uint16
	curve      uint16
}

// The policies are PolicyA, SHA-256 (B.6.2), and PolicyB, SHA-384 (B.6.5).
var (
	policyA = unhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
	policyB = unhex("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419ca" +
		"cb47ba09699646150f9fc000f3f80e12")
)

const (
	lowRange  = fixedTPM | fixedParent | sensitiveDataOrigin | adminWithPolicy | restricted | decrypt
	highRange = lowRange | userWithAuth
)

// templates are the ones that are accepted: L-1, L-2 and H-3.
var templates = []template{
	{typ: algRSA, nameAlg: algSHA256, attributes: lowRange, policy: policyA, symBits: 128, rsaBits: 2048},
	{typ: algECC, nameAlg: algSHA256, attributes: lowRange, policy: policyA, symBits: 128, curve: curveP256},
	{typ: algECC, nameAlg: algSHA384, attributes: highRange, policy: policyB, symBits: 256, curve: curveP384},
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant of this file
	}
	return b
}

// madeBy reports whether p is of this template in all but the key itself.
func (p *public) madeBy(t *template) bool {
	return p.typ == t.typ && p.nameAlg == t.nameAlg && p.attributes == t.attributes && samePolicy(p.policy, t.policy) &&
		p.symAlg == algAES && p.symBits == t.symBits && p.symMode == algCFB &&
		p.scheme == scheme{alg: algNull} && p.rsaBits == t.rsaBits && p.curve == t.curve
}

// ParseEK reads a TPMT_PUBLIC and holds it against the TCG's templates.
func ParseEK(public []byte) (*EK, error) {
	p, err := parsePublic(public)
	switch {
	case errors.Is(err, errUnsupported):
		return nil, api.Because(api.EKUnsupported, err)
	case err != nil:
		return nil, api.Because(api.EKMalformed, err)
	}
	for i := range templates {
		if !p.madeBy(&templates[i]) {
			continue
		}
		ek := &EK{Public: p.key, Name: p.name, public: p.encapsulation()}
		if ek.Hash, err = api.EKHash(p.key); err != nil {
			return nil, api.Because(api.EKMalformed, err)
		}
		return ek, nil
	}
	return nil, api.Refuse(api.EKUnsupported, "attributes %#08x, key type %#04x and policy are not those of template L-1, L-2 or H-3", uint32(p.attributes), p.typ)
}

// encapsulation returns what TPM2_MakeCredential needs of the public area.
func (p *public) encapsulation() tpm2.TPMTPublic {
	out := tpm2.TPMTPublic{Type: tpm2.TPMAlgID(p.typ), NameAlg: tpm2.TPMAlgID(p.nameAlg)}
	sym := tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(p.symBits)),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
	switch key := p.key.(type) {
	case *rsa.PublicKey:
		out.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: sym, KeyBits: tpm2.TPMKeyBits(p.rsaBits)})
		out.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	case *ecdsa.PublicKey:
		out.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: sym, CurveID: tpm2.TPMECCCurve(p.curve)})
		point, _ := key.Bytes() // on the curve, so that it has an encoding
		size := len(point) / 2
		out.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+size]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[1+size:]},
		})
	}
	return out
}

// MakeCredential does in software what TPM2_MakeCredential does (part 1,
// section 24; part 3, 12.6), for RSA and ECC endorsement keys. A secret may not
// be longer than the digest of the endorsement key's Name, so 32 bytes are
// possible with all.
func MakeCredential(rand io.Reader, ek *EK, akName, secret []byte) (api.Credential, error) {
	kem, err := tpm2.ImportEncapsulationKey(&ek.public)
	if err != nil {
		return api.Credential{}, api.Because(api.EKMalformed, err)
	}
	blob, encrypted, err := tpm2.CreateCredential(rand, kem, akName, secret)
	if err != nil {
		return api.Credential{}, api.Because(api.EKMalformed, err)
	}
	return api.Credential{Blob: blob, Secret: encrypted}, nil
}
