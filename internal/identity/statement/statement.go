// Package statement is what an instance of identityd says of itself: who it is,
// where its state machine stands, and what happened to the way in. Its bytes are
// bound into the report data of a quote (AttestData, and the registration of the
// second generation), so that the quote vouches for every word of it; its event
// log is extended into RTMR3 where the machine can do that.
//
// The bytes are JSON in the one spelling that Encode writes: whoever receives
// some parses, encodes again and compares. Pure: no I/O, no clock.
package statement

import (
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Bounds.
const (
	Max       = 32 << 10 // bytes of an encoded statement
	MaxEvents = 64

	maxImage   = 512 // bytes of an image's name
	maxData    = 1024
	maxCounter = 1<<53 - 1 // the largest that every JSON reader keeps
)

// The states: those of identityd's state machine, in their order, and two that
// a machine says when what its disk claims cannot be believed. Then it names
// neither roles nor workload nor SSH.
const (
	Fresh              = "fresh"
	OperatorRegistered = "operator_registered"
	OwnerRegistered    = "owner_registered"
	WorkloadConfigured = "workload_configured"
	WorkloadExposed    = "workload_exposed"
	Locked             = "locked"      // after a reboot, until the storage is unlocked; counter 0, origin is the instance
	RolledBack         = "rolled_back" // the disk was set back; for the rest of the boot
)

// The steps that may be under way.
const (
	RegisterOwner = "register_owner"
	Configure     = "configure"
	Expose        = "expose"
)

// Statement is what an instance says of itself at one moment.
type Statement struct {
	Version  int     `json:"version"` // 1
	Instance api.Hex `json:"instance_pubkey"`
	// Origin is the instance key that the identity began with. It differs from
	// Instance after a reboot, and then Link shows that the one goes on as the
	// other.
	Origin api.Hex `json:"origin_pubkey"`
	Link   *Link   `json:"link,omitempty"`
	Boot   string  `json:"boot"` // boot id of the kernel

	State    string  `json:"state"`
	Step     string  `json:"step,omitempty"` // under way: the log may be ahead of the state
	Counter  uint64  `json:"counter"`        // of the state; never goes back
	Operator api.Hex `json:"operator,omitempty"`
	Owner    api.Hex `json:"owner,omitempty"`

	TLSKey     api.Hex `json:"tls_key,omitempty"`      // SHA-256 of the SubjectPublicKeyInfo that it serves TLS with
	SSHHostKey api.Hex `json:"ssh_host_key,omitempty"` // Ed25519
	Storage    string  `json:"storage,omitempty"`      // where the volume's key comes from: owner, vault or legacy

	Workload *Workload `json:"workload,omitempty"`
	SSH      SSH       `json:"ssh"`
	Log      Log       `json:"event_log"`
}

// Link is state.Link.
type Link struct {
	At        time.Time `json:"at"`
	Counter   uint64    `json:"counter"`
	Signature api.Hex   `json:"signature"`
}

// Workload is what runs.
type Workload struct {
	Image  string `json:"image"`  // as the owner wrote it, printable ASCII without quotes, at most 512 bytes
	Digest string `json:"digest"` // sha256:…, what runs
	Port   uint16 `json:"port"`
}

// SSH is what happened to the way in; zero times mean that it did not.
type SSH struct {
	Opened         time.Time `json:"opened,omitzero"`
	ListenerClosed time.Time `json:"listener_closed,omitzero"`
	SessionsEnded  time.Time `json:"sessions_ended,omitzero"`
}

// Register is where the event log is held against.
type Register string

// The registers.
const (
	RTMR3 Register = "rtmr3" // every event was extended into it
	None  Register = ""      // only this statement vouches for the log
)

// Name is what an event is about.
type Name string

// The events, in the order in which they may come: SSHOpen once, before it or
// after it an Image for each workload that was configured, SSHClosed once and
// last. After a reboot of an exposed instance Image and SSHClosed are all.
const (
	Image     Name = "image"      // data: image@digest, the digest that runs
	SSHOpen   Name = "ssh-open"   // data: the SSH host key, lower-case hexadecimal
	SSHClosed Name = "ssh-closed" // data: image@digest of the container that was made anew
)

// Event is one entry of the log of this boot.
type Event struct {
	Name Name   `json:"name"`
	Data string `json:"data"` // visible ASCII without quotes, at most 1024 bytes
}

// Log is the event log of this boot.
type Log struct {
	Register Register `json:"register"`
	Base     api.Hex  `json:"base,omitempty"` // RTMR3 before the first event; 48 bytes with a register
	Events   []Event  `json:"events"`
}
