package ondemandreceiver

import (
	"fmt"
	"net/http"
)

// reason is why a request was not answered with success, for programs.
type reason string

const (
	reasonNotFound         reason = "not_found"
	reasonMethodNotAllowed reason = "method_not_allowed"
	reasonUnauthorized     reason = "unauthorized"
	reasonForeignHost      reason = "foreign_host"
	reasonMediaType        reason = "unsupported_media_type"
	reasonTooLarge         reason = "request_too_large"
	reasonInvalid          reason = "request_invalid"
	reasonTypeUnknown      reason = "metric_type_unknown"
	reasonDataMissing      reason = "custom_data_missing"
	reasonDataInvalid      reason = "custom_data_invalid"
	reasonDataTooDeep      reason = "custom_data_too_deep"
	reasonDataTooLarge     reason = "custom_data_too_large"
	reasonBusy             reason = "busy"
	reasonSystem           reason = "system_unreadable"
	reasonRefused          reason = "pipeline_refused"
	reasonUnavailable      reason = "pipeline_unavailable"
	reasonTimeout          reason = "pipeline_timeout"
)

// statusOf is the HTTP status of a refusal for r.
func statusOf(r reason) int {
	switch r {
	case reasonNotFound:
		return http.StatusNotFound
	case reasonMethodNotAllowed:
		return http.StatusMethodNotAllowed
	case reasonUnauthorized:
		return http.StatusUnauthorized
	case reasonForeignHost:
		return http.StatusForbidden
	case reasonMediaType:
		return http.StatusUnsupportedMediaType
	case reasonTooLarge:
		return http.StatusRequestEntityTooLarge
	case reasonBusy, reasonSystem, reasonUnavailable, reasonTimeout:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadRequest
	}
}

// refusal is an error with the answer that it leads to.
type refusal struct {
	reason reason
	detail string
	err    error // for the log; not sent
}

func refuse(r reason, format string, args ...any) *refusal {
	return &refusal{reason: r, detail: fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return string(r.reason) + ": " + r.detail }

func (r *refusal) Unwrap() error { return r.err }
