package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// Algorithm is what a signing key signs with, by its COSE name. With it come the
// storage root key and the attestation key, so that a TPM without P-256 can have
// all three.
//
//	        signing key                  attestation key           storage root key
//	ES256   ECDSA, P-256, SHA-256        ECDSA, P-256, SHA-256     ECC P-256
//	ES384   ECDSA, P-384, SHA-384        ECDSA, P-384, SHA-384     RSA-2048
//	PS256   RSASSA-PSS, 2048, SHA-256    RSASSA, 2048, SHA-256     RSA-2048
type Algorithm string

// The algorithms. The zero value is ES256.
const (
	ES256 Algorithm = "ES256"
	ES384 Algorithm = "ES384"
	PS256 Algorithm = "PS256"
)

// ParseAlgorithm reads the name of an algorithm; "sha256", as earlier deployments
// named theirs, and nothing are ES256.
func ParseAlgorithm(s string) (Algorithm, error) {
	switch a := Algorithm(s); a {
	case "", "sha256":
		return ES256, nil
	case ES256, ES384, PS256:
		return a, nil
	default:
		return "", fmt.Errorf("%.32q is no algorithm of signing keys, want ES256, ES384 or PS256", s)
	}
}

// suite is a row of the table above.
type suite struct {
	hash    crypto.Hash
	size    int // of a signature, bytes
	signing func(tpm2.TPMAObject) tpm2.TPMTPublic
	ak      func(attributes tpm2.TPMAObject, seed []byte) tpm2.TPMTPublic
	storage tpm2.TPMTPublic

	// What the answer to TPM2_Sign begins with.
	scheme, hashAlg tpm2.TPMAlgID
}

var suites = map[Algorithm]*suite{
	ES256: {
		hash: crypto.SHA256, size: 64, storage: tpm2.ECCSRKTemplate, scheme: tpm2.TPMAlgECDSA, hashAlg: tpm2.TPMAlgSHA256,
		signing: func(a tpm2.TPMAObject) tpm2.TPMTPublic {
			return ecdsaTemplate(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, a, nil)
		},
		ak: func(a tpm2.TPMAObject, seed []byte) tpm2.TPMTPublic {
			return ecdsaTemplate(tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, a, seed)
		},
	},
	ES384: {
		hash: crypto.SHA384, size: 96, storage: tpm2.RSASRKTemplate, scheme: tpm2.TPMAlgECDSA, hashAlg: tpm2.TPMAlgSHA384,
		signing: func(a tpm2.TPMAObject) tpm2.TPMTPublic {
			return ecdsaTemplate(tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, a, nil)
		},
		ak: func(a tpm2.TPMAObject, seed []byte) tpm2.TPMTPublic {
			return ecdsaTemplate(tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, a, seed)
		},
	},
	PS256: {
		hash: crypto.SHA256, size: rsaBits / 8, storage: tpm2.RSASRKTemplate, scheme: tpm2.TPMAlgRSAPSS, hashAlg: tpm2.TPMAlgSHA256,
		signing: func(a tpm2.TPMAObject) tpm2.TPMTPublic {
			return rsaTemplate(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256}, a, nil)
		},
		ak: func(a tpm2.TPMAObject, seed []byte) tpm2.TPMTPublic {
			return rsaTemplate(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}, a, seed)
		},
	},
}

// algorithms in the order in which a key's public area is held against them.
var algorithms = []Algorithm{ES256, ES384, PS256}

const rsaBits = 2048

func ecdsaTemplate(curve tpm2.TPMECCCurve, hash tpm2.TPMAlgID, attributes tpm2.TPMAObject, uniqueX []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
			},
			CurveID: curve,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: uniqueX},
		}),
	}
}

func rsaTemplate[S tpm2.AsymSchemeContents](scheme tpm2.TPMAlgID, details S, attributes tpm2.TPMAObject, unique []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgRSA,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme:  scheme,
				Details: tpm2.NewTPMUAsymScheme(scheme, details),
			},
			KeyBits: rsaBits,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique}),
	}
}

// publicKey returns the key of the public area of a signing key.
func publicKey(public *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	if public.Type == tpm2.TPMAlgRSA {
		return rsaKey(public)
	}
	return ecdsaKey(public)
}

func rsaKey(public *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	params, err := public.Parameters.RSADetail()
	if err != nil {
		return nil, err
	}
	unique, err := public.Unique.RSA()
	if err != nil {
		return nil, err
	}
	key, err := tpm2.RSAPub(params, unique)
	if err != nil {
		return nil, err
	}
	if key.N.BitLen() != rsaBits || len(unique.Buffer) != rsaBits/8 {
		return nil, fmt.Errorf("key of %d bits, want %d", key.N.BitLen(), rsaBits)
	}
	if key.N.Bit(0) == 0 {
		return nil, errors.New("the modulus is even")
	}
	return key, nil
}

// verifies reports whether sig is pub's of digest: r | s, or RSASSA-PSS with a
// salt of any length, which TPMs choose as long as it fits (part 1, B.7).
func (s *suite) verifies(pub crypto.PublicKey, digest, sig []byte) bool {
	switch key := pub.(type) {
	case *ecdsa.PublicKey:
		half := len(sig) / 2
		return ecdsa.Verify(key, digest, new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
	case *rsa.PublicKey:
		return rsa.VerifyPSS(key, s.hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
	default:
		return false
	}
}

// curves are those of ECDSA keys.
var curves = map[tpm2.TPMECCCurve]elliptic.Curve{
	tpm2.TPMECCNistP256: elliptic.P256(),
	tpm2.TPMECCNistP384: elliptic.P384(),
}
