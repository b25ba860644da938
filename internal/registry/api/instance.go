package api

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"
)

// Hex is bytes that stand in JSON as hexadecimal digits; lower case when
// written. Reading also takes an array of numbers, which clients of the first
// generation send.
type Hex []byte

// MarshalJSON implements json.Marshaler.
func (h Hex) MarshalJSON() ([]byte, error) { return json.Marshal(hex.EncodeToString(h)) }

var errHex = errors.New("bytes are a string of hexadecimal digits, or an array of numbers from 0 to 255")

// UnmarshalJSON implements json.Unmarshaler.
func (h *Hex) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '[' {
		var numbers []byte
		if err := json.Unmarshal(b, &numbers); err != nil {
			return errHex
		}
		*h = numbers
		return nil
	}
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return errHex
	}
	decoded, err := hex.DecodeString(*s)
	if err != nil {
		return errHex
	}
	*h = decoded
	return nil
}

// Party is an operator or owner of a TDX instance: its Ed25519 key, its
// signature over the raw instance key, and the instance's over the raw key.
type Party struct {
	Pubkey            Hex `json:"pubkey"`
	InstanceSignature Hex `json:"instance_signature"`
	IdentitySignature Hex `json:"identity_signature"`
}

// Registration is the body of POST /register (first generation) and, with
// Nonce, of POST /v1/instances.
type Registration struct {
	InstancePubkey   Hex    `json:"instance_pubkey"`
	AttestationQuote Hex    `json:"attestation_quote"`
	PPID             Hex    `json:"ppid"`
	Operator         *Party `json:"operator"`
	Owner            *Party `json:"owner"`

	// Nonce of POST /v1/nonces; second generation only.
	Nonce []byte `json:"nonce,omitempty"`
	// TLSKey is SHA-256 of the SubjectPublicKeyInfo that the instance serves
	// TLS with; second generation only, empty without.
	TLSKey Hex `json:"tls_key,omitempty"`
	// Statement is what the instance says of itself, the bytes that package
	// statement encodes (at most 32 KiB); second generation only, empty
	// without. It has other report data.
	Statement []byte `json:"statement,omitempty"`
	// Possession goes with Statement: Ed25519 by the instance's key over
	// PossessionMessage.
	Possession Hex `json:"possession,omitempty"`
}

// InstanceNonce answers POST /v1/nonces.
type InstanceNonce struct {
	Nonce     []byte    `json:"nonce"` // opaque, at most MaxSession bytes
	ExpiresAt time.Time `json:"expires_at"`
}

// Instance answers GET /instance/{pubkey} and GET /v1/instances/{pubkey}.
type Instance struct {
	PPID             Hex    `json:"ppid,omitempty"`
	AttestationQuote Hex    `json:"attestation_quote,omitempty"`
	Operator         *Party `json:"operator"`
	Owner            *Party `json:"owner"`

	Pubkey       Hex           `json:"pubkey"`
	Kind         Kind          `json:"kind"` // tdx
	State        InstanceState `json:"state"`
	Revoked      string        `json:"revoked,omitempty"`
	Generation   int           `json:"generation"` // 1 or 2
	Freshness    string        `json:"freshness"`  // none (first generation) or nonce
	RegisteredAt time.Time     `json:"registered_at"`
	VerifiedAt   time.Time     `json:"verified_at"`
	ExpiresAt    time.Time     `json:"expires_at"`
	TCBStatus    string        `json:"tcb_status"`
	Advisories   []string      `json:"advisories,omitempty"`
	Measurements *Measurements `json:"measurements,omitempty"`
	TLSKey       Hex           `json:"tls_key,omitempty"`
	Policy       string        `json:"policy"` // which deployment policy it was judged by
	// PPIDProven is false where the quote carried it encrypted, and with
	// verification switched off.
	PPIDProven bool   `json:"ppid_proven"`
	Revision   uint64 `json:"revision"`

	// Facts are there when the registration came with a statement.
	Facts *InstanceFacts `json:"facts,omitempty"`
	// Statement is what they follow from; lists leave it out.
	Statement []byte `json:"statement,omitempty"`
}

// InstanceState is where an instance stands.
type InstanceState string

// The states. Expired is not stored.
const (
	TDXVerified   InstanceState = "verified"
	TDXUnverified InstanceState = "unverified" // registered while verification was switched off
	TDXExpired    InstanceState = "expired"
	TDXRevoked    InstanceState = "revoked"
	// TDXSuperseded: the identity goes on with another instance key.
	TDXSuperseded InstanceState = "superseded"
)

// Measurements of a TD, from its quote.
type Measurements struct {
	MRTD         Hex    `json:"mrtd"`
	RTMRs        [4]Hex `json:"rtmrs"`
	MRSEAM       Hex    `json:"mrseam"`
	MRConfigID   Hex    `json:"mrconfigid"`
	MROwner      Hex    `json:"mrowner"`
	TDAttributes Hex    `json:"td_attributes"`
	XFAM         Hex    `json:"xfam"`
}

// ReportDataV0 is what the quote of a first-generation registration carries:
//
//	SHA-512(instance_pubkey | ppid | [operator: pubkey | instance_signature | identity_signature] | [owner, same])
//
// Nothing in it says how long a part is, for what it was made, or when.
func ReportDataV0(r *Registration) [64]byte {
	var b []byte
	b = append(b, r.InstancePubkey...)
	b = append(b, r.PPID...)
	for _, p := range []*Party{r.Operator, r.Owner} {
		if p != nil {
			b = append(b, p.Pubkey...)
			b = append(b, p.InstanceSignature...)
			b = append(b, p.IdentitySignature...)
		}
	}
	return sha512.Sum512(b)
}

// PossessionMessage is what an instance signs anew in a registration with a
// statement, so that nobody who only read its signatures can register it:
//
//	"telemark-tdx-possession-v1\0" | report data (64 bytes)
//
// The report data hold the nonce.
func PossessionMessage(r *Registration) []byte {
	data := ReportDataV1(r)
	return append([]byte("telemark-tdx-possession-v1\x00"), data[:]...)
}

// ReportDataV1 is what the quote of a second-generation registration carries:
// every part with its length, absent ones with the length 0.
//
//	SHA-512("telemark-tdx-register-v1\0" | nonce | instance_pubkey | ppid | tls_key |
//	        operator: pubkey | instance_signature | identity_signature | owner: same)
//
// each part as u32 length (big endian) and bytes. With a statement it is another
// tag and one more part:
//
//	SHA-512("telemark-tdx-state-v1\0" | the same parts | statement)
func ReportDataV1(r *Registration) [64]byte {
	parts := [][]byte{r.Nonce, r.InstancePubkey, r.PPID, r.TLSKey}
	for _, p := range []*Party{r.Operator, r.Owner} {
		if p == nil {
			p = &Party{}
		}
		parts = append(parts, p.Pubkey, p.InstanceSignature, p.IdentitySignature)
	}
	tag := "telemark-tdx-register-v1"
	if len(r.Statement) > 0 {
		tag, parts = "telemark-tdx-state-v1", append(parts, r.Statement)
	}
	return [64]byte(sum(sha512.New(), tag, parts...))
}
