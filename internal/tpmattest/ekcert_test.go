package tpmattest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// certificates reads PEM files into a pool.
func certificates(t testing.TB, files ...string) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	for _, f := range files {
		content, err := os.ReadFile(f)
		require.NoError(t, err)
		require.True(t, p.AppendCertsFromPEM(content))
	}
	return p
}

// The certificates that swtpm's own authority writes, RSA and P-384, as a
// manufacturer's would be read from the TPM.
func TestEKCertificatesOfAManufacturedTPM(t *testing.T) {
	dir := tpmtest.Dir(t)
	require.NoError(t, swtpm.Manufacture(t.Context(), dir))
	dev, err := tpm.Open(t.Context(), "swtpm:"+dir, tpm.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = dev.Close() })
	ca := filepath.Join(dir, "ca")
	roots := certificates(t, filepath.Join(ca, "swtpm-localca-rootca-cert.pem"))
	intermediates := certificates(t, filepath.Join(ca, "issuercert.pem"))
	issuing, err := os.ReadFile(filepath.Join(ca, "issuercert.pem"))
	require.NoError(t, err)
	block, _ := pem.Decode(issuing)

	for name, algorithm := range map[string]tpm.EKAlgorithm{"RSA-2048": tpm.EKRSA2048, "P-384": tpm.EKECCP384} {
		t.Run(name, func(t *testing.T) {
			read, err := dev.EK(t.Context(), algorithm)
			require.NoError(t, err)
			require.NotEmpty(t, read.Certificate)
			ek, err := tpmattest.ParseEK(read.Public)
			require.NoError(t, err)
			cert, err := tpmattest.VerifyEKCertificate(read.Certificate, ek, roots, intermediates, nil, time.Now())
			require.NoError(t, err)
			require.True(t, cert.PublicKey.(equaler).Equal(ek.Public))
			model, err := tpmattest.ModelOf(cert)
			require.NoError(t, err)
			require.Equal(t, "id:00001014", model.Manufacturer)
			require.Equal(t, "swtpm", model.Model)

			_, err = tpmattest.VerifyEKCertificate(read.Certificate, ek, roots, nil, [][]byte{block.Bytes}, time.Now())
			require.NoError(t, err, "the TPM holds the intermediate")
			_, err = tpmattest.VerifyEKCertificate(read.Certificate, ek, roots, nil, nil, time.Now())
			refusedFor(t, api.EKCertificateUntrusted, err)
			_, err = tpmattest.VerifyEKCertificate(read.Certificate, ek, attesttest.NewAuthority(t).Roots(), intermediates, nil, time.Now())
			refusedFor(t, api.EKCertificateUntrusted, err)
		})
	}
}

// ekOf returns an EK whose key is known, which serves for certificates.
func ekOf(public crypto.PublicKey) *tpmattest.EK { return &tpmattest.EK{Public: public} }

func testKey(t testing.TB) *ecdsa.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &key.PublicKey
}

func TestEKCertificateIsRefused(t *testing.T) {
	lab := attesttest.NewAuthority(t)
	key := testKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		public crypto.PublicKey
		spoil  func(*x509.Certificate)
		reason api.Reason
	}{
		"good":       {key, func(*x509.Certificate) {}, ""},
		"good RSA":   {rsaKey.Public(), func(*x509.Certificate) {}, ""},
		"no EKU":     {key, func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, api.EKCertificateUsage},
		"EKU of AKs": {key, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }, api.EKCertificateUsage},
		"any EKU": {key, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, api.EKCertificateUsage},
		"an authority": {key, func(c *x509.Certificate) { c.IsCA = true }, api.EKCertificateUsage},
		"signs":        {key, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, api.EKCertificateUsage},
		"only signs":   {key, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }, api.EKCertificateUsage},
		"no key usage": {key, func(c *x509.Certificate) { c.KeyUsage = 0 }, api.EKCertificateUsage},
		"RSA agrees":   {rsaKey.Public(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, api.EKCertificateUsage},
		"no SAN":       {key, func(c *x509.Certificate) { c.ExtraExtensions = nil }, api.EKCertificateUsage},
		"SAN of a web server": {key, func(c *x509.Certificate) {
			c.ExtraExtensions, c.DNSNames = nil, []string{"tpm.example"}
		}, api.EKCertificateUsage},
		"SAN without model": {key, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{attesttest.AltName("id:54534D4B", "", "id:1")}
		}, api.EKCertificateMalformed},
		"SAN with a very long model": {key, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{attesttest.AltName("id:54534D4B", string(make([]byte, 200)), "id:1")}
		}, api.EKCertificateMalformed},
		"SAN that is no list": {key, func(c *x509.Certificate) {
			c.ExtraExtensions[0].Value = []byte{0x30, 3, 0xA4, 1, 0x05}
		}, api.EKCertificateMalformed},
		"another critical extension": {key, func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
		}, api.EKCertificateUntrusted},
		"expired":       {key, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, api.EKCertificateExpired},
		"not yet valid": {key, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }, api.EKCertificateExpired},
	} {
		t.Run(name, func(t *testing.T) {
			template := attesttest.Template(c.public)
			c.spoil(template)
			der := lab.Issue(template, c.public)
			cert, err := tpmattest.VerifyEKCertificate(der, ekOf(c.public), lab.Roots(), lab.Intermediates(), nil, now)
			if c.reason == "" {
				require.NoError(t, err)
				require.Equal(t, der, cert.Raw)
				return
			}
			refusedFor(t, c.reason, err)
		})
	}
}

