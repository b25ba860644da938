package tpm

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// policyBSHA384 is PolicyB of the high range (TCG EK Credential Profile 2.5,
// annex B.6.5), which nobody has to meet: see startEK.
var policyBSHA384 = []byte{
	0xB2, 0x6E, 0x7D, 0x28, 0xD1, 0x1A, 0x50, 0xBC, 0x53, 0xD8, 0x82, 0xBC, 0xF5, 0xFD, 0x3A, 0x1A,
	0x07, 0x41, 0x48, 0xBB, 0x35, 0xD3, 0xB4, 0xE4, 0xCB, 0x1C, 0x0A, 0xD9, 0xBD, 0xE4, 0x19, 0xCA,
	0xCB, 0x47, 0xBA, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0F, 0x9F, 0xC0, 0x00, 0xF3, 0xF8, 0x0E, 0x12,
}

// eccP384EKTemplate is template H-3 (annex B.4.5).
var eccP384EKTemplate = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA384,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		AdminWithPolicy:     true,
		Restricted:          true,
		Decrypt:             true,
	},
	AuthPolicy: tpm2.TPM2BDigest{Buffer: policyBSHA384},
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

// ChooseEK returns the endorsement key that names the machine where nobody
// chose one: the one that the manufacturer certified, of several the one that
// the TPM makes quickest; P-256 when the TPM holds no certificate.
func (d *Device) ChooseEK(ctx context.Context) (EKAlgorithm, error) {
	return ask(ctx, d, "looking for EK certificates", func(l *link) (EKAlgorithm, error) {
		for _, a := range []EKAlgorithm{EKECCP256, EKECCP384, EKRSA2048} {
			if certified, err := l.certified(a); err != nil || certified {
				return a, err
			}
		}
		return EKECCP256, nil
	})
}

// certified says whether the TPM holds a certificate for its key of this
// template. Some hold one for a key of another template at the same index.
func (l *link) certified(a EKAlgorithm) (bool, error) {
	template, index, err := a.template()
	if err != nil {
		return false, err
	}
	certificate, err := l.ekCertificate(index)
	if err != nil || certificate == nil {
		return false, err
	}
	o, err := l.primary(tpm2.TPMRHEndorsement, template)
	if err != nil {
		if isCode(err, tpm2.TPMRCCurve, tpm2.TPMRCValue, tpm2.TPMRCHash, tpm2.TPMRCSymmetric) {
			return false, nil // it does not know the algorithm
		}
		return false, err
	}
	defer l.flushQuietly(o.handle)
	number, err := o.number()
	return err == nil && bytes.Contains(certificate, number), err
}

// number is the modulus of an RSA key, or the X of a point: what stands in any
// certificate of the key, in whichever way it names the algorithm.
func (o *object) number() ([]byte, error) {
	if o.public.Type == tpm2.TPMAlgRSA {
		n, err := o.public.Unique.RSA()
		if err != nil {
			return nil, err
		}
		return n.Buffer, nil
	}
	point, err := o.public.Unique.ECC()
	if err != nil {
		return nil, err
	}
	return point.X.Buffer, nil
}

// The NV indices of certificates above those of the EK (section 2.2.1.5.2).
const (
	ekChainFirst tpm2.TPMHandle = 0x01C00100
	ekChainLast  tpm2.TPMHandle = 0x01C001FF

	maxChain = 8 // certificates
)

// EKCertificateChain reads the certificates of the authorities above the EK,
// where the TPM holds them. They fill the indices one behind the other, and
// some go on in the next index.
func (d *Device) EKCertificateChain(ctx context.Context) ([][]byte, error) {
	return ask(ctx, d, "reading the EK's certificate chain", func(l *link) ([][]byte, error) {
		indices, err := l.handles(tpm2.TPMHTNVIndex)
		if err != nil {
			return nil, err
		}
		slices.Sort(indices)
		var content []byte
		for _, index := range indices {
			if index < ekChainFirst || index > ekChainLast || len(content) > maxChain*nvLimit {
				continue
			}
			part, err := l.nvRead(uint32(index))
			if err != nil {
				return nil, err
			}
			content = append(content, part...)
		}
		return splitDER(content), nil
	})
}

// splitDER returns the DER sequences at the beginning of content.
func splitDER(content []byte) (found [][]byte) {
	const sequence = 0x30
	for len(content) > 0 && content[0] == sequence && len(found) < maxChain {
		der, err := firstDER(content)
		if err != nil {
			break
		}
		found, content = append(found, der), content[len(der):]
	}
	return found
}

// PublicKey returns the endorsement key as the standard library has it: an
// *rsa.PublicKey or *ecdsa.PublicKey.
func (e *EK) PublicKey() (key crypto.PublicKey, err error) {
	defer func() {
		if p := recover(); p != nil { // see exec
			key, err = nil, errors.New("the endorsement key's public area cannot be read")
		}
	}()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.Public)
	if err != nil {
		return nil, fmt.Errorf("read the endorsement key: %w", err)
	}
	return tpm2.Pub(*public)
}
