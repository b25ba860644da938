// Package signing holds what an agent's signer says of itself, so that a
// component that shows it need not import the component that signs. It is a
// wire struct without logic and implements no specification.
package signing

import "time"

// Status is a snapshot. It holds no secret. Fields that are not known yet are
// zero and left out of the JSON form.
type Status struct {
	// State is stopped, opening, ready, failing or failed.
	State string `json:"state"`
	// Error says why, when the state is not ready.
	Error string `json:"error,omitempty"`
	// Device is the TPM as configured.
	Device string `json:"device"`

	KID       string `json:"kid,omitempty"`        // hex
	Alg       string `json:"alg,omitempty"`        // ES256
	PublicKey string `json:"public_key,omitempty"` // PEM

	Audience string `json:"audience"`
	Epoch    uint64 `json:"epoch,omitempty"`
	Seq      uint64 `json:"seq,omitempty"` // of the last signed group
	// Streams holds the number of the last block of each stream in this epoch.
	Streams map[string]uint64 `json:"streams,omitempty"`

	// Waiting counts blocks without receipt, the group in flight included.
	Waiting int `json:"waiting"`
	// Pending is what each stream has accepted and not yet handed on, signed or
	// not.
	Pending map[string]Pending `json:"pending,omitempty"`
	// LastSigned is when the last group was signed, LastSigningSeconds how
	// long the TPM took for it.
	LastSigned         time.Time `json:"last_signed,omitzero"`
	LastSigningSeconds float64   `json:"last_signing_seconds,omitempty"`

	// NonceAgeSeconds is the age of the nonce in use, absent without one.
	NonceAgeSeconds *float64 `json:"nonce_age_seconds,omitempty"`
	// NonceError is why the last attempt to renew it failed.
	NonceError string `json:"nonce_error,omitempty"`

	// Enrolment is where the key stands at the registry, absent without one.
	Enrolment *Enrolment `json:"enrolment,omitempty"`
}

// Pending is how much of a stream waits.
type Pending struct {
	Blocks int   `json:"blocks"`
	Bytes  int64 `json:"bytes"`
}

// Enrolment is what an agent knows of its key at the registry.
type Enrolment struct {
	// State is starting, enrolled, pending, refused, revoked or expired. All
	// but enrolled hold signing.
	State    string    `json:"state"`
	Registry string    `json:"registry"`          // its URL
	Machine  string    `json:"machine,omitempty"` // hash of the EK, hex
	Name     string    `json:"name,omitempty"`
	Evidence string    `json:"evidence,omitempty"`
	Expires  time.Time `json:"expires_at,omitzero"` // the lease, by the registry's clock
	// Error is why the last attempt failed, Reason the same in one word.
	Error  string `json:"error,omitempty"`
	Reason string `json:"reason,omitempty"`
}
