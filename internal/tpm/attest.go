package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// EKAlgorithm names one of the TCG's default templates of an endorsement key
// (TCG EK Credential Profile 2.5, annex B.3).
type EKAlgorithm int

// The templates.
const (
	EKRSA2048 EKAlgorithm = iota + 1 // L-1
	EKECCP256                        // L-2
	EKECCP384                        // H-3
)

func (a EKAlgorithm) template() (tpm2.TPMTPublic, uint32, error) {
	switch a {
	case EKRSA2048:
		return tpm2.RSAEKTemplate, ekCertificateRSA2048, nil
	case EKECCP256:
		return tpm2.ECCEKTemplate, ekCertificateECCP256, nil
	case EKECCP384:
		return eccP384EKTemplate, ekCertificateECCP384, nil
	default:
		return tpm2.TPMTPublic{}, 0, fmt.Errorf("EK algorithm %d is not known", a)
	}
}

// String returns the algorithm as it stands in configurations.
func (a EKAlgorithm) String() string {
	switch a {
	case EKRSA2048:
		return "rsa2048"
	case EKECCP256:
		return "p256"
	case EKECCP384:
		return "p384"
	default:
		return "unknown"
	}
}

// ParseEKAlgorithm reads what String writes.
func ParseEKAlgorithm(s string) (EKAlgorithm, error) {
	for _, a := range []EKAlgorithm{EKRSA2048, EKECCP256, EKECCP384} {
		if s == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("%.64q is no algorithm of endorsement keys, want rsa2048, p256 or p384", s)
}

// The NV indices of EK certificates (TCG EK Credential Profile 2.5, section 2.2.1.4).
const (
	ekCertificateRSA2048 uint32 = 0x01C00002
	ekCertificateECCP256 uint32 = 0x01C0000A
	ekCertificateECCP384 uint32 = 0x01C00016
)

// EK is an endorsement key: who the TPM is.
type EK struct {
	Public      []byte // TPMT_PUBLIC
	Name        []byte
	Certificate []byte // DER as the manufacturer wrote it, not verified; nil when the TPM has none
}

// EK makes the endorsement key and reads its certificate. Part 3, sections
// 24.1, TPM2_CreatePrimary, and 31.13, TPM2_NV_Read.
func (d *Device) EK(ctx context.Context, algorithm EKAlgorithm) (*EK, error) {
	template, index, err := algorithm.template()
	if err != nil {
		return nil, err
	}
	return ask(ctx, d, "reading the endorsement key", func(l *link) (*EK, error) {
		o, err := l.primary(tpm2.TPMRHEndorsement, template)
		if err != nil {
			return nil, err
		}
		defer l.flushQuietly(o.handle)
		certificate, err := l.ekCertificate(index)
		if err != nil {
			return nil, err
		}
		return &EK{Public: o.raw, Name: o.name.Buffer, Certificate: certificate}, nil
	})
}

// EKCertificate is a certificate that the TPM holds.
type EKCertificate struct {
	Index uint32 // NV index
	DER   []byte
}

// EKCertificates reads the EK certificates that the TPM holds, also such of
// keys that this package does not make.
func (d *Device) EKCertificates(ctx context.Context) ([]EKCertificate, error) {
	return ask(ctx, d, "reading EK certificates", func(l *link) (found []EKCertificate, err error) {
		for _, index := range []uint32{ekCertificateRSA2048, ekCertificateECCP256, ekCertificateECCP384} {
			der, err := l.ekCertificate(index)
			if err != nil {
				return nil, err
			}
			if der != nil {
				found = append(found, EKCertificate{Index: index, DER: der})
			}
		}
		return found, nil
	})
}

func (l *link) ekCertificate(index uint32) ([]byte, error) {
	content, err := l.nvRead(index)
	if err != nil || content == nil {
		return nil, err
	}
	der, err := firstDER(content)
	if err != nil {
		return nil, fmt.Errorf("EK certificate at NV index %#08x: %w", index, err)
	}
	return der, nil
}

// AK is the attestation key. It is the same each time, until the TPM's
// endorsement seed changes.
type AK struct {
	Public []byte // TPMT_PUBLIC
	Name   []byte
}

// AK makes the attestation key. Part 3, section 24.1, TPM2_CreatePrimary.
func (d *Device) AK(ctx context.Context) (*AK, error) {
	return ask(ctx, d, "making the attestation key", func(l *link) (*AK, error) {
		o, err := l.attestationKey()
		if err != nil {
			return nil, err
		}
		defer l.flushQuietly(o.handle)
		ak := o.ak()
		return &ak, nil
	})
}

func (o *object) ak() AK { return AK{Public: o.raw, Name: o.name.Buffer} }

// attestationKey loads the attestation key. The caller flushes it.
func (l *link) attestationKey() (*object, error) {
	o, err := l.primary(tpm2.TPMRHEndorsement, l.opts.Algorithm.akTemplate())
	if err != nil {
		return nil, fmt.Errorf("attestation key: %w", err)
	}
	return o, nil
}

// Attestation is what the TPM says, signed by the attestation key.
type Attestation struct {
	Attest    []byte // TPMS_ATTEST
	Signature []byte // TPMT_SIGNATURE
	AK        AK
}

// attestation takes over an answer, and checks that it answers our question.
func (l *link) attestation(o *object, attest []byte, signature tpm2.TPMTSignature, kind tpm2.TPMST, qualifying []byte) (a *Attestation, err error) {
	defer func() {
		if p := recover(); p != nil { // see exec
			a, err = nil, l.breakOff(fmt.Errorf("%w: %v", ErrMalformed, p))
		}
	}()
	parsed, err := tpm2.Unmarshal[tpm2.TPMSAttest](attest)
	if err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	if parsed.Type != kind || !bytes.Equal(parsed.ExtraData.Buffer, qualifying) {
		return nil, l.breakOff(fmt.Errorf("%w: an attestation of something else", ErrMalformed))
	}
	return &Attestation{Attest: attest, Signature: tpm2.Marshal(signature), AK: o.ak()}, nil
}

// maxQualifying is the length of the longest digest that every TPM takes.
const maxQualifying = 32

func checkQualifying(b []byte) error {
	if len(b) > maxQualifying {
		return fmt.Errorf("qualifying data has %d bytes, at most %d are possible; hash it", len(b), maxQualifying)
	}
	return nil
}

// keyScheme leaves the scheme to the key, which has one.
var keyScheme = tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}

