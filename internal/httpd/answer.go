package httpd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Answer is the answer to one request. It belongs to the request's goroutine.
type Answer struct {
	http.ResponseWriter
	control *http.ResponseController
	within  time.Duration // for the body
	status  int
}

// NewAnswer wraps a writer, and says that nobody keeps the answer or guesses its
// type.
func NewAnswer(w http.ResponseWriter) *Answer {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	return &Answer{ResponseWriter: w, control: http.NewResponseController(w)}
}

// Deadlines bound reading of a request's body and writing of the answer, also
// where the body is refused unread. total is from now to the end of the answer.
func (a *Answer) Deadlines(r *http.Request, body, total time.Duration) {
	// Errors are of writers that have no deadlines, as in tests without a
	// connection.
	a.within = body
	read := time.Time{}
	if r.ContentLength != 0 {
		read = time.Now().Add(body)
	}
	_ = a.control.SetReadDeadline(read)
	_ = a.control.SetWriteDeadline(time.Now().Add(total))
}

// Push writes a part of an answer that goes on, to the client at once. One that
// does not take it within the time is cut off.
func (a *Answer) Push(b []byte, within time.Duration) error {
	_ = a.control.SetWriteDeadline(time.Now().Add(within))
	if _, err := a.Write(b); err != nil {
		return err
	}
	return a.control.Flush()
}

// Status is what was answered, 0 before.
func (a *Answer) Status() int { return a.status }

// WriteHeader implements http.ResponseWriter.
func (a *Answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *Answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *Answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// JSON answers with v.
func (a *Answer) JSON(status int, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	return a.Bytes(status, "application/json", b.Bytes())
}

// Bytes answers with b.
func (a *Answer) Bytes(status int, contentType string, b []byte) error {
	h := a.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	a.WriteHeader(status)
	_, _ = a.Write(b) // a client that is gone needs no answer
	return nil
}

// Query reads the parameters of a request, which have to be among those taken,
// each once but those that may repeat.
func Query(r *http.Request, taken []string, repeat ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault(BadRequest, "the query cannot be read")
	}
	for name, v := range values {
		if !slices.Contains(taken, name) {
			return nil, fault(BadRequest, "there is no parameter %.64q here", name)
		}
		if len(v) > 1 && !slices.Contains(repeat, name) {
			return nil, fault(BadRequest, "parameter %s stands there twice", name)
		}
	}
	return values, nil
}
