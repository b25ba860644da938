package nonceextension

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// code is the machine-readable part of an error answer.
type code string

const (
	codeNotFound            code = "not_found"
	codeMethodNotAllowed    code = "method_not_allowed"
	codeUnauthorized        code = "unauthorized"
	codeRequestInvalid      code = "request_invalid"
	codeRequestTooLarge     code = "request_too_large"
	codeKIDMissing          code = "kid_missing"
	codeKIDInvalid          code = "kid_invalid"
	codeKIDsTooMany         code = "kids_too_many"
	codeCursorInvalid       code = "cursor_invalid"
	codeLimitInvalid        code = "limit_invalid"
	codeStoreUnavailable    code = "store_unavailable"
	codeUpstreamUnavailable code = "upstream_unavailable"
	codeUpstreamTimeout     code = "upstream_timeout"
	codeUpstreamRefused     code = "upstream_refused"
	codeUpstreamInvalid     code = "upstream_invalid"
	codeIssuerRefused       code = "issuer_refused" // counted only: its answer is handed on
	codeInternal            code = "internal"
)

// errorAnswer is the body of every answer that is not 2xx.
type errorAnswer struct {
	Error          string `json:"error"`  // for people
	Reason         code   `json:"reason"` // for programs
	RejectedBy     string `json:"rejected_by"`
	ValidationType string `json:"validation_type"`
}

// nonceAnswer is the body of GET /nonce. Its members are fixed: agents refuse others.
type nonceAnswer struct {
	Nonce     string `json:"nonce"` // hex
	KID       string `json:"kid"`   // hex
	Audience  string `json:"audience"`
	IssuedAt  string `json:"issued_at"` // RFC 3339 with ms, UTC
	ExpiresAt string `json:"expires_at"`
}

// kidsRequest and noncesAnswer are the bodies of POST /nonces.
type kidsRequest struct {
	KIDs []string `json:"kids"`
}

type noncesAnswer struct {
	Nonces []nonceAnswer `json:"nonces"`
}

// healthAnswer is the body of GET /health.
type healthAnswer struct {
	Status string `json:"status"` // ok or degraded
	Role   string `json:"role"`   // issuer or relay
	Reason code   `json:"reason,omitempty"`
}

const (
	healthOK       = "ok"
	healthDegraded = "degraded"
	roleIssuer     = "issuer"
	roleRelay      = "relay"
)

// maxKIDs bounds POST /nonces.
const maxKIDs = 1000

const timeFormat = "2006-01-02T15:04:05.000Z07:00"

func formatTime(t time.Time) string { return t.UTC().Format(timeFormat) }

// refusal is an error with the answer it leads to.
type refusal struct {
	status int
	code   code
	msg    string
}

func (r *refusal) Error() string { return r.msg }

func (e *Extension) role() string {
	if e.cfg.Upstream.HasValue() {
		return roleRelay
	}
	return roleIssuer
}

func (e *Extension) fail(w http.ResponseWriter, status int, c code, msg string) {
	by := "collector"
	if e.role() == roleRelay {
		by = "gateway"
	}
	answer(w, status, errorAnswer{Error: msg, Reason: c, RejectedBy: by, ValidationType: "nonce"})
}

func (e *Extension) refuse(w http.ResponseWriter, err error) {
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{http.StatusInternalServerError, codeInternal, "internal error"}
	}
	e.fail(w, r.status, r.code, r.msg)
}

func answer(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil { // only for values that JSON does not have, such as NaN
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	raw(w, status, b)
}

func raw(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// codeOf is the reason for what confighttp refuses by itself.
func codeOf(status int) code {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return codeUnauthorized
	case http.StatusRequestEntityTooLarge:
		return codeRequestTooLarge
	default:
		return codeRequestInvalid
	}
}

// routes maps path and method to handlers; what is not in it gets JSON too.
type routes map[string]map[string]http.HandlerFunc

func (e *Extension) mux(rs routes) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		methods, ok := rs[r.URL.Path]
		if !ok {
			e.fail(w, http.StatusNotFound, codeNotFound, "no such path")
			return
		}
		h, ok := methods[r.Method]
		if !ok {
			for m := range methods {
				w.Header().Add("Allow", m)
			}
			e.fail(w, http.StatusMethodNotAllowed, codeMethodNotAllowed, "this path does not take this method")
			return
		}
		h(w, r)
	})
}

// kidLen is a TPM Name with SHA-256: the algorithm 000b and the digest.
const kidLen = 2 + 32

// parseKID reads the hex form of a TPM Name.
func parseKID(s string) ([]byte, error) {
	if s == "" {
		return nil, &refusal{http.StatusBadRequest, codeKIDMissing, "kid is missing: the hex TPM Name of the signing key (`telemark key show` prints it)"}
	}
	kid, err := hex.DecodeString(s[:min(len(s), 2*kidLen+2)])
	if err != nil || len(kid) != kidLen || kid[0] != 0x00 || kid[1] != 0x0b {
		return nil, &refusal{http.StatusBadRequest, codeKIDInvalid, fmt.Sprintf("kid is not the hex TPM Name of a key: want %d characters beginning with 000b", 2*kidLen)}
	}
	return kid, nil
}

// oneKID reads ?kid= of GET /nonce.
func oneKID(r *http.Request) ([]byte, error) { return parseKID(r.URL.Query().Get("kid")) }

// manyKIDs reads the body of POST /nonces.
func manyKIDs(r *http.Request) ([][]byte, error) {
	var req kidsRequest
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&req)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("data after the request")
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &refusal{http.StatusRequestEntityTooLarge, codeRequestTooLarge, fmt.Sprintf("the body is larger than %d bytes", large.Limit)}
	case err != nil:
		return nil, &refusal{http.StatusBadRequest, codeRequestInvalid, `the body is not of the form {"kids":["000b…"]}`}
	case len(req.KIDs) == 0:
		return nil, &refusal{http.StatusBadRequest, codeKIDMissing, "kids is empty"}
	case len(req.KIDs) > maxKIDs:
		return nil, &refusal{http.StatusBadRequest, codeKIDsTooMany, fmt.Sprintf("%d kids, at most %d are allowed", len(req.KIDs), maxKIDs)}
	}
	kids := make([][]byte, len(req.KIDs))
	for i, s := range req.KIDs {
		if kids[i], err = parseKID(s); err != nil {
			return nil, err
		}
	}
	return kids, nil
}
