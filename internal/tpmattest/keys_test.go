package tpmattest_test

import (
	"crypto/rand"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
)

// A credential made in software is opened by the TPM with the EK and the AK
// that it was made for, and by no other.
func TestCredentialIsOpenedByItsTPMOnly(t *testing.T) {
	m := attesttest.New(t)
	ak := m.Primary(tpm2.TPMRHEndorsement, attesttest.AK())
	other := m.Primary(tpm2.TPMRHEndorsement, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.AKAttributes, "other"))
	for name, template := range map[string]tpm2.TPMTPublic{
		"RSA-2048": attesttest.EKRSA2048, "P-256": attesttest.EKP256, "P-384": attesttest.EKP384,
	} {
		t.Run(name, func(t *testing.T) {
			o := m.EK(template)
			defer m.Flush(o)
			ek := parseEK(t, o)
			require.Equal(t, o.Name.Buffer, ek.Name)
			hash, err := api.EKHash(ek.Public)
			require.NoError(t, err)
			require.Equal(t, hash, ek.Hash)

			secret := question("secret")
			c, err := tpmattest.MakeCredential(rand.Reader, ek, ak.Name.Buffer, secret)
			require.NoError(t, err)
			opened, err := m.Activate(o, ak, c)
			require.NoError(t, err)
			require.Equal(t, secret, opened)

			_, err = m.Activate(o, other, c)
			require.ErrorIs(t, err, tpm2.TPMRCIntegrity, "another AK of the same TPM")
			c.Blob = patched(c.Blob, len(c.Blob)-1, ^c.Blob[len(c.Blob)-1])
			_, err = m.Activate(o, ak, c)
			require.Error(t, err, "a changed credential")
		})
	}
}

func TestCredentialForAnotherTPMStaysShut(t *testing.T) {
	m, other := attesttest.New(t), attesttest.New(t)
	ak, ek := m.Primary(tpm2.TPMRHEndorsement, attesttest.AK()), m.EK(attesttest.EKP256)
	c, err := tpmattest.MakeCredential(rand.Reader, parseEK(t, other.EK(attesttest.EKP256)), ak.Name.Buffer, question("secret"))
	require.NoError(t, err)
	_, err = m.Activate(ek, ak, c)
	require.Error(t, err)
}

func TestEKThatFollowsNoTemplateIsRefused(t *testing.T) {
	m := attesttest.New(t)
	p256, p384, rsa := m.EK(attesttest.EKP256), m.EK(attesttest.EKP384), m.EK(attesttest.EKRSA2048)
	for name, public := range map[string][]byte{
		"restricted not set":  withAttributes(p256.Public, without(bitRestricted)),
		"signs":               withAttributes(p256.Public, with(bitSign)),
		"fixedTPM not set":    withAttributes(p384.Public, without(bitFixedTPM)),
		"imported":            withAttributes(rsa.Public, without(bitSensitiveDataOrigin)),
		"H-3 as low range":    withAttributes(p384.Public, without(1<<6)),
		"L-1 as high range":   withAttributes(rsa.Public, with(1<<6)),
		"another policy":      patched(p256.Public, 10, 0),
		"AES of 192 bits":     patched(p256.Public, 10+32+2, 0, 192),
		"CBC":                 patched(p256.Public, 10+32+4, 0, 0x42),
		"Name by SHA-384":     patched(p256.Public, 2, 0, 0x0C),
		"an attestation key":  lone(t).Public,
		"RSA without a curve": patched(rsa.Public, 0, 0, 8), // KEYEDHASH
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tpmattest.ParseEK(public)
			refusedFor(t, api.EKUnsupported, err)
		})
	}
	for name, public := range map[string][]byte{
		"nothing":             nil,
		"cut short":           p256.Public[:len(p256.Public)-1],
		"trailing byte":       append(slices.Clip(p256.Public), 0),
		"reserved attribute":  withAttributes(p256.Public, with(bitReserved)),
		"point off the curve": patched(p256.Public, len(p256.Public)-1, p256.Public[len(p256.Public)-1]^1),
		"even modulus":        patched(rsa.Public, len(rsa.Public)-1, rsa.Public[len(rsa.Public)-1]^1),
		"short modulus":       patched(rsa.Public, len(rsa.Public)-256, 0),
		"too large":           make([]byte, api.MaxPublic+1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tpmattest.ParseEK(public)
			refusedFor(t, api.EKMalformed, err)
		})
	}
}

// lone is a key of a TPM of its own, since one TPM has room for three.
func lone(t testing.TB) *attesttest.Object {
	return attesttest.New(t).Primary(tpm2.TPMRHEndorsement, attesttest.AK())
}

