package answer

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// MaxSize bounds an encoded answer in bytes.
const MaxSize = 16 << 20

// Errors of Open.
var (
	ErrMalformed  = errors.New("the registry's answer cannot be read")
	ErrKind       = errors.New("the registry's answer is of another kind")
	ErrUnknownKey = errors.New("the registry's answer is signed by a key that is not pinned")
	ErrSignature  = errors.New("the registry's answer carries a wrong signature")
)

// Kind is a kind of answer.
type Kind string

// The kinds.
const (
	KindKey       Kind = "key"       // Key
	KindSnapshot  Kind = "snapshot"  // Snapshot
	KindEvent     Kind = "event"     // Event
	KindHeartbeat Kind = "heartbeat" // Heartbeat
	KindAuditHead Kind = "audit-head"
	KindIdentity  Kind = "identity" // Identity
)

// Head stands in every answer.
type Head struct {
	// Store is random and belongs to one store: revisions of another one
	// cannot be compared.
	Store string `json:"store"`
	// Nonce is the one of the request, base64, absent in answers that are
	// made for nobody in particular.
	Nonce []byte `json:"nonce,omitempty"`
	// Revision of the store when the answer was made. It never goes back.
	Revision uint64    `json:"revision"`
	IssuedAt time.Time `json:"issued_at"`
	NotAfter time.Time `json:"not_after"` // the answer is worth nothing from then on
}

// Record is what is known of one key.
type Record struct {
	KID      string       `json:"kid"`
	State    api.KeyState `json:"state"` // pending, enrolled, superseded or revoked; "" is unknown
	Evidence api.Evidence `json:"evidence,omitempty"`
	Revision uint64       `json:"revision"` // at which the record changed last
	// Entry is the key as it stands in a keys.file, policies merged in: with
	// not_after, and with revoked when it is. Absent when pending or unknown.
	Entry json.RawMessage `json:"entry,omitempty"`
}

// Key answers GET /v1/keys/{kid}?nonce=.
type Key struct {
	Head
	Record Record `json:"record"`
}

// Snapshot answers GET /v1/keys?since=&nonce=: the records that changed after
// revision Since, in the order of their revisions, revoked ones too. When More
// is set the list goes on behind the last record's revision, which Through
// repeats; else Through is Revision.
type Snapshot struct {
	Head
	Since   uint64   `json:"since"`
	Through uint64   `json:"through"`
	More    bool     `json:"more,omitempty"`
	Records []Record `json:"records"`
}

// Event is one message of the stream: something changed at Revision. Previous
// is the revision of the event before it, so that a missing one shows.
type Event struct {
	Head
	Previous uint64 `json:"previous"`
	// What happened: enrolled, renewed, pending, approved, rejected, revoked, superseded,
	// policy_changed, instance_registered, instance_attested, instance_revoked,
	// imported, replaced.
	What    string   `json:"what"`
	Records []Record `json:"records,omitempty"`
	// Instance is the public key of a TDX instance, in hexadecimal.
	Instance string `json:"instance,omitempty"`
	// Incomplete says that more keys changed than the event holds: ask for a
	// snapshot.
	Incomplete bool `json:"incomplete,omitempty"`
}

// Heartbeat is sent every second on the stream. Count rises by one each time,
// from 1.
type Heartbeat struct {
	Head
	Count uint64 `json:"count"`
}

// AuditHead is the end of the audit log.
type AuditHead struct {
	Head
	Seq  uint64 `json:"seq"`
	Hash []byte `json:"hash"`
}
