package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Reason is one cause for which the registry refuses a request. The same words
// stand in its answers, logs, metrics and documents.
type Reason string

// Of any request.
const (
	BadRequest       Reason = "bad_request"
	BodyTooLarge     Reason = "body_too_large"
	RequestTimeout   Reason = "request_timeout"
	NotFound         Reason = "not_found"
	MethodNotAllowed Reason = "method_not_allowed"
	MediaType        Reason = "unsupported_media_type"
	Unauthenticated  Reason = "unauthenticated"
	Forbidden        Reason = "forbidden"
	RateLimited      Reason = "rate_limited"
	Busy             Reason = "busy"
	StoreUnavailable Reason = "store_unavailable"
	Conflict         Reason = "conflict"
	Internal         Reason = "internal"
	V1Required       Reason = "v1_required"
)

// Of enrolment: the session and the proof that a machine is ours.
const (
	SessionMalformed  Reason = "session_malformed"
	SessionExpired    Reason = "session_expired"
	SessionUsed       Reason = "session_used"
	SessionMismatch   Reason = "session_mismatch"
	TokenUnknown      Reason = "token_unknown"
	TokenExpired      Reason = "token_expired"
	TokenUsedUp       Reason = "token_used_up"
	TokenProofInvalid Reason = "token_proof_invalid"
	NameInvalid       Reason = "name_invalid"
	NameTaken         Reason = "name_taken"
	NameMismatch      Reason = "name_mismatch"
	NotGenuine        Reason = "not_genuine"
	NotOurs           Reason = "not_ours"
	QueueFull         Reason = "queue_full"
	MachineRevoked    Reason = "machine_revoked"
	KeyTaken          Reason = "key_taken"
	KeyRevoked        Reason = "key_revoked"
)

// Of TPM evidence.
const (
	EKMalformed            Reason = "ek_malformed"
	EKUnsupported          Reason = "ek_unsupported"
	EKCertificateMalformed Reason = "ek_certificate_malformed"
	EKCertificateMismatch  Reason = "ek_certificate_mismatch"
	EKCertificateUntrusted Reason = "ek_certificate_untrusted"
	EKCertificateExpired   Reason = "ek_certificate_expired"
	EKCertificateUsage     Reason = "ek_certificate_usage"
	AKMalformed            Reason = "ak_malformed"
	AKUnsupported          Reason = "ak_unsupported"
	AKNotRestricted        Reason = "ak_not_restricted"
	AKNotSigning           Reason = "ak_not_signing"
	AKDecrypts             Reason = "ak_decrypts"
	AKNotFixed             Reason = "ak_not_fixed"
	AKImported             Reason = "ak_imported"
	KeyMalformed           Reason = "key_malformed"
	KeyUnsupported         Reason = "key_unsupported"
	KeyRestricted          Reason = "key_restricted"
	KeyNotSigning          Reason = "key_not_signing"
	KeyDecrypts            Reason = "key_decrypts"
	KeyNotFixed            Reason = "key_not_fixed"
	KeyImported            Reason = "key_imported"
	ActivationFailed       Reason = "activation_failed"
	CertifyMalformed       Reason = "certify_malformed"
	CertifyMagic           Reason = "certify_magic"
	CertifyType            Reason = "certify_type"
	CertifyNonce           Reason = "certify_nonce"
	CertifyName            Reason = "certify_name"
	CertifySignature       Reason = "certify_signature"
	PCRQuoteMissing        Reason = "pcr_quote_missing"
	PCRQuoteMalformed      Reason = "pcr_quote_malformed"
	PCRQuoteNonce          Reason = "pcr_quote_nonce"
	PCRQuoteSignature      Reason = "pcr_quote_signature"
	PCRQuoteSelection      Reason = "pcr_quote_selection"
	PCRQuoteDigest         Reason = "pcr_quote_digest"
	PCRMismatch            Reason = "pcr_mismatch"
	EventLogMissing        Reason = "event_log_missing"
	EventLogMalformed      Reason = "event_log_malformed"
	EventLogMismatch       Reason = "event_log_mismatch"
)

