package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/limit"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
	"github.com/telemark-otel/telemark/registryd/internal/metrics"
)

// Defaults of bodies. They leave room for a whole import of one operator, and
// for as many enrolments as are verified and wait at once.
const (
	defaultBodies      = 128 << 20
	defaultBodiesOfOne = 16 << 20
)

// Options of New. Zero values of what has a default take it.
type Options struct {
	Enrolment Enrolment
	Instances Instances
	Fleet     Fleet
	Store     Store
	Signer    Signer
	Metrics   *metrics.Metrics
	// PublicKey is the registry's, as PEM.
	PublicKey []byte
	// Off names what protects and is switched off; /health shows it.
	Off     []string
	Version string
	// Collateral is the part of /ready about collateral; nil does not ask.
	Collateral func(context.Context) error

	// Vouched reports whether a client's certificate counts still, which TLS
	// verified when the connection began; nil takes all of them.
	Vouched func(*tls.ConnectionState) bool

	RequireAuth bool
	Proxies     []netip.Prefix // whose X-Forwarded-For counts
	PerAddress  limit.Rate
	PerKey      limit.Rate
	RateTable   int // default 100,000

	MaxVerifications int           // default 8
	MaxStreams       int           // default 4,096
	MaxBodies        int           // bytes of bodies in memory, default 128 MiB
	MaxBodiesOfOne   int           // of one client, default 16 MiB
	BodyTimeout      time.Duration // for a whole body, default 10s
	CallTimeout      time.Duration // for what a call does, default 30s
	WriteTimeout     time.Duration // for an answer or one event, default 10s
	Heartbeat        time.Duration // default 1s
	StaleAfter       time.Duration // without reading the store streams fall silent, default 2.5 heartbeats
	KeepEvents       int           // in memory, for streams that are a little behind; default 4,096

	Now    func() time.Time
	Logger *zap.Logger
}

// Server serves HTTP.
type Server struct {
	o          Options
	auth       atomic.Pointer[auth.Auth]
	mux        *http.ServeMux
	perAddress *limit.Table
	perKey     *limit.Table
	gate       *gate
	bodies     *httpd.Bodies
	hub        *hub
	streams    chan struct{} // holds one value for each stream
	checks     *checks
	stopping   atomic.Bool
}

func (o Options) withDefaults() Options {
	if o.RateTable == 0 {
		o.RateTable = 100_000
	}
	if o.MaxVerifications == 0 {
		o.MaxVerifications = 8
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 4096
	}
	if o.MaxBodies == 0 {
		o.MaxBodies = defaultBodies
	}
	if o.MaxBodiesOfOne == 0 {
		o.MaxBodiesOfOne = defaultBodiesOfOne
	}
	if o.BodyTimeout == 0 {
		o.BodyTimeout = 10 * time.Second
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 30 * time.Second
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 10 * time.Second
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = time.Second
	}
	if o.StaleAfter == 0 {
		o.StaleAfter = 5 * o.Heartbeat / 2
	}
	if o.KeepEvents == 0 {
		o.KeepEvents = 4096
	}
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

// New returns a Server. Run has to run for event streams to carry anything.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		o: o, mux: http.NewServeMux(),
		perAddress: limit.NewTable(o.PerAddress, o.RateTable),
		perKey:     limit.NewTable(o.PerKey, o.RateTable),
		gate:       newGate(o.MaxVerifications, o.Metrics),
		bodies:     httpd.NewBodies(o.MaxBodies, o.MaxBodiesOfOne),
		hub:        newHub(o),
		streams:    make(chan struct{}, o.MaxStreams),
	}
	s.checks = newChecks(o)
	s.auth.Store(auth.New(nil))
	s.build()
	return s
}

// SetAuth changes who is who.
func (s *Server) SetAuth(a *auth.Auth) {
	s.auth.Store(a)
	s.Reauthenticate()
}

// Reauthenticate ends the streams, those too that are just being let in, so that
// each shows its credentials again.
func (s *Server) Reauthenticate() { s.hub.cut() }

// Run reads events from the store until ctx ends.
func (s *Server) Run(ctx context.Context) { s.hub.run(ctx) }

// Stop ends event streams and makes the server unready, so that a graceful
// shutdown of the listener has only short requests to wait for.
func (s *Server) Stop() {
	s.stopping.Store(true)
	s.hub.close()
}

// build fills the mux: one handler for each path, which picks the method, so
// that refusals are answered in our words.
func (s *Server) build() {
	byPath := map[string][]*route{}
	for i := range routes {
		byPath[routes[i].path] = append(byPath[routes[i].path], &routes[i])
	}
	for pattern, methods := range byPath {
		s.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.dispatch(w.(*call), r, methods)
		}))
	}
}

// dispatch runs the route of the request's method.
func (s *Server) dispatch(c *call, r *http.Request, methods []*route) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	c.r = r // with the path's parameters
	c.pattern = methods[0].path
	for _, m := range methods {
		if m.method == method && (!m.stream || r.Method != http.MethodHead) {
			c.route = m
		}
	}
	if c.route == nil {
		var allowed []string
		for _, m := range methods {
			allowed = append(allowed, m.method)
			if m.method == http.MethodGet && !m.stream {
				allowed = append(allowed, http.MethodHead)
			}
		}
		slices.Sort(allowed)
		c.Header().Set("Allow", strings.Join(allowed, ", "))
		c.fail(refuseMethod(r.Method))
		return
	}
	if err := s.serve(c); err != nil {
		c.fail(err)
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := s.begin(w, r)
	defer c.end()
	c.Deadlines(r, s.o.BodyTimeout, s.o.BodyTimeout+s.o.CallTimeout+s.o.WriteTimeout)
	if err := s.admit(c); err != nil {
		c.fail(err)
		return
	}
	// The mux would redirect to a cleaned path, and answer in HTML.
	escaped := r.URL.EscapedPath()
	if _, pattern := s.mux.Handler(r); pattern == "" || path.Clean(escaped) != escaped {
		c.fail(refusePath(r.URL.Path))
		return
	}
	s.mux.ServeHTTP(c, r)
}

// serve authorises, checks parameters and runs the handler.
func (s *Server) serve(c *call) error {
	if err := s.authorise(c); err != nil {
		return err
	}
	if _, err := httpd.Query(c.r, c.route.query, "label"); err != nil {
		return err
	}
	if c.route.body == 0 && c.r.ContentLength != 0 {
		return refuseBody()
	}
	if name := c.route.subject; name != "" {
		if err := s.limitSubject(c, name, c.r.PathValue(name)); err != nil {
			return err
		}
	}
	if !c.route.stream {
		ctx, cancel := context.WithTimeout(c.r.Context(), s.o.CallTimeout)
		defer cancel()
		c.r = c.r.WithContext(ctx)
	}
	return c.route.handle(s, c)
}

var errPanicked = errors.New("a handler panicked")