// Certify lets the attestation key state that the signing key is in this TPM,
// with its Name and so its attributes. qualifying is the verifier's nonce.
// Part 3, section 18.2, TPM2_Certify.
func (k *Key) Certify(ctx context.Context, qualifying []byte) (*Attestation, error) {
	if err := checkQualifying(qualifying); err != nil {
		return nil, err
	}
	if k.closed.Load() {
		return nil, ErrClosed
	}
	return ask(ctx, k.dev, "certifying the signing key", func(l *link) (*Attestation, error) {
		// The key first: loading it may need the room that the AK takes.
		if err := k.load(l); err != nil {
			return nil, err
		}
		ak, err := l.attestationKey()
		if err != nil {
			return nil, err
		}
		defer l.flushQuietly(ak.handle)
		rsp, err := authorised(l, k, func(key tpm2.AuthHandle) (*tpm2.CertifyResponse, error) {
			return exec(l, tpm2.Certify{
				ObjectHandle:   key,
				SignHandle:     ak.auth(tpm2.PasswordAuth(nil)),
				QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
				InScheme:       keyScheme,
			})
		})
		if err != nil {
			return nil, err
		}
		return l.attestation(ak, rsp.CertifyInfo.Bytes(), rsp.Signature, tpm2.TPMSTAttestCertify, qualifying)
	})
}

// Credential is what TPM2_MakeCredential, or its equivalent in software, made
// for the Name of the attestation key and the public area of an endorsement key.
type Credential struct {
	EK     EKAlgorithm
	Blob   []byte // TPMS_ID_OBJECT
	Secret []byte // TPM2B_ENCRYPTED_SECRET, without its size
}

// ErrNotForUs says that a credential was made for another EK or another AK, or was changed.
var ErrNotForUs = errors.New("the credential is not for this TPM's endorsement and attestation key")

// ActivateCredential returns the secret of a credential, which proves that the
// attestation key and the endorsement key are in one TPM. Part 3, section
// 12.5, TPM2_ActivateCredential; the EK's policy is met by 23.4, TPM2_PolicySecret.
func (d *Device) ActivateCredential(ctx context.Context, c Credential) ([]byte, error) {
	template, _, err := c.EK.template()
	if err != nil {
		return nil, err
	}
	return ask(ctx, d, "activating a credential", func(l *link) ([]byte, error) {
		ak, err := l.attestationKey()
		if err != nil {
			return nil, err
		}
		defer l.flushQuietly(ak.handle)
		ek, err := l.primary(tpm2.TPMRHEndorsement, template)
		if err != nil {
			return nil, err
		}
		defer l.flushQuietly(ek.handle)
		s, err := l.startEK(ek)
		if err != nil {
			return nil, err
		}
		defer l.flushQuietly(s.Handle())
		rsp, err := exec(l, tpm2.ActivateCredential{
			ActivateHandle: ak.auth(tpm2.PasswordAuth(nil)),
			KeyHandle:      ek.auth(s),
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.Blob},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.Secret},
		})
		if isCode(err, tpm2.TPMRCIntegrity, tpm2.TPMRCValue, tpm2.TPMRCSize, tpm2.TPMRCECCPoint, tpm2.TPMRCInsufficient) {
			return nil, fmt.Errorf("%w: %w", ErrNotForUs, err)
		}
		if err != nil {
			return nil, err
		}
		return rsp.CertInfo.Buffer, nil
	})
}

// startEK starts the session that the EK's use is authorised in: templates of
// the high range let the EK be used with its auth value, which is empty, those
// of the low range with a policy. The caller ends it.
func (l *link) startEK(ek *object) (tpm2.Session, error) {
	if ek.public.ObjectAttributes.UserWithAuth {
		return l.startSession(ek, nil, encryptAnswer)
	}
	return l.startPolicy(ek)
}

// startPolicy starts a policy session that meets the EK's policy, salted to
// the EK, so that the answer crosses the bus encrypted. The caller ends it.
// Part 3, sections 11.1, TPM2_StartAuthSession, and 23.4, TPM2_PolicySecret.
func (l *link) startPolicy(ek *object) (s tpm2.Session, err error) {
	defer func() {
		if p := recover(); p != nil { // see exec
			s, err = nil, l.breakOff(fmt.Errorf("%w: %v", ErrMalformed, p))
		}
	}()
	s, _, err = tpm2.PolicySession(l, tpm2.TPMAlgSHA256, sessionNonce,
		tpm2.Salted(ek.handle, ek.public), encryptAnswer)
	if err != nil {
		return nil, fmt.Errorf("TPM2_StartAuthSession: %w", l.judge(err))
	}
	_, err = exec(l, tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: authSession(l.opts.EndorsementAuth)},
		PolicySession: s.Handle(),
		NonceTPM:      s.NonceTPM(),
	})
	if err != nil {
		l.flushQuietly(s.Handle())
		return nil, err
	}
	return s, nil
}
