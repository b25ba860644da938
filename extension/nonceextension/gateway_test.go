package nonceextension

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadatatest"
	"github.com/telemark-otel/telemark/internal/limit"
)

func serve(t *testing.T, h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body)))
	return w
}

func serveNonce(t *testing.T, h http.Handler, kid string) *httptest.ResponseRecorder {
	t.Helper()
	return serve(t, h, http.MethodGet, "/nonce?kid="+kid, "")
}

func gatewayStatus(t *testing.T, h http.Handler) (a gatewayAnswer) {
	t.Helper()
	w := serve(t, h, http.MethodGet, "/gateway/status", "")
	require.Equal(t, http.StatusOK, w.Code)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	return a
}

func TestGatewayStatusTellsWhatHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &issuing{}
		y := relayOver(t, s, 10)
		defer y.upstream.stop()
		tel := metered(t, y.Extension)
		h := y.handler()
		require.Equal(t, upstreamStatus{State: "unknown"}, gatewayStatus(t, h).Upstream)

		serveNonce(t, h, kid1)
		serveNonce(t, h, "bad")
		time.Sleep(time.Minute)
		a := gatewayStatus(t, h)
		require.Equal(t, "reachable", a.Upstream.State)
		require.Nil(t, a.Upstream.LastError)
		require.Equal(t, healthOK, a.Status)
		require.EqualValues(t, 60, a.UptimeSeconds)
		require.EqualValues(t, 2, a.Requests)
		require.EqualValues(t, 1, a.Relayed)
		require.Equal(t, 1, a.Kept)
		require.Equal(t, map[code]uint64{codeKIDInvalid: 1}, a.Refused)

		s.set(errRefusedConnection, 0)
		serveNonce(t, h, kid1)
		serveNonce(t, h, kid2)
		synctest.Wait()
		a = gatewayStatus(t, h)
		require.Equal(t, healthDegraded, a.Status)
		require.Equal(t, "unreachable", a.Upstream.State)
		require.Equal(t, codeUpstreamUnavailable, a.Upstream.LastError.Reason)
		require.NotContains(t, fmt.Sprint(a.Upstream), "connection refused", "what stands behind the gateway is nobody's business")
		require.NotEmpty(t, a.Upstream.NextProbe)
		require.EqualValues(t, 1, a.KeptServed)
		require.EqualValues(t, 1, a.Refused[codeUpstreamUnavailable])
		metadatatest.AssertEqualNonceRequests(t, tel, points(
			point(1, "outcome", "ok"), point(1, "outcome", "refused"), point(1, "outcome", "kept"), point(1, "outcome", "failed"),
		), metricdatatest.IgnoreTimestamp())
		metadatatest.AssertEqualNonceIssued(t, tel, points(point(1)), metricdatatest.IgnoreTimestamp())

		s.set(nil, http.StatusOK)
		time.Sleep(2 * maxProbe)
		a = gatewayStatus(t, h)
		require.Equal(t, "reachable", a.Upstream.State)
		require.NotNil(t, a.Upstream.LastError, "the latest one is still told")
		require.Empty(t, a.Upstream.NextProbe)
	})
}

// limiting stands for a rate limiting extension.
type limiting struct {
	component.StartFunc
	component.ShutdownFunc
	name string
}

func (l limiting) RateLimits(fullest int) limit.Status {
	s := limit.Status{Name: l.name, Refused: map[string]uint64{"request_rate": 3}, Rules: []limit.RuleStatus{{Path: "/nonce", KeyBy: "query:kid", Requests: "100/m", Bytes: "off"}}}
	for i := range fullest {
		s.Rules[0].Fullest = append(s.Rules[0].Fullest, limit.BucketUse{Key: fmt.Sprint("kid", i), Requests: 1})
	}
	return s
}

func TestRateLimitsShowKeysToTheAuthorisedAlone(t *testing.T) {
	host := &testHost{extensions: map[component.ID]component.Component{
		component.MustNewIDWithName("ratelimit", "b"): limiting{name: "ratelimit/b"},
		component.MustNewIDWithName("ratelimit", "a"): limiting{name: "ratelimit/a"},
		component.MustNewID("other"):                  newMemoryStorage(),
	}}
	gateway := start(t, host, testConfig(t, func(c *Config) {
		up := *createDefaultConfig().(*Config).Upstream.GetOrInsertDefault()
		up.Endpoint = "http://127.0.0.1:1"
		c.Upstream = configoptional.Some(up)
	}))
	var a rateLimitsAnswer
	require.Equal(t, http.StatusOK, get(t, gateway.url+"/gateway/rate-limits?fullest=5", &a).StatusCode)
	require.Len(t, a.Limits, 2)
	require.Equal(t, "ratelimit/a", a.Limits[0].Name)
	require.Equal(t, "100/m", a.Limits[0].Rules[0].Requests)
	require.Empty(t, a.Limits[0].Rules[0].Fullest)
	var s gatewayAnswer
	get(t, gateway.url+"/gateway/status", &s)
	require.Equal(t, map[string]uint64{"request_rate": 6}, s.RateLimited)

	var full rateLimitsAnswer
	get(t, gateway.adm+"/gateway/rate-limits", &full)
	require.Len(t, full.Limits[1].Rules[0].Fullest, defaultFullest)
	full = rateLimitsAnswer{}
	get(t, gateway.adm+"/gateway/rate-limits?fullest=2", &full)
	require.Len(t, full.Limits[0].Rules[0].Fullest, 2)
	get(t, gateway.adm+"/gateway/status", &gatewayAnswer{})
	for _, bad := range []string{"-1", "1001", "x"} {
		requireRefused(t, plainClient(t), "GET", gateway.adm+"/gateway/rate-limits?fullest="+bad, "", 400, codeLimitInvalid)
	}
	requireRefused(t, plainClient(t), "GET", gateway.adm+"/metrics/status", "", 404, codeNotFound)
	requireRefused(t, plainClient(t), "GET", gateway.adm+"/nonce?kid="+kid1, "", 404, codeNotFound)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gateway.adm+"/gateway/rate-limits", nil)
	require.NoError(t, err)
	req.Host = "rebound.example"
	resp, err := plainClient(t).Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusForbidden, resp.StatusCode)
}

func TestIssuerHasNoGatewayPages(t *testing.T) {
	issuing := start(t, componenttest.NewNopHost(), testConfig(t))
	requireRefused(t, plainClient(t), "GET", issuing.url+"/gateway/status", "", 404, codeNotFound)
	requireRefused(t, plainClient(t), "GET", issuing.adm+"/gateway/rate-limits", "", 404, codeNotFound)
}
