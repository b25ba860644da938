package nonceextension

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/component"
)

// relay hands nonces of the issuing server on. While that does not answer it
// serves the latest nonce of each key again, as long as it lasts: nonces are leases
// that many groups are signed under, so to hand one out twice takes nothing
// away from their strength.
type relay struct {
	*Extension
	upstream *upstream
	kept     *keptNonces
	counts   *relayCounts
	limiters []limiter
	started  time.Time
}

func newRelay(ctx context.Context, e *Extension, host component.Host) (*relay, error) {
	kept, err := newKeptNonces(e.cfg.Keep)
	if err != nil {
		return nil, err
	}
	y := &relay{Extension: e, kept: kept, counts: newRelayCounts(), limiters: limitersOf(host), started: time.Now()}
	client, err := upstreamClient(ctx, e, host)
	if err != nil {
		return nil, err
	}
	y.upstream = newUpstream(client, e.cfg.Upstream.Get().Endpoint, y.keep)
	y.upstream.changed = y.changed
	return y, nil
}

// changed is told when the issuing server is lost, and when it is back.
func (y *relay) changed(down *refusal) {
	if down == nil {
		y.telemetry.NonceUpstreamUp.Record(context.Background(), 1)
		y.set.Logger.Info("The issuing server answers.")
		return
	}
	y.telemetry.NonceUpstreamUp.Record(context.Background(), 0)
	y.set.Logger.Warn("The issuing server does not give nonces; those that are kept are handed out as long as they last. " + down.msg + ".")
}

func (y *relay) handler() http.Handler {
	return y.mux(routes{
		"/nonce":               {http.MethodGet: y.nonce},
		"/nonces":              {http.MethodPost: y.nonces},
		"/health":              {http.MethodGet: y.serveHealth, http.MethodHead: y.serveHealth},
		"/gateway/status":      {http.MethodGet: y.status},
		"/gateway/rate-limits": {http.MethodGet: y.rateLimits},
	})
}

func (y *relay) nonce(w http.ResponseWriter, r *http.Request) {
	y.counts.requests.Add(1)
	kid, err := oneKID(r)
	if err != nil {
		y.refuseRequest(w, r, err)
		return
	}
	a, err := y.upstream.nonce(r.Context(), kidOf(kid))
	if err != nil {
		if n, ok := y.kept.get(kidOf(kid), time.Now()); ok {
			y.serveKept(w, r, n.body, time.Since(n.asked), 1)
			return
		}
		y.fails(w, r, err)
		return
	}
	y.handOn(w, r, a, 1)
}

func (y *relay) nonces(w http.ResponseWriter, r *http.Request) {
	y.counts.requests.Add(1)
	kids, err := manyKIDs(r)
	if err != nil {
		y.refuseRequest(w, r, err)
		return
	}
	a, err := y.upstream.nonces(r.Context(), kids)
	if err != nil {
		if body, age, ok := y.keptMany(kids); ok {
			y.serveKept(w, r, body, age, len(kids))
			return
		}
		y.fails(w, r, err)
		return
	}
	y.handOn(w, r, a, len(kids))
}

// keep remembers the nonces of an answer, or forgets that of a key to which the
// issuing server refuses one. It says whether the answer is of use at all.
func (y *relay) keep(kids []kid, a upstreamAnswer) bool {
	if a.status != http.StatusOK {
		if len(kids) == 1 && a.status != http.StatusTooManyRequests {
			y.kept.drop(kids[0])
		}
		return true
	}
	raws := []json.RawMessage{a.body}
	if a.many {
		var answers struct {
			Nonces []json.RawMessage `json:"nonces"`
		}
		if json.Unmarshal(a.body, &answers) != nil || len(answers.Nonces) != len(kids) {
			return false
		}
		raws = answers.Nonces
	}
	nonces := make([]keptNonce, len(kids))
	for i, raw := range raws {
		var ok bool
		if nonces[i], ok = parseNonce(kids[i], raw, a.asked); !ok {
			return false
		}
	}
	for i := range nonces {
		y.kept.put(kids[i], nonces[i])
	}
	return true
}

func (y *relay) refuseRequest(w http.ResponseWriter, r *http.Request, err error) {
	y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeRefused)
	y.counts.refuse(err)
	y.refuse(w, err)
}

func (y *relay) fails(w http.ResponseWriter, r *http.Request, err error) {
	y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeFailed)
	if r.Context().Err() != nil {
		return // nobody waits for an answer
	}
	y.counts.refuse(err)
	y.refuse(w, err)
}

// handOn answers what the issuing server said.
func (y *relay) handOn(w http.ResponseWriter, r *http.Request, a upstreamAnswer, nonces int) {
	if a.status == http.StatusOK {
		y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeOK)
		y.telemetry.NonceIssued.Add(r.Context(), int64(nonces))
		y.counts.relayed.Add(uint64(nonces))
	} else {
		y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeRefused)
		y.counts.refuse(&refusal{a.status, codeIssuerRefused, ""})
		if a.retryAfter != "" {
			w.Header().Set("Retry-After", a.retryAfter)
		}
	}
	raw(w, a.status, a.body)
}

// serveKept answers with nonces that were handed out before. Age (RFC 9111) says
// how old they are.
func (y *relay) serveKept(w http.ResponseWriter, r *http.Request, body []byte, age time.Duration, nonces int) {
	y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeKept)
	y.counts.kept.Add(uint64(nonces))
	w.Header().Set("Age", strconv.Itoa(int(max(age, 0)/time.Second)))
	raw(w, http.StatusOK, body)
}

// keptMany returns an answer for several keys, when there is a nonce for each.
func (y *relay) keptMany(kids [][]byte) (body []byte, age time.Duration, ok bool) {
	now := time.Now()
	out := struct {
		Nonces []json.RawMessage `json:"nonces"`
	}{make([]json.RawMessage, len(kids))}
	for i, k := range kids {
		n, found := y.kept.get(kidOf(k), now)
		if !found {
			return nil, 0, false
		}
		out.Nonces[i] = n.body
		age = max(age, now.Sub(n.asked))
	}
	body, err := json.Marshal(out)
	return body, age, err == nil
}

// serveHealth is that of the relay: degraded while the issuing server fails.
func (y *relay) serveHealth(w http.ResponseWriter, _ *http.Request) {
	if down, ok := errors.AsType[*refusal](y.upstream.failed()); ok {
		writeHealth(w, roleRelay, true, down.code)
		return
	}
	writeHealth(w, roleRelay, false, "")
}

// kid is a key id as a map takes it.
type kid [kidLen]byte

func kidOf(b []byte) (k kid) {
	copy(k[:], b)
	return k
}

func (k kid) String() string { return hex.EncodeToString(k[:]) }
