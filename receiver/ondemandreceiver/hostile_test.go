package ondemandreceiver

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configmiddleware"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

const application1 = `{"metric_type":"application","custom_data":{"a":1}}`

func application(members ...string) string {
	return `{"metric_type":"application","custom_data":{` + strings.Join(members, ",") + `}}`
}

// members are n of a form like "n%d":1.
func members(n int, form string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(form, i)
	}
	return out
}

func TestSmallRequestDoesNotBecomeALargeBlock(t *testing.T) {
	var size, points int
	next, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
		size, points = (&pmetric.ProtoMarshaler{}).MetricsSize(md), md.DataPointCount()
		return nil
	})
	require.NoError(t, err)
	r := run(t, next, nil, nil)
	text := members(60, `"s%d":"`+strings.Repeat("x", defaultString)+`"`)
	for name, c := range map[string][]string{
		"strings first":  slices.Concat(text, members(940, `"n%d":1`)),
		"numbers first":  slices.Concat(members(940, `"n%d":1`), text),
		"no text at all": slices.Concat(members(500, `"b%d":true`), members(500, `"n%d":1`)),
		"one too many":   slices.Concat(text, members(17, `"n%d":1`)),
	} {
		t.Run(name, func(t *testing.T) {
			body := application(c...)
			require.Less(t, len(body), defaultBody)
			status, content := r.generate(body)
			require.Equal(t, http.StatusBadRequest, status, "%d bytes became %d", len(body), size)
			require.Equal(t, reasonDataTooLarge, read[refused](t, content).Reason)
		})
	}
	require.Zero(t, points)
	status, content := r.generate(application(slices.Concat(text, members(16, `"n%d":1`))...))
	require.Equal(t, http.StatusOK, status, "%s", content)
	require.Equal(t, 16, points)
	require.Less(t, size, maxMade+16*128, "perAttribute is less than attributes take")
}

func TestNameOfManyIsCountedForEach(t *testing.T) {
	limits := &ApplicationConfig{MaxDepth: maxDepth, MaxValues: maxValues, MaxKey: maxText, MaxString: maxText}
	long := strings.Repeat("x", 60_000)
	for name, value := range map[string]string{"numbers": "1", "booleans": "true", "strings": `""`} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(application(`"`+long+`":[`+strings.TrimSuffix(strings.Repeat(value+",", 300), ",")+`]`)), limits)
			require.Error(t, err)
			require.Equal(t, reasonDataTooLarge, refusalOf(err).reason)
		})
	}
}

// trickle sends a request of size bytes without its end, and returns once the
// server reads its body.
func trickle(t *testing.T, r *running, size int, begin string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = fmt.Fprintf(c, "POST /metrics/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", size)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	line, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 100 Continue\r\n", line)
	_, err = io.WriteString(c, begin)
	require.NoError(t, err)
	return c
}

func TestClientsThatSendSlowlyKeepNobodyOut(t *testing.T) {
	r := run(t, new(consumertest.MetricsSink), func(c *Config) { c.ReadTimeout = time.Minute }, nil)
	conns := make([]net.Conn, 0, 4*maxBodies)
	for i := range cap(conns) {
		conns = append(conns, trickle(t, r, 100, "{"))
		if i == defaultConcurrent-1 || i == cap(conns)-1 {
			status, content := r.generate(application1)
			require.Equal(t, http.StatusOK, status, "after %d slow clients: %s", i+1, content)
		}
	}
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
}

func TestBodiesInMemoryAreBounded(t *testing.T) {
	const size = 1000
	r := run(t, new(consumertest.MetricsSink), func(c *Config) { c.MaxRequestBodySize, c.ReadTimeout = size, time.Minute }, nil)
	conns := make([]net.Conn, 0, maxBodies)
	for range cap(conns) {
		conns = append(conns, trickle(t, r, size, strings.Repeat(" ", size-1)))
	}
	body := application1 + strings.Repeat(" ", maxBodies)
	require.Eventually(t, func() bool {
		status, content := r.generate(body)
		return status == http.StatusServiceUnavailable && read[refused](t, content).Reason == reasonBusy
	}, 10*time.Second, 10*time.Millisecond)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool { status, _ := r.generate(body); return status == http.StatusOK }, 10*time.Second, 10*time.Millisecond,
		"what is gone counts no more")
}

