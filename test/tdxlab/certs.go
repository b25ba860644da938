package tdxlab

import (
	"crypto/ecdsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"time"
)

// The certificates' validity. Fixed, so that the same seed gives the same bytes.
var (
	notBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)
)

func name(common string) pkix.Name {
	return pkix.Name{
		CommonName: common, Organization: []string{"Telemark laboratory, not Intel"},
		Locality: []string{"Santa Clara"}, Province: []string{"CA"}, Country: []string{"US"},
	}
}

func keyID(key *ecdsa.PrivateKey) []byte {
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err) // the lab's keys are on their curve
	}
	sum := sha1.Sum(raw)
	return sum[:]
}

func (l *Lab) template(common string, key *ecdsa.PrivateKey) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: l.serial(common), Subject: name(common), SubjectKeyId: keyID(key),
		NotBefore: notBefore, NotAfter: notAfter, SignatureAlgorithm: x509.ECDSAWithSHA256,
		CRLDistributionPoints: []string{"https://certificates.example/IntelSGXRootCA.der"},
		BasicConstraintsValid: true,
	}
}

// authority makes one of the four: the root signs itself, TCB signing is the
// one that is no authority for certificates.
func (l *Lab) authority(common string, parent *authority) *authority {
	a := &authority{key: l.key(common)}
	t := l.template(common, a.key)
	if common == "Intel SGX TCB Signing" {
		t.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	} else {
		t.IsCA = true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if parent == nil {
		a.cert = t
		parent = a
	}
	a.cert = certify(t, &a.key.PublicKey, parent)
	return a
}

func certify(t *x509.Certificate, public *ecdsa.PublicKey, parent *authority) *x509.Certificate {
	der, err := x509.CreateCertificate(nil, t, parent.cert, public, signer{parent.key})
	if err != nil {
		panic(err) // a template that a test made impossible
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

// Certificate describes a platform's certificate; every field may be changed.
type Certificate struct {
	Platform
	Template *x509.Certificate // without the SGX extensions
	// Extensions are the SGX extensions, by their last number of the OID.
	// Absent ones are left out: 1 PPID, 2 TCB, 3 PCEID, 4 FMSPC, 5 SGX type.
	Extensions []int
	// SelfMade signs the certificate by a key of the same name that no root
	// vouches for.
	SelfMade bool
}

// chain returns leaf, authority and root as PEM, and the leaf.
func (l *Lab) chain(edits ...func(*Certificate)) []byte {
	if len(edits) == 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.leaf != nil {
			return l.leaf
		}
	}
	c := Certificate{Platform: l.platform, Extensions: []int{1, 2, 3, 4, 5}, Template: l.template("Intel SGX PCK Certificate", l.pck)}
	c.Template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	for _, edit := range edits {
		edit(&c)
	}
	issuer := l.ca(c.CA)
	if c.SelfMade {
		key := l.key("self-made")
		issuer = &authority{key: key, cert: withKey(issuer.cert, key)}
	}
	c.Template.ExtraExtensions = append(c.Template.ExtraExtensions, c.sgx())
	pem := encode(certify(c.Template, &l.pck.PublicKey, issuer).Raw, issuer.cert.Raw, l.root.cert.Raw)
	if len(edits) == 0 {
		l.leaf = pem
	}
	return pem
}

func (l *Lab) ca(ca string) *authority {
	if ca == ProcessorCA {
		return l.processorCA
	}
	return l.platformCA
}

// The SGX extensions of a PCK certificate (profile specification, 1.3.5), each
// a sequence of its OID and value below 1.2.840.113741.1.13.1:
//
//	.1 PPID (octets) | .2 TCB: .2.1 to .2.16 SVNs, .2.17 PCESVN, .2.18 CPUSVN |
//	.3 PCE-ID (octets) | .4 FMSPC (octets) | .5 SGX type (enumerated)
var sgxOID = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

type pair struct {
	ID    asn1.ObjectIdentifier
	Value any
}

func sub(numbers ...int) asn1.ObjectIdentifier {
	return append(append(asn1.ObjectIdentifier{}, sgxOID...), numbers...)
}

func der(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil {
		panic(err) // only the types below come here
	}
	return b
}

func sequence(pairs []pair) asn1.RawValue {
	var body []byte
	for _, p := range pairs {
		inner := append(der(p.ID), der(p.Value)...)
		body = append(body, der(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: inner})...)
	}
	return asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: body}
}

func (c *Certificate) sgx() pkix.Extension {
	tcb := make([]pair, 0, 18)
	for i, svn := range c.SGXSVN {
		tcb = append(tcb, pair{sub(2, i+1), int(svn)})
	}
	tcb = append(tcb, pair{sub(2, 17), int(c.PCESVN)}, pair{sub(2, 18), c.CPUSVN[:]})
	all := map[int]any{1: c.PPID[:], 2: sequence(tcb), 3: c.PCEID[:], 4: c.FMSPC[:], 5: asn1.Enumerated(1)}
	var pairs []pair
	for _, n := range c.Extensions {
		pairs = append(pairs, pair{sub(n), all[n]})
	}
	return pkix.Extension{Id: sgxOID, Value: der(sequence(pairs))}
}

// withKey is the certificate with another key, unsigned: enough of an issuer
// to sign in a name that is not one's own.
func withKey(cert *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	forged := *cert
	forged.PublicKey = &key.PublicKey
	return &forged
}

// ChainPEM returns the platform's certificate chain as quotes carry it.
func (l *Lab) ChainPEM() []byte { return append([]byte(nil), l.chain()...) }
