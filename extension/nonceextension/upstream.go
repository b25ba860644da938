package nonceextension

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"golang.org/x/sync/singleflight"
)

// maxUpstreamAnswer bounds what is read of the issuing server: 1,000 nonces of 64 bytes fit.
const maxUpstreamAnswer = 1 << 20

// While the issuing server fails, it is asked after pauses that double.
const (
	firstProbe = 250 * time.Millisecond
	maxProbe   = 15 * time.Second
)

// upstream is the issuing server as the relay sees it:
//
//	up ──an attempt fails──▶ down, its reason is the answer to all ──a probe succeeds──▶ up
//
// Nobody waits for a server that is down, and it is not asked by everybody at once
// when it comes back. Its methods may be called at the same time.
type upstream struct {
	client *http.Client
	base   string
	// judge says whether an answer is of use, and keeps what is in it.
	judge func([]kid, upstreamAnswer) bool
	// changed is told of each change, with nil when the server answers. It is called under mu.
	changed func(*refusal)

	calls  singleflight.Group // requests for one key, by the key
	ctx    context.Context    //nolint:containedctx // ends with the relay; callers come and go
	cancel context.CancelFunc
	work   sync.WaitGroup // the prober and attempts; added to under mu

	mu    sync.Mutex
	state upstreamState
}

// upstreamState is what the latest attempts say. A zero time is never.
type upstreamState struct {
	down      *refusal  // nil while it answers
	since     time.Time // it is as it is
	answered  time.Time // when it did so last
	lastError *refusal
	failedAt  time.Time
	nextProbe time.Time // while it is down
	probing   bool      // a goroutine is at it
	closed    bool
}

// upstreamAnswer is one that is for the agent: a success, or a refusal of what
// the agent asked.
type upstreamAnswer struct {
	status     int
	body       []byte // JSON
	many       bool   // of POST /nonces
	retryAfter string
	asked      time.Time
}

func upstreamClient(ctx context.Context, e *Extension, host component.Host) (*http.Client, error) {
	cfg := *e.cfg.Upstream.Get()
	client, err := cfg.ToClient(ctx, host.GetExtensions(), e.set.TelemetrySettings)
	if err != nil {
		return nil, fmt.Errorf("client of `upstream`: %w", err)
	}
	// A redirect would lead requests to where nobody configured.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client, nil
}

func newUpstream(client *http.Client, base string, judge func([]kid, upstreamAnswer) bool) *upstream {
	ctx, cancel := context.WithCancel(context.Background())
	return &upstream{
		client: client, base: strings.TrimSuffix(base, "/"), judge: judge, changed: func(*refusal) {},
		ctx: ctx, cancel: cancel,
	}
}

// stop ends what is under way.
func (u *upstream) stop() {
	u.mu.Lock()
	u.state.closed = true
	u.mu.Unlock()
	u.cancel()
	u.work.Wait()
	u.client.CloseIdleConnections()
}

// nonce asks for the nonce of one key; callers who ask for the same at the same
// time share an answer.
func (u *upstream) nonce(ctx context.Context, k kid) (upstreamAnswer, error) {
	if err := u.failed(); err != nil {
		return upstreamAnswer{}, err
	}
	call := u.calls.DoChan(string(k[:]), func() (any, error) { return u.attempt(k) })
	select {
	case <-ctx.Done():
		return upstreamAnswer{}, context.Cause(ctx)
	case r := <-call:
		a, _ := r.Val.(upstreamAnswer)
		return a, r.Err
	}
}

func (u *upstream) attempt(k kid) (upstreamAnswer, error) {
	return u.tracked(k, func() (upstreamAnswer, error) {
		return u.ask([]kid{k}, http.MethodGet, "/nonce?kid="+k.String(), nil)
	})
}

// tracked runs an attempt, unless the relay has been stopped, and learns from it.
func (u *upstream) tracked(k kid, attempt func() (upstreamAnswer, error)) (upstreamAnswer, error) {
	u.mu.Lock()
	if u.state.closed {
		u.mu.Unlock()
		return upstreamAnswer{}, context.Canceled
	}
	u.work.Add(1)
	u.mu.Unlock()
	defer u.work.Done()
	a, err := attempt()
	u.learn(err, k)
	return a, err
}

