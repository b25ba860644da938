// Package unlock carries the key of an encrypted volume from its owner into a
// confidential VM, past a host that sees every message and holds the disk. It
// implements docs/spec/storage-unlock.md, on HPKE (RFC 9180) with the hybrid
// KEM MLKEM768-X25519 of draft-ietf-hpke-pq, so that what the host records
// today stays closed to a quantum computer later.
//
// Both sides are here: Requests for the VM, Wrap for the owner's tool. What it
// leaves out: making and verifying the quote that carries Transcript's
// ReportData, and where the state counter is kept. It does no I/O, and time is
// a parameter.
package unlock

import (
	"crypto/hpke"
	"fmt"
)

// Reason says why an unlocking was refused.
type Reason string

// The reasons. The first group is the VM's, the second the owner's tool's;
// those that both give stand in the first.
const (
	Malformed         Reason = "malformed"          // not a message or transcript of this version
	SuiteUnsupported  Reason = "suite_unsupported"  // other algorithms than those of this version
	OtherOwner        Reason = "other_owner"        // made by or for an owner who is not this VM's
	OtherVolume       Reason = "other_volume"       // for another volume
	TLSKeyMismatch    Reason = "tls_key_mismatch"   // for a channel that ended elsewhere
	StateMismatch     Reason = "state_mismatch"     // the VM is in another state than was attested
	StateRollback     Reason = "state_rollback"     // the counter is not the one that is known
	SignatureInvalid  Reason = "signature_invalid"  // the owner did not sign this
	RequestUnknown    Reason = "request_unknown"    // the VM did not ask, or was restarted since, or forgot
	RequestExpired    Reason = "request_expired"    // the answer came too late
	Replayed          Reason = "replayed"           // this request was answered before
	TranscriptChanged Reason = "transcript_changed" // not what was asked for under this HPKE key
	CiphertextInvalid Reason = "ciphertext_invalid" // does not open, or holds no key

	QuoteMismatch Reason = "quote_mismatch" // the quote's report data is of another transcript
	NonceMismatch Reason = "nonce_mismatch" // the VM answered somebody else, or at another time
	KeyInvalid    Reason = "key_invalid"    // not 32 bytes, or not random
	SignerInvalid Reason = "signer_invalid" // not an Ed25519 key, or it failed
)

// Error is a refusal.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return "unlock storage: " + string(e.Reason) + ": " + e.Detail }

func refuse(r Reason, format string, a ...any) error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, a...)}
}

// The algorithms of version 1.
func kem() hpke.KEM   { return hpke.MLKEM768X25519() }
func kdf() hpke.KDF   { return hpke.HKDFSHA256() }
func aead() hpke.AEAD { return hpke.AES256GCM() }

// KeySize is the length of a volume's key.
const KeySize = 32
