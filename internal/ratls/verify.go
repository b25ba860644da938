package ratls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// Reason is why a certificate is not believed.
type Reason string

// The reasons. What is wrong with a statement, statement.Error says, and what is
// wrong with a quote, its verifier.
const (
	Malformed    Reason = "certificate_malformed"     // not of the form that Make makes
	NoEvidence   Reason = "certificate_no_evidence"   // an ordinary certificate
	Expired      Reason = "certificate_expired"       // or not valid yet
	BadSignature Reason = "certificate_signature"     // not signed by its own key
	OtherKey     Reason = "certificate_key_mismatch"  // the statement is about another TLS key
	OtherReport  Reason = "certificate_data_mismatch" // the quote is over another statement
)

// Error is a refusal.
type Error struct {
	Reason Reason
	Err    error // may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is a refusal for the same reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason && t.Err == nil
}

// Quoted is what a quote says that was verified.
type Quoted struct {
	ReportData [64]byte
	RTMR3      [48]byte
}

// QuoteVerifier verifies a quote, at most tdx.MaxQuote bytes from anybody, and
// holds it against the caller's policy: of hardware that may be trusted, and of
// a VM that runs this identityd (MRTD and RTMR0 to 2), without which nothing in
// a statement is worth anything.
type QuoteVerifier func(quote []byte) (*Quoted, error)

// Evidence is what a certificate carries.
type Evidence struct {
	Statement *statement.Statement
	Raw       []byte // its bytes
	Quote     []byte
}

// Result is what a certificate proves.
type Result struct {
	Evidence
	Facts *statement.Facts
	Since time.Time // NotBefore: how old it is, by the VM's clock
}

// Extract reads the evidence in a certificate and verifies all but the quote: the
// certificate's form, its time and signature, and that the statement is about its
// key.
func Extract(cert *x509.Certificate, now time.Time) (*Evidence, error) {
	value, err := form(cert)
	if err != nil {
		return nil, err
	}
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return nil, &Error{Expired, fmt.Errorf("it is valid from %s to %s", cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))}
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return nil, &Error{BadSignature, nil}
	}
	quote, raw, err := unwrap(value)
	if err != nil {
		return nil, &Error{Malformed, err}
	}
	s, err := statement.Parse(raw)
	if err != nil {
		return nil, &Error{Malformed, err}
	}
	hash := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	if subtle.ConstantTimeCompare(hash[:], s.TLSKey) != 1 {
		return nil, &Error{OtherKey, nil}
	}
	return &Evidence{Statement: s, Raw: raw, Quote: quote}, nil
}

// form checks everything that Make fixes, and returns the extension.
func form(cert *x509.Certificate) ([]byte, error) {
	bad := func(why string) ([]byte, error) { return nil, &Error{Malformed, errors.New(why)} }
	if len(cert.Raw) > MaxCertificate {
		return bad("it is too long")
	}
	var value []byte
	for _, e := range cert.Extensions {
		if e.Id.Equal(OID) {
			if value != nil {
				return bad("it has two extensions with evidence")
			}
			value = e.Value
		}
	}
	if len(value) == 0 {
		return nil, &Error{NoEvidence, nil}
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || key.Curve != elliptic.P256() || cert.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return bad("its key is not of P-256")
	case cert.IsCA || len(cert.UnhandledCriticalExtensions) != 0:
		return bad("it is an authority's, or has critical extensions")
	case !cert.NotAfter.After(cert.NotBefore) || cert.NotAfter.Sub(cert.NotBefore) > MaxLifetime:
		return bad("it is valid for longer than any that an instance makes")
	}
	return value, nil
}

// Verify verifies a certificate with all that it carries. Errors are *Error,
// *statement.Error, or the quote verifier's.
func Verify(cert *x509.Certificate, verify QuoteVerifier, now time.Time) (*Result, error) {
	e, err := Extract(cert, now)
	if err != nil {
		return nil, err
	}
	q, err := verify(e.Quote)
	if err != nil {
		return nil, fmt.Errorf("verify the quote in the certificate: %w", err)
	}
	want := statement.AttestData(nil, e.Raw)
	if subtle.ConstantTimeCompare(q.ReportData[:], want[:]) != 1 {
		return nil, &Error{OtherReport, nil}
	}
	facts, err := e.Statement.Judge(q.RTMR3)
	if err != nil {
		return nil, fmt.Errorf("judge the statement in the certificate: %w", err)
	}
	return &Result{Evidence: *e, Facts: facts, Since: cert.NotBefore}, nil
}

// Client returns a configuration for connections to an instance: TLS 1.3, and
// of the server's certificate nothing counts but its evidence. accept decides
// whether this is the instance that is wanted; without it any that verifies is.
// Both are called in every handshake, resumed ones too, and before the other end
// has shown that it has the key: what is to be kept of an instance waits for the
// handshake's end.
func Client(verify QuoteVerifier, accept func(*Result) error, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Names and chains mean nothing: VerifyConnection is the verification.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) != 1 {
				return &Error{Malformed, fmt.Errorf("%d certificates in place of one", len(c.PeerCertificates))}
			}
			r, err := Verify(c.PeerCertificates[0], verify, now())
			if err != nil || accept == nil {
				return err
			}
			return accept(r)
		},
	}
}
