package nonceextension

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/confignet"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/replay"
)

// admin answers on the second listener.
type admin struct{ *Extension }

func (a *admin) handler() http.Handler {
	return a.guard(a.mux(routes{
		"/metrics/status": {http.MethodGet: a.status},
		"/nonces/cleanup": {http.MethodPost: a.cleanup},
	}))
}

// guard keeps out what a browser on this machine sends for a page from
// elsewhere: requests across origins, and, where nothing but the loopback
// address protects, names that somebody lets point there (DNS rebinding).
func (a *admin) guard(next http.Handler) http.Handler {
	anyName := a.cfg.Admin.Auth.HasValue() || a.cfg.Admin.NetAddr.Transport == confignet.TransportTypeUnix
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := origins.Check(r); err != nil || !anyName && !isLoopback(hostname(r.Host)) {
			a.fail(w, http.StatusForbidden, codeUnauthorized, "this listener answers to this machine only, under localhost or a loopback address")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostname is a Host header without its port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// statusAnswer is the body of GET /metrics/status.
type statusAnswer struct {
	Streams []streamAnswer `json:"streams"`
	Next    string         `json:"next,omitempty"` // cursor of the next page
}

// streamAnswer is one stream of one epoch. Epoch 0 stands for refused blocks
// of a key or stream that is not known.
type streamAnswer struct {
	Scope        string                   `json:"scope"`
	KID          string                   `json:"kid"` // hex
	Stream       string                   `json:"stream"`
	Epoch        uint64                   `json:"epoch"`
	Verified     uint64                   `json:"verified"` // blocks, like all that follow
	Refused      map[reason.Reason]uint64 `json:"refused,omitempty"`
	Duplicates   uint64                   `json:"duplicates"`
	GapsOpen     uint64                   `json:"gaps_open"`
	GapsReported uint64                   `json:"gaps_reported"`
	GapsClosed   uint64                   `json:"gaps_closed"`
	LateFills    uint64                   `json:"late_fills"`
	ItemsMissing uint64                   `json:"items_missing"` // items
	InFlight     uint64                   `json:"in_flight"`
	LastBlock    uint64                   `json:"last_block"` // its number
	LastSeen     string                   `json:"last_seen,omitempty"`
	LastLocation *locationAnswer          `json:"last_location,omitempty"`
	Silent       bool                     `json:"silent"`
	Farewell     bool                     `json:"farewell"`
}

type locationAnswer struct {
	Latitude  float64 `json:"latitude"` // degrees
	Longitude float64 `json:"longitude"`
}

// maxStatusKID bounds ?kid= in bytes; unknown keys are shown as they came.
const maxStatusKID = 64

func (a *admin) status(w http.ResponseWriter, r *http.Request) {
	q, err := statusQuery(r)
	if err != nil {
		a.refuse(w, err)
		return
	}
	page, err := a.windows.Status(r.Context(), q)
	switch {
	case errors.Is(err, replay.ErrCursor):
		a.fail(w, http.StatusBadRequest, codeCursorInvalid, "cursor: take it from `next` of the page before")
		return
	case err != nil:
		a.fail(w, http.StatusServiceUnavailable, codeStoreUnavailable, "the windows cannot be read")
		return
	}
	out := statusAnswer{Streams: make([]streamAnswer, len(page.Streams)), Next: page.Next}
	for i := range page.Streams {
		out.Streams[i] = toAnswer(&page.Streams[i])
	}
	answer(w, http.StatusOK, out)
}

func statusQuery(r *http.Request) (q replay.StatusQuery, err error) {
	v := r.URL.Query()
	kid, err := hex.DecodeString(v.Get("kid"))
	if err != nil || len(kid) > maxStatusKID {
		return q, &refusal{http.StatusBadRequest, codeKIDInvalid, fmt.Sprintf("kid must be hex, at most %d characters", 2*maxStatusKID)}
	}
	q.KID, q.Cursor = string(kid), v.Get("cursor")
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 1 || q.Limit > replay.MaxPage {
			return q, &refusal{http.StatusBadRequest, codeLimitInvalid, fmt.Sprintf("limit must be 1 to %d", replay.MaxPage)}
		}
	}
	return q, nil
}

func toAnswer(s *replay.StreamStatus) streamAnswer {
	a := streamAnswer{
		Scope: s.Scope, KID: hex.EncodeToString([]byte(s.KID)), Stream: s.Stream, Epoch: s.Epoch,
		Verified: s.Verified, Refused: s.Refused, Duplicates: s.Duplicates,
		GapsOpen: s.GapsOpen, GapsReported: s.GapsReported, GapsClosed: s.GapsClosed, LateFills: s.LateFills,
		ItemsMissing: s.ItemsMissing, InFlight: s.InFlight, LastBlock: s.LastBlock,
		Silent: s.Silent, Farewell: s.Farewell,
	}
	if !s.LastSeen.IsZero() {
		a.LastSeen = formatTime(s.LastSeen)
	}
	if s.LastLocation != nil {
		a.LastLocation = &locationAnswer{s.LastLocation.Latitude, s.LastLocation.Longitude}
	}
	return a
}

func (a *admin) cleanup(w http.ResponseWriter, r *http.Request) {
	removed, err := a.windows.Cleanup(r.Context(), time.Now())
	if err != nil {
		a.fail(w, http.StatusServiceUnavailable, codeStoreUnavailable, "the windows cannot be written")
		return
	}
	a.set.Logger.Info("Expired replay windows removed on request.", zap.Int("streams", removed))
	answer(w, http.StatusOK, struct {
		Removed int `json:"removed"` // streams
	}{removed})
}
