package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// ErrUnfit says that the key is none that verifiers accept, or that can be used here.
var ErrUnfit = errors.New("this key cannot sign telemetry, and a key does not change; " +
	"have a new one made ('telemark key create', or the agent without key::import), which has to be enrolled")

// demands are what verifiers demand of a signing key's attributes (package
// tpmattest), and below them what its use demands here (part 2, section 8.3).
var demands = []struct {
	broken func(tpm2.TPMAObject) bool
	detail string
}{
	{func(a tpm2.TPMAObject) bool { return !a.SignEncrypt }, "sign is not set"},
	{func(a tpm2.TPMAObject) bool { return a.Decrypt }, "decrypt is set, as tpm2_create does when it is given no scheme (ecc256:ecdsa-sha256): what it signs and what it decrypts cannot be told apart"},
	{func(a tpm2.TPMAObject) bool { return a.Restricted }, "restricted is set: it is an attestation key, which signs only what begins like nothing that the TPM makes itself"},
	{func(a tpm2.TPMAObject) bool { return !a.FixedTPM }, "fixedTPM is not set: it can leave the TPM, or came from outside, and proves no machine"},
	{func(a tpm2.TPMAObject) bool { return !a.FixedParent }, "fixedParent is not set: it can leave its parent, and with it the TPM"},
	{func(a tpm2.TPMAObject) bool { return a.EncryptedDuplication }, "encryptedDuplication is set: it is made to leave the TPM"},
	{func(a tpm2.TPMAObject) bool { return !a.SensitiveDataOrigin }, "sensitiveDataOrigin is not set: somebody outside the TPM knew it"},
	{func(a tpm2.TPMAObject) bool { return a.X509Sign }, "x509sign is set: it signs certificates only"},
	{func(a tpm2.TPMAObject) bool { return a.FirmwareLimited }, "firmwareLimited is set: it ends with the next firmware"},
	{func(a tpm2.TPMAObject) bool { return !a.UserWithAuth }, "userWithAuth is not set, as tpm2_create does when it is given a policy (-L) and no auth value: it signs by its policy alone, which is not supported"},
	{func(a tpm2.TPMAObject) bool { return a.AdminWithPolicy }, "adminWithPolicy is set: a registry could not have it certified"},
}

// signsWith returns what a key signs with, or [ErrUnfit] with the attribute that
// stands against it. Free are only: exemption from dictionary attack protection
// (noDA), stClear, which is about saved contexts, and a policy beside the auth value.
func (o *object) signsWith() (Algorithm, error) {
	a := o.public.ObjectAttributes
	for _, d := range demands {
		if d.broken(a) {
			return "", fmt.Errorf("%s: %w", d.detail, ErrUnfit)
		}
	}
	free := tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true,
		NoDA: a.NoDA, STClear: a.STClear,
	}
	for _, alg := range algorithms {
		template := suites[alg].signing(free)
		template.AuthPolicy = o.public.AuthPolicy
		if o.madeBy(template) {
			return alg, nil
		}
	}
	return "", fmt.Errorf("%s is none of the fixed schemes that verifiers know, ECDSA on P-256 with SHA-256 (ecc256:ecdsa-sha256) or on P-384 with SHA-384 (ecc384:ecdsa-sha384), or RSASSA-PSS of 2048 bits with SHA-256 (rsa2048:rsapss-sha256), with SHA-256 for the Name: %w",
		kindOf(&o.public), ErrUnfit)
}

// kindOf describes a key in the words of tpm2-tools.
func kindOf(public *tpm2.TPMTPublic) string {
	switch public.Type {
	case tpm2.TPMAlgECC:
		if p, err := public.Parameters.ECCDetail(); err == nil {
			return fmt.Sprintf("ECC on %s with scheme %s", curveName(p.CurveID), schemeName(p.Scheme.Scheme, &p.Scheme.Details))
		}
	case tpm2.TPMAlgRSA:
		if p, err := public.Parameters.RSADetail(); err == nil {
			return fmt.Sprintf("RSA of %d bits with scheme %s", p.KeyBits, schemeName(p.Scheme.Scheme, &p.Scheme.Details))
		}
	default:
	}
	return fmt.Sprintf("a key of type %#04x", uint16(public.Type))
}

func curveName(id tpm2.TPMECCCurve) string {
	if curve, known := curves[id]; known {
		return curve.Params().Name
	}
	return fmt.Sprintf("curve %#04x", uint16(id))
}

// schemeName reads the hash of the schemes that have one.
func schemeName(scheme tpm2.TPMAlgID, details *tpm2.TPMUAsymScheme) string {
	var hash tpm2.TPMAlgID
	name := fmt.Sprintf("%#04x", uint16(scheme))
	switch scheme {
	case tpm2.TPMAlgNull:
		return "null"
	case tpm2.TPMAlgECDSA:
		name = "ecdsa"
		if s, err := details.ECDSA(); err == nil {
			hash = s.HashAlg
		}
	case tpm2.TPMAlgRSASSA:
		name = "rsassa"
		if s, err := details.RSASSA(); err == nil {
			hash = s.HashAlg
		}
	case tpm2.TPMAlgRSAPSS:
		name = "rsapss"
		if s, err := details.RSAPSS(); err == nil {
			hash = s.HashAlg
		}
	default:
		return name
	}
	if h, err := hash.Hash(); err == nil {
		return name + " and " + h.String()
	}
	return fmt.Sprintf("%s and hash %#04x", name, uint16(hash))
}
