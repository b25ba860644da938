package enrolment

import (
	"errors"
	"net/http"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// Causes of failures that are no refusals, beside which every api.Reason is
// the cause of one. There are few, so that they can stand in metrics.
const (
	CauseUnreachable = "unreachable" // no connection, or no whole answer in time
	CauseBadAnswer   = "bad_answer"  // an answer, but not of a registry that we understand
	CauseTPM         = "tpm"
	CauseUnknown     = "unknown_reason" // a refusal for a reason that we do not know
)

// MaxRetryAfter bounds how long a registry can tell a machine to wait.
const MaxRetryAfter = time.Hour

// Error says why an enrolment failed.
type Error struct {
	Cause string
	// Retryable says that the same attempt may succeed later without anybody
	// changing anything.
	Retryable bool
	// RetryAfter is how long the registry asks to wait, at most MaxRetryAfter;
	// 0 when it says nothing.
	RetryAfter time.Duration
	Err        error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Revoked reports whether the registry has taken its trust away, so that
// nothing that the key signs from now on is accepted.
func (e *Error) Revoked() bool {
	return e.Cause == string(api.MachineRevoked) || e.Cause == string(api.KeyRevoked)
}

func unreachable(err error) *Error {
	return &Error{Cause: CauseUnreachable, Retryable: true, Err: err}
}

// badAnswer is retryable: a proxy on the way answers while the registry is
// being replaced.
func badAnswer(err error) *Error {
	return &Error{Cause: CauseBadAnswer, Retryable: true, Err: err}
}

func ofTPM(err error) *Error {
	return &Error{Cause: CauseTPM, Retryable: tpm.Classify(err) != tpm.Permanent, Err: err}
}

// refused decides once, for all who ask, whether a refusal is for good. A
// session that is not accepted is: the next attempt has another one.
func refused(refusal *api.Error, status int, after time.Duration) *Error {
	e := &Error{Cause: string(refusal.Reason), RetryAfter: after, Err: refusal}
	switch {
	case !refusal.Reason.Known():
		e.Cause = CauseUnknown
		e.Retryable = status >= http.StatusInternalServerError || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
	case isSession(refusal.Reason):
		e.Retryable = true
	default:
		e.Retryable = refusal.Reason.Retryable()
	}
	return e
}

func isSession(r api.Reason) bool {
	return r == api.SessionExpired || r == api.SessionUsed || r == api.SessionMalformed || r == api.SessionMismatch
}

// asError returns err as an *Error; what is none comes from our own side.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return ofTPM(err)
}
