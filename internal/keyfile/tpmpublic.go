package keyfile

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// maxTPMPublic is far above any TPMT_PUBLIC.
const maxTPMPublic = 4096

// checkTPMPublic holds a public area against kid and key. The Name of an object
// is computed over the very bytes of its public area (TPM 2.0 Library Part 1,
// 16):
//
//	Name = 000b | SHA-256(TPMT_PUBLIC)
func checkTPMPublic(area, kid []byte, key crypto.PublicKey) error {
	if len(area) > maxTPMPublic {
		return fmt.Errorf(`"tpm_public" has %d bytes, at most %d are allowed`, len(area), maxTPMPublic)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return fmt.Errorf(`"tpm_public" is not a TPMT_PUBLIC: %w`, err)
	}
	if !bytes.Equal(tpm2.Marshal(public), area) {
		return errors.New(`"tpm_public" is not a TPMT_PUBLIC: bytes are left over behind it`)
	}
	if public.NameAlg != tpm2.TPMAlgSHA256 {
		return errors.New(`"tpm_public" has a name algorithm that is not SHA-256`)
	}
	digest := sha256.Sum256(area)
	if name := append([]byte{0x00, 0x0b}, digest[:]...); !bytes.Equal(name, kid) {
		return fmt.Errorf(`"tpm_public" has the Name %x, which is not "kid": they belong to two keys`, name)
	}
	got, err := tpm2.Pub(*public)
	if err != nil {
		return fmt.Errorf(`"tpm_public" holds no key: %w`, err)
	}
	if same, ok := key.(interface{ Equal(x crypto.PublicKey) bool }); !ok || !same.Equal(got) {
		return errors.New(`"tpm_public" holds another key than "public_key"`)
	}
	a := public.ObjectAttributes
	if !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.SignEncrypt || a.Decrypt {
		return errors.New(`"tpm_public" is not of a signing key that was made in its TPM and cannot leave it`)
	}
	return nil
}
