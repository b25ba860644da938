package tdx

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"time"

	"github.com/google/go-tdx-guest/abi"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// skew is how far ahead of our clock Intel's may be.
const skew = 5 * time.Minute

// Endorsements is collateral whose signatures were verified. It does not
// change and may be used by many at once; whether it is past its time is asked
// each time that it is used.
type Endorsements struct {
	tcb    *tcbInfo
	qe     *qeIdentity
	root   *x509.Certificate
	ca     *x509.Certificate // signs the list of revoked platforms
	pckCRL *crl
	caCRL  *crl
	spans  []span
	marks  map[string]uint64
}

// span is when a part of the collateral is valid.
type span struct {
	what     string
	from, to time.Time
}

func (e *Endorsements) certificate(what string, c *x509.Certificate) {
	e.spans = append(e.spans, span{what, c.NotBefore, c.NotAfter})
}

// Open verifies collateral: three chains to the root, the signatures over both
// documents and both lists, and that the certificate that signs the documents
// is not revoked.
func Open(c *Collateral, o Options, now time.Time) (*Endorsements, error) {
	if c == nil {
		return nil, api.Refuse(api.CollateralUnavailable, "no collateral")
	}
	e := &Endorsements{}
	if err := e.openDocuments(c, o, now); err != nil {
		return nil, err
	}
	if err := e.openLists(c, o, now); err != nil {
		return nil, err
	}
	e.marks = map[string]uint64{
		"tcbinfo-" + hexOf(e.tcb.fmspc): e.tcb.number,
		"qeidentity":                    e.qe.number,
		"rootcrl":                       e.caCRL.number,
		"pckcrl-" + e.CA():              e.pckCRL.number,
	}
	if err := e.current(now); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Endorsements) openDocuments(c *Collateral, o Options, now time.Time) error {
	var err error
	signing, err := e.signer("TCB information", c.TCBInfoChain, o, now)
	if err != nil {
		return err
	}
	if e.tcb, err = document("tcbInfo", c.TCBInfo, signing, readTCBInfo); err != nil {
		return err
	}
	e.spans = append(e.spans, span{"TCB information", e.tcb.issued, e.tcb.next})

	other, err := e.signer("enclave identity", c.QEIdentityChain, o, now)
	if err != nil {
		return err
	}
	if e.qe, err = document("enclaveIdentity", c.QEIdentity, other, readQEIdentity); err != nil {
		return err
	}
	e.spans = append(e.spans, span{"enclave identity", e.qe.issued, e.qe.next})

	if e.caCRL, err = readCRL("list of revoked authorities", c.RootCRL, e.root); err != nil {
		return err
	}
	e.spans = append(e.spans, e.caCRL.span)
	if e.caCRL.revoked(signing) || e.caCRL.revoked(other) {
		return api.Refuse(api.CollateralUntrusted, "the certificate that signs TCB information is revoked")
	}
	return nil
}

func (e *Endorsements) openLists(c *Collateral, o Options, now time.Time) error {
	var err error
	if e.ca, err = e.chain("list of revoked platforms", c.PCKCRLChain, o, now); err != nil {
		return err
	}
	if e.CA() == "" {
		return api.Refuse(api.CollateralUntrusted, "%.40q signs no list of revoked platforms", e.ca.Subject.CommonName)
	}
	if e.pckCRL, err = readCRL("list of revoked platforms", c.PCKCRL, e.ca); err != nil {
		return err
	}
	e.spans = append(e.spans, e.pckCRL.span)
	return nil
}

// signer is the certificate of a chain that signs documents.
func (e *Endorsements) signer(what string, chain []byte, o Options, now time.Time) (*x509.Certificate, error) {
	cert, err := e.chain(what, chain, o, now)
	if err != nil {
		return nil, err
	}
	if cert.Subject.CommonName != nameTCBSigning {
		return nil, api.Refuse(api.CollateralUntrusted, "%s: signed by %.40q", what, cert.Subject.CommonName)
	}
	return cert, nil
}

