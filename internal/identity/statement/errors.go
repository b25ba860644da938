package statement

import "fmt"

// Kind is what is wrong with a statement.
type Kind string

// The kinds.
const (
	Malformed   Kind = "statement_malformed" // it cannot be read, or a member is out of bounds
	BadLink     Kind = "link_invalid"        // it does not go on from its origin
	BadRoles    Kind = "state_contradicted"  // state, step, counter and parties do not fit
	BadOrder    Kind = "event_order"         // the events cannot have come in this order
	BadWorkload Kind = "image_contradicted"  // log and workload do not fit
	BadSSH      Kind = "ssh_contradicted"    // log, state and times of SSH do not fit
	BadRegister Kind = "event_log_mismatch"  // the log is not what RTMR3 holds
)

// Error is why a statement is not believed. Detail is bounded and printable.
type Error struct {
	Kind   Kind
	Detail string
}

func (e *Error) Error() string { return string(e.Kind) + ": " + e.Detail }

// Is reports whether target is an error of the same kind, so that
// errors.Is(err, &Error{Kind: k}) asks for a kind.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Detail == ""
}

func refuse(k Kind, format string, args ...any) *Error {
	return &Error{k, fmt.Sprintf(format, args...)}
}
