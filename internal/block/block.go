// Package block holds the vocabulary that the packages of the wire format
// share: what a block is, which signal it carries and what its signer
// tolerates. It implements docs/spec/digest.md §1 and imports nothing.
package block

import (
	"errors"
	"fmt"
)

// Names of the resource attributes that carry the proof, and of those that a
// verifier adds. Every other attribute key under the reserved prefix is
// stripped by the signer and refused by the verifier.
const (
	AttrReceipt  = "telemark.receipt"  // bytes: COSE_Sign1, see package receipt
	AttrManifest = "telemark.manifest" // bytes: item digests, 32 bytes each, split only

	AttrVerdict = "telemark.verdict" // string: "verified" or a reason
	AttrName    = "telemark.name"    // string: the name under which the key is known
)

// MaxStreamLen is the longest stream name, in bytes.
const MaxStreamLen = 64

// Signal is the kind of telemetry a block carries. Its value is the byte that
// stands for it in digests and leaves.
type Signal byte

// The signals.
const (
	Metrics Signal = 'M'
	Logs    Signal = 'L'
	Traces  Signal = 'T'
)

// String returns the OpenTelemetry name of the signal.
func (s Signal) String() string {
	switch s {
	case Metrics:
		return "metrics"
	case Logs:
		return "logs"
	case Traces:
		return "traces"
	default:
		return fmt.Sprintf("signal(%#x)", byte(s))
	}
}

// ParseSignal is the inverse of [Signal.String].
func ParseSignal(s string) (Signal, error) {
	switch s {
	case "metrics":
		return Metrics, nil
	case "logs":
		return Logs, nil
	case "traces":
		return Traces, nil
	default:
		return 0, fmt.Errorf("signal %q: want metrics, logs or traces", s)
	}
}

// Tolerance is the set of changes on the way that a signer allows, as the byte
// that stands for it in leaves.
type Tolerance byte

// The tolerances. Zero tolerates nothing.
const (
	Split  Tolerance = 1 << 0 // the block may arrive in fragments
	Enrich Tolerance = 1 << 1 // resource attributes may be added

	allTolerances = Split | Enrich
)

// Has reports whether t includes all of u.
func (t Tolerance) Has(u Tolerance) bool { return t&u == u }

// Valid reports whether t holds known tolerances only.
func (t Tolerance) Valid() bool { return t&^allTolerances == 0 }

// String returns the configuration form: "none", "split", "enrich" or
// "split,enrich".
func (t Tolerance) String() string {
	switch t {
	case 0:
		return "none"
	case Split:
		return "split"
	case Enrich:
		return "enrich"
	case Split | Enrich:
		return "split,enrich"
	default:
		return fmt.Sprintf("tolerance(%#x)", byte(t))
	}
}

// Digest is a SHA-256 value.
type Digest = [32]byte

// CheckStream says whether name may name a stream: 1 to [MaxStreamLen] bytes
// of printable ASCII.
func CheckStream(name string) error {
	if name == "" {
		return errors.New("stream name is empty")
	}
	if len(name) > MaxStreamLen {
		return fmt.Errorf("stream name has %d bytes, at most %d are allowed", len(name), MaxStreamLen)
	}
	for i := range len(name) {
		if name[i] < 0x21 || name[i] > 0x7e {
			return fmt.Errorf("stream name %q: byte %#x at %d is not printable ASCII", name, name[i], i)
		}
	}
	return nil
}
