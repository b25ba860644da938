// Package reason enumerates why identityd refuses something: one word, one HTTP
// status and one sentence of help for each. The same words stand in its
// answers, its log, its metrics and its documents.
package reason

import (
	"errors"
	"fmt"
	"net/http"
)

// Reason is one cause for which identityd refuses a request, or to start.
type Reason string

// Of any request.
const (
	BadRequest       Reason = "bad_request"
	BodyTooLarge     Reason = "body_too_large"
	RequestTimeout   Reason = "request_timeout"
	NotFound         Reason = "not_found"
	MethodNotAllowed Reason = "method_not_allowed"
	MediaType        Reason = "unsupported_media_type"
	RateLimited      Reason = "rate_limited"
	Busy             Reason = "busy"
	Stopping         Reason = "stopping"
	CallTimeout      Reason = "call_timeout"
	ForeignOrigin    Reason = "foreign_origin"
	TLSRequired      Reason = "tls_required"
	Internal         Reason = "internal"
)

// Of keys, signatures and what was signed.
const (
	PubkeyMalformed       Reason = "pubkey_malformed"
	PubkeyNonCanonical    Reason = "pubkey_non_canonical"
	PubkeyLowOrder        Reason = "pubkey_low_order"
	PubkeyTaken           Reason = "pubkey_taken"
	SignatureMissing      Reason = "signature_missing"
	SignatureMalformed    Reason = "signature_malformed"
	SignatureNonCanonical Reason = "signature_non_canonical"
	SignatureInvalid      Reason = "signature_invalid"
	V1Required            Reason = "v1_required"
	WrongInstance         Reason = "wrong_instance"
	Replayed              Reason = "replayed"
	ReplayMemoryFull      Reason = "replay_memory_full"
	CounterMalformed      Reason = "counter_malformed"
	CounterMismatch       Reason = "counter_mismatch"
)

// Of the owner's token.
const (
	TokenMissing     Reason = "token_missing"
	TokenInvalid     Reason = "token_invalid"
	TokenUsed        Reason = "token_used"
	OwnerNotExpected Reason = "owner_not_expected"
)

// Of what shall run.
const (
	ImageInvalid       Reason = "image_invalid"
	ImageMismatch      Reason = "image_mismatch"
	PortInvalid        Reason = "port_invalid"
	PersistDirsInvalid Reason = "persist_dirs_invalid"
)

// Of the order of things.
const (
	OperatorMissing    Reason = "operator_missing"
	OperatorRegistered Reason = "operator_registered"
	OwnerMissing       Reason = "owner_missing"
	OwnerRegistered    Reason = "owner_registered"
	WorkloadMissing    Reason = "workload_missing"
	WorkloadExposed    Reason = "workload_exposed"
	StepInFlight       Reason = "step_in_flight"
	StepOver           Reason = "step_over"
	StepIncomplete     Reason = "step_incomplete"
	StepIrreversible   Reason = "step_irreversible"
)

// Of the state on a disk that belongs to somebody else.
const (
	StateMissing     Reason = "state_missing"
	StateMalformed   Reason = "state_malformed"
	StateNewer       Reason = "state_newer"
	StateForged      Reason = "state_forged"
	StateRollback    Reason = "state_rollback"
	StateUnlinked    Reason = "state_unlinked"
	StateLinked      Reason = "state_linked"
	StateUnwitnessed Reason = "state_unwitnessed"
	StateUnavailable Reason = "state_unavailable"
	IdentityInvalid  Reason = "identity_invalid"
	RunDirUnsafe     Reason = "run_directory_unsafe"
	RunDirBusy       Reason = "run_directory_busy"
	RunDirDamaged    Reason = "run_directory_damaged"
)

// Of what the machine has to have.
const (
	NotRoot           Reason = "not_root"
	GocryptfsMissing  Reason = "gocryptfs_missing"
	GocryptfsTooOld   Reason = "gocryptfs_too_old"
	FusermountMissing Reason = "fusermount_missing"
	FuseMissing       Reason = "fuse_missing"
	PodmanMissing     Reason = "podman_missing"
	PodmanUnsupported Reason = "podman_unsupported"
	HostUnsuitable    Reason = "host_unsuitable"
)

// Of the encrypted volume and the disk that it lies on.
const (
	PathInvalid     Reason = "path_invalid"
	StorageInUse    Reason = "storage_in_use"
	DiskFailed      Reason = "disk_failed"
	Symlink         Reason = "symlink"
	RecoverFailed   Reason = "recover_failed"
	VolumeMissing   Reason = "volume_missing"
	VolumeExists    Reason = "volume_exists"
	VolumeMounted   Reason = "volume_mounted"
	VolumeOther     Reason = "volume_other"
	HeaderMalformed Reason = "header_malformed"
	SourceOther     Reason = "source_other"
	SourceFailed    Reason = "source_failed"
	KeyInvalid      Reason = "key_invalid"
	KeyWrong        Reason = "key_wrong"
	ConfChanged     Reason = "conf_changed"
	ConfUnsafe      Reason = "conf_unsafe"
	InitFailed      Reason = "init_failed"
	MountFailed     Reason = "mount_failed"
	MountTimeout    Reason = "mount_timeout"
	MountDead       Reason = "mount_dead"
	NotMounted      Reason = "not_mounted"
)

