package attesttest

import "github.com/google/go-tpm/tpm2"

// Attributes of good keys, to be spoilt by tests.
var (
	AKAttributes = tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
	}
	KeyAttributes = tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true,
	}
)

// ECDSA is the template of a signing key on a curve, with the hash of its size.
func ECDSA(curve tpm2.TPMECCCurve, attributes tpm2.TPMAObject, seed string) tpm2.TPMTPublic {
	hash := tpm2.TPMAlgSHA256
	if curve == tpm2.TPMECCNistP384 {
		hash = tpm2.TPMAlgSHA384
	}
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
			},
			CurveID: curve,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte(seed)}}),
	}
}

// RSASSA is the template of an RSA-2048 key that signs by PKCS #1 v1.5.
func RSASSA(attributes tpm2.TPMAObject) tpm2.TPMTPublic {
	return rsa2048(attributes, tpm2.TPMTRSAScheme{
		Scheme:  tpm2.TPMAlgRSASSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
	})
}

// RSAPSS is the template of an RSA-2048 key that signs by PSS.
func RSAPSS(attributes tpm2.TPMAObject) tpm2.TPMTPublic {
	return rsa2048(attributes, tpm2.TPMTRSAScheme{
		Scheme:  tpm2.TPMAlgRSAPSS,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256}),
	})
}

func rsa2048(attributes tpm2.TPMAObject, scheme tpm2.TPMTRSAScheme) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Scheme: scheme, KeyBits: 2048}),
	}
}

// AK is the template of a good attestation key.
func AK() tpm2.TPMTPublic { return ECDSA(tpm2.TPMECCNistP256, AKAttributes, "ak") }

// Key is the template of a good signing key.
func Key() tpm2.TPMTPublic { return ECDSA(tpm2.TPMECCNistP256, KeyAttributes, "key") }

// The templates of endorsement keys (TCG EK Credential Profile 2.5, annex B).
var (
	EKRSA2048 = tpm2.RSAEKTemplate // L-1
	EKP256    = tpm2.ECCEKTemplate // L-2
	EKP384    = tpm2.TPMTPublic{   // H-3
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA384,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, AdminWithPolicy: true, Restricted: true, Decrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: []byte{
			0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC, 0xF5, 0xFD, 0x3A, 0x1A,
			0x07, 0x41, 0x48, 0xBB, 0x35, 0xD3, 0xB4, 0xE4, 0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA,
			0xCB, 0x47, 0xBA, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
		}},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			},
			CurveID: tpm2.TPMECCNistP384,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
)
