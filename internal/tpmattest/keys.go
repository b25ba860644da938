package tpmattest

import (
	"crypto"
	"errors"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// AK is an attestation key: restricted, signing, not decrypting, fixed, made by
// its TPM.
type AK struct {
	Public crypto.PublicKey
	Name   []byte

	scheme scheme
}

// attributeRule is one demand on the attributes of a key.
type attributeRule struct {
	broken func(attributes) bool
	reason api.Reason
	detail string
}

func lacks(want attributes) func(attributes) bool {
	return func(a attributes) bool { return !a.has(want) }
}

func anyOf(unwanted attributes) func(attributes) bool {
	return func(a attributes) bool { return a&unwanted != 0 }
}

var akRules = []attributeRule{
	{lacks(signEncrypt), api.AKNotSigning, "sign is not set"},
	{anyOf(decrypt), api.AKDecrypts, "decrypt is set"},
	{lacks(restricted), api.AKNotRestricted, "restricted is not set"},
	{lacks(fixedTPM), api.AKNotFixed, "fixedTPM is not set"},
	{lacks(fixedParent), api.AKNotFixed, "fixedParent is not set"},
	{anyOf(encryptedDuplication), api.AKNotFixed, "encryptedDuplication is set"},
	{lacks(sensitiveDataOrigin), api.AKImported, "sensitiveDataOrigin is not set"},
	{anyOf(x509Sign), api.AKUnsupported, "x509sign is set"},
}

var keyRules = []attributeRule{
	{lacks(signEncrypt), api.KeyNotSigning, "sign is not set"},
	{anyOf(decrypt), api.KeyDecrypts, "decrypt is set"},
	{anyOf(restricted), api.KeyRestricted, "restricted is set"},
	{lacks(fixedTPM), api.KeyNotFixed, "fixedTPM is not set"},
	{lacks(fixedParent), api.KeyNotFixed, "fixedParent is not set"},
	{anyOf(encryptedDuplication), api.KeyNotFixed, "encryptedDuplication is set"},
	{lacks(sensitiveDataOrigin), api.KeyImported, "sensitiveDataOrigin is not set"},
	{anyOf(x509Sign), api.KeyUnsupported, "x509sign is set"},
}

func (p *public) obeys(rules []attributeRule) error {
	for _, r := range rules {
		if r.broken(p.attributes) {
			return api.Refuse(r.reason, "%s", r.detail)
		}
	}
	return nil
}

// ParseAK reads a TPMT_PUBLIC, recomputes its Name and checks every attribute.
// Accepted are ECDSA on P-256 with SHA-256 and on P-384 with SHA-384, and
// RSASSA with SHA-256.
func ParseAK(public []byte) (*AK, error) {
	p, err := parsePublic(public)
	switch {
	case errors.Is(err, errUnsupported):
		return nil, api.Because(api.AKUnsupported, err)
	case err != nil:
		return nil, api.Because(api.AKMalformed, err)
	}
	if err := p.obeys(akRules); err != nil {
		return nil, err
	}
	if p.symAlg != algNull { // is for keys that decrypt
		return nil, api.Refuse(api.AKUnsupported, "a symmetric algorithm")
	}
	switch {
	case p.curve == curveP256 && p.scheme == scheme{algECDSA, algSHA256}:
	case p.curve == curveP384 && p.scheme == scheme{algECDSA, algSHA384}:
	case p.typ == algRSA && p.scheme == scheme{algRSASSA, algSHA256}:
	default:
		return nil, api.Refuse(api.AKUnsupported, "key type %#04x, curve %#04x, scheme %#04x with hash %#04x", p.typ, p.curve, p.scheme.alg, p.scheme.hash)
	}
	return &AK{Public: p.key, Name: p.name, scheme: p.scheme}, nil
}

// Key is a signing key: unrestricted, signing, not decrypting, fixed, made by
// its TPM.
type Key struct {
	Public    crypto.PublicKey // *ecdsa.PublicKey or *rsa.PublicKey
	Algorithm string           // ES256, ES384 or PS256
	Name      []byte           // the kid
	TPM       []byte           // TPMT_PUBLIC
}

// ParseKey reads a TPMT_PUBLIC, recomputes its Name and checks every attribute.
// Accepted are ECDSA on P-256 with SHA-256 (ES256) and on P-384 with SHA-384
// (ES384), and RSASSA-PSS of 2048 bits with SHA-256 (PS256).
func ParseKey(public []byte) (*Key, error) {
	p, err := parsePublic(public)
	switch {
	case errors.Is(err, errUnsupported):
		return nil, api.Because(api.KeyUnsupported, err)
	case err != nil:
		return nil, api.Because(api.KeyMalformed, err)
	}
	if err := p.obeys(keyRules); err != nil {
		return nil, err
	}
	algorithm := p.signs()
	if algorithm == "" || p.nameAlg != algSHA256 || p.symAlg != algNull {
		return nil, api.Refuse(api.KeyUnsupported, "key type %#04x, curve %#04x, scheme %#04x with hash %#04x: wanted is ECDSA on P-256 with SHA-256 or on P-384 with SHA-384, or RSASSA-PSS of 2048 bits with SHA-256",
			p.typ, p.curve, p.scheme.alg, p.scheme.hash)
	}
	return &Key{Public: p.key, Algorithm: algorithm, Name: p.name, TPM: public}, nil
}

// signs names what a signing key signs with, "" for nothing that is accepted.
func (p *public) signs() string {
	switch {
	case p.typ == algECC && p.curve == curveP256 && p.scheme == scheme{algECDSA, algSHA256}:
		return "ES256"
	case p.typ == algECC && p.curve == curveP384 && p.scheme == scheme{algECDSA, algSHA384}:
		return "ES384"
	case p.typ == algRSA && p.rsaBits == 2048 && p.scheme == scheme{algRSAPSS, algSHA256}:
		return "PS256"
	default:
		return ""
	}
}
