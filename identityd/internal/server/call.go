package server

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

// call is one request and its answer. It belongs to the request's goroutine.
type call struct {
	*httpd.Answer
	r       *http.Request
	server  *Server
	began   time.Time
	client  netip.Addr
	route   *route // nil before it is known, and for paths that are not served
	pattern string

	query   url.Values
	body    []byte // raw
	release func() // of the body, when the call ends
	reason  reason.Reason
}

// begin wraps a request.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) *call {
	return &call{
		Answer: httpd.NewAnswer(w), r: r, server: s, began: s.o.Now(), client: httpd.Address(r.RemoteAddr),
		pattern: "other", release: func() {},
	}
}

var errPanicked = errors.New("a handler panicked")

// end counts the request, and answers for a handler that panicked.
func (c *call) end() {
	defer func() { c.release() }()
	if p := recover(); p != nil {
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		// What it panicked with may hold a secret, unless the runtime says it.
		said, _ := p.(runtime.Error)
		c.server.o.Logger.Error("A handler panicked.", zap.String("route", c.pattern), zap.NamedError("panic", said), zap.Stack("stack"))
		if c.Status() == 0 {
			c.fail(errPanicked)
		}
	}
	c.server.o.Metrics.Request(c.pattern, c.Status(), string(c.reason), c.server.o.Now().Sub(c.began))
}

// read reads the body as it came.
func (c *call) read() error {
	if c.route.body == 0 {
		if c.r.ContentLength != 0 {
			return reason.Refuse(reason.BadRequest, "this call takes no body")
		}
		return nil
	}
	if err := httpd.IsJSON(c.r); err != nil {
		return err
	}
	var err error
	c.body, c.release, err = c.server.bodies.Read(c.Answer, c.r, httpd.Bucket(c.client), c.route.body)
	return err
}

// header is the value of a header that may stand there once.
func (c *call) header(name string) (string, error) {
	switch values := c.r.Header.Values(name); len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	default:
		return "", reason.Refuse(reason.BadRequest, "the header %s stands there %d times", name, len(values))
	}
}

// signed is the request as it was signed.
func (c *call) signed() (*request.Signed, error) {
	signature, err := c.header(api.HeaderSignature)
	if err != nil {
		return nil, err
	}
	counter, err := c.header(api.HeaderCounter)
	if err != nil {
		return nil, err
	}
	return &request.Signed{Method: c.route.method, Path: c.route.path, Signature: signature, Counter: counter, Body: c.body}, nil
}
