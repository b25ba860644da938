package tpmattest

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Bounds on what comes with an EK certificate.
const (
	maxIntermediates = 8    // from the TPM
	maxChain         = 6    // certificates, root included
	maxRSABits       = 8192 // of an issuer
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
)

// VerifyEKCertificate checks a certificate for ek: that it is for this key,
// leads to a root, is valid at now, and is one for endorsement keys (TCG EK
// Credential Profile 2.5, section 3.2). extra are certificates that the TPM
// holds between its own and a root, in DER; they count for nothing but a way.
func VerifyEKCertificate(der []byte, ek *EK, roots, intermediates *x509.CertPool, extra [][]byte, now time.Time) (*x509.Certificate, error) {
	cert, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := sameKey(cert, ek); err != nil {
		return nil, err
	}
	if err := checkUsage(cert); err != nil {
		return nil, err
	}
	if _, err := ModelOf(cert); err != nil {
		return nil, err
	}
	// crypto/x509 does not know directory names; ModelOf does.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	if roots == nil { // nil would be those of the operating system
		return nil, api.Refuse(api.EKCertificateUntrusted, "no roots are configured")
	}
	if intermediates, err = withExtra(intermediates, extra); err != nil {
		return nil, err
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checkUsage looked
	})
	if err != nil {
		return nil, chainError(err)
	}
	if !slices.ContainsFunc(chains, func(c []*x509.Certificate) bool { return len(c) <= maxChain }) {
		return nil, api.Refuse(api.EKCertificateUntrusted, "the chain is longer than %d certificates", maxChain)
	}
	return cert, nil
}

// parseCertificate reads DER. Manufacturers have written certificates that are
// not strictly DER; crypto/x509 refuses those, and so do we: two readers that
// differ over a certificate are how one is taken for another.
func parseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) == 0 || len(der) > api.MaxCertificate {
		return nil, api.Refuse(api.EKCertificateMalformed, "%d bytes, 1 to %d are possible", len(der), api.MaxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, api.Because(api.EKCertificateMalformed, err)
	}
	return cert, nil
}

func sameKey(cert *x509.Certificate, ek *EK) error {
	key, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return api.Refuse(api.EKCertificateMalformed, "a key of algorithm %v", cert.PublicKeyAlgorithm)
	}
	if !key.Equal(ek.Public) {
		return api.Refuse(api.EKCertificateMismatch, "the certificate is for another key")
	}
	return nil
}

// checkUsage checks that the certificate is one for an endorsement key.
func checkUsage(cert *x509.Certificate) error {
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return api.Refuse(api.EKCertificateUsage, "extended key usage 2.23.133.8.1 is missing")
	}
	if cert.IsCA {
		return api.Refuse(api.EKCertificateUsage, "the certificate is one of an authority")
	}
	want := x509.KeyUsageKeyAgreement
	if _, ok := cert.PublicKey.(*rsa.PublicKey); ok {
		want = x509.KeyUsageKeyEncipherment
	}
	if cert.KeyUsage&want == 0 || cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return api.Refuse(api.EKCertificateUsage, "key usage %#x is not that of an endorsement key", int(cert.KeyUsage))
	}
	return nil
}

// withExtra adds certificates that the TPM holds to those of the operator.
func withExtra(pool *x509.CertPool, extra [][]byte) (*x509.CertPool, error) {
	if len(extra) == 0 {
		return pool, nil
	}
	if len(extra) > maxIntermediates {
		return nil, api.Refuse(api.EKCertificateMalformed, "%d further certificates, at most %d are possible", len(extra), maxIntermediates)
	}
	if pool == nil {
		pool = x509.NewCertPool()
	} else {
		pool = pool.Clone()
	}
	for _, der := range extra {
		cert, err := parseCertificate(der)
		if err != nil {
			continue // there may be another way
		}
		// What it costs to check a signature is the issuer's choice.
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			continue
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

func chainError(err error) error {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return api.Because(api.EKCertificateExpired, err)
	}
	return api.Because(api.EKCertificateUntrusted, err)
}
