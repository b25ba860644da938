package api

import (
	"encoding/json"
	"time"
)

// Kind says what an identity is rooted in.
type Kind string

// The kinds.
const (
	KindTPM Kind = "tpm"
	KindTDX Kind = "tdx"
)

// KeyState is where a key stands.
type KeyState string

// The states. Revoked and superseded are terminal. Expired is not stored: it
// is an enrolled key whose lease has run out.
const (
	StatePending    KeyState = "pending"    // waits for approval
	StateEnrolled   KeyState = "enrolled"   // trusted until its lease ends
	StateExpired    KeyState = "expired"    // has to attest again
	StateSuperseded KeyState = "superseded" // replaced in good order by a newer key
	StateRevoked    KeyState = "revoked"
)

// Evidence says how well it is known that a machine's keys are in a TPM.
type Evidence string

// The degrees.
const (
	EvidenceChain    Evidence = "chain"        // EK certificate to a pinned root
	EvidenceVouched  Evidence = "vouched"      // the operator gave the EK's hash
	EvidenceUnproven Evidence = "unproven_tpm" // a join token alone
)

// Genuine reports whether the TPM is known to be one.
func (e Evidence) Genuine() bool { return e == EvidenceChain || e == EvidenceVouched }

// Membership says why a machine is ours.
type Membership string

// The ways.
const (
	ByNothing   Membership = ""
	ByAllowList Membership = "allow_list"
	ByToken     Membership = "token"
	ByApproval  Membership = "approval"
)

// Machine is one TPM, named by the hash of its endorsement key. Revoked is ""
// or why.
type Machine struct {
	Machine    string            `json:"machine"` // EKHash
	Kind       Kind              `json:"kind"`    // tpm
	Name       string            `json:"name"`
	Labels     map[string]string `json:"labels,omitempty"`
	Evidence   Evidence          `json:"evidence,omitempty"`
	Membership Membership        `json:"membership,omitempty"`
	State      KeyState          `json:"state"` // of its newest key; "" before it enrolled
	Revoked    string            `json:"revoked,omitempty"`
	CreatedAt  time.Time         `json:"created_at"`
	SeenAt     time.Time         `json:"seen_at,omitzero"` // last enrolment or renewal
	Revision   uint64            `json:"revision"`
	Keys       []Key             `json:"keys,omitempty"`
	// EKCertificate names issuer and serial number, "" without one.
	EKCertificate string `json:"ek_certificate,omitempty"`
}

// Key is one signing key of a machine.
type Key struct {
	KID        string    `json:"kid"`
	Machine    string    `json:"machine"`
	Name       string    `json:"name"`
	State      KeyState  `json:"state"`
	Reason     string    `json:"revoked,omitempty"`
	EnrolledAt time.Time `json:"enrolled_at"`
	AttestedAt time.Time `json:"attested_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	Revision   uint64    `json:"revision"`
	// Entry is the key as it stands in a keys.file (docs/guide), with the
	// policies that apply merged in; absent while it is pending.
	Entry json.RawMessage `json:"entry,omitempty"`
}

// AllowEntry is one machine of an inventory.
type AllowEntry struct {
	EKHash string            `json:"ek_hash"` // see EKHash
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// ImportRequest is the body of POST /v1/machines/import. It is taken as a whole
// or not at all.
type ImportRequest struct {
	Machines []AllowEntry `json:"machines"` // at most 10,000 a call
	DryRun   bool         `json:"dry_run,omitempty"`
}

// ImportResult answers it. With errors nothing was changed.
type ImportResult struct {
	Added     int           `json:"added"`
	Changed   int           `json:"changed"`
	Unchanged int           `json:"unchanged"`
	Revoked   int           `json:"revoked"` // left alone, since they were revoked
	DryRun    bool          `json:"dry_run,omitempty"`
	Errors    []ImportError `json:"errors,omitempty"`
}

// ImportError is about one machine of the list, counted from 0.
type ImportError struct {
	Index  int    `json:"index"`
	Reason Reason `json:"reason"`
	Error  string `json:"error"`
}

// ApproveRequest is the body of POST /v1/machines/{machine}/approve.
type ApproveRequest struct {
	Name   string            `json:"name,omitempty"` // instead of the one it asked for
	Labels map[string]string `json:"labels,omitempty"`
	// Vouch says that the approver knows this EK hash from elsewhere, so that
	// a TPM without a certificate counts as genuine.
	Vouch bool `json:"vouch,omitempty"`
	// Reinstate takes back a machine that was revoked. It undoes what an admin
	// did, and is an admin's.
	Reinstate bool `json:"reinstate,omitempty"`
}

// ReplaceRequest is the body of POST /v1/machines/{machine}/replace: the machine
// with EKHash takes name and labels of the one in the path, whose keys are
// revoked with Reason.
type ReplaceRequest struct {
	EKHash string `json:"ek_hash"`
	Reason string `json:"reason"`
}

// RevokeRequest is the body of POST /v1/keys/{kid}/revoke, of
// /v1/machines/{machine}/revoke and of /v1/instances/{pubkey}/revoke. The reason
// "superseded" leaves acceptable what was signed before.
type RevokeRequest struct {
	Reason string `json:"reason"`
}

// Superseded is the revocation of what was replaced in good order.
const Superseded = "superseded"

// Page is one page of a list. Next is the cursor of the following page, ""
// on the last one.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Policy is what is demanded of the data of some keys: of all (scope default),
// of machines with a label (label:KEY=VALUE), or of one machine (name:NAME).
// Where several apply, each member is taken from the narrowest that has it:
// name before label before default, labels in the order of their scopes.
// Members are those of a key in a keys.file.
type Policy struct {
	Scope        string            `json:"scope"`
	Bind         map[string]string `json:"bind,omitempty"`
	BindRequired []string          `json:"bind_required,omitempty"`
	Freshness    string            `json:"freshness,omitempty"`
	Location     json.RawMessage   `json:"location,omitempty"`
	// RequireEvidence "genuine" refuses the data of machines that are
	// unproven_tpm; "any" lets them pass, with that verdict.
	RequireEvidence string `json:"require_evidence,omitempty"`

	// Set by the registry.
	Revision  uint64    `json:"revision,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
	UpdatedBy string    `json:"updated_by,omitempty"`
}
