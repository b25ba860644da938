package ratelimitextension

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configmiddleware"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// reading is a handler that reads its request and answers 204.
var reading = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
})

func wrap(t testing.TB, e *Extension, next http.Handler) http.Handler {
	t.Helper()
	wrapper, err := e.GetHTTPHandler(t.Context())
	require.NoError(t, err)
	h, err := wrapper(t.Context(), next)
	require.NoError(t, err)
	return h
}

// send asks h for path from an address.
func send(h http.Handler, from, path string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = from + ":4711"
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestOverflowIsAnswered429WithTheTimeToComeAgain(t *testing.T) {
	e := started(t, func(c *Config) { c.Requests = RateConfig{Rate: 1, Per: 30 * time.Second, Burst: 2} })
	h := wrap(t, e, reading)
	for range 2 {
		require.Equal(t, http.StatusNoContent, send(h, "192.0.2.1", "/").Code)
	}
	w := send(h, "192.0.2.1", "/")
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Equal(t, "30", w.Header().Get("Retry-After"))
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var a answer
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	require.Equal(t, answer{Error: RequestRate.message(), Reason: "request_rate", RejectedBy: "gateway", ValidationType: "rate_limit"}, a)

	w = send(h, "192.0.2.1", "/", func(r *http.Request) { r.Method = http.MethodHead })
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Empty(t, w.Body.Bytes())

	require.Equal(t, http.StatusNoContent, send(h, "192.0.2.2", "/").Code, "a neighbour is not harmed")
	s := e.RateLimits(10)
	require.EqualValues(t, 3, s.Admitted)
	require.Equal(t, map[string]uint64{"request_rate": 2}, s.Refused)
	require.Zero(t, s.InFlight)
	require.Equal(t, "1/30s:2", s.Rules[0].Requests)
	require.Equal(t, 2, s.Rules[0].Buckets)
	require.Equal(t, "192.0.2.1", s.Rules[0].Fullest[0].Key)
	require.InDelta(t, 1, s.Rules[0].Fullest[0].Requests, 0.01)
	require.InDelta(t, 0.5, s.Rules[0].Fullest[1].Requests, 0.01)
	require.Empty(t, e.RateLimits(0).Rules[0].Fullest, "keys are for those who ask for them")
}

func TestOTLPClientsGetTheStatusTheyExpect(t *testing.T) {
	e := started(t, func(c *Config) { c.Requests = RateConfig{Rate: 1, Per: 90 * time.Second} })
	h := wrap(t, e, reading)
	send(h, "192.0.2.1", "/v1/logs")
	post := func(path, contentType string) *httptest.ResponseRecorder {
		w := send(h, "192.0.2.1", path, func(r *http.Request) {
			r.Method = http.MethodPost
			r.Header.Set("Content-Type", contentType)
		})
		require.Equal(t, http.StatusTooManyRequests, w.Code)
		require.Equal(t, "90", w.Header().Get("Retry-After"))
		return w
	}
	for contentType, unmarshal := range map[string]func([]byte, proto.Message) error{
		"application/x-protobuf":          proto.Unmarshal,
		"application/json":                protojson.Unmarshal,
		"application/json; charset=utf-8": protojson.Unmarshal,
	} {
		w := post("/v1/logs", contentType)
		require.Equal(t, strings.SplitN(contentType, ";", 2)[0], w.Header().Get("Content-Type"))
		var s status.Status
		require.NoError(t, unmarshal(w.Body.Bytes(), &s), "%s", w.Body)
		require.EqualValues(t, codes.ResourceExhausted, s.GetCode())
		require.Len(t, s.GetDetails(), 2)
		var retry errdetails.RetryInfo
		require.NoError(t, s.GetDetails()[0].UnmarshalTo(&retry))
		require.InDelta(t, 90, retry.GetRetryDelay().AsDuration().Seconds(), 1)
		var info errdetails.ErrorInfo
		require.NoError(t, s.GetDetails()[1].UnmarshalTo(&info))
		require.Equal(t, "REQUEST_RATE", info.GetReason())
		require.Equal(t, "gateway", info.GetMetadata()["rejected_by"])
	}
	require.Contains(t, post("/metrics/generate", "application/json").Body.String(), `"reason":"request_rate"`)
	require.Contains(t, post("/v1/logs", "text/plain").Body.String(), `"reason":"request_rate"`)
}

// A body of unknown length is counted as it is read, one larger than the burst
// goes through and delays what comes after it.
func TestBytesCountHoweverTheyCome(t *testing.T) {
	body := strings.Repeat("x", 200_000)
	for name, change := range map[string]func(*http.Request){
		"declared": func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		},
		"chunked": func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), -1 },
	} {
		t.Run(name, func(t *testing.T) {
			e := started(t, func(c *Config) { c.Bytes = RateConfig{Rate: 1000, Burst: 100_000} })
			h := wrap(t, e, reading)
			require.Equal(t, http.StatusNoContent, send(h, "192.0.2.1", "/", change).Code)
			w := send(h, "192.0.2.1", "/", change)
			require.Equal(t, http.StatusTooManyRequests, w.Code)
			require.Contains(t, w.Body.String(), `"reason":"byte_rate"`)
			require.Contains(t, []string{"100", "101"}, w.Header().Get("Retry-After"))
			require.Equal(t, http.StatusNoContent, send(h, "192.0.2.2", "/", change).Code)
			require.InDelta(t, 2, e.RateLimits(1).Rules[0].Fullest[0].Bytes, 0.01)
		})
	}
}

