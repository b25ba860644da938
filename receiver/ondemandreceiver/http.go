package ondemandreceiver

import (
	"encoding/json"
	"errors"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/httpd"
)

const (
	pathGenerate = "/metrics/generate"
	// maxBodies of the largest size may be in memory before their requests have a
	// place. Far more than places: whoever sends slowly must not keep others out.
	maxBodies = 64
	// answerTime is for what is neither the client's body nor the pipeline: making
	// metrics, and writing the answer.
	answerTime = 10 * time.Second
)

// generated is the body of a successful POST /metrics/generate.
type generated struct {
	Status    string `json:"status"` // success
	Message   string `json:"message"`
	PayloadID string `json:"payload_id"`
	Items     int    `json:"items"` // data points
}

// refused is the body of every answer that is not 2xx.
type refused struct {
	Status     string `json:"status"` // error
	Error      string `json:"error"`  // for people
	Reason     reason `json:"reason"` // for programs
	RejectedBy string `json:"rejected_by"`
}

// health is the body of GET /health.
type health struct {
	Status string `json:"status"` // ok, or degraded while nothing can be signed
	Signer string `json:"signer,omitempty"`
	Error  string `json:"error,omitempty"`
}

type routes map[string]map[string]http.HandlerFunc

func (o *ondemand) handler() http.Handler {
	rs := routes{
		pathGenerate:      {http.MethodPost: o.generate},
		"/metrics/status": {http.MethodGet: func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, o.status()) }},
		"/health":         {http.MethodGet: o.health},
	}
	return o.guard(func(w http.ResponseWriter, r *http.Request) {
		methods, ok := rs[r.URL.Path]
		if !ok {
			fail(w, refuse(reasonNotFound, "no such path; POST /metrics/generate, GET /metrics/status and GET /health are there"), 0)
			return
		}
		h, ok := methods[r.Method]
		if !ok {
			for m := range methods {
				w.Header().Add("Allow", m)
			}
			fail(w, refuse(reasonMethodNotAllowed, "this path does not take this method"), 0)
			return
		}
		h(w, r)
	})
}

// guard keeps out what a browser on this machine sends for a page from elsewhere
// under a name that somebody lets point here (DNS rebinding), where nothing but
// the loopback address protects.
func (o *ondemand) guard(next http.HandlerFunc) http.Handler {
	if o.cfg.takesAnyHost() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if httpd.Loopback(hostname(r.Host)) {
			next(w, r)
			return
		}
		no := refuse(reasonForeignHost, "without `auth` or `tls::client_ca_file` this address answers under localhost or a loopback address only")
		if r.URL.Path == pathGenerate {
			o.refused(w, kindUnknown, no)
			return
		}
		fail(w, no, 0)
	})
}

// hostname is a Host header without its port, in lower case.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

func (o *ondemand) health(w http.ResponseWriter, _ *http.Request) {
	h := health{Status: "ok"}
	status := http.StatusOK
	if o.signer != nil {
		s := o.signer.Status()
		h.Signer, h.Error = s.State, s.Error
		if s.State != "ready" || s.Enrolment != nil && s.Enrolment.State != "enrolled" {
			h.Status, status = "degraded", http.StatusServiceUnavailable
			if s.Enrolment != nil && h.Error == "" {
				h.Error = s.Enrolment.Error
			}
		}
	}
	answer(w, status, h)
}

func (o *ondemand) generate(w http.ResponseWriter, r *http.Request) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		o.refused(w, kindUnknown, refuse(reasonMediaType, "send application/json"))
		return
	}
	raw, release, err := o.read(w, r)
	defer release()
	if err != nil {
		o.refused(w, kindUnknown, err)
		return
	}
	select {
	case o.places <- struct{}{}:
		defer func() { <-o.places }()
	default:
		o.refused(w, kindUnknown, refuse(reasonBusy, "%d requests for metrics are under way, as many as may be", cap(o.places)))
		return
	}
	release() // from here on the places bound what is in memory
	o.awaitPipeline(w)
	req, err := parse(raw, &o.cfg.Application)
	if err != nil {
		o.refused(w, kindUnknown, err)
		return
	}
	id := newPayloadID()
	md, err := o.build(r.Context(), req, id, time.Now())
	if err != nil {
		o.refused(w, req.kind, err)
		return
	}
	n := md.DataPointCount()
	if err := o.send(r.Context(), md); err != nil {
		o.refused(w, req.kind, err)
		return
	}
	o.accepted(r.Context(), req.kind, n)
	answer(w, http.StatusOK, generated{Status: "success", Message: "the pipeline accepted the metrics", PayloadID: id, Items: n})
}

// read reads a body, before its request takes a place. What was read counts until
// release, which is never nil.
func (o *ondemand) read(w http.ResponseWriter, r *http.Request) (raw []byte, release func(), err error) {
	raw, release, err = o.bodies.Read(httpd.NewAnswer(w), r, "", o.maxBody)
	f, ok := errors.AsType[*httpd.Fault](err)
	switch {
	case err == nil:
		return raw, release, nil
	case ok && f.Word == httpd.BodyTooLarge:
		return nil, release, &refusal{reason: reasonTooLarge, detail: f.Detail, err: err}
	case ok && f.Word == httpd.Busy:
		return nil, release, &refusal{reason: reasonBusy, detail: f.Detail, err: err}
	default:
		return nil, release, &refusal{reason: reasonInvalid, detail: "the body did not arrive", err: err}
	}
}

// awaitPipeline lets the answer be written after all the time that a pipeline has:
// `write_timeout` may well be shorter, and then ends the connection without one.
func (o *ondemand) awaitPipeline(w http.ResponseWriter) {
	if o.cfg.WriteTimeout <= 0 {
		return // the answer has all the time there is
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(o.cfg.Timeout + answerTime)); err != nil {
		o.set.Logger.Warn("One of `middlewares` hides the connection: `write_timeout` must be longer than `timeout` for answers to arrive.", zap.Error(err))
	}
}

// fail answers with a refusal; status 0 is the reason's own.
func fail(w http.ResponseWriter, r *refusal, status int) {
	if status == 0 {
		status = statusOf(r.reason)
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	answer(w, status, refused{Status: "error", Error: r.detail, Reason: r.reason, RejectedBy: "agent"})
}

func answer(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil { // only for values that JSON does not have, such as NaN
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// reasonOf is the reason for what confighttp refuses by itself.
func reasonOf(status int) reason {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return reasonUnauthorized
	case http.StatusRequestEntityTooLarge:
		return reasonTooLarge
	default:
		return reasonInvalid
	}
}

func refusalOf(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	return refuse(reasonInvalid, "the request cannot be read")
}
