package server

import (
	"bytes"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

// call is one request and its answer. It belongs to the request's goroutine.
type call struct {
	*httpd.Answer
	r       *http.Request
	server  *Server
	began   time.Time
	route   *route // nil before it is known, and for paths that are not served
	pattern string

	client   netip.Addr // who asks, seen through trusted proxies
	identity auth.Identity
	outdated <-chan struct{} // closed when identity has to be looked at again

	release func() // of the body, when the call ends
	reason  api.Reason
}

// begin wraps a request.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) *call {
	return &call{
		Answer: httpd.NewAnswer(w), r: r, server: s, began: s.o.Now(), pattern: "other", release: func() {},
	}
}

// end counts the request, and answers for a handler that panicked.
func (c *call) end() {
	defer func() { c.release() }()
	if p := recover(); p != nil {
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		c.server.o.Logger.Error("A handler panicked.", zap.Any("panic", p), zap.String("route", c.pattern), zap.Stack("stack"))
		if c.Status() == 0 {
			c.fail(errPanicked)
		}
	}
	c.server.o.Metrics.Request(c.pattern, c.Status(), string(c.reason), c.server.o.Now().Sub(c.began), c.route == nil || !c.route.stream)
}

// peer is the client's address, for the audit log.
func (c *call) peer() string { return c.client.String() }

// actor is who acts, for the audit log.
func (c *call) actor() string { return c.identity.Name }

// decode reads the body as strict JSON into v, a pointer to a struct.
func (c *call) decode(v any) error {
	if err := httpd.IsJSON(c.r); err != nil {
		return err
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
	content, release, err := c.server.bodies.Read(c.Answer, c.r, httpd.Bucket(c.client), c.route.body)
	c.release = release
	return content, err
}

func (c *call) none() error {
	c.WriteHeader(http.StatusNoContent)
	return nil
}
