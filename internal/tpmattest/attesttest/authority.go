package attesttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority certifies endorsement keys: a root and an intermediate below it.
type Authority struct {
	t                 testing.TB
	Root              *x509.Certificate
	Intermediate      *x509.Certificate
	rootKey, interKey *ecdsa.PrivateKey
}

// The span in which certificates of an authority are valid.
var (
	NotBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	NotAfter  = time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC)
)

// NewAuthority makes an authority.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, rootKey: newKey(t), interKey: newKey(t)}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM maker root"},
		NotBefore: NotBefore, NotAfter: NotAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.Root = issue(t, root, root, a.rootKey.Public(), a.rootKey)
	a.Intermediate = issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "TPM maker issuing"},
		NotBefore: NotBefore, NotAfter: NotAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a.Root, a.interKey.Public(), a.rootKey)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func issue(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

// Roots returns a pool of the root.
func (a *Authority) Roots() *x509.CertPool { return pool(a.Root) }

// Intermediates returns a pool of the intermediate.
func (a *Authority) Intermediates() *x509.CertPool { return pool(a.Intermediate) }

func pool(c *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c)
	return p
}

// Template returns that of a good EK certificate for a key, to be spoilt.
func Template(public crypto.PublicKey) *x509.Certificate {
	usage := x509.KeyUsageKeyAgreement
	if _, ok := public.(*rsa.PublicKey); ok {
		usage = x509.KeyUsageKeyEncipherment
	}
	return &x509.Certificate{
		SerialNumber: big.NewInt(3), NotBefore: NotBefore, NotAfter: NotAfter, BasicConstraintsValid: true, KeyUsage: usage,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
		ExtraExtensions:    []pkix.Extension{AltName("id:54534D4B", "lab", "id:00010002")},
	}
}

// AltName is the critical subjectAltName of an EK certificate.
func AltName(manufacturer, model, version string) pkix.Extension {
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	type rdnSET []attribute // encoding/asn1 writes a SET for a type of such a name
	rdns := []rdnSET{
		{{asn1.ObjectIdentifier{2, 23, 133, 2, 1}, manufacturer}},
		{{asn1.ObjectIdentifier{2, 23, 133, 2, 2}, model}},
		{{asn1.ObjectIdentifier{2, 23, 133, 2, 3}, version}},
	}
	inner, err := asn1.Marshal(rdns)
	if err != nil {
		panic(err) // of constants
	}
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: inner}})
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: names}
}

// Issue signs a certificate for a key by the intermediate.
func (a *Authority) Issue(template *x509.Certificate, public crypto.PublicKey) []byte {
	a.t.Helper()
	return issue(a.t, template, a.Intermediate, public, a.interKey).Raw
}

// Certify issues a good EK certificate.
func (a *Authority) Certify(public crypto.PublicKey) []byte {
	a.t.Helper()
	return a.Issue(Template(public), public)
}
