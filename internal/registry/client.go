package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// Options of New. Durations must be above 0.
type Options struct {
	Endpoint string // URL under which /v1/keys answers
	// HTTP makes a client with connections of its own. It is called again when
	// connections no longer answer.
	HTTP     func(context.Context) (*http.Client, error)
	Verifier *answer.Verifier
	// Cache is the path of the file that keeps the signed answers, "" for none.
	Cache    string
	Refresh  time.Duration // between snapshots while there is no stream of events
	MaxStale time.Duration // how long keys are relied on after they were last proven to be current
	Skew     time.Duration // how far the registry's clock may differ
	Timeout  time.Duration // of one request
	Logger   *zap.Logger
	Observer Observer
	Now      func() time.Time // time.Now when nil
	Random   io.Reader        // crypto/rand when nil
}

// Observer is told what happens. Its methods may be called concurrently and
// must return quickly.
type Observer interface {
	// LookedUp counts a key that was asked for by itself.
	LookedUp(Outcome)
	// Refused counts an answer that was not believed.
	Refused(Refusal)
	// Observe gets the state at each change and at least every second.
	Observe(Status)
}

// Outcome is how a look-up of one key ended.
type Outcome string

// The outcomes.
const (
	OutcomeKnown   Outcome = "known"
	OutcomeUnknown Outcome = "unknown" // under a signature
	OutcomeFailed  Outcome = "failed"  // no answer, or one that is not believed
	OutcomeDelayed Outcome = "delayed" // too many at once: the next snapshot answers
)

// Outcomes returns all of them.
func Outcomes() []Outcome {
	return []Outcome{OutcomeKnown, OutcomeUnknown, OutcomeFailed, OutcomeDelayed}
}

// Status is how it stands with the registry.
type Status struct {
	Up        bool          // the last request or heartbeat was answered and believed
	Streaming bool          // events arrive
	Usable    bool          // what is known may be relied on now
	Age       time.Duration // since it was last proven to be current; below 0 when it never was
	Revision  uint64
	Keys      int
	Err       error // why it is not Up; nil before the first request ended
}

// proof is until when the mirror may be relied on, and as of when it was
// proven to be current.
type proof struct{ at, until time.Time }

// Client mirrors one registry. Open it with New, then Start.
type Client struct {
	o       Options
	base    *url.URL
	changes signal
	kick    chan struct{} // one place: ask for a snapshot soon
	save    chan bool     // one place: true writes the cache at once

	proven atomic.Pointer[proof]
	// complete is when the last snapshot was asked for that left nothing out:
	// what the mirror does not hold was unknown then.
	complete  atomic.Pointer[time.Time]
	streaming atomic.Bool
	failing   atomic.Bool // the last exchange failed: nothing but snapshots is asked for

	requests connections // for snapshots and look-ups
	sights   *sightings
	limiter  *rate.Limiter
	slots    chan struct{} // look-ups under way

	running context.Context // ends with Close
	stop    context.CancelFunc
	tasks   sync.WaitGroup

	mu     sync.Mutex // guards what follows, and the order of changes to views
	begun  bool
	closed bool // no task begins any more
	mirror mirror
	views  []*Keys
	err    error // of the last exchange, nil when it went well
	tried  bool  // an exchange has ended
	synced bool  // a snapshot was completed by this process
	cache  cache
}

// Bounds of what is done for keys that nobody knows: whoever sends telemetry
// names them as he likes.
const (
	maxLookups   = 8
	lookupRate   = 100 // a second
	lookupBurst  = 200
	maxSightings = 8192
	maxKeys      = 200_000
	pageLimit    = 1000
)

// Errors of New.
var (
	errEndpoint = errors.New("the registry's endpoint must be a URL like https://registry:3000")
	errBounds   = errors.New("refresh, max_stale, skew and timeout must be above 0")
)

// New returns a client that does nothing yet.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.Endpoint)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.RawQuery != "" || base.Fragment != "" {
		return nil, errEndpoint // the error of url.Parse quotes what may hold a password
	}
	if o.Refresh <= 0 || o.MaxStale <= 0 || o.Skew <= 0 || o.Timeout <= 0 {
		return nil, errBounds
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	c := &Client{
		o:        o,
		base:     base,
		kick:     make(chan struct{}, 1),
		save:     make(chan bool, 1),
		requests: connections{dial: o.HTTP},
		sights:   newSightings(),
		limiter:  rate.NewLimiter(lookupRate, lookupBurst),
		slots:    make(chan struct{}, maxLookups),
		mirror:   newMirror(),
	}
	c.changes.init()
	c.proven.Store(&proof{})
	c.complete.Store(&time.Time{})
	c.running, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Keys returns a view under these defaults. It may be called at any time.
func (c *Client) Keys(defaults *policy.Policy) *Keys {
	k := newKeys(c, defaults)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views = append(c.views, k)
	all := make([]change, 0, len(c.mirror.records))
	for kid, r := range c.mirror.records {
		all = append(all, change{kid: kid, record: &r.Record, until: r.until})
	}
	c.report(k.update(all))
	return k
}

func (c *Client) forget(k *Keys) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views = slices.DeleteFunc(c.views, func(v *Keys) bool { return v == k })
}

