package tpm

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

// verifyAttestation does what a verifier does, from the bytes alone.
func verifyAttestation(t *testing.T, a *Attestation, nonce []byte) *tpm2.TPMSAttest {
	t.Helper()
	ak, err := tpm2.Unmarshal[tpm2.TPMTPublic](a.AK.Public)
	require.NoError(t, err)
	require.True(t, ak.ObjectAttributes.Restricted)
	require.True(t, ak.ObjectAttributes.FixedTPM)
	require.True(t, ak.ObjectAttributes.FixedParent)
	require.True(t, ak.ObjectAttributes.SensitiveDataOrigin)
	require.False(t, ak.ObjectAttributes.Decrypt)
	name, err := tpm2.ObjectName(ak)
	require.NoError(t, err)
	require.Equal(t, a.AK.Name, name.Buffer)

	signature, err := tpm2.Unmarshal[tpm2.TPMTSignature](a.Signature)
	require.NoError(t, err)
	ecc, err := signature.Signature.ECDSA()
	require.NoError(t, err)
	pub, err := ecdsaKey(ak)
	require.NoError(t, err)
	digest := sha256.Sum256(a.Attest)
	require.True(t, ecdsa.Verify(pub, digest[:],
		new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer)))

	attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](a.Attest)
	require.NoError(t, err)
	require.Equal(t, tpm2.TPMGeneratedValue, attest.Magic)
	require.Equal(t, nonce, attest.ExtraData.Buffer)
	return attest
}

func TestCertifyStatesNameOfSigningKeyUnderVerifiersNonce(t *testing.T) {
	t.Parallel()
	d, k := fixture(t)
	nonce := sha256.Sum256([]byte("registry"))
	a, err := k.Certify(t.Context(), nonce[:])
	require.NoError(t, err)
	certified, err := verifyAttestation(t, a, nonce[:]).Attested.Certify()
	require.NoError(t, err)
	require.Equal(t, k.KID(), certified.Name.Buffer)

	ak, err := d.AK(t.Context())
	require.NoError(t, err)
	require.Equal(t, *ak, a.AK)
	_, err = k.Certify(t.Context(), make([]byte, 33))
	require.ErrorContains(t, err, "qualifying data")

	objects, sessions := held(t, d)
	require.Equal(t, 1, objects, "the signing key")
	require.Equal(t, 1, sessions)
}

func TestQuoteCoversThePCRsAskedFor(t *testing.T) {
	t.Parallel()
	d, _ := fixture(t)
	nonce := []byte("quote me")
	a, err := d.Quote(t.Context(), nonce, []uint{0, 7, 23})
	require.NoError(t, err)
	quoted, err := verifyAttestation(t, a, nonce).Attested.Quote()
	require.NoError(t, err)
	require.Equal(t, []byte{0x81, 0x00, 0x80}, quoted.PCRSelect.PCRSelections[0].PCRSelect)
	require.Len(t, quoted.PCRDigest.Buffer, 32)
	_, err = d.Quote(t.Context(), nonce, []uint{24})
	require.ErrorContains(t, err, "PCR 24")
	_, err = d.Quote(t.Context(), make([]byte, 33), nil)
	require.ErrorContains(t, err, "qualifying data")
}

func TestAttestationKeyIsMadeAgainTheSame(t *testing.T) {
	t.Parallel()
	soft := tpmtest.Start(t)
	d := openDevice(t, soft.Device(), Options{})
	first, err := d.AK(t.Context())
	require.NoError(t, err)
	require.NoError(t, d.Close())
	soft.Restart()
	d = openDevice(t, soft.Device(), Options{})
	second, err := d.AK(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, second)

	other, err := openDevice(t, tpmtest.New(t), Options{}).AK(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, first.Name, other.Name)
}

