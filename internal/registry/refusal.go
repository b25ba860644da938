package registry

import (
	"errors"
	"fmt"

	"github.com/telemark-otel/telemark/internal/registry/answer"
)

// Refusal is one cause for which an answer of the registry is not believed. The
// same words stand in logs and metrics.
type Refusal string

// The refusals.
const (
	RefusedMalformed   Refusal = "malformed"            // not a signed answer, or one that contradicts itself
	RefusedKind        Refusal = "wrong_kind"           // an answer to another question
	RefusedUnpinned    Refusal = "unpinned_key"         // signed by a key that is not pinned
	RefusedSignature   Refusal = "signature_invalid"    // not what that key signed
	RefusedNonce       Refusal = "wrong_nonce"          // made for another request: replayed, or for another collector
	RefusedKID         Refusal = "wrong_kid"            // about another key
	RefusedStore       Refusal = "foreign_store"        // of a registry with another store
	RefusedRollback    Refusal = "revision_rolled_back" // older than what was seen before
	RefusedClock       Refusal = "clock_skew"           // issued at another time than this machine's
	RefusedExpired     Refusal = "expired"              // past its not_after
	RefusedCount       Refusal = "heartbeat_count"      // a heartbeat is missing or came twice
	RefusedEntry       Refusal = "entry_malformed"      // what it says of one key cannot be read; the others count
	RefusedCache       Refusal = "cache_damaged"        // the file on disk is not what was written
	RefusedTerminal    Refusal = "revocation_withdrawn" // a revoked key is called trusted again
	RefusedTooManyKeys Refusal = "too_many_keys"        // more than fit in memory
)

// Refusals returns all of them.
func Refusals() []Refusal {
	return []Refusal{
		RefusedMalformed, RefusedKind, RefusedUnpinned, RefusedSignature, RefusedNonce, RefusedKID, RefusedStore, RefusedRollback,
		RefusedClock, RefusedExpired, RefusedCount, RefusedEntry, RefusedCache, RefusedTerminal, RefusedTooManyKeys,
	}
}

// RefusedError says that an answer is not believed, and why.
type RefusedError struct {
	Refusal Refusal
	Detail  string
	Err     error
}

func refuse(r Refusal, format string, args ...any) *RefusedError {
	return &RefusedError{Refusal: r, Detail: fmt.Sprintf(format, args...)}
}

func (e *RefusedError) Error() string {
	s := "the registry's answer is not believed (" + string(e.Refusal) + ")"
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *RefusedError) Unwrap() error { return e.Err }

// refusedOpen says why the envelope of an answer was refused.
func refusedOpen(err error) *RefusedError {
	r := RefusedMalformed
	switch {
	case errors.Is(err, answer.ErrKind):
		r = RefusedKind
	case errors.Is(err, answer.ErrUnknownKey):
		r = RefusedUnpinned
	case errors.Is(err, answer.ErrSignature):
		r = RefusedSignature
	}
	return &RefusedError{Refusal: r, Err: err}
}
