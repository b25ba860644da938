package ratls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// Template is what a certificate is made from.
type Template struct {
	Key       *ecdsa.PrivateKey // P-256
	Statement []byte            // its tls_key is KeyHash of Key
	Quote     []byte            // over statement.AttestData(nil, Statement)
	// Names and Addresses stand in the certificate for clients that look; they
	// mean nothing. Optional, at most 16 each.
	Names     []string
	Addresses []netip.Addr
	Lifetime  time.Duration // at most MaxLifetime
}

// KeyHash is the SHA-256 of a key's SubjectPublicKeyInfo, as statements have it.
func KeyHash(key *ecdsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the TLS key: %w", err)
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

// Make returns a certificate, signed by its own key, as DER. It refuses what
// Verify would refuse whatever the quote's signature is worth.
func Make(t *Template, now time.Time) ([]byte, error) {
	if t.Key == nil || t.Key.Curve != elliptic.P256() {
		return nil, errors.New("make an RA-TLS certificate: the key is not of P-256")
	}
	if t.Lifetime <= 0 || t.Lifetime > MaxLifetime || len(t.Names) > 16 || len(t.Addresses) > 16 {
		return nil, errors.New("make an RA-TLS certificate: lifetime or names are out of bounds")
	}
	s, err := statement.Parse(t.Statement)
	if err != nil {
		return nil, fmt.Errorf("make an RA-TLS certificate: %w", err)
	}
	hash, err := KeyHash(&t.Key.PublicKey)
	if err != nil {
		return nil, err
	}
	data, err := tdx.ReportData(t.Quote)
	if err != nil {
		return nil, fmt.Errorf("make an RA-TLS certificate: %w", err)
	}
	if string(hash) != string(s.TLSKey) || data != statement.AttestData(nil, t.Statement) {
		return nil, errors.New("make an RA-TLS certificate: key, statement and quote do not fit")
	}
	value, err := wrap(t.Quote, t.Statement)
	if err != nil {
		return nil, fmt.Errorf("make an RA-TLS certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make an RA-TLS certificate: %w", err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("instance %x", s.Instance[:8])},
		NotBefore: now.Add(-skew), NotAfter: now.Add(t.Lifetime - skew), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		SignatureAlgorithm: x509.ECDSAWithSHA256, DNSNames: t.Names,
		ExtraExtensions: []pkix.Extension{{Id: OID, Value: value}},
	}
	for _, a := range t.Addresses {
		c.IPAddresses = append(c.IPAddresses, a.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &t.Key.PublicKey, t.Key)
	if err != nil {
		return nil, fmt.Errorf("make an RA-TLS certificate: %w", err)
	}
	return der, nil
}
