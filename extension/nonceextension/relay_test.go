package nonceextension

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadatatest"
)

func relayTo(t *testing.T, endpoint string, timeout time.Duration, change ...func(*Config)) *running {
	t.Helper()
	return start(t, componenttest.NewNopHost(), testConfig(t, append([]func(*Config){func(c *Config) {
		up := *createDefaultConfig().(*Config).Upstream.GetOrInsertDefault()
		up.Endpoint, up.Timeout = endpoint, timeout
		c.Upstream = configoptional.Some(up)
		c.Admin.NetAddr.Endpoint = ""
	}}, change...)...))
}

func TestRelayedNonceIsThatOfTheIssuer(t *testing.T) {
	issuing := start(t, componenttest.NewNopHost(), testConfig(t))
	gateway := relayTo(t, issuing.url+"/", 5*time.Second)
	require.Nil(t, gateway.Nonces())
	require.Nil(t, gateway.Windows())

	var a nonceAnswer
	resp := get(t, gateway.url+"/nonce?kid="+kid1, &a)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	require.Equal(t, kid1, a.KID)
	var b nonceAnswer
	get(t, gateway.url+"/nonce?kid="+kid1, &b)
	require.NotEqual(t, a.Nonce, b.Nonce, "while the issuer answers, its nonces are fresh")

	var many noncesAnswer
	call(t, plainClient(t), http.MethodPost, gateway.url+"/nonces", `{"kids":["`+kid1+`","`+kid2+`"]}`, &many)
	require.Len(t, many.Nonces, 2)
	require.Equal(t, kid2, many.Nonces[1].KID)
	for _, e := range []*running{issuing, gateway} {
		metadatatest.AssertEqualNonceIssued(t, e.tel, points(point(4)), metricdatatest.IgnoreTimestamp())
		metadatatest.AssertEqualNonceRequests(t, e.tel, points(point(3, "outcome", "ok")), metricdatatest.IgnoreTimestamp())
	}

	var h healthAnswer
	require.Equal(t, http.StatusOK, get(t, gateway.url+"/health", &h).StatusCode)
	require.Equal(t, roleRelay, h.Role)
	requireRefused(t, plainClient(t), "GET", gateway.url+"/metrics/status", "", 404, codeNotFound)
}

func TestRelayRefusesBadRequestsItself(t *testing.T) {
	gateway := relayTo(t, "http://127.0.0.1:1", time.Second)
	requireRefused(t, plainClient(t), "GET", gateway.url+"/nonce?kid=..%2Fhealth", "", 400, codeKIDInvalid)
	requireRefused(t, plainClient(t), "POST", gateway.url+"/nonces", `{"kids":1}`, 400, codeRequestInvalid)
	var a errorAnswer
	get(t, gateway.url+"/nonce", &a)
	require.Equal(t, "gateway", a.RejectedBy)
	var h healthAnswer
	require.Equal(t, http.StatusOK, get(t, gateway.url+"/health", &h).StatusCode)
}

func TestUpstreamThatIsGoneIsBadGatewayUntilItIsBack(t *testing.T) {
	cfg := testConfig(t)
	gateway := relayTo(t, "http://"+cfg.ServerConfig.NetAddr.Endpoint, time.Second)
	c := plainClient(t)
	requireRefused(t, c, "GET", gateway.url+"/nonce?kid="+kid1, "", 502, codeUpstreamUnavailable)
	var h healthAnswer
	require.Equal(t, http.StatusServiceUnavailable, get(t, gateway.url+"/health", &h).StatusCode)
	require.Equal(t, healthAnswer{Status: healthDegraded, Role: roleRelay, Reason: codeUpstreamUnavailable}, h)
	metadatatest.AssertEqualNonceUpstreamUp(t, gateway.tel, points(point(0)), metricdatatest.IgnoreTimestamp())

	start(t, componenttest.NewNopHost(), cfg)
	require.Eventually(t, func() bool {
		resp, err := c.Get(gateway.url + "/health")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}, 20*time.Second, 20*time.Millisecond, "it is asked by itself")
	metadatatest.AssertEqualNonceUpstreamUp(t, gateway.tel, points(point(1)), metricdatatest.IgnoreTimestamp())
	var a nonceAnswer
	require.Equal(t, http.StatusOK, get(t, gateway.url+"/nonce?kid="+kid1, &a).StatusCode)
}

func TestUpstreamThatHangsIsGatewayTimeout(t *testing.T) {
	release := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer up.Close()
	defer close(release)
	gateway := relayTo(t, up.URL, 50*time.Millisecond)
	requireRefused(t, plainClient(t), "GET", gateway.url+"/nonce?kid="+kid1, "", 504, codeUpstreamTimeout)
	requireRefused(t, plainClient(t), "POST", gateway.url+"/nonces", `{"kids":["`+kid1+`"]}`, 504, codeUpstreamTimeout)
}

func TestUnusableUpstreamAnswersAreBadGateway(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   code
	}{
		"server error": {500, `{"error":"x"}`, codeUpstreamInvalid},
		"not JSON":     {200, `<html>`, codeUpstreamInvalid},
		"endless":      {200, `"` + strings.Repeat("x", maxUpstreamAnswer) + `"`, codeUpstreamInvalid},
		"redirect":     {302, `{}`, codeUpstreamInvalid},
		"no content":   {204, ``, codeUpstreamInvalid},
		"other key":    {200, `{"nonce":"` + strings.Repeat("00", 32) + `","kid":"` + kid2 + `","audience":"a","issued_at":"2026-01-01T00:00:00Z","expires_at":"2026-01-02T00:00:00Z"}`, codeUpstreamInvalid},
		"no nonce":     {200, `{"nonce":"","kid":"` + kid1 + `","audience":"a","issued_at":"2026-01-01T00:00:00Z","expires_at":"2026-01-02T00:00:00Z"}`, codeUpstreamInvalid},
		"unauthorized": {401, `{}`, codeUpstreamRefused},
		"forbidden":    {403, `{}`, codeUpstreamRefused},
	} {
		t.Run(name, func(t *testing.T) {
			up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer up.Close()
			gateway := relayTo(t, up.URL, 5*time.Second)
			requireRefused(t, plainClient(t), "GET", gateway.url+"/nonce?kid="+kid1, "", 502, tc.want)
		})
	}
}

func TestIssuersRefusalIsHandedOn(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/base/nonce?kid="+kid1 || r.Header.Get("Cookie") != "" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"error":"slow down","reason":"rate_limited","rejected_by":"collector","validation_type":"nonce"}`)
	}))
	defer up.Close()
	gateway := relayTo(t, up.URL+"/base", 5*time.Second)
	var a errorAnswer
	resp := get(t, gateway.url+"/nonce?kid="+kid1, &a)
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.Equal(t, "collector", a.RejectedBy)
	require.Equal(t, "7", resp.Header.Get("Retry-After"))
	require.Equal(t, http.StatusOK, get(t, gateway.url+"/health", &healthAnswer{}).StatusCode)
}