func TestHandlerThatStopsReadingPaysForWhatItRead(t *testing.T) {
	e := started(t, func(c *Config) { c.Bytes = RateConfig{Rate: 1, Burst: 1000} })
	h := wrap(t, e, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 500)
		_ = r.Body.Close()
	}))
	send(h, "192.0.2.1", "/", func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", 100_000))), -1
	})
	require.InDelta(t, 0.5, e.RateLimits(1).Rules[0].Fullest[0].Bytes, 0.01)
}

func TestConcurrencyIsBounded(t *testing.T) {
	e := started(t, func(c *Config) { c.MaxConcurrent = 2 })
	entered, release := make(chan struct{}), make(chan struct{})
	h := wrap(t, e, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}))
	done := make(chan int, 2)
	for range 2 {
		go func() { done <- send(h, "192.0.2.1", "/").Code }()
		<-entered
	}
	w := send(h, "192.0.2.2", "/")
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), `"reason":"concurrency"`)
	require.EqualValues(t, 2, e.RateLimits(0).InFlight)
	close(release)
	for range 2 {
		require.Equal(t, http.StatusOK, <-done)
	}
	require.Zero(t, e.RateLimits(0).InFlight)
}

func TestPanickingHandlerGivesItsPlaceBack(t *testing.T) {
	e := started(t, func(c *Config) { c.MaxConcurrent = 1 })
	h := wrap(t, e, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	for range 3 {
		require.Panics(t, func() { send(h, "192.0.2.1", "/") })
	}
	require.Zero(t, e.RateLimits(0).InFlight)
}

// Many agents behind one address have their own budget each; one that has gone
// wild has no more than that.
func TestDefaultLimitsNoncesByKey(t *testing.T) {
	e := started(t, func(c *Config) { c.Rules = createDefaultConfig().(*Config).Rules })
	h := wrap(t, e, reading)
	for range 100 {
		require.Equal(t, http.StatusNoContent, send(h, "192.0.2.1", "/nonce?kid=aa").Code)
	}
	require.Equal(t, http.StatusTooManyRequests, send(h, "192.0.2.1", "/nonce?kid=aa").Code)
	require.Equal(t, http.StatusTooManyRequests, send(h, "192.0.2.9", "/nonce?kid=aa").Code)
	require.Equal(t, http.StatusNoContent, send(h, "192.0.2.1", "/nonce?kid=bb").Code)
	require.Equal(t, http.StatusNoContent, send(h, "192.0.2.1", "/health").Code)
	for range 200 {
		require.Equal(t, http.StatusNoContent, send(h, "192.0.2.1", "/v1/logs").Code)
	}
}

func TestOwnerOfManyKeysDoesNotFillTheMemory(t *testing.T) {
	e := started(t, func(c *Config) {
		c.MaxKeys, c.Requests, c.KeyBy = 5000, RateConfig{Rate: 1}, "header:x-tenant"
	})
	h := wrap(t, e, reading)
	for i := range 20_000 {
		send(h, "192.0.2.1", "/", func(r *http.Request) { r.Header.Set("X-Tenant", strings.Repeat("x", i%500)+string(rune(i))) })
	}
	require.LessOrEqual(t, e.limiter.buckets(), 5000)
	require.Greater(t, e.limiter.buckets(), 3000)
}

// The middleware as confighttp runs it: over a listener, behind decompression.
func TestAsMiddlewareOfAServer(t *testing.T) {
	e := started(t, func(c *Config) { c.Bytes = RateConfig{Rate: 1, Burst: 100_000} })
	id := component.MustNewID("ratelimit")
	cfg := confighttp.NewDefaultServerConfig()
	cfg.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Middlewares = []configmiddleware.Config{{ID: id}}
	srv, err := cfg.ToServer(t.Context(), map[component.ID]component.Component{id: e}, componenttest.NewNopTelemetrySettings(), reading)
	require.NoError(t, err)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, srv.Shutdown(context.Background()))
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	post := func() *http.Response {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := z.Write(make([]byte, 150_000))
		require.NoError(t, err)
		require.NoError(t, z.Close())
		require.Less(t, packed.Len(), 10_000)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+ln.Addr().String()+"/v1/logs", &packed)
		require.NoError(t, err)
		req.Header.Set("Content-Encoding", "gzip")
		req.Header.Set("Content-Type", "application/x-protobuf")
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	require.Equal(t, http.StatusNoContent, post().StatusCode)
	resp := post()
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.Equal(t, "application/x-protobuf", resp.Header.Get("Content-Type"))
	require.Equal(t, "127.0.0.1", e.RateLimits(1).Rules[0].Fullest[0].Key)
}

// A terabyte that is declared and never sent must not shut out whoever shares the
// sender's address.
func TestDeclaredLengthThatNeverComesIsNotTaken(t *testing.T) {
	e := started(t, func(c *Config) { c.Bytes = RateConfig{Rate: 10 << 20, Per: time.Second} })
	admitted := make(chan struct{}, 16)
	server := httptest.NewServer(wrap(t, e, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		admitted <- struct{}{}
		w.WriteHeader(http.StatusNoContent)
	})))
	defer server.Close()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	_, err = fmt.Fprintf(c, "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
	require.NoError(t, err)
	<-admitted
	require.NoError(t, c.Close())
	for range 10 {
		honest, err := http.Post(server.URL+"/v1/logs", "text/plain", strings.NewReader("x"))
		require.NoError(t, err)
		require.NoError(t, honest.Body.Close())
		require.Equal(t, http.StatusNoContent, honest.StatusCode)
	}
}
