package server

import (
	"errors"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/httpd"
)

// delayed is a refusal that knows when to come again.
type delayed struct {
	error
	after time.Duration
}

func (d *delayed) Unwrap() error { return d.error }

// What is limited for each address.
var limited = map[cost]string{cheap: "requests", token: "attempts with a token", quote: "calls that make a quote"}

// admit limits how often one client may ask for what costs so much.
func (s *Server) admit(c *call, what cost) error {
	if ok, retry := s.rates[what].Allow(httpd.Bucket(c.client), 1, s.o.Now()); !ok {
		return &delayed{reason.Refuse(reason.RateLimited, "too many %s from %s", limited[what], c.client), retry}
	}
	return nil
}

// allowed refuses what is known to be refused before the body is read.
func (s *Server) allowed(c *call) error {
	switch r := c.route; {
	case s.stopped.Err() != nil && !r.always:
		return reason.Refuse(reason.Stopping, "the service is ending")
	case r.older && s.o.Fixed.RequireV1:
		return reason.Refuse(reason.V1Required, "use /v1%s", r.path)
	case r.secret && s.o.Fixed.RequireTLS && !c.private():
		return reason.Refuse(reason.TLSRequired, "the owner's token would cross the host in clear; use the TLS port")
	case r.cost != cheap:
		return s.admit(c, r.cost)
	default:
		return nil
	}
}

// private reports whether nobody between the caller and us reads along: TLS, or
// both are this machine and no proxy says that it speaks for somebody else.
func (c *call) private() bool {
	return c.r.TLS != nil || c.client.IsLoopback() && !httpd.Forwarded(c.r.Header)
}

var errFull = errors.New("no room")

// enter takes room for a call; leave gives it back. Nobody waits: whoever could
// make others wait could make all of them wait.
func (s *Server) enter(c *call) (leave func(), err error) {
	if c.route.always {
		return func() {}, nil
	}
	rooms := []chan struct{}{s.calls}
	if c.route.cost == quote {
		rooms = append(rooms, s.quotes)
	}
	var taken []chan struct{}
	give := func() {
		for _, room := range taken {
			<-room
		}
	}
	for _, room := range rooms {
		select {
		case room <- struct{}{}:
			taken = append(taken, room)
		default:
			give()
			return nil, &reason.Error{Reason: reason.Busy, Detail: "as many calls are under way as may be", Err: errFull}
		}
	}
	s.o.Metrics.InFlight.Inc()
	return func() { give(); s.o.Metrics.InFlight.Dec() }, nil
}
