package nonceextension

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
)

// relay forwards requests for nonces to the issuing server. It keeps nothing
// but whether the latest attempt was answered.
type relay struct {
	*Extension
	client *http.Client
	base   string
	down   atomic.Pointer[refusal]
}

// maxUpstreamAnswer bounds what is read of the issuing server: 1,000 nonces of 64 bytes fit.
const maxUpstreamAnswer = 1 << 20

func newRelay(ctx context.Context, e *Extension, host component.Host) (*relay, error) {
	upstream := *e.cfg.Upstream.Get()
	client, err := upstream.ToClient(ctx, host.GetExtensions(), e.set.TelemetrySettings)
	if err != nil {
		return nil, fmt.Errorf("client of `upstream`: %w", err)
	}
	// A redirect would lead requests to where nobody configured.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &relay{Extension: e, client: client, base: strings.TrimSuffix(upstream.Endpoint, "/")}, nil
}

func (y *relay) handler() http.Handler {
	return y.mux(routes{
		"/nonce":  {http.MethodGet: y.nonce},
		"/nonces": {http.MethodPost: y.nonces},
		"/health": {http.MethodGet: y.serveHealth, http.MethodHead: y.serveHealth},
	})
}

func (y *relay) nonce(w http.ResponseWriter, r *http.Request) {
	kid, err := oneKID(r)
	if err != nil {
		y.refuseRequest(w, r, err)
		return
	}
	y.forward(w, r, http.MethodGet, "/nonce?"+url.Values{"kid": {hex.EncodeToString(kid)}}.Encode(), nil, 1)
}

func (y *relay) nonces(w http.ResponseWriter, r *http.Request) {
	kids, err := manyKIDs(r)
	if err != nil {
		y.refuseRequest(w, r, err)
		return
	}
	req := kidsRequest{KIDs: make([]string, len(kids))}
	for i, k := range kids {
		req.KIDs[i] = hex.EncodeToString(k)
	}
	body, err := json.Marshal(req)
	if err != nil {
		y.refuseRequest(w, r, err)
		return
	}
	y.forward(w, r, http.MethodPost, "/nonces", body, len(kids))
}

func (y *relay) refuseRequest(w http.ResponseWriter, r *http.Request, err error) {
	y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeRefused)
	y.refuse(w, err)
}

// forward asks the issuing server and hands its answer on.
func (y *relay) forward(w http.ResponseWriter, r *http.Request, method, path string, body []byte, nonces int) {
	status, answered, err := y.ask(r.Context(), method, path, body)
	if err != nil {
		var down *refusal
		if errors.As(err, &down) && r.Context().Err() == nil {
			y.down.Store(down)
		}
		y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeFailed)
		y.refuse(w, err)
		return
	}
	y.down.Store(nil)
	if status == http.StatusOK {
		y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeOK)
		y.telemetry.NonceIssued.Add(r.Context(), int64(nonces))
	} else {
		y.telemetry.NonceRequests.Add(r.Context(), 1, outcomeRefused)
	}
	raw(w, status, answered)
}

// ask returns the answer of the issuing server when it is one for the agent:
// a success, or a refusal of what the agent asked.
func (y *relay) ask(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, y.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("request to the issuing server: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := y.client.Do(req)
	if err != nil {
		return 0, nil, transportError(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answered, err := io.ReadAll(io.LimitReader(resp.Body, maxUpstreamAnswer+1))
	if err != nil {
		return 0, nil, transportError(err)
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return 0, nil, &refusal{http.StatusBadGateway, codeUpstreamRefused, fmt.Sprintf("the issuing server refuses this gateway with status %d", resp.StatusCode)}
	case len(answered) > maxUpstreamAnswer || !json.Valid(answered),
		resp.StatusCode != http.StatusOK && (resp.StatusCode < 400 || resp.StatusCode >= 500):
		return 0, nil, &refusal{http.StatusBadGateway, codeUpstreamUnavailable, fmt.Sprintf("the issuing server gives no usable answer (status %d)", resp.StatusCode)}
	default:
		return resp.StatusCode, answered, nil
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

// serveHealth is that of the relay: degraded while the latest attempt failed.
func (y *relay) serveHealth(w http.ResponseWriter, _ *http.Request) {
	down := y.down.Load()
	if down == nil {
		writeHealth(w, roleRelay, false, "")
		return
	}
	writeHealth(w, roleRelay, true, down.code)
}
