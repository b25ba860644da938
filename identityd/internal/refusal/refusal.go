// Package refusal says in the words of package reason what the rooms of
// identityd said in their own.
package refusal

import (
	"context"
	"errors"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/persist"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
)

// Words that are not the same on both sides. All others are.
var (
	ofStorage = map[storage.Reason]reason.Reason{
		storage.PersistInvalid: reason.PersistDirsInvalid,
	}
	ofWorkload = map[workload.Reason]reason.Reason{
		workload.ReferenceInvalid: reason.ImageInvalid,
	}
	ofUnlock = map[unlock.Reason]reason.Reason{
		unlock.Malformed: reason.SealedKeyMalformed,
		// The message is for another counter than the present one; which of them
		// is behind only the owner's tool can say.
		unlock.StateRollback: reason.CounterMismatch,
	}
)

// Of turns any error into a refusal: nil for nil, Internal for what nobody
// thought of.
func Of(err error) *reason.Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*reason.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*persist.Error](err); ok {
		return refuse(reason.PersistDirsInvalid, e.Detail, err)
	}
	if e, ok := errors.AsType[*storage.Error](err); ok {
		return refuse(word(ofStorage, e.Reason), e.Detail, err)
	}
	if e, ok := errors.AsType[*workload.Error](err); ok {
		return refuse(word(ofWorkload, e.Reason), e.Doing, err)
	}
	if e, ok := errors.AsType[*unlock.Error](err); ok {
		return refuse(word(ofUnlock, e.Reason), e.Detail, err)
	}
	switch {
	case errors.Is(err, guest.ErrNoTDX):
		return reason.Because(reason.QuoteUnavailable, err)
	case errors.Is(err, guest.ErrReadOnly):
		return reason.Because(reason.EventLogUnavailable, err)
	case errors.Is(err, sshd.ErrClosed):
		return reason.Because(reason.WorkloadExposed, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return reason.Because(reason.CallTimeout, err)
	default:
		return reason.Because(reason.Internal, err)
	}
}

// refuse keeps err for the log; its own words are what is sent.
func refuse(r reason.Reason, detail string, err error) *reason.Error {
	return &reason.Error{Reason: r, Detail: detail, Err: err}
}

func word[R ~string](other map[R]reason.Reason, r R) reason.Reason {
	if w, ok := other[r]; ok {
		return w
	}
	if w := reason.Reason(r); w.Known() {
		return w
	}
	return reason.Internal
}
