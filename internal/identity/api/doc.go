// Package api holds what identityd and those who talk to it share: paths and
// headers, the wire structs of its HTTP interface, and the byte string that a
// request of the second form signs. There is no logic in it beyond encoding, and
// no I/O. What makes a body valid is for identityd to say (its package request),
// and what an instance says of itself under a quote is package statement's.
//
// Bytes are lower-case hexadecimal in JSON, as Hex says, but for statement and
// quote of an attestation, which are base64 (RFC 4648, section 4).
package api

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
)

// The paths. Those of the first group have an older form too, under the same
// path without /v1.
const (
	PathRegisterOperator = "/v1/operator/register"
	PathRegisterOwner    = "/v1/owner/register"
	PathConfigure        = "/v1/workload/configure"
	PathExpose           = "/v1/workload/expose"

	PathPubkey         = "/instance/pubkey"
	PathRenewOperator  = "/v1/operator/renew"
	PathStorageRequest = "/v1/storage/request"
	PathUnlock         = "/v1/storage/unlock"
	PathState          = "/v1/state"
	PathAttestation    = "/v1/attestation"
	PathHealth         = "/health"
)

// ServerName is what operators and owners ask for in the TLS handshake. It is no
// name of a host: an instance serves its published port with the same TLS key, and
// refuses this name there, so that nobody on the way leads them to the workload.
const ServerName = "identityd.telemark.internal"

// The headers of signed requests, and of the owner's registration.
const (
	HeaderSignature = "x-signature" // 128 lower-case hexadecimal digits
	HeaderCounter   = "x-counter"   // decimal; the second form only
	HeaderToken     = "x-token"
)

// Bounds that both sides keep.
const (
	MinNonce = 16 // bytes of an attestation's nonce
	MaxNonce = 64

	MaxBody   = 256 << 10 // bytes of a request's body
	MaxAnswer = 1 << 20   // bytes of an answer's
)

// Message is what a request of the second form signs, with Ed25519:
//
//	"telemark-request-v1" 00 | P(method) | P(path) | P(instance key) | P(counter) | P(SHA-256(body))
//
//	P(x) = u32 length of x | x
//
// The method is in capitals, the path begins with a slash and has no query, the
// instance key has 32 bytes, the counter is a u64. Numbers are big-endian.
func Message(method, path string, instance ed25519.PublicKey, counter uint64, body []byte) []byte {
	digest := sha256.Sum256(body)
	b := []byte("telemark-request-v1\x00")
	for _, p := range [][]byte{[]byte(method), []byte(path), instance, binary.BigEndian.AppendUint64(nil, counter), digest[:]} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// Hex is bytes that stand in JSON as lower-case hexadecimal digits.
type Hex []byte

const maxHex = 128 << 10 // digits; the longest is a quote

var errHex = errors.New("bytes are a string of lower-case hexadecimal digits")

// MarshalJSON implements json.Marshaler.
func (h Hex) MarshalJSON() ([]byte, error) { return json.Marshal(hex.EncodeToString(h)) }

// UnmarshalJSON implements json.Unmarshaler.
func (h *Hex) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return errHex
	}
	decoded, ok := ParseHex(*s, maxHex)
	if !ok {
		return errHex
	}
	*h = decoded
	return nil
}

// String returns the digits.
func (h Hex) String() string { return hex.EncodeToString(h) }

// ParseHex reads at most most digits, lower case, which are the only spelling.
func ParseHex(s string, most int) ([]byte, bool) {
	if len(s) > most {
		return nil, false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return nil, false
		}
	}
	b, err := hex.DecodeString(s)
	return b, err == nil
}