// makeCredential does what TPM2_MakeCredential does, as a registry would.
func makeCredential(t *testing.T, algorithm EKAlgorithm, ek *EK, akName, secret []byte) Credential {
	t.Helper()
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
	require.NoError(t, err)
	key, err := tpm2.ImportEncapsulationKey(public)
	require.NoError(t, err)
	blob, encrypted, err := tpm2.CreateCredential(rand.Reader, key, akName, secret)
	require.NoError(t, err)
	return Credential{EK: algorithm, Blob: blob, Secret: encrypted}
}

func activate(t *testing.T, d *Device, algorithm EKAlgorithm) (*EK, *AK) {
	t.Helper()
	ek, err := d.EK(t.Context(), algorithm)
	require.NoError(t, err)
	ak, err := d.AK(t.Context())
	require.NoError(t, err)
	secret := []byte("0123456789abcdef0123456789abcdef")
	got, err := d.ActivateCredential(t.Context(), makeCredential(t, algorithm, ek, ak.Name, secret))
	require.NoError(t, err)
	require.Equal(t, secret, got)
	return ek, ak
}

func TestActivateCredential(t *testing.T) {
	t.Parallel()
	d, k := fixture(t) // with the signing key loaded, so that room is scarce
	for _, algorithm := range []EKAlgorithm{EKRSA2048, EKECCP256, EKECCP384} {
		ek, ak := activate(t, d, algorithm)
		for name, bad := range map[string]Credential{
			"another AK": makeCredential(t, algorithm, ek, k.KID(), []byte("secret")),
			"changed": func() Credential {
				c := makeCredential(t, algorithm, ek, ak.Name, []byte("secret"))
				c.Blob[len(c.Blob)-1] ^= 1
				return c
			}(),
			"empty": {EK: algorithm},
		} {
			_, err := d.ActivateCredential(t.Context(), bad)
			require.ErrorIs(t, err, ErrNotForUs, name)
			require.Equal(t, Permanent, Classify(err), name)
		}
		objects, sessions := held(t, d)
		require.Equal(t, 1, objects)
		require.Equal(t, 1, sessions)
	}
	_, err := d.ActivateCredential(t.Context(), Credential{})
	require.ErrorContains(t, err, "EK algorithm")
	_, err = d.EK(t.Context(), 0)
	require.ErrorContains(t, err, "EK algorithm")
}

func TestOwnSoftwareTPMHasEKCertificates(t *testing.T) {
	t.Parallel()
	d := openDevice(t, "swtpm:"+filepath.Join(t.TempDir(), "tpm"), Options{
		Report: func(e Event) { t.Error(e.Message, e.Err) },
	})
	ek, err := d.EK(t.Context(), EKRSA2048)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(ek.Certificate)
	require.NoError(t, err)
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
	require.NoError(t, err)
	want, err := tpm2.Pub(*public)
	require.NoError(t, err)
	require.True(t, want.(*rsa.PublicKey).Equal(cert.PublicKey))

	certs, err := d.EKCertificates(t.Context())
	require.NoError(t, err)
	require.Len(t, certs, 2, "RSA-2048 and P-384")
	require.Equal(t, ekCertificateRSA2048, certs[0].Index)
	require.Equal(t, ek.Certificate, certs[0].DER)
	require.Equal(t, ekCertificateECCP384, certs[1].Index)

	ek, err = d.EK(t.Context(), EKECCP256)
	require.NoError(t, err)
	require.Nil(t, ek.Certificate)
}

func TestPaddingBehindCertificateIsCutOff(t *testing.T) {
	t.Parallel()
	der, err := firstDER([]byte{0x30, 0x03, 0x02, 0x01, 0x05, 0xFF, 0xFF, 0xFF})
	require.NoError(t, err)
	require.Equal(t, []byte{0x30, 0x03, 0x02, 0x01, 0x05}, der)
	for _, bad := range [][]byte{nil, {0x30}, {0x30, 0x82, 0xFF, 0xFF, 0x00}, {0xFF, 0xFF}} {
		_, err := firstDER(bad)
		require.Error(t, err)
	}
}
