package api

import (
	"time"

	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// Pubkey answers GET /instance/pubkey.
type Pubkey struct {
	Pubkey Hex `json:"pubkey"`
}

// The words of Done.
const (
	StatusSuccess   = "success"
	RegistryPending = "pending"
)

// Done answers a step that was taken. With 202 in place of 200 the registry has
// not heard of it yet: the step is done and kept, and Registry, Reason and Error
// say why.
type Done struct {
	Status     string `json:"status"`                // StatusSuccess
	OwnerToken string `json:"owner_token,omitempty"` // /operator/register
	Counter    uint64 `json:"counter,omitempty"`     // of the state, after the step
	Registry   string `json:"registry,omitempty"`    // RegistryPending
	Reason     string `json:"reason,omitempty"`
	Error      string `json:"error,omitempty"`
}

// Error is the JSON of every answer that is not a success. RetryAfter also stands
// in the header of that name.
type Error struct {
	Error      string `json:"error"`
	Reason     string `json:"reason"`
	Help       string `json:"help,omitempty"`        // what happened, and what to do
	RetryAfter int    `json:"retry_after,omitempty"` // seconds
}

// Attestation answers GET /v1/attestation?nonce=HEX. The quote's report data is
// statement.AttestData of nonce and statement.
type Attestation struct {
	Statement []byte `json:"statement"`
	Quote     []byte `json:"quote"`
}

// StorageAsk answers POST /v1/storage/request: a transcript (package unlock), and
// a quote whose report data is its hash.
type StorageAsk struct {
	Transcript Hex `json:"transcript"`
	Quote      Hex `json:"quote"`
}

// State answers GET /v1/state. Nothing of it is vouched for by a quote: it says
// what to do next, and what to look at when something fails. What has to be true
// is in the attestation.
type State struct {
	Version  string `json:"version"`         // of the program
	Instance Hex    `json:"instance_pubkey"` // of this boot
	Origin   Hex    `json:"origin_pubkey"`   // that the identity began with
	Boot     string `json:"boot"`

	State   string `json:"state"`   // fresh, operator_registered, …
	Counter uint64 `json:"counter"` // what a request of the second form is signed for
	Step    *Step  `json:"step,omitempty"`

	Operator      Hex `json:"operator,omitempty"`
	ExpectedOwner Hex `json:"expected_owner,omitempty"`
	Owner         Hex `json:"owner,omitempty"`

	// After a reboot: Linked is false until the owner unlocked the storage, and
	// all but Instance and Boot is then what the disk claims; Witnessed is false
	// until somebody outside said which counter they saw last.
	Linked     bool `json:"linked"`
	Witnessed  bool `json:"witnessed"`
	RolledBack bool `json:"rolled_back"`
	// OperatorRenewal is true when the registry waits for the operator's signature
	// over the key of this boot.
	OperatorRenewal bool `json:"operator_renewal_needed,omitempty"`

	Workload  *Workload  `json:"workload,omitempty"`  // as it was configured
	Container *Container `json:"container,omitempty"` // as Podman sees it
	SSH       SSH        `json:"ssh"`
	Storage   Storage    `json:"storage"`
	Quote     Quote      `json:"quote"`
	Registry  *Registry  `json:"registry,omitempty"`
	TLS       *TLS       `json:"tls,omitempty"`

	// EventLog is of this boot.
	EventLog statement.Log `json:"event_log"`

	RequireV1  bool `json:"require_v1"`  // the older form is refused
	RequireTLS bool `json:"require_tls"` // calls that carry a token are refused over plain HTTP

	Problems []Problem `json:"problems,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
}

// The words of Health.
const (
	HealthOK       = "ok"
	HealthDegraded = "degraded"
)

// Health answers GET /health.
type Health struct {
	Status   string    `json:"status"`
	Version  string    `json:"version"`
	State    string    `json:"state"`
	Problems []Problem `json:"problems,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
}

// Step is a transition under way.
type Step struct {
	Kind  string    `json:"kind"` // register_owner, configure or expose
	Since time.Time `json:"since"`
}

// Workload is what the owner configured.
type Workload struct {
	Image       string   `json:"image"`  // as the owner wrote it
	Digest      string   `json:"digest"` // sha256:…
	PersistDirs []string `json:"persist_dirs,omitempty"`
	Port        uint16   `json:"port"`
}

// Container is what runs of it.
type Container struct {
	Phase       string    `json:"phase"`
	Running     bool      `json:"running"`
	Revision    uint64    `json:"revision,omitempty"` // counter of the step that made it
	ImageID     string    `json:"image_id,omitempty"`
	ImageDigest string    `json:"image_digest,omitempty"`
	ContainerID string    `json:"container_id,omitempty"`
	StartedAt   time.Time `json:"started_at,omitzero"`
	ExitCode    int       `json:"exit_code"`
	OutOfMemory bool      `json:"out_of_memory,omitempty"`
	Restarts    int       `json:"restarts,omitempty"`
}

// Registry is how it stands with the registry.
type Registry struct {
	URL       string    `json:"url"`
	Told      bool      `json:"told"` // nothing is owed
	LastOK    time.Time `json:"last_success,omitzero"`
	Expires   time.Time `json:"lease_expires_at,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	NextTry   time.Time `json:"next_try,omitzero"`
}

// SSHState says whether the way in is open.
type SSHState string

// The states of the way in. Closed is for good.
const (
	SSHNeverOpened SSHState = "never_opened"
	SSHOpen        SSHState = "open"
	SSHClosed      SSHState = "closed"
	// SSHDown: it may be open, and nothing listens now.
	SSHDown SSHState = "down"
)

// SSH is the temporary way in.
type SSH struct {
	State          SSHState  `json:"state"`
	Port           int       `json:"port,omitempty"`
	HostKey        Hex       `json:"host_key,omitempty"` // Ed25519; the attested one is in the statement
	Opened         time.Time `json:"opened,omitzero"`
	ListenerClosed time.Time `json:"listener_closed,omitzero"`
	SessionsEnded  time.Time `json:"sessions_ended,omitzero"`
	Active         int       `json:"active"` // sessions now
	Logins         uint64    `json:"logins"` // since the service's start
	Refused        uint64    `json:"refused"`
	LastLogin      time.Time `json:"last_login_at,omitzero"`
}

// Storage is the encrypted volume.
type Storage struct {
	Source string `json:"source"`              // owner, vault or legacy
	Volume string `json:"volume"`              // none, locked, mounted or failed
	ID     Hex    `json:"volume_id,omitempty"` // 16 bytes, once there is one
}

// Quote says how old the last quote is.
type Quote struct {
	At  time.Time `json:"quoted_at,omitzero"`
	Age int64     `json:"age_seconds,omitempty"`
}

// TLS is the attested listener.
type TLS struct {
	Port int `json:"port"`
	Key  Hex `json:"key"` // SHA-256 of the SubjectPublicKeyInfo
}

// Problem is what keeps the instance from running as it should.
type Problem struct {
	Reason string `json:"reason"`
	Detail string `json:"detail"`
}