// Of TDX instances: who is who.
const (
	InstanceKeyInvalid       Reason = "instance_key_invalid"
	OperatorSignatureInvalid Reason = "operator_signature_invalid"
	OwnerSignatureInvalid    Reason = "owner_signature_invalid"
	IdentitySignatureInvalid Reason = "identity_signature_invalid"
	OwnerWithoutOperator     Reason = "owner_without_operator"
	PPIDInvalid              Reason = "ppid_invalid"
	PPIDMismatch             Reason = "ppid_mismatch"
	PPIDEncrypted            Reason = "ppid_encrypted"
	PPIDChanged              Reason = "ppid_changed"
	OperatorChanged          Reason = "operator_changed"
	OwnerChanged             Reason = "owner_changed"
	ReportDataMismatch       Reason = "report_data_mismatch"
	InstanceRevoked          Reason = "instance_revoked"
	StatementMalformed       Reason = "statement_malformed"
	StatementMismatch        Reason = "statement_mismatch"
	PossessionInvalid        Reason = "possession_invalid"
	StatementContradicted    Reason = "statement_contradicted"
	StatementRequired        Reason = "statement_required"
	StateRollback            Reason = "state_rollback"
	IdentitySuperseded       Reason = "identity_superseded"
)

// Of TDX evidence.
const (
	QuoteMalformed         Reason = "quote_malformed"
	QuoteLength            Reason = "quote_length"
	QuoteUnsupported       Reason = "quote_unsupported"
	QuoteCertificationData Reason = "quote_certification_data"
	QuoteSignature         Reason = "quote_signature"
	QEReportInvalid        Reason = "qe_report_invalid"
	QEIdentityMismatch     Reason = "qe_identity_mismatch"
	PCKUntrusted           Reason = "pck_untrusted"
	PCKExtensions          Reason = "pck_extensions"
	PCKRevoked             Reason = "pck_revoked"
	DebugTD                Reason = "debug_td"
	TDAttributes           Reason = "td_attributes"
	SEAMMismatch           Reason = "seam_mismatch"
	MeasurementMismatch    Reason = "measurement_mismatch"
	TCBStatusNotAccepted   Reason = "tcb_status_not_accepted"
	AdvisoryNotAccepted    Reason = "advisory_not_accepted"
	CollateralUnavailable  Reason = "collateral_unavailable"
	CollateralMalformed    Reason = "collateral_malformed"
	CollateralUntrusted    Reason = "collateral_untrusted"
	CollateralExpired      Reason = "collateral_expired"
	CollateralRolledBack   Reason = "collateral_rolled_back"
	CollateralMismatch     Reason = "collateral_mismatch"
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

// Retryable reports whether the same request may succeed later, without
// anybody changing anything.
func (r Reason) Retryable() bool {
	switch r.Status() {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusRequestTimeout, http.StatusInternalServerError:
		return true
	default:
		return false
	}
}

// Error is a refusal, on both sides of the wire. Detail never holds secrets; it
// may quote the request, bounded in length.
type Error struct {
	Reason Reason
	Detail string
	Err    error // not sent
}

// Refuse returns a refusal with a formatted detail.
func Refuse(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Because returns a refusal caused by err, which stands in logs and is not sent.
func Because(r Reason, err error) *Error { return &Error{Reason: r, Err: err} }

func (e *Error) Error() string {
	switch {
	case e.Err != nil && e.Detail != "":
		return string(e.Reason) + ": " + e.Detail + ": " + e.Err.Error()
	case e.Err != nil:
		return string(e.Reason) + ": " + e.Err.Error()
	case e.Detail != "":
		return string(e.Reason) + ": " + e.Detail
	default:
		return string(e.Reason)
	}
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is a refusal for the same reason, so that
// errors.Is(err, &Error{Reason: r}) asks for a reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason && t.Detail == "" && t.Err == nil
}

// ReasonOf returns the reason of err: "" for nil, Internal for what carries none.
func ReasonOf(err error) Reason {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return Internal
}
