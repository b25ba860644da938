package server

import (
	"context"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/metrics"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/limit"
)

// Options of New. Zero values of what has a default take it.
type Options struct {
	Control   Control
	Machine   Machine
	Events    Events    // nil: there is no log
	Registrar Registrar // nil: nobody is told
	Metrics   *metrics.Metrics
	Changed   func() // is called after each step; nil: nobody wants to know

	// Fixed is the part of the state that never changes while the service runs:
	// Version, TLS, Storage.Source, SSH.Port, SSH.HostKey, Warnings, RequireV1 and
	// RequireTLS.
	Fixed api.State

	PerAddress limit.Rate
	PerToken   limit.Rate // of one address, attempts with a token
	PerQuote   limit.Rate // of one address, calls that make a quote
	RateTable  int        // default 10,000

	MaxCalls       int           // at once, default 64
	MaxQuotes      int           // calls that make a quote at once, default 8
	MaxBodies      int           // bytes of bodies in memory, default 8 MiB
	MaxBodiesOfOne int           // of one client, default 1 MiB
	BodyTimeout    time.Duration // for a whole body, default 10s
	CallTimeout    time.Duration // for what a call does, default 30s
	StepTimeout    time.Duration // the same for steps, default 20m
	WriteTimeout   time.Duration // for an answer, default 10s
	LookTimeout    time.Duration // for finding out how things stand, default 3s

	Now    func() time.Time
	Logger *zap.Logger
}

func (o Options) withDefaults() Options {
	number := func(n *int, usual int) {
		if *n == 0 {
			*n = usual
		}
	}
	duration := func(d *time.Duration, usual time.Duration) {
		if *d == 0 {
			*d = usual
		}
	}
	number(&o.RateTable, 10_000)
	number(&o.MaxCalls, 64)
	number(&o.MaxQuotes, 8)
	number(&o.MaxBodies, 8<<20)
	number(&o.MaxBodiesOfOne, 1<<20)
	duration(&o.BodyTimeout, 10*time.Second)
	duration(&o.CallTimeout, 30*time.Second)
	duration(&o.StepTimeout, 20*time.Minute)
	duration(&o.WriteTimeout, 10*time.Second)
	duration(&o.LookTimeout, 3*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	return o
}

// Server serves HTTP.
type Server struct {
	o      Options
	mux    *http.ServeMux
	rates  map[cost]*limit.Table
	bodies *httpd.Bodies
	calls  chan struct{} // holds one value for each call under way
	quotes chan struct{} // and for each that makes a quote

	stopped context.Context // ends with Stop
	stop    context.CancelFunc
}

// New returns a Server.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		o: o, mux: http.NewServeMux(),
		rates: map[cost]*limit.Table{
			cheap: limit.NewTable(o.PerAddress, o.RateTable),
			token: limit.NewTable(o.PerToken, o.RateTable),
			quote: limit.NewTable(o.PerQuote, o.RateTable),
		},
		bodies: httpd.NewBodies(o.MaxBodies, o.MaxBodiesOfOne),
		calls:  make(chan struct{}, o.MaxCalls),
		quotes: make(chan struct{}, o.MaxQuotes),
	}
	s.stopped, s.stop = context.WithCancel(context.Background())
	byPath := map[string][]*route{}
	for i := range routes {
		byPath[routes[i].path] = append(byPath[routes[i].path], &routes[i])
	}
	for pattern, methods := range byPath {
		s.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			s.dispatch(w.(*call), methods)
		}))
	}
	o.Metrics.Watch(s.snapshot)
	return s
}

// Stop ends the calls under way, as far as their steps can be undone, and refuses
// new ones, so that a graceful shutdown of the listeners has little to wait for.
func (s *Server) Stop() { s.stop() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := s.begin(w, r)
	defer c.end()
	c.Deadlines(r, s.o.BodyTimeout, s.o.BodyTimeout+s.o.CallTimeout+s.o.WriteTimeout)
	if err := s.admit(c, cheap); err != nil {
		c.fail(err)
		return
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		c.fail(reason.Refuse(reason.ForeignOrigin, "requests from pages of other origins are not taken"))
		return
	}
	// The mux would redirect to a cleaned path, and answer in HTML.
	escaped := r.URL.EscapedPath()
	if _, pattern := s.mux.Handler(r); pattern == "" || path.Clean(escaped) != escaped {
		c.fail(reason.Refuse(reason.NotFound, "there is no path %.128q", r.URL.Path))
		return
	}
	s.mux.ServeHTTP(c, r)
}

// dispatch runs the route of the request's method.
func (s *Server) dispatch(c *call, methods []*route) {
	method := c.r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	c.pattern = methods[0].path
	allowed := []string{http.MethodOptions}
	for _, m := range methods {
		if m.method == method {
			c.route = m
		}
		allowed = append(allowed, m.method)
		if m.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	if c.route == nil {
		slices.Sort(allowed)
		c.Header().Set("Allow", strings.Join(allowed, ", "))
		if method == http.MethodOptions {
			c.WriteHeader(http.StatusNoContent)
			return
		}
		c.fail(reason.Refuse(reason.MethodNotAllowed, "method %.32q", c.r.Method))
		return
	}
	if err := s.serve(c); err != nil {
		c.fail(err)
	}
}

// serve reads top to bottom: what may be refused before anything is read, the
// body, room for the call, the call.
func (s *Server) serve(c *call) error {
	if err := s.allowed(c); err != nil {
		return err
	}
	var err error
	if c.query, err = httpd.Query(c.r, c.route.query); err != nil {
		return err
	}
	within := s.o.CallTimeout
	if c.route.step {
		within = s.o.StepTimeout
		c.Deadlines(c.r, s.o.BodyTimeout, s.o.BodyTimeout+within+s.o.WriteTimeout)
	}
	if err := c.read(); err != nil {
		return err
	}
	leave, err := s.enter(c)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(c.r.Context(), within)
	defer cancel()
	if !c.route.always {
		defer context.AfterFunc(s.stopped, cancel)()
	}
	c.r = c.r.WithContext(ctx)
	return c.route.handle(s, c)
}
