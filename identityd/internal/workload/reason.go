package workload

import (
	"errors"
	"fmt"
)

// Reason says why a step was refused or failed. Reasons stand in answers, logs
// and metrics.
type Reason string

// The reasons.
const (
	PodmanMissing     Reason = "podman_missing"          // nothing answers on the socket
	PodmanUnsupported Reason = "podman_unsupported"      // an API version that is not known
	PodmanTimeout     Reason = "podman_timeout"          // no answer in time
	PodmanFailed      Reason = "podman_failed"           // any other error of Podman
	HostUnsuitable    Reason = "host_unsuitable"         // no seccomp, rootless, no profile
	ReferenceInvalid  Reason = "image_reference_invalid" // not an image reference
	ImageNotFound     Reason = "image_not_found"         // neither here nor in its registry
	ImageDenied       Reason = "image_denied"            // the registry wants other credentials
	ImageUnreachable  Reason = "image_unreachable"       // the registry does not answer
	ImageMismatch     Reason = "image_mismatch"          // another digest than the one pinned
	ImageFailed       Reason = "image_failed"            // pulling, exporting or loading failed otherwise
	ImageTooLarge     Reason = "image_too_large"         // more than may be kept
	PortInvalid       Reason = "port_invalid"            // 0
	PortTaken         Reason = "port_taken"              // somebody else listens on it
	MountInvalid      Reason = "mount_invalid"           // a persisted directory that cannot be mounted
	SpecInvalid       Reason = "spec_invalid"            // any other field out of bounds
	NameTaken         Reason = "name_taken"              // a container of that name is not ours
	NotHardened       Reason = "not_hardened"            // Podman made another container than asked for
	StartFailed       Reason = "start_failed"            // made, but did not start
	NotRunning        Reason = "not_running"             // there is no running container
	ExecFailed        Reason = "exec_failed"             // a process in the container did not start
)

// Error is a refusal or failure with its reason.
type Error struct {
	Reason Reason
	Doing  string // what was attempted
	Err    error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Doing
	}
	return fmt.Sprintf("%s: %v", e.Doing, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of an error, and PodmanFailed for one that has
// none.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return PodmanFailed
}

func refuse(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Doing: fmt.Sprintf(format, args...)}
}