// nonces asks for the nonces of several keys.
func (u *upstream) nonces(ctx context.Context, kids [][]byte) (upstreamAnswer, error) {
	if err := u.failed(); err != nil {
		return upstreamAnswer{}, err
	}
	keys := make([]kid, len(kids))
	req := kidsRequest{KIDs: make([]string, len(kids))}
	for i, b := range kids {
		keys[i] = kidOf(b)
		req.KIDs[i] = keys[i].String()
	}
	body, err := json.Marshal(req)
	if err != nil {
		return upstreamAnswer{}, err
	}
	a, err := u.tracked(keys[0], func() (upstreamAnswer, error) {
		return u.ask(keys, http.MethodPost, "/nonces", body)
	})
	if ctx.Err() != nil {
		return upstreamAnswer{}, context.Cause(ctx)
	}
	return a, err
}

// failed returns why the server is not asked at present.
func (u *upstream) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state.down == nil {
		return nil
	}
	return u.state.down
}

func (u *upstream) snapshot() upstreamState {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state
}

// learn takes note of an attempt. The key of one that failed is asked for again
// until it succeeds.
func (u *upstream) learn(err error, k kid) {
	now := time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	s := &u.state
	if s.closed {
		return // the attempt may have been cut off
	}
	var down *refusal
	if !errors.As(err, &down) {
		if s.down != nil || s.answered.IsZero() {
			s.since = now
			u.changed(nil)
		}
		s.down, s.answered, s.nextProbe = nil, now, time.Time{}
		return
	}
	s.lastError, s.failedAt = down, now
	if s.down == nil {
		s.since = now
		u.changed(down)
	}
	s.down = down
	if !s.probing {
		s.probing = true
		u.work.Go(func() { u.probe(k) })
	}
}

// probe asks until the server answers.
func (u *upstream) probe(k kid) {
	for base := firstProbe; ; base = min(2*base, maxProbe) {
		pause := jittered(base)
		if !u.probesAfter(pause) {
			return
		}
		select {
		case <-u.ctx.Done():
			return
		case <-time.After(pause):
		}
		_, _ = u.attempt(k) // what comes of it is in the state
	}
}

// probesAfter says whether there is anything to probe for.
func (u *upstream) probesAfter(pause time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := &u.state
	s.probing = s.down != nil && !s.closed
	if s.probing {
		s.nextProbe = time.Now().Add(pause)
	}
	return s.probing
}

// jittered spreads d by a fifth to both sides, so that gateways that lost a server
// together do not ask together.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // spreads load, guards nothing
}

// ask is one attempt. Its errors are refusals.
func (u *upstream) ask(kids []kid, method, path string, body []byte) (upstreamAnswer, error) {
	a := upstreamAnswer{asked: time.Now(), many: method == http.MethodPost}
	req, err := http.NewRequestWithContext(u.ctx, method, u.base+path, bytes.NewReader(body))
	if err != nil {
		return a, &refusal{http.StatusBadGateway, codeUpstreamUnavailable, "the issuing server cannot be asked"}
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return a, transportError(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxUpstreamAnswer+1)); err != nil {
		return a, transportError(err)
	}
	a.status, a.retryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
	switch {
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		return a, &refusal{http.StatusBadGateway, codeUpstreamRefused, fmt.Sprintf("the issuing server refuses this gateway with status %d", a.status)}
	case len(a.body) > maxUpstreamAnswer || !json.Valid(a.body),
		a.status != http.StatusOK && (a.status < 400 || a.status >= 500),
		!u.judge(kids, a):
		return a, &refusal{http.StatusBadGateway, codeUpstreamInvalid, fmt.Sprintf("the issuing server gives no usable answer (status %d)", a.status)}
	default:
		return a, nil
	}
}

// transportError says no more than the class of the error: names and addresses
// behind a gateway are none of its callers' business.
func transportError(err error) error {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return &refusal{http.StatusGatewayTimeout, codeUpstreamTimeout, "the issuing server does not answer in time"}
	}
	return &refusal{http.StatusBadGateway, codeUpstreamUnavailable, "the issuing server cannot be reached"}
}
