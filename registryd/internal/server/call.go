package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

// call is one request and its answer. It belongs to the request's goroutine.
type call struct {
	http.ResponseWriter
	r       *http.Request
	server  *Server
	control *http.ResponseController
	began   time.Time
	route   *route // nil before it is known, and for paths that are not served
	pattern string

	client   netip.Addr // who asks, seen through trusted proxies
	identity auth.Identity

	status int
	reason api.Reason
	held   int // bytes of its body, in server.bodies
}

// begin wraps a request.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) *call {
	c := &call{
		ResponseWriter: w, r: r, server: s, control: http.NewResponseController(w), began: s.o.Now(), pattern: "other",
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	return c
}

// deadlines bound reading of the body and writing of the answer, also where the
// body is refused unread.
func (c *call) deadlines() {
	// Errors are of writers that have no deadlines, as in tests without a
	// connection.
	read := time.Time{}
	if c.r.ContentLength != 0 {
		read = time.Now().Add(c.server.o.BodyTimeout)
	}
	_ = c.control.SetReadDeadline(read)
	_ = c.control.SetWriteDeadline(time.Now().Add(c.server.o.BodyTimeout + c.server.o.CallTimeout + c.server.o.WriteTimeout))
}

// WriteHeader implements http.ResponseWriter.
func (c *call) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *call) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	return c.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// end counts the request, and answers for a handler that panicked.
func (c *call) end() {
	defer c.release()
	if p := recover(); p != nil {
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		c.server.o.Logger.Error("A handler panicked.", zap.Any("panic", p), zap.String("route", c.pattern), zap.Stack("stack"))
		if c.status == 0 {
			c.fail(errPanicked)
		}
	}
	c.server.o.Metrics.Request(c.pattern, c.status, string(c.reason), c.server.o.Now().Sub(c.began), c.route == nil || !c.route.stream)
}

// peer is the client's address, for the audit log.
func (c *call) peer() string { return c.client.String() }

// actor is who acts, for the audit log.
func (c *call) actor() string { return c.identity.Name }

// decode reads the body as strict JSON into v, a pointer to a struct.
func (c *call) decode(v any) error {
	media, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		return api.Refuse(api.MediaType, "the body is of type %.64q", media)
	}
	if enc := c.r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return api.Refuse(api.MediaType, "the body is encoded as %.64q; send it as it is", enc)
	}
	content, err := c.read()
	if err != nil {
		return err
	}
	return decode(content, v)
}

// decode is what the fuzzer holds.
func decode(content []byte, v any) error {
	if trimmed := bytes.TrimLeft(content, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return api.Refuse(api.BadRequest, "the body is not a JSON object")
	}
	if err := strictjson.Unmarshal(content, v); err != nil {
		return api.Refuse(api.BadRequest, "%v", err)
	}
	return nil
}

// read reads the body within the route's size and the time for bodies.
func (c *call) read() ([]byte, error) {
	size := c.route.body
	if c.r.ContentLength > size {
		return nil, c.tooLarge()
	}
	content, err := io.ReadAll(metered{http.MaxBytesReader(c.ResponseWriter, c.r.Body, size), c})
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, c.tooLarge()
	case errors.Is(err, errBodies):
		c.Header().Set("Connection", "close")
		return nil, api.Because(api.Busy, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.Header().Set("Connection", "close")
		return nil, api.Refuse(api.RequestTimeout, "the body did not arrive within %s", c.server.o.BodyTimeout)
	case err != nil:
		c.Header().Set("Connection", "close")
		return nil, &api.Error{Reason: api.BadRequest, Detail: "the body ended early", Err: err}
	}
	// What waits for the client to go away must not take the deadline for it.
	_ = c.control.SetReadDeadline(time.Time{})
	return content, nil
}

func (c *call) tooLarge() error {
	c.Header().Set("Connection", "close")
	return api.Refuse(api.BodyTooLarge, "at most %d bytes are taken here", c.route.body)
}

// checkQuery refuses parameters that are not taken, or stand twice.
func (c *call) checkQuery() error {
	values, err := parseQuery(c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	for name, v := range values {
		if !contains(c.route.query, name) {
			return api.Refuse(api.BadRequest, "there is no parameter %.64q here", name)
		}
		if len(v) > 1 && name != "label" {
			return api.Refuse(api.BadRequest, "parameter %s stands there twice", name)
		}
	}
	return nil
}

// json answers with v.
func (c *call) json(status int, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	return c.bytes(status, "application/json", b.Bytes())
}

func (c *call) bytes(status int, contentType string, b []byte) error {
	h := c.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.WriteHeader(status)
	_, _ = c.Write(b) // a client that is gone needs no answer
	return nil
}

func (c *call) none() error {
	c.WriteHeader(http.StatusNoContent)
	return nil
}
