package tpmextension

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	maxNonceBody = 64 << 10 // bytes of an answer

	nonceRetryFirst = 500 * time.Millisecond
	nonceRetryMax   = 10 * time.Second // at most renew_interval, too
	nonceJitter     = 0.2
	nonceWatch      = 30 * time.Second // how often a pause looks at the clocks

	// nonceTransit is what is left of a nonce's life for the way to the verifier,
	// at most a tenth of it.
	nonceTransit = 5 * time.Minute
)

// errNoNonce says why signing waits.
var errNoNonce = errors.New("no usable nonce")

// lease is a nonce and for how long groups may be signed under it.
type lease struct {
	nonce   []byte
	issued  time.Time     // by the clock of the server
	fetched time.Time     // with monotonic reading
	limit   time.Duration // since fetched
}

// age is the time since l was fetched: by the monotonic clock or, where that
// stood still because the machine slept, by the wall clock.
func (l lease) age(now time.Time) time.Duration {
	return max(now.Sub(l.fetched), now.Round(0).Sub(l.fetched.Round(0)), 0)
}

// next is what takes the place of l when a server answered with n. A relay may
// hand out a nonce again that it kept, which makes it no younger.
func (l lease) next(n lease, now time.Time) lease {
	switch {
	case bytes.Equal(n.nonce, l.nonce) && l.fetched.Before(n.fetched):
		n.fetched = l.fetched
	case n.fetched.Before(l.fetched) && l.age(now) < l.limit:
		return l
	}
	return n
}

// nonceClient keeps a lease fresh in the background.
type nonceClient struct {
	http    *http.Client
	url     string
	cfg     *NonceConfig
	answers answerRules
	logger  *zap.Logger
	failed  func(context.Context) // counts a failed attempt

	mu      sync.Mutex
	lease   lease
	lastErr error         // of the last attempt, nil after a success
	changed chan struct{} // closed and replaced with each new lease
}

func newNonceClient(client *http.Client, cfg *NonceConfig, kid []byte, audience string, logger *zap.Logger, failed func(context.Context)) (*nonceClient, error) {
	target, err := url.JoinPath(cfg.Endpoint, "nonce")
	if err != nil {
		return nil, errNonceEndpoint // err quotes the URL, which may hold a password
	}
	// Configured headers go with every request, so a redirect could carry a
	// credential to a host that nobody configured.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &nonceClient{
		http:    client,
		url:     target + "?kid=" + hex.EncodeToString(kid),
		cfg:     cfg,
		answers: answerRules{kid: kid, audience: audience},
		logger:  logger,
		failed:  failed,
		changed: make(chan struct{}),
	}, nil
}

// run fetches until ctx is done.
func (c *nonceClient) run(ctx context.Context) {
	failures := 0
	for {
		err := c.renew(ctx)
		if ctx.Err() != nil {
			return
		}
		since, pause := time.Now(), c.renewal()
		if err != nil {
			failures++
			c.failed(ctx)
			pause = jitter(min(c.cfg.RenewInterval, nonceRetryMax, nonceRetryFirst<<min(failures-1, 10)))
		}
		c.log(err, failures)
		if err == nil {
			failures = 0
		}
		if !pauseSince(ctx, since, pause) {
			return
		}
	}
}

// renewal is how long after a nonce the next one is fetched: while the last one
// may still be used, whatever the interval is.
func (c *nonceClient) renewal() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return jitter(min(c.cfg.RenewInterval, max(c.lease.limit*2/3, minRenewInterval)))
}

// pauseSince waits until d has passed since then, by the clock that moved
// further: a machine may have slept. False: ctx is done.
func pauseSince(ctx context.Context, since time.Time, d time.Duration) bool {
	for {
		wait := min(d-elapsed(since, time.Now()), nonceWatch)
		if wait <= 0 {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// log tells of the first failure and of the recovery, not of each attempt.
func (c *nonceClient) log(err error, failures int) {
	switch {
	case err != nil && failures == 1:
		message := "cannot get a nonce; signing goes on under the last one for as long as it lasts"
		if !c.had() {
			message = "cannot get a nonce, trying again; signing begins with the first one"
		}
		c.logger.Warn(message, zap.Error(err), zap.Stringer("max_age", c.cfg.MaxAge))
	case err != nil:
		c.logger.Debug("cannot get a nonce", zap.Error(err), zap.Int("failures", failures))
	case failures > 0:
		c.logger.Info("nonces are there again", zap.Int("failures", failures))
	}
}

// had reports whether there was a nonce since the start.
func (c *nonceClient) had() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease.nonce != nil
}

func (c *nonceClient) renew(ctx context.Context) error {
	fetched := time.Now() // before asking: an age never comes out too small
	got, err := c.fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr = err
	if err != nil {
		return err
	}
	// What arrives under a nonce that its issuer does not accept any more is
	// lost, whatever max_age says.
	usable := got.lifetime - min(got.lifetime/10, nonceTransit)
	n := lease{nonce: got.nonce, issued: got.issued, fetched: fetched.Add(-got.age), limit: min(c.cfg.MaxAge, usable)}
	c.lease = c.lease.next(n, time.Now())
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

func (c *nonceClient) fetch(ctx context.Context) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, http.NoBody)
	if err != nil {
		return answer{}, fmt.Errorf("make nonce request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("ask for a nonce: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end or given up
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxNonceBody+1))
	if err != nil {
		return answer{}, fmt.Errorf("read the nonce answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return answer{}, fmt.Errorf("%s answers %s: %s", req.URL.Host, resp.Status, said(body))
	}
	got, err := c.answers.parse(body)
	got.age = ageOf(resp.Header)
	return got, err
}

// ageOf is how long a relay has kept an answer: Age, whole seconds (RFC 9111,
// section 5.1). What is none is ignored.
func ageOf(h http.Header) time.Duration {
	const bits = 31
	seconds, err := strconv.ParseUint(h.Get("Age"), 10, bits)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second // at most 68 years
}

// get returns the nonce to sign under, waiting for one when there is none that
// may still be used. waits is called, once, when it has to.
func (c *nonceClient) get(ctx context.Context, waits func(error)) ([]byte, error) {
	for {
		c.mu.Lock()
		l, changed, lastErr := c.lease, c.changed, c.lastErr
		c.mu.Unlock()
		if l.nonce != nil && l.age(time.Now()) < l.limit {
			return l.nonce, nil
		}
		if waits != nil {
			waits(noNonce(l, lastErr))
			waits = nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		}
	}
}

func noNonce(l lease, lastErr error) error {
	err := errNoNonce
	if l.nonce != nil {
		err = fmt.Errorf("%w: the last one is older than %v", err, l.limit)
	}
	if lastErr != nil {
		err = fmt.Errorf("%w: %w", err, lastErr)
	}
	return err
}

// issued returns when the nonce in use was issued, by its server's clock.
func (c *nonceClient) issued() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease.issued
}

// age returns the age of the nonce in use, false before the first.
func (c *nonceClient) age(now time.Time) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease.age(now), c.lease.nonce != nil
}

// err returns why the last attempt failed, nil when it did not.
func (c *nonceClient) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastErr
}

// jitter spreads d by ±20 %, so that a fleet started together does not ask together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + nonceJitter*(2*rand.Float64()-1))) //nolint:gosec // spreads load, guards nothing
}