func TestAKOfEveryAcceptedSchemeIsTaken(t *testing.T) {
	m := attesttest.New(t)
	for name, template := range map[string]tpm2.TPMTPublic{
		"P-256": attesttest.AK(),
		"P-384": attesttest.ECDSA(tpm2.TPMECCNistP384, attesttest.AKAttributes, ""),
		"RSA":   attesttest.RSASSA(attesttest.AKAttributes),
	} {
		t.Run(name, func(t *testing.T) {
			o, key := m.Primary(tpm2.TPMRHEndorsement, template), m.Primary(tpm2.TPMRHOwner, attesttest.Key())
			defer m.Flush(o, key)
			ak := parseAK(t, o)
			require.Equal(t, o.Name.Buffer, ak.Name)
			require.Equal(t, goName(t, o.Public), ak.Name)
			a := m.Certify(o, key, question("q"))
			require.NoError(t, tpmattest.VerifyCertify(&a, ak, parseKey(t, key), question("q")))
			q := m.Quote(o, question("q"), tpm2.TPMAlgSHA256, 0, 7, 23)
			require.NoError(t, tpmattest.VerifyQuote(q, ak, question("q"), []uint{0, 7, 23}))
		})
	}
}

func TestAKAttributesAreEachRefused(t *testing.T) {
	good := lone(t).Public
	for reason, publics := range map[api.Reason][][]byte{
		api.AKNotRestricted: {withAttributes(good, without(bitRestricted))},
		api.AKNotSigning:    {withAttributes(good, without(bitSign))},
		api.AKDecrypts:      {withAttributes(good, with(bitDecrypt))},
		api.AKNotFixed:      {withAttributes(good, without(bitFixedTPM)), withAttributes(good, without(bitFixedParent)), withAttributes(good, with(bitEncryptedDup))},
		api.AKImported:      {withAttributes(good, without(bitSensitiveDataOrigin))},
		api.AKUnsupported: {
			withAttributes(good, with(bitX509Sign)),
			patched(good, 2, 0, 0x04),  // Name by SHA-1
			patched(good, 14, 0, 0x04), // ECDSA with SHA-1
			patched(good, 12, 0, 0x1A), // ECDAA
			patched(good, 14, 0, 0x0C), // SHA-384 on P-256
			patched(good, 0, 0, 0x25),  // a symmetric key
			patched(good, 16, 0, 0x10), // an unknown curve
			patched(good, 18, 0, 0x20), // a key derivation
			patched(good, 12, 0, 0x19), // ECDH
		},
		api.AKMalformed: {nil, good[:len(good)-1], append(slices.Clip(good), 0), withAttributes(good, with(bitReserved)), patched(good, len(good)-1, good[len(good)-1]^1)},
	} {
		for i, public := range publics {
			_, err := tpmattest.ParseAK(public)
			require.Equal(t, reason, api.ReasonOf(err), "%s, %d: %v", reason, i, err)
		}
	}
}

func TestKeyAttributesAreEachRefused(t *testing.T) {
	m := attesttest.New(t)
	o := m.Primary(tpm2.TPMRHOwner, attesttest.Key())
	good := o.Public
	key := parseKey(t, o)
	require.Equal(t, o.Name.Buffer, key.Name)
	require.Equal(t, good, key.TPM)
	rsa := m.Primary(tpm2.TPMRHOwner, attesttest.RSASSA(attesttest.KeyAttributes)).Public
	for reason, publics := range map[api.Reason][][]byte{
		api.KeyRestricted:  {withAttributes(good, with(bitRestricted))},
		api.KeyNotSigning:  {withAttributes(good, without(bitSign))},
		api.KeyDecrypts:    {withAttributes(good, with(bitDecrypt))},
		api.KeyNotFixed:    {withAttributes(good, without(bitFixedTPM)), withAttributes(good, without(bitFixedParent)), withAttributes(good, with(bitEncryptedDup))},
		api.KeyImported:    {withAttributes(good, without(bitSensitiveDataOrigin))},
		api.KeyUnsupported: {rsa, withAttributes(good, with(bitX509Sign)), patched(good, 2, 0, 0x0C)},
		api.KeyMalformed:   {nil, good[:len(good)-1], append(slices.Clip(good), 0), withAttributes(good, with(bitReserved))},
	} {
		for i, public := range publics {
			_, err := tpmattest.ParseKey(public)
			require.Equal(t, reason, api.ReasonOf(err), "%s, %d: %v", reason, i, err)
		}
	}
}

func TestSigningKeysOfEveryAlgorithmAreTold(t *testing.T) {
	m := attesttest.New(t)
	for want, template := range map[string]tpm2.TPMTPublic{
		"ES256": attesttest.Key(),
		"ES384": attesttest.ECDSA(tpm2.TPMECCNistP384, attesttest.KeyAttributes, ""),
		"PS256": attesttest.RSAPSS(attesttest.KeyAttributes),
	} {
		key := parseKey(t, m.Primary(tpm2.TPMRHOwner, template))
		require.Equal(t, want, key.Algorithm)
		algorithm, err := receipt.ParseAlgorithm(key.Algorithm)
		require.NoError(t, err)
		require.NoError(t, algorithm.Takes(key.Public))
	}
}

// What a TPM makes with bad attributes is refused as well as what somebody
// writes down.
func TestImportableKeyOfARealTPMIsRefused(t *testing.T) {
	m := attesttest.New(t)
	a := attesttest.KeyAttributes
	a.FixedTPM, a.FixedParent = false, false
	_, err := tpmattest.ParseKey(m.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, a, "")).Public)
	refusedFor(t, api.KeyNotFixed, err)
}