// chain verifies a certificate that stands directly under the root, the same
// for all.
func (e *Endorsements) chain(what string, chain []byte, o Options, now time.Time) (*x509.Certificate, error) {
	certs, err := certificates(chain, 2)
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralMalformed, Detail: what + ": issuer chain", Err: brief(err)}
	}
	verified, err := certs[0].Verify(x509.VerifyOptions{Roots: o.roots(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		reason := api.CollateralUntrusted
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
			reason = api.CollateralExpired
		}
		return nil, &api.Error{Reason: reason, Detail: what + ": issuer chain", Err: brief(err)}
	}
	for _, v := range verified {
		if len(v) == 2 && v[1].Equal(certs[1]) && v[1].Subject.CommonName == nameRoot && (e.root == nil || e.root.Equal(v[1])) {
			e.root = v[1]
			e.certificate(what+": signing certificate", v[0])
			e.certificate(what+": root certificate", v[1])
			return v[0], nil
		}
	}
	return nil, api.Refuse(api.CollateralUntrusted, "%s: the chain that verifies is not the one that was sent", what)
}

// document verifies the signature over a document's bytes, then reads it.
func document[T any](name string, answer []byte, signing *x509.Certificate, read func([]byte) (*T, error)) (*T, error) {
	envelope, err := openEnvelope(answer, name)
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralMalformed, Detail: name, Err: err}
	}
	signature, err := abi.SignatureToDER(envelope.signature)
	if err == nil {
		err = signing.CheckSignature(x509.ECDSAWithSHA256, envelope.signed, signature)
	}
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralUntrusted, Detail: name, Err: err}
	}
	t, err := read(envelope.signed)
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralMalformed, Detail: name, Err: err}
	}
	return t, nil
}

// crl is a revocation list whose signature was verified.
type crl struct {
	span
	number  uint64
	serials map[string]bool
}

func (c *crl) revoked(cert *x509.Certificate) bool {
	return c.serials[string(cert.SerialNumber.Bytes())]
}

// Extensions of a list that do not limit what it is about: authority key
// identifier and number.
var plain = []asn1.ObjectIdentifier{{2, 5, 29, 35}, {2, 5, 29, 20}}

func readCRL(what string, der []byte, issuer *x509.Certificate) (*crl, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, &api.Error{Reason: api.CollateralMalformed, Detail: what, Err: brief(err)}
	}
	if !bytes.Equal(list.RawIssuer, issuer.RawSubject) {
		return nil, api.Refuse(api.CollateralUntrusted, "%s: issued by %.40q", what, list.Issuer.CommonName)
	}
	if err := list.CheckSignatureFrom(issuer); err != nil {
		return nil, &api.Error{Reason: api.CollateralUntrusted, Detail: what, Err: brief(err)}
	}
	if list.NextUpdate.IsZero() || list.Number == nil || !list.Number.IsUint64() {
		return nil, api.Refuse(api.CollateralMalformed, "%s: no number, or no time of the next", what)
	}
	for _, ext := range list.Extensions {
		if !ext.Id.Equal(plain[0]) && !ext.Id.Equal(plain[1]) {
			return nil, api.Refuse(api.CollateralMalformed, "%s: extension %v limits it", what, ext.Id)
		}
	}
	c := &crl{
		span:   span{what, list.ThisUpdate, list.NextUpdate},
		number: list.Number.Uint64(), serials: make(map[string]bool, len(list.RevokedCertificateEntries)),
	}
	for _, entry := range list.RevokedCertificateEntries {
		c.serials[string(entry.SerialNumber.Bytes())] = true
	}
	return c, nil
}

// CA is platform or processor.
func (e *Endorsements) CA() string { return authorityName(e.ca.Subject.CommonName) }

// FMSPC is the platform type that the collateral is about.
func (e *Endorsements) FMSPC() string { return hexOf(e.tcb.fmspc) }

// NotAfter is when the first part of the collateral is past its time.
func (e *Endorsements) NotAfter() time.Time {
	first := e.spans[0].to
	for _, s := range e.spans {
		if s.to.Before(first) {
			first = s.to
		}
	}
	return first
}

// Marks are the numbers that only ever rise, by what they number: of Intel's
// evaluations, and of revocation lists. Collateral with a lower number than
// was seen before is refused by whoever keeps them.
func (e *Endorsements) Marks() map[string]uint64 { return e.marks }

func (e *Endorsements) current(now time.Time) error {
	for _, s := range e.spans {
		if now.After(s.to) {
			return api.Refuse(api.CollateralExpired, "%s: valid until %s", s.what, s.to.UTC().Format(time.RFC3339))
		}
		if now.Add(skew).Before(s.from) {
			return api.Refuse(api.CollateralExpired, "%s: valid from %s", s.what, s.from.UTC().Format(time.RFC3339))
		}
	}
	return nil
}
