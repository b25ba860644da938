package api

import "time"

// FactEvidence is what stands behind the facts of an instance.
type FactEvidence string

// The evidence, best first.
const (
	// FactsRTMR3: each event was extended into RTMR3, and the register of the
	// verified quote is what the event log gives.
	FactsRTMR3 FactEvidence = "rtmr3"
	// FactsStatement: the report data of the verified quote alone.
	FactsStatement FactEvidence = "statement"
	// FactsUnverified: nobody verified the quote.
	FactsUnverified FactEvidence = "unverified"
)

// InstanceFacts are what follows from the statement of an instance and the quote
// that vouches for it. They were so at AsOf, in that boot, and say nothing of
// later.
type InstanceFacts struct {
	// Origin is the instance key that the identity began with.
	Origin Hex    `json:"origin_pubkey"`
	Boot   string `json:"boot"` // boot id of the kernel
	// State of identityd's state machine, and its counter, which never goes back.
	State   string `json:"state"`
	Step    string `json:"step,omitempty"` // under way
	Counter uint64 `json:"counter"`
	// Image is image@digest of what was measured last: it runs, or with a step
	// under way may be about to.
	Image string `json:"image,omitempty"`

	SSH string `json:"ssh"` // never_opened, open or closed, in this boot
	// SSHClosed is when it was closed by the VM's clock, which the host sets;
	// SSHClosedSeen is the AsOf of the first registration in this boot that
	// showed it.
	SSHClosed     time.Time `json:"ssh_closed_since,omitzero"`
	SSHClosedSeen time.Time `json:"ssh_closed_seen_at,omitzero"`

	Evidence FactEvidence `json:"evidence"`
	// RTMR3Base is what the register held before the first event, where it was
	// not zero; what came before is not known then.
	RTMR3Base string `json:"rtmr3_base,omitempty"`
	// AsOf is when the registry gave the nonce that the quote was made for: all
	// of this was said after it.
	AsOf       time.Time `json:"as_of"`
	VerifiedAt time.Time `json:"verified_at"`
	// SupersededBy is the instance key that the identity goes on with.
	SupersededBy Hex `json:"superseded_by,omitempty"`
}

// Identity answers GET /v1/identities/{origin} to people. It outlives leases and
// instance keys.
type Identity struct {
	Origin   Hex    `json:"origin_pubkey"`
	Instance Hex    `json:"instance_pubkey"` // the present one
	Counter  uint64 `json:"counter"`         // the highest that was seen
	// Verified is false when no quote was verified that said so.
	Verified  bool      `json:"verified"`
	Revoked   string    `json:"revoked,omitempty"`
	FirstSeen time.Time `json:"first_seen_at"`
	SeenAt    time.Time `json:"seen_at"`
	Revision  uint64    `json:"revision"`

	Facts *InstanceFacts `json:"facts,omitempty"` // of the present instance
}
