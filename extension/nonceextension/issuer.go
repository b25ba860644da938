package nonceextension

import (
	"encoding/hex"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// issuer answers for nonces of its own.
type issuer struct{ *Extension }

func (i *issuer) handler() http.Handler {
	return i.mux(routes{
		"/nonce":  {http.MethodGet: i.nonce},
		"/nonces": {http.MethodPost: i.nonces},
		"/health": {http.MethodGet: i.serveHealth, http.MethodHead: i.serveHealth},
	})
}

// Outcomes as metric attributes.
var (
	outcomeOK      = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "ok")))
	outcomeKept    = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "kept")))
	outcomeRefused = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "refused")))
	outcomeFailed  = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "failed")))
)

func (i *issuer) nonce(w http.ResponseWriter, r *http.Request) {
	kid, err := oneKID(r)
	if err != nil {
		i.telemetry.NonceRequests.Add(r.Context(), 1, outcomeRefused)
		i.refuse(w, err)
		return
	}
	n, err := i.mint(kid, time.Now())
	if err != nil {
		i.telemetry.NonceRequests.Add(r.Context(), 1, outcomeFailed)
		i.refuse(w, err)
		return
	}
	i.telemetry.NonceRequests.Add(r.Context(), 1, outcomeOK)
	i.telemetry.NonceIssued.Add(r.Context(), 1)
	answer(w, http.StatusOK, n)
}

func (i *issuer) nonces(w http.ResponseWriter, r *http.Request) {
	kids, err := manyKIDs(r)
	if err != nil {
		i.telemetry.NonceRequests.Add(r.Context(), 1, outcomeRefused)
		i.refuse(w, err)
		return
	}
	now := time.Now()
	out := noncesAnswer{Nonces: make([]nonceAnswer, len(kids))}
	for at, kid := range kids {
		if out.Nonces[at], err = i.mint(kid, now); err != nil {
			i.telemetry.NonceRequests.Add(r.Context(), 1, outcomeFailed)
			i.refuse(w, err)
			return
		}
	}
	i.telemetry.NonceRequests.Add(r.Context(), 1, outcomeOK)
	i.telemetry.NonceIssued.Add(r.Context(), int64(len(kids)))
	answer(w, http.StatusOK, out)
}

func (i *issuer) mint(kid []byte, now time.Time) (nonceAnswer, error) {
	n, err := i.authority.Mint(kid, now, i.cfg.Length, random)
	if err != nil {
		return nonceAnswer{}, err
	}
	return nonceAnswer{
		Nonce:     hex.EncodeToString(n),
		KID:       hex.EncodeToString(kid),
		Audience:  i.cfg.Audience,
		IssuedAt:  formatTime(now),
		ExpiresAt: formatTime(now.Add(i.cfg.MaxDelay)),
	}, nil
}

// serveHealth is that of the issuer: degraded while windows cannot be written.
func (i *issuer) serveHealth(w http.ResponseWriter, _ *http.Request) {
	writeHealth(w, roleIssuer, i.health.failed(), codeStoreUnavailable)
}

func writeHealth(w http.ResponseWriter, role string, failed bool, why code) {
	if failed {
		answer(w, http.StatusServiceUnavailable, healthAnswer{Status: healthDegraded, Role: role, Reason: why})
		return
	}
	answer(w, http.StatusOK, healthAnswer{Status: healthOK, Role: role})
}
