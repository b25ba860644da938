package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"time"
)

// Enrolment of a TPM machine takes two requests. The first names the keys and
// is answered with a challenge; nothing is written for it. The second answers
// the challenge.
//
//	agent                                            registry
//	  POST /v1/enrolments {ek, ak, key, ...}           ->
//	                                                   <- {session, nonce, credential}
//	  TPM2_ActivateCredential, TPM2_Certify(nonce)
//	  POST /v1/enrolments/complete {..., certify}      ->
//	                                                   <- {state, name, expires_at}
//
// Renewing a lease is the same again. The token is needed by a machine that is
// not known yet.

// Sizes of what both sides make.
const (
	NonceSize      = 32 // of a challenge
	MaxSession     = 512
	MaxName        = 128
	MaxPublic      = 1 << 10
	MaxCertificate = 8 << 10
	MaxAttest      = 1 << 10
	MaxSignature   = 1 << 10
	MaxEventLog    = 512 << 10
)

// Hierarchy is the keys of a machine, as TPMT_PUBLIC (TPM 2.0 Library part 2,
// 12.2.4) each.
type Hierarchy struct {
	EK  []byte `json:"ek"`
	AK  []byte `json:"ak"`
	Key []byte `json:"key"`
}

// EnrolmentStart is the body of POST /v1/enrolments.
type EnrolmentStart struct {
	Hierarchy
	// EKCertificate is DER as the TPM holds it; absent when it holds none.
	EKCertificate []byte `json:"ek_certificate,omitempty"`
	// Intermediates are further certificates that the TPM holds, for the chain.
	Intermediates [][]byte `json:"intermediates,omitempty"`
	// Name that the machine wants; absent takes the one that the registry has.
	Name string `json:"name,omitempty"`
}

// Challenge answers EnrolmentStart.
type Challenge struct {
	Session []byte `json:"session"` // opaque, at most MaxSession bytes
	Nonce   []byte `json:"nonce"`
	// Credential is what only the TPM with this EK and AK opens.
	Credential Credential `json:"credential"`
	// PCRs are the registers of the SHA-256 bank to quote; none are to be
	// quoted when empty.
	PCRs []uint `json:"pcrs,omitempty"`
	// EventLog says that the boot's event log is wanted too.
	EventLog  bool      `json:"event_log,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Credential is the outcome of TPM2_MakeCredential (part 3, 12.6).
type Credential struct {
	Blob   []byte `json:"blob"`   // TPMS_ID_OBJECT
	Secret []byte `json:"secret"` // TPM2B_ENCRYPTED_SECRET, without its size
}

// EnrolmentComplete is the body of POST /v1/enrolments/complete. Its first
// fields are those of EnrolmentStart.
type EnrolmentComplete struct {
	EnrolmentStart
	Session []byte `json:"session"`
	// Activation is ActivationProof made with the activated secret.
	Activation []byte `json:"activation"`
	// Certify is the AK's word for the key; extraData is CertifyData.
	Certify Attestation `json:"certify"`
	// Quote is there when the challenge asked for registers.
	Quote *PCRQuote `json:"quote,omitempty"`
	// Token proves that the machine is ours.
	Token *TokenProof `json:"token,omitempty"`
}

// Attestation is what a TPM says, and its AK's signature.
type Attestation struct {
	Attest    []byte `json:"attest"`    // TPMS_ATTEST
	Signature []byte `json:"signature"` // TPMT_SIGNATURE
}

// PCRQuote is a TPM2_Quote, whose extraData is QuoteData, with the values that
// it covers.
type PCRQuote struct {
	Attestation
	PCRs     map[uint][]byte `json:"pcrs"`                // SHA-256 bank
	EventLog []byte          `json:"event_log,omitempty"` // TCG PC Client, crypto agile
}

// TokenProof shows that the machine knows a join token, which is not sent.
type TokenProof struct {
	ID    string `json:"id"`
	Proof []byte `json:"proof"` // JoinProof
}

// Enrolment answers EnrolmentComplete: 200 when the key is trusted, 202 when
// the machine waits for approval.
type Enrolment struct {
	State    KeyState  `json:"state"`
	Evidence Evidence  `json:"evidence"`
	KID      string    `json:"kid"`
	Name     string    `json:"name"`
	Machine  string    `json:"machine"` // EKHash
	Revision uint64    `json:"revision"`
	Expires  time.Time `json:"expires_at"`  // of the lease
	RenewAt  time.Time `json:"renew_after"` // when to come again
}

// CertifyData is the qualifying data of TPM2_Certify.
//
//	SHA-256("telemark-certify-v1\0" | u32 len, nonce | u32 len, session | u32 len, key)
func CertifyData(nonce, session, key []byte) []byte {
	return sum(sha256.New(), "telemark-certify-v1", nonce, session, key)
}

// QuoteData is the qualifying data of TPM2_Quote.
//
//	SHA-256("telemark-quote-v1\0" | u32 len, nonce | u32 len, session | u32 len, key)
func QuoteData(nonce, session, key []byte) []byte {
	return sum(sha256.New(), "telemark-quote-v1", nonce, session, key)
}

// ActivationProof shows that the secret of the credential was opened.
//
//	HMAC-SHA-256(secret, "telemark-activate-v1\0" | u32 len, session | EK | AK | key, each with its u32 len)
func ActivationProof(secret, session []byte, h Hierarchy) []byte {
	return sum(hmac.New(sha256.New, secret), "telemark-activate-v1", session, h.EK, h.AK, h.Key)
}

// JoinProof shows that a join token is known. key is TokenKey of the token.
//
//	HMAC-SHA-256(key, "telemark-join-v1\0" | u32 len, session | EK | AK | key, each with its u32 len)
func JoinProof(key, session []byte, h Hierarchy) []byte {
	return sum(hmac.New(sha256.New, key), "telemark-join-v1", session, h.EK, h.AK, h.Key)
}

// HierarchyHash names the keys of one session.
func HierarchyHash(h Hierarchy) []byte {
	return sum(sha256.New(), "telemark-hierarchy-v1", h.EK, h.AK, h.Key)
}

// sum hashes a domain tag and parts of unambiguous length.
func sum(h hash.Hash, tag string, parts ...[]byte) []byte {
	h.Write([]byte(tag))
	h.Write([]byte{0})
	var length [4]byte
	for _, p := range parts {
		binary.BigEndian.PutUint32(length[:], uint32(len(p)))
		h.Write(length[:])
		h.Write(p)
	}
	return h.Sum(nil)
}