func TestEKCertificateOfAnotherEKIsRefused(t *testing.T) {
	lab := attesttest.NewAuthority(t)
	_, err := tpmattest.VerifyEKCertificate(lab.Certify(testKey(t)), ekOf(testKey(t)), lab.Roots(), lab.Intermediates(), nil, now)
	refusedFor(t, api.EKCertificateMismatch, err)
}

// No roots are no trust, and never that of the operating system.
func TestEKCertificateWithoutRootsIsRefused(t *testing.T) {
	lab := attesttest.NewAuthority(t)
	key := testKey(t)
	for _, roots := range []*x509.CertPool{nil, x509.NewCertPool(), lab.Intermediates()} {
		_, err := tpmattest.VerifyEKCertificate(lab.Certify(key), ekOf(key), roots, lab.Intermediates(), nil, now)
		if roots == nil || !roots.Equal(lab.Intermediates()) {
			refusedFor(t, api.EKCertificateUntrusted, err)
			continue
		}
		require.NoError(t, err, "an issuing authority may be pinned")
	}
}

// What the TPM brings along is a way to a root and never one.
func TestSelfMadeRootFromTheTPMIsRefused(t *testing.T) {
	lab, forged := attesttest.NewAuthority(t), attesttest.NewAuthority(t)
	key := testKey(t)
	_, err := tpmattest.VerifyEKCertificate(forged.Certify(key), ekOf(key), lab.Roots(), lab.Intermediates(), [][]byte{forged.Intermediate.Raw, forged.Root.Raw}, now)
	refusedFor(t, api.EKCertificateUntrusted, err)
	_, err = tpmattest.VerifyEKCertificate(forged.Certify(key), ekOf(key), forged.Roots(), nil, [][]byte{{0x30, 0x80}, nil, forged.Intermediate.Raw}, now)
	require.NoError(t, err, "what cannot be read is no way, and does not bar another one")
	_, err = tpmattest.VerifyEKCertificate(forged.Certify(key), ekOf(key), forged.Roots(), nil, make([][]byte, 9), now)
	refusedFor(t, api.EKCertificateMalformed, err)
}

// An authority that may not sign certificates, or EK certificates that sign
// others, make no chain.
func TestEKCertificateBelowAnEKCertificateIsRefused(t *testing.T) {
	lab := attesttest.NewAuthority(t)
	key := testKey(t)
	leaf := lab.Certify(key)
	_, err := tpmattest.VerifyEKCertificate(leaf, ekOf(key), lab.Roots(), nil, [][]byte{leaf}, now)
	refusedFor(t, api.EKCertificateUntrusted, err)
}

// Certificates that are not strictly DER, as some manufacturers wrote them, and
// what is none at all, are told apart from those that are not trusted.
func TestEKCertificateThatIsNotDERIsRefused(t *testing.T) {
	lab := attesttest.NewAuthority(t)
	key := testKey(t)
	good := lab.Certify(key)
	notDER := append([]byte{0x30, 0x84, 0, 0}, good[2:]...) // a length in more bytes than needed
	for name, der := range map[string][]byte{
		"nothing": nil, "no ASN.1": []byte("-----BEGIN CERTIFICATE-----"), "cut short": good[:len(good)-1],
		"trailing byte": append(slices.Clip(good), 0), "length not minimal": notDER, "too large": make([]byte, api.MaxCertificate+1),
		"negative serial number": withNegativeSerial(t, good),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tpmattest.VerifyEKCertificate(der, ekOf(key), lab.Roots(), lab.Intermediates(), nil, now)
			refusedFor(t, api.EKCertificateMalformed, err)
		})
	}
}

// withNegativeSerial returns a certificate with serial number -1 instead of 3.
func withNegativeSerial(t *testing.T, der []byte) []byte {
	t.Helper()
	// 30 82 len | 30 82 len | A0 03 02 01 02 | 02 01 03
	require.Equal(t, []byte{0x02, 0x01, 0x03}, der[13:16])
	return patched(der, 15, 0xFF)
}
