// Package devca makes a certificate authority and certificates for
// development: X.509 v3 (RFC 5280), ECDSA P-256, one level, valid as servers
// and as clients. It has no revocation and no intermediate authorities, and
// its CA key lies unencrypted beside the certificates; do not build a
// deployment on it.
package devca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"

	// clockSkew is how far in the past certificates begin, for machines whose
	// clocks are behind.
	clockSkew = 5 * time.Minute
)

// Errors of Parse and Issue.
var (
	ErrNotCA   = errors.New("the certificate is not one of a certificate authority")
	ErrExpired = errors.New("the CA certificate has expired")
	ErrPair    = errors.New("the key is not the certificate's")
)

// Pair is a certificate and its private key.
type Pair struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// NewCA makes a self-signed authority.
func NewCA(name string, now time.Time, valid time.Duration) (*Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the CA key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(valid),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	return sign(template, &Pair{Certificate: template, Key: key}, key)
}

// Issue makes a certificate for a server and client with these names: DNS
// names and IP addresses. It ends no later than the authority's own.
func (p *Pair) Issue(name string, hosts []string, now time.Time, valid time.Duration) (*Pair, error) {
	if !now.Before(p.Certificate.NotAfter) {
		return nil, fmt.Errorf("%w on %s", ErrExpired, p.Certificate.NotAfter.Format(time.DateOnly))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of %s: %w", name, err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	end := now.Add(valid)
	if end.After(p.Certificate.NotAfter) {
		end = p.Certificate.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return sign(template, p, key)
}

func sign(template *x509.Certificate, issuer *Pair, key *ecdsa.PrivateKey) (*Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, key.Public(), issuer.Key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return &Pair{Certificate: cert, Key: key}, nil
}

// serialNumber returns 127 random bits, so that it is positive and at most 16
// bytes long (RFC 5280 §4.1.2.2 allows 20).
func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return n, nil
}

// CertificatePEM returns the certificate as PEM.
func (p *Pair) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: p.Certificate.Raw})
}

// KeyPEM returns the private key as PKCS #8 PEM.
func (p *Pair) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// ParseCA reads an authority from PEM and checks that it is one.
func ParseCA(certPEM, keyPEM []byte) (*Pair, error) {
	certDER, err := decode(certPEM, pemCertificate)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificate: %w", err)
	}
	keyDER, err := decode(keyPEM, pemKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("reading the CA key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, ErrPair
	}
	if !cert.IsCA {
		return nil, ErrNotCA
	}
	return &Pair{Certificate: cert, Key: key}, nil
}

func decode(b []byte, want string) ([]byte, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != want {
		return nil, fmt.Errorf("no PEM block %q found", want)
	}
	return block.Bytes, nil
}
