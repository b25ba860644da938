package ondemandreceiver

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"time"
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
		"/metrics/generate": {http.MethodPost: o.generate},
		"/metrics/status":   {http.MethodGet: func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, o.status()) }},
		"/health":           {http.MethodGet: o.health},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
	select {
	case o.places <- struct{}{}:
		defer func() { <-o.places }()
	default:
		o.refused(w, kindUnknown, refuse(reasonBusy, "%d requests for metrics are under way, as many as may be", cap(o.places)))
		return
	}
	req, err := parse(r.Body, &o.cfg.Application)
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