// Start reads the cache and begins to follow the registry. It waits for the
// first answer, but no longer than wait: without one, blocks wait instead.
func (c *Client) Start(ctx context.Context, wait time.Duration) error {
	if _, err := c.requests.get(ctx); err != nil {
		return fmt.Errorf("set up the connection to the registry: %w", err)
	}
	if c.o.Cache != "" {
		if err := os.MkdirAll(filepath.Dir(c.o.Cache), 0o700); err != nil {
			return fmt.Errorf("make a place for the registry's cache: %w", err)
		}
	}
	c.load()
	first := make(chan struct{})
	c.mu.Lock()
	c.begun = true
	c.mu.Unlock()
	c.begin(func(run context.Context) { c.poll(run, first) })
	c.begin(func(run context.Context) { c.follow(run, first) })
	c.begin(c.keep)
	c.begin(c.tell)
	select {
	case <-first:
	case <-time.After(wait):
	case <-ctx.Done():
	}
	return nil
}

// Close ends everything and writes the cache. It may be called without Start.
func (c *Client) Close() error {
	c.mu.Lock()
	write := c.begun && !c.closed
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.tasks.Wait()
	c.requests.drop(nil)
	if !write {
		return nil
	}
	return c.write()
}

// begin runs a task that ends with Close, between Start and Close only.
func (c *Client) begin(task func(context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun || c.closed {
		return false
	}
	c.tasks.Go(func() { task(c.running) })
	return true
}

// Status returns how it stands.
func (c *Client) Status() Status {
	p := c.proven.Load()
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{
		Up:        c.tried && c.err == nil,
		Streaming: c.streaming.Load(),
		Usable:    !past(now, p.until),
		Age:       -1,
		Revision:  c.mirror.revision,
		Keys:      len(c.mirror.records),
		Err:       c.err,
	}
	if !p.at.IsZero() {
		s.Age = max(now.Sub(p.at), 0)
	}
	return s
}

// tell keeps the observer up to date.
func (c *Client) tell(ctx context.Context) {
	for {
		c.observe()
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

func (c *Client) observe() {
	if c.o.Observer != nil {
		c.o.Observer.Observe(c.Status())
	}
}

func (c *Client) now() time.Time { return c.o.Now() }

// stale says why nothing is relied on.
func (c *Client) stale() error {
	p := c.proven.Load()
	if p.at.IsZero() {
		return fmt.Errorf("%w: the registry has not been reached yet", verdict.ErrUnavailable)
	}
	return fmt.Errorf("%w: what it last said is of %s", verdict.ErrUnavailable, p.at.UTC().Format(time.RFC3339))
}

// ended remembers how an exchange ended, and tells when that changed.
func (c *Client) ended(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if r, ok := errors.AsType[*RefusedError](err); ok {
		c.count(r.Refusal)
	}
	c.mu.Lock()
	was, first := c.err, !c.tried
	c.err, c.tried = err, true
	if r, ok := errors.AsType[*RefusedError](err); ok && r.Refusal == RefusedRollback {
		c.mirror.rewind()
	}
	c.mu.Unlock()
	c.failing.Store(err != nil)
	switch {
	case err != nil && (first || was == nil || was.Error() != err.Error()):
		c.o.Logger.Warn("the registry cannot be asked or is not believed; keys are relied on for max_stale", zap.Error(err),
			zap.Duration("max_stale", c.o.MaxStale))
		c.observe()
	case err == nil && (first || was != nil):
		c.o.Logger.Info("the registry answers")
		c.observe()
	}
}

// distrust makes an answer that is not believed show, whatever the question
// was; how the next snapshot ends decides whether it stays.
func (c *Client) distrust(err error) {
	if _, ok := errors.AsType[*RefusedError](err); ok {
		c.ended(err)
		c.want()
	}
}

func (c *Client) count(r Refusal) {
	if c.o.Observer != nil {
		c.o.Observer.Refused(r)
	}
}

// report tells of records that cannot be read; the others count.
func (c *Client) report(broken []error) {
	for i, err := range broken {
		c.count(RefusedEntry)
		if i == 0 {
			c.o.Logger.Error("what the registry says of a key cannot be read; its blocks wait", zap.Error(err), zap.Int("keys", len(broken)))
		}
	}
}

// nonce returns what has to stand in the answer to one request.
func (c *Client) nonce() ([]byte, error) {
	n := make([]byte, nonceSize)
	if _, err := io.ReadFull(c.o.Random, n); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	return n, nil
}

const nonceSize = 32

// signal wakes all who wait for the next change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func (s *signal) init() { s.ch = make(chan struct{}) }

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