// Of a volume's key on its way from the owner.
const (
	SealedKeyMissing   Reason = "sealed_key_missing"
	SealedKeyUnwanted  Reason = "sealed_key_unwanted"
	SealedKeyMalformed Reason = "sealed_key_malformed"
	SuiteUnsupported   Reason = "suite_unsupported"
	OtherOwner         Reason = "other_owner"
	OtherVolume        Reason = "other_volume"
	TLSKeyMismatch     Reason = "tls_key_mismatch"
	StateMismatch      Reason = "state_mismatch"
	RequestUnknown     Reason = "request_unknown"
	RequestExpired     Reason = "request_expired"
	TranscriptChanged  Reason = "transcript_changed"
	CiphertextInvalid  Reason = "ciphertext_invalid"
)

// Of the container.
const (
	PodmanTimeout    Reason = "podman_timeout"
	PodmanFailed     Reason = "podman_failed"
	ImageNotFound    Reason = "image_not_found"
	ImageDenied      Reason = "image_denied"
	ImageUnreachable Reason = "image_unreachable"
	ImageFailed      Reason = "image_failed"
	ImageTooLarge    Reason = "image_too_large"
	PortTaken        Reason = "port_taken"
	MountInvalid     Reason = "mount_invalid"
	SpecInvalid      Reason = "spec_invalid"
	NameTaken        Reason = "name_taken"
	NotHardened      Reason = "not_hardened"
	StartFailed      Reason = "start_failed"
	NotRunning       Reason = "not_running"
	ExecFailed       Reason = "exec_failed"

	UpstreamUnavailable Reason = "upstream_unavailable"
)

// Of the temporary way in.
const (
	SSHUnavailable Reason = "ssh_unavailable"
	SSHNotClosed   Reason = "ssh_not_closed"
)

// Of quotes and the event log.
const (
	QuoteUnavailable    Reason = "quote_unavailable"
	EventLogUnavailable Reason = "event_log_unavailable"
	EventLogForeign     Reason = "event_log_foreign"
	EventLogFull        Reason = "event_log_full"
	EventLogDamaged     Reason = "event_log_damaged"
	EventRefused        Reason = "event_refused"
)

// Of the registry.
const (
	OperatorRenewalNeeded Reason = "operator_renewal_needed"
	RegistryUnreachable   Reason = "registry_unreachable"
	RegistryRefused       Reason = "registry_refused"
	RegistryAnswerInvalid Reason = "registry_answer_invalid"
	RegistryUnpinned      Reason = "registry_unpinned"
)

type entry struct {
	reason Reason
	status int
	help   string // what happened, and what to do
}

var byReason = func() map[Reason]entry {
	m := make(map[Reason]entry, len(table))
	for _, e := range table {
		m[e.reason] = e
	}
	return m
}()

// Reasons returns every reason, in the order of the table.
func Reasons() []Reason {
	out := make([]Reason, len(table))
	for i, e := range table {
		out[i] = e.reason
	}
	return out
}

// Known reports whether r is one of the reasons.
func (r Reason) Known() bool { _, ok := byReason[r]; return ok }

// Status is the HTTP status that a refusal for r has; 500 for what is not a
// reason.
func (r Reason) Status() int {
	if e, ok := byReason[r]; ok {
		return e.status
	}
	return http.StatusInternalServerError
}

// Help says in a sentence or two what happened and what to do.
func (r Reason) Help() string { return byReason[r].help }

// Retryable reports whether the same request may succeed later, without anybody
// changing anything.
func (r Reason) Retryable() bool {
	switch r {
	case RequestTimeout, RateLimited, Busy, Stopping, CallTimeout, StepInFlight, StateUnavailable, StateUnwitnessed,
		SourceFailed, MountTimeout, PodmanTimeout, ImageUnreachable, UpstreamUnavailable,
		QuoteUnavailable, EventLogUnavailable, RegistryUnreachable:
		return true
	default:
		return false
	}
}

// Error is a refusal. Detail never holds secrets; it may quote the request,
// bounded in length. Err stands in logs and is not sent.
type Error struct {
	Reason Reason
	Detail string
	Err    error
}

// Refuse returns a refusal with a formatted detail.
func Refuse(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Because returns a refusal caused by err, which stands in logs and is not sent.
func Because(r Reason, err error) *Error { return &Error{Reason: r, Err: err} }

func (e *Error) Error() string {
	s := string(e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is a refusal for the same reason, so that
// errors.Is(err, &Error{Reason: r}) asks for a reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason && t.Detail == "" && t.Err == nil
}

// Of returns the reason of err: "" for nil, Internal for what carries none.
func Of(err error) Reason {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return Internal
}
