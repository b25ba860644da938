package nonceextension

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/telemark-otel/telemark/internal/limit"
)

// limiter is an extension that limits requests. RateLimits returns how its limits
// stand, with at most fullest keys of each; it may be called at any time.
type limiter interface {
	RateLimits(fullest int) limit.Status
}

// limitersOf returns the limiters among the extensions of host, by name.
func limitersOf(host component.Host) []limiter {
	named := map[string]limiter{}
	var names []string
	for id, ext := range host.GetExtensions() {
		if l, ok := ext.(limiter); ok {
			named[id.String()] = l
			names = append(names, id.String())
		}
	}
	slices.Sort(names)
	out := make([]limiter, len(names))
	for i, name := range names {
		out[i] = named[name]
	}
	return out
}

// relayCounts counts since the start.
type relayCounts struct {
	requests atomic.Uint64
	relayed  atomic.Uint64 // nonces
	kept     atomic.Uint64 // nonces handed out again
	refused  map[code]*atomic.Uint64
}

// relayRefusals are the reasons for which a relay refuses.
var relayRefusals = []code{
	codeKIDMissing, codeKIDInvalid, codeKIDsTooMany, codeRequestInvalid, codeRequestTooLarge, codeInternal,
	codeIssuerRefused, codeUpstreamUnavailable, codeUpstreamTimeout, codeUpstreamRefused, codeUpstreamInvalid,
}

func newRelayCounts() *relayCounts {
	c := &relayCounts{refused: map[code]*atomic.Uint64{}}
	for _, why := range relayRefusals {
		c.refused[why] = new(atomic.Uint64)
	}
	return c
}

func (c *relayCounts) refuse(err error) {
	why := codeInternal
	if r := (*refusal)(nil); errors.As(err, &r) && c.refused[r.code] != nil {
		why = r.code
	}
	c.refused[why].Add(1)
}

// gatewayAnswer is the body of GET /gateway/status.
type gatewayAnswer struct {
	Status        string            `json:"status"` // ok or degraded, as health says
	Role          string            `json:"role"`
	Version       string            `json:"version"`
	StartedAt     string            `json:"started_at"`
	UptimeSeconds int64             `json:"uptime_seconds"`
	Upstream      upstreamStatus    `json:"upstream"`
	Requests      uint64            `json:"requests"` // for nonces
	Relayed       uint64            `json:"nonces_relayed"`
	KeptServed    uint64            `json:"nonces_from_kept"` // handed out again
	Kept          int               `json:"nonces_kept"`      // now
	Refused       map[code]uint64   `json:"refused,omitempty"`
	RateLimited   map[string]uint64 `json:"rate_limited,omitempty"` // refusals of all rate limits, by reason
}

// upstreamStatus is how the issuing server stands. What never was is absent.
type upstreamStatus struct {
	State      string         `json:"state"` // unknown before the first request, reachable, unreachable
	Since      string         `json:"since,omitempty"`
	LastAnswer string         `json:"last_answer,omitempty"`
	LastError  *upstreamError `json:"last_error,omitempty"`
	NextProbe  string         `json:"next_probe,omitempty"`
}

type upstreamError struct {
	Error  string `json:"error"`
	Reason code   `json:"reason"`
	At     string `json:"at"`
}

// status says how the gateway stands: nothing about keys or the addresses behind it.
func (y *relay) status(w http.ResponseWriter, _ *http.Request) {
	up := y.upstream.snapshot()
	a := gatewayAnswer{
		Status: healthOK, Role: roleRelay, Version: y.set.BuildInfo.Version,
		StartedAt: formatTime(y.started), UptimeSeconds: int64(time.Since(y.started).Seconds()),
		Upstream: up.status(),
		Requests: y.counts.requests.Load(), Relayed: y.counts.relayed.Load(), KeptServed: y.counts.kept.Load(), Kept: y.kept.len(),
		Refused: map[code]uint64{}, RateLimited: map[string]uint64{},
	}
	if up.down != nil {
		a.Status = healthDegraded
	}
	for why, n := range y.counts.refused {
		if n := n.Load(); n > 0 {
			a.Refused[why] = n
		}
	}
	for _, l := range y.limiters {
		for why, n := range l.RateLimits(0).Refused {
			a.RateLimited[why] += n
		}
	}
	answer(w, http.StatusOK, a)
}

func (s *upstreamState) status() upstreamStatus {
	moment := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return formatTime(t)
	}
	out := upstreamStatus{State: "reachable", Since: moment(s.since), LastAnswer: moment(s.answered), NextProbe: moment(s.nextProbe)}
	switch {
	case s.down != nil:
		out.State = "unreachable"
	case s.answered.IsZero():
		out.State = "unknown"
	default:
	}
	if s.lastError != nil {
		out.LastError = &upstreamError{Error: s.lastError.msg, Reason: s.lastError.code, At: formatTime(s.failedAt)}
	}
	return out
}

// rateLimitsAnswer is the body of GET /gateway/rate-limits.
type rateLimitsAnswer struct {
	Limits []limit.Status `json:"limits"`
}

// rateLimits shows the limits; whose buckets they are the admin listener shows.
func (y *relay) rateLimits(w http.ResponseWriter, _ *http.Request) { y.writeLimits(w, 0) }

func (y *relay) writeLimits(w http.ResponseWriter, fullest int) {
	a := rateLimitsAnswer{Limits: make([]limit.Status, len(y.limiters))}
	for i, l := range y.limiters {
		a.Limits[i] = l.RateLimits(fullest)
	}
	answer(w, http.StatusOK, a)
}

// Bounds of ?fullest=.
const (
	defaultFullest = 20
	maxFullest     = 1000
)

// adminHandler is what the second listener of a relay answers.
func (y *relay) adminHandler() http.Handler {
	a := &admin{y.Extension}
	return a.guard(a.mux(routes{
		"/gateway/status":      {http.MethodGet: y.status},
		"/gateway/rate-limits": {http.MethodGet: y.fullestBuckets},
	}))
}

func (y *relay) fullestBuckets(w http.ResponseWriter, r *http.Request) {
	n := defaultFullest
	if s := strings.TrimSpace(r.URL.Query().Get("fullest")); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 0 || n > maxFullest {
			y.fail(w, http.StatusBadRequest, codeLimitInvalid, fmt.Sprintf("fullest must be 0 to %d", maxFullest))
			return
		}
	}
	y.writeLimits(w, n)
}