// between is a middleware.
type between struct {
	componentNop
	wrap func(http.ResponseWriter) http.ResponseWriter
}

func (b between) GetHTTPHandler(context.Context) (extensionmiddleware.WrapHTTPHandlerFunc, error) {
	return func(_ context.Context, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(b.wrap(w), r) }), nil
	}, nil
}

// bare hides all but what a ResponseWriter has to have.
type bare struct{ http.ResponseWriter }

type unwrapping struct{ bare }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// secured makes c listen with TLS and returns a client that speaks HTTP/2 with it.
func secured(t *testing.T, c *Config) *http.Client {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	own := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	require.NoError(t, err)
	text := func(kind string, b []byte) configopaque.String {
		return configopaque.String(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	c.TLS = configoptional.Some(configtls.ServerConfig{Config: configtls.Config{
		CertPem: text("CERTIFICATE", own.Certificate[0]), KeyPem: text("PRIVATE KEY", key),
	}})
	return s.Client()
}

func TestAnswerArrivesHoweverLongThePipelineMayTake(t *testing.T) {
	const short = 250 * time.Millisecond // of the server; the pipeline takes thrice that
	id := component.MustNewID("between")
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for name, c := range map[string]struct {
			takes, timeout time.Duration
			reason         reason
		}{
			"success": {3 * short, time.Minute, ""},
			"timeout": {time.Minute, 3 * short, reasonTimeout},
		} {
			t.Run(proto+" "+name, func(t *testing.T) {
				t.Parallel()
				slow, err := consumer.NewMetrics(func(ctx context.Context, _ pmetric.Metrics) error {
					select {
					case <-time.After(c.takes):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				require.NoError(t, err)
				client, scheme := http.DefaultClient, "http"
				r := run(t, slow, func(cfg *Config) {
					cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = c.timeout, short, short
					cfg.CORS = configoptional.Some(confighttp.CORSConfig{AllowedOrigins: []string{"https://a.example"}})
					cfg.ResponseHeaders.Set("X-A", "a")
					cfg.Middlewares = []configmiddleware.Config{{ID: id}}
					if proto == "HTTP/2.0" {
						client, scheme = secured(t, cfg), "https"
					}
				}, hostOf{id: between{wrap: func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{bare{w}} }}})
				url := strings.Replace(r.url, "http", scheme, 1)
				for range 2 { // also on a connection that was used before
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+pathGenerate, strings.NewReader(application1))
					require.NoError(t, err)
					req.Header.Set("Content-Type", "application/json")
					resp, err := client.Do(req)
					require.NoError(t, err)
					content, err := io.ReadAll(resp.Body)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					require.Equal(t, proto, resp.Proto)
					require.Equal(t, c.reason, read[refused](t, content).Reason, "%s", content)
				}
			})
		}
	}
}

func TestMiddlewareThatHidesTheConnectionIsTold(t *testing.T) {
	id := component.MustNewID("between")
	r := run(t, new(consumertest.MetricsSink), func(c *Config) { c.Middlewares = []configmiddleware.Config{{ID: id}} },
		hostOf{id: between{wrap: func(w http.ResponseWriter) http.ResponseWriter { return bare{w} }}})
	status, content := r.generate(application1)
	require.Equal(t, http.StatusOK, status, "%s", content)
	require.Equal(t, 1, r.logs.FilterMessageSnippet("`write_timeout` must be longer than `timeout`").Len())
}

// named sends a request under a name for this machine and returns what was refused.
func (r *running) named(client *http.Client, host, method, path string) (int, refused) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(application1))
	require.NoError(r.t, err)
	req.Host = host
	req.Header.Set("Origin", "http://"+host)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	require.NoError(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, read[refused](r.t, content)
}

var calls = []struct{ method, path string }{
	{http.MethodPost, pathGenerate},
	{http.MethodGet, "/metrics/status"},
	{http.MethodGet, "/health"},
	{http.MethodGet, "/"},
}

func TestPageUnderANameThatPointsHereIsRefused(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	r := run(t, sink, nil, nil)
	foreign := []string{
		"rebound.attacker.example:8442", "rebound.attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example:8442",
		"0.0.0.0:8442", "[::]:8442", "192.168.1.7:8442", "2130706433", "xlocalhost", ":8442",
	}
	for _, host := range foreign {
		for _, c := range calls {
			status, got := r.named(http.DefaultClient, host, c.method, c.path)
			require.Equal(t, http.StatusForbidden, status, "%s %s", c.path, host)
			require.Equal(t, reasonForeignHost, got.Reason)
		}
	}
	require.Zero(t, sink.DataPointCount())
	require.EqualValues(t, len(foreign), r.status().Requests.Refused, "those for metrics count as such")
	for _, host := range []string{"localhost:8442", "localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:99", "[::1]:8442", "[::1]", "[::ffff:127.0.0.1]:8442"} {
		status, got := r.named(http.DefaultClient, host, http.MethodPost, pathGenerate)
		require.Equal(t, http.StatusOK, status, "%s: %s", host, got.Error)
	}
}

// anybody is a server authenticator.
type anybody struct{ componentNop }

func (anybody) Authenticate(ctx context.Context, _ map[string][]string) (context.Context, error) {
	return ctx, nil
}

func TestHostIsOfNoMatterWhereNoPageGetsIn(t *testing.T) {
	id := component.MustNewID("auth")
	socket := filepath.Join(t.TempDir(), "socket")
	overSocket := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	t.Cleanup(overSocket.CloseIdleConnections)
	for name, c := range map[string]struct {
		client *http.Client
		change func(*Config)
	}{
		"auth": {http.DefaultClient, func(c *Config) {
			c.Auth = configoptional.Some(confighttp.AuthConfig{Config: configauth.Config{AuthenticatorID: id}})
		}},
		"socket": {overSocket, func(c *Config) { c.NetAddr.Transport, c.NetAddr.Endpoint = confignet.TransportTypeUnix, socket }},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, new(consumertest.MetricsSink), c.change, hostOf{id: anybody{}})
			if name == "socket" {
				r.url = "http://edge"
			}
			for _, call := range calls[:3] {
				status, got := r.named(c.client, "edge.example:8442", call.method, call.path)
				require.Equal(t, http.StatusOK, status, "%s: %s", call.path, got.Error)
			}
		})
	}
	cfg := createDefaultConfig().(*Config)
	cfg.TLS = configoptional.Some(configtls.ServerConfig{})
	require.False(t, cfg.takesAnyHost(), "TLS alone says nothing about the caller")
	cfg.TLS = configoptional.Some(configtls.ServerConfig{ClientCAFile: "ca.pem"})
	require.True(t, cfg.takesAnyHost())
}

func TestApplicationDoesNotPassForTheAgent(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	r := run(t, sink, nil, nil)
	for _, body := range []string{`{"metric_type":"system"}`, application(`"system.uptime":1`)} {
		status, content := r.generate(body)
		require.Equal(t, http.StatusOK, status, "%s", content)
	}
	system := sink.AllMetrics()[0].ResourceMetrics().At(0)
	said := sink.AllMetrics()[1].ResourceMetrics().At(0)
	require.Equal(t, system.Resource().Attributes().AsRaw(), said.Resource().Attributes().AsRaw(), "it is from the same machine")
	require.Equal(t, "github.com/telemark-otel/telemark/receiver/ondemandreceiver", system.ScopeMetrics().At(0).Scope().Name())
	require.Equal(t, "github.com/telemark-otel/telemark/receiver/ondemandreceiver/application", said.ScopeMetrics().At(0).Scope().Name())
	require.NotEmpty(t, system.SchemaUrl())
	require.Empty(t, said.SchemaUrl())
	require.Empty(t, said.ScopeMetrics().At(0).SchemaUrl())
}
