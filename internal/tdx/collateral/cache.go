package collateral

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// cache keeps verified collateral by kind of platform. Collateral within its
// time is served at once, and asked for anew in the background when it is
// older than refresh; past its time it is not served at all. At most one fetch
// per kind is under way. Failures are remembered for a while.
type cache struct {
	source                     Source
	options                    tdx.Options
	dir                        string
	floors                     Floors
	refresh, negative, timeout time.Duration
	limit                      int
	log                        *zap.Logger

	ctx    context.Context // of the background; ended by close
	cancel context.CancelFunc
	work   sync.WaitGroup

	fetches, failures atomic.Uint64

	mu     sync.Mutex
	closed bool
	sets   map[platform]*set
}

// set is the collateral of one kind of platform. All of it is under cache.mu.
type set struct {
	current *tdx.Endorsements // nil: none yet
	fetched time.Time         // zero: read from the directory
	flight  *flight           // nil: no fetch under way
	failure error             // of the last fetch; nil when it succeeded
	failed  time.Time
	used    time.Time
}

// flight is a fetch. Its result is there once done is closed.
type flight struct {
	done   chan struct{}
	result *tdx.Endorsements
	err    error
}

// Stats of a cache.
type Stats struct {
	Fetches  uint64 // of all documents of a kind, from the source
	Failures uint64 // among them
	Sets     int    // kinds of platforms kept
}

func newCache(o *Options, verify tdx.Options) *cache {
	c := &cache{
		source: o.Source, options: verify, dir: o.Dir, floors: o.Floors,
		refresh: o.Refresh, negative: o.Negative, timeout: o.Timeout, limit: o.Sets,
		log: o.Logger, sets: map[platform]*set{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

func (c *cache) stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Fetches: c.fetches.Load(), Failures: c.failures.Load(), Sets: len(c.sets)}
}

func (c *cache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
}

// get returns collateral that is within its time at now.
func (c *cache) get(ctx context.Context, p platform, now time.Time) (*tdx.Endorsements, error) {
	c.mu.Lock()
	s := c.set(p, now)
	lately := s.failure != nil && now.Sub(s.failed) < c.negative && !now.Before(s.failed)
	if s.current != nil && !now.After(s.current.NotAfter()) {
		defer c.mu.Unlock()
		if now.Sub(s.fetched) >= c.refresh && !lately {
			c.start(p, s, now)
		}
		return s.current, nil
	}
	if lately && s.flight == nil {
		defer c.mu.Unlock()
		return nil, pastItsTime(s.current != nil, s.failure)
	}
	f := c.start(p, s, now)
	c.mu.Unlock()
	if f == nil {
		return nil, api.Refuse(api.CollateralUnavailable, "the registry stops")
	}
	select {
	case <-f.done:
		return f.result, f.err
	case <-ctx.Done():
		return nil, api.Because(api.CollateralUnavailable, ctx.Err())
	}
}

// set finds or makes the set of a kind, and forgets the one that was not used
// for longest when there are too many. c.mu is held.
func (c *cache) set(p platform, now time.Time) *set {
	s := c.sets[p]
	if s == nil {
		if len(c.sets) >= c.limit {
			c.evict()
		}
		s = &set{}
		c.sets[p] = s
	}
	s.used = now
	return s
}

func (c *cache) evict() {
	var oldest *platform
	for p, s := range c.sets {
		if s.flight == nil && (oldest == nil || s.used.Before(c.sets[*oldest].used)) {
			oldest = &p
		}
	}
	if oldest != nil {
		delete(c.sets, *oldest)
	}
}

// start begins a fetch unless one is under way. c.mu is held. It returns nil
// after close.
func (c *cache) start(p platform, s *set, now time.Time) *flight {
	if s.flight != nil || c.closed {
		return s.flight
	}
	f := &flight{done: make(chan struct{})}
	s.flight = f
	had := s.current
	c.work.Go(func() {
		fetched := now
		if had == nil && c.dir != "" {
			// What is on disk is served first and asked for anew afterwards.
			if f.result, f.err = c.load(p, now); f.err == nil {
				fetched = time.Time{}
			}
		}
		if f.result == nil {
			f.result, f.err = c.fetch(p, had, f.err, now)
		}
		c.land(s, f, fetched, now)
	})
	return f
}

// land puts the outcome of a fetch into its set.
func (c *cache) land(s *set, f *flight, fetched, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.err == nil {
		s.current, s.fetched, s.failure = f.result, fetched, nil
	} else {
		s.failure, s.failed = f.err, now
	}
	s.flight = nil
	close(f.done)
}

// load reads what was kept on disk.
func (c *cache) load(p platform, now time.Time) (*tdx.Endorsements, error) {
	raw, err := Bundle{c.dir}.Get(c.ctx, p.fmspc, p.ca)
	if err != nil {
		return nil, err
	}
	return c.accept(c.ctx, p, raw, now)
}

// fetch asks the source. What went before explains why there is nothing: that
// collateral is past its time says more than that none can be fetched.
func (c *cache) fetch(p platform, had *tdx.Endorsements, before error, now time.Time) (*tdx.Endorsements, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	c.fetches.Add(1)
	raw, err := c.source.Get(ctx, p.fmspc, p.ca)
	var e *tdx.Endorsements
	if err == nil {
		e, err = c.accept(ctx, p, raw, now)
	}
	if err != nil {
		c.failures.Add(1)
		c.log.Warn("collateral could not be renewed", zap.String("fmspc", p.fmspc), zap.String("ca", p.ca), zap.Error(err))
		expired := had != nil && now.After(had.NotAfter()) || api.ReasonOf(before) == api.CollateralExpired
		return nil, pastItsTime(expired, err)
	}
	if c.dir != "" {
		if err := p.store(c.dir, raw); err != nil {
			c.log.Warn("collateral could not be kept", zap.Error(err))
		}
	}
	return e, nil
}

// pastItsTime is the reason where there is collateral that expired, and none
// newer can be fetched.
func pastItsTime(expired bool, err error) error {
	if expired && api.ReasonOf(err) == api.CollateralUnavailable {
		return &api.Error{Reason: api.CollateralExpired, Err: err}
	}
	return err
}

// accept verifies collateral and refuses what is older than was seen.
func (c *cache) accept(ctx context.Context, p platform, raw *tdx.Collateral, now time.Time) (*tdx.Endorsements, error) {
	e, err := tdx.Open(raw, c.options, now)
	if err != nil {
		return nil, err
	}
	if e.FMSPC() != p.fmspc || e.CA() != p.ca {
		return nil, api.Refuse(api.CollateralMismatch, "asked for %s and %s, got %s and %s", p.fmspc, p.ca, e.FMSPC(), e.CA())
	}
	for name, n := range e.Marks() {
		floor, err := c.floors.Floor(ctx, name)
		if err != nil {
			return nil, api.Because(api.StoreUnavailable, err)
		}
		if n < floor {
			return nil, api.Refuse(api.CollateralRolledBack, "%s has number %d, and %d was seen", name, n, floor)
		}
	}
	if err := c.floors.Raise(ctx, e.Marks()); err != nil {
		return nil, api.Because(api.StoreUnavailable, err)
	}
	return e, nil
}
