// Package ratls makes and verifies the certificates by which an instance of
// identityd shows, in the TLS handshake itself, that the other end of the
// connection is the VM that a quote is about (RA-TLS).
//
// The evidence lies in the extension id-pe-cmw, 1.3.6.1.5.5.7.1.35, of the RATS
// Conceptual Messages Wrapper (draft-ietf-rats-msg-wrap), in its CBOR form: one
// collection of two records, the quote and the statement (package statement).
//
//	CMW ::= CHOICE { json UTF8String, cbor OCTET STRING }        DER, the extension's value
//	cbor = { "quote":     ["application/vnd.telemark.tdx-quote", bytes, 4],
//	         "__cmwc_t":  "https://github.com/telemark-otel/telemark/ratls-v1",
//	         "statement": ["application/vnd.telemark.identity-statement+json", bytes, 4] }
//
// in deterministic CBOR (RFC 8949, 4.2.1), 4 being the indicator of evidence. It
// was taken over the two other forms in use, because neither has room for a
// statement: the tagged evidence of interoperable RA-TLS (2.23.133.5.4.9, CBOR
// tags 60000 and on) fixes the report data to be a hash of the certificate's
// key and a nonce, and the older extension of Intel's (1.2.840.113741.1337.6) is
// a bare quote. A verifier of those finds no extension that it knows here, and
// not one that it misreads.
//
// What binds what: the quote's report data are statement.AttestData(nil,
// statement); the statement's tls_key is the SHA-256 of the certificate's
// SubjectPublicKeyInfo; the handshake proves possession of that key.
//
// It leaves out freshness by a nonce: a certificate is as old as its NotBefore
// says, by the VM's clock. Who needs to know how things stand now asks
// GET /v1/attestation with a nonce over the connection. Names in certificates
// mean nothing: what is trusted is the quote.
package ratls

import (
	"encoding/asn1"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// OID is id-pe-cmw.
var OID = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35}

// Bounds.
const (
	// MaxLifetime of a certificate.
	MaxLifetime = 48 * time.Hour
	// MaxCertificate is the longest that is looked at, in bytes of DER.
	MaxCertificate = tdx.MaxQuote + statement.Max + 16<<10

	maxEvidence = tdx.MaxQuote + statement.Max + 1<<10
	skew        = 5 * time.Minute // NotBefore lies so much before the making
)
