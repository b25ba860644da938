package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/devca"
	"github.com/telemark-otel/telemark/internal/limit"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
)

// from makes requests arrive from an address, as a listener would see them.
func from(address string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = net.JoinHostPort(address, "1234")
			next.ServeHTTP(w, r)
		})
	}
}

func perAddress(events int) func(*settings) {
	return func(s *settings) { s.PerAddress = limit.Rate{Events: events, Per: time.Hour} }
}

func TestTooManyRequestsOfOneAddress(t *testing.T) {
	r := newRig(t, perAddress(3))
	for range 3 {
		require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/health", nil).StatusCode)
	}
	resp := r.do(http.MethodGet, "/health", nil)
	e := refused(t, api.RateLimited, resp)
	require.Equal(t, "1200", resp.Header.Get("Retry-After"))
	require.Equal(t, 1200, e.RetryAfter)
	// Paths that do not exist, and wrong credentials, cost as much.
	refused(t, api.RateLimited, r.do(http.MethodGet, "/nothing", nil))
}

func TestForwardedAddressesOfStrangersAreNotBelieved(t *testing.T) {
	r := newRig(t, perAddress(3), func(s *settings) { s.handler = from("203.0.113.9") })
	for i := range 3 {
		r.do(http.MethodGet, "/health", nil, header("X-Forwarded-For", fmt.Sprintf("198.51.100.%d", i)))
	}
	refused(t, api.RateLimited, r.do(http.MethodGet, "/health", nil, header("X-Forwarded-For", "198.51.100.77")))
}

func TestForwardedAddressIsTheRightmostThatIsNoProxy(t *testing.T) {
	r := newRig(t, perAddress(2), func(s *settings) {
		s.handler = from("10.0.0.1")
		s.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	via := func(forwarded ...string) *reply {
		return r.do(http.MethodGet, "/health", nil, func(req *http.Request) { req.Header["X-Forwarded-For"] = forwarded })
	}
	// The client writes what it wants on the left, each time something else.
	for i := range 2 {
		require.Equal(t, http.StatusOK, via(fmt.Sprintf("1.1.1.%d, 198.51.100.1, 10.2.3.4", i)).StatusCode)
	}
	refused(t, api.RateLimited, via("1.1.1.3", "198.51.100.1", "10.2.3.4"))
	refused(t, api.RateLimited, via("198.51.100.1:5555"))
	refused(t, api.RateLimited, via("garbage, 198.51.100.1"))
	require.Equal(t, http.StatusOK, via("198.51.100.2").StatusCode, "another client behind the same proxy")
	// IPv6 clients own a /64.
	for i := range 2 {
		require.Equal(t, http.StatusOK, via(fmt.Sprintf("2001:db8::%d", i)).StatusCode)
	}
	refused(t, api.RateLimited, via("2001:db8::ffff"))
	require.Equal(t, http.StatusOK, via("2001:db8:0:1::1").StatusCode)
	// What cannot be read stands for the proxy itself.
	for range 2 {
		require.Equal(t, http.StatusOK, via("198.51.100.9, unknown").StatusCode)
	}
	refused(t, api.RateLimited, via("198.51.100.10, unknown"))
}

func TestTooManyRequestsAboutOneKey(t *testing.T) {
	r := newRig(t, func(s *settings) { s.PerKey = limit.Rate{Events: 2, Per: time.Hour} })
	kid := "000b" + strings.Repeat("cd", 32)
	for range 2 {
		refused(t, api.NotFound, r.do(http.MethodGet, "/v1/keys/"+kid, nil))
	}
	refused(t, api.RateLimited, r.do(http.MethodGet, "/v1/keys/"+kid, nil))
	refused(t, api.NotFound, r.do(http.MethodGet, "/v1/keys/000b"+strings.Repeat("ce", 32), nil))
	// Nobody uses up what a known verifier has.
	refused(t, api.NotFound, r.do(http.MethodGet, "/v1/keys/"+kid, nil, r.as("viewer")))

	// Evidence for one machine or instance, of one client.
	start := api.EnrolmentStart{Hierarchy: api.Hierarchy{EK: []byte{1}, AK: []byte{2}, Key: []byte{3}}}
	for range 2 {
		refused(t, api.EKMalformed, r.do(http.MethodPost, "/v1/enrolments", start))
	}
	refused(t, api.RateLimited, r.do(http.MethodPost, "/v1/enrolments", start))
	reg := body(t, r.first(1))
	reg["ppid"] = "00"
	for range 2 {
		refused(t, api.PPIDInvalid, r.do(http.MethodPost, "/register", reg))
	}
	refused(t, api.RateLimited, r.do(http.MethodPost, "/register", reg))
	resp := r.do(http.MethodGet, "/instance/"+reg["instance_pubkey"].(string), nil)
	refused(t, api.NotFound, resp)
}

// slow is an Enrolment whose verification takes as long as the test wants.
type slow struct {
	entered chan struct{}
	leave   chan struct{}
}

func (s *slow) Start(ctx context.Context, _ *api.EnrolmentStart) (*api.Challenge, error) {
	s.entered <- struct{}{}
	select {
	case <-s.leave:
	case <-ctx.Done():
	}
	return nil, api.Refuse(api.EKMalformed, "slow")
}

func (s *slow) Complete(context.Context, *api.EnrolmentComplete, string) (*api.Enrolment, error) {
	panic("on purpose")
}

func TestVerificationsAreBounded(t *testing.T) {
	s := &slow{entered: make(chan struct{}, 100), leave: make(chan struct{})}
	r := newRig(t, func(set *settings) { set.Enrolment, set.MaxVerifications = s, 1 })
	start := api.EnrolmentStart{Hierarchy: api.Hierarchy{EK: []byte{1}}}
	var wg sync.WaitGroup
	wg.Go(func() { refused(t, api.EKMalformed, r.do(http.MethodPost, "/v1/enrolments", start)) })
	<-s.entered
	// Eight wait, the others are told to come again at once or after a while.
	var mu sync.Mutex
	var busy int
	for range 20 {
		wg.Go(func() {
			resp := r.do(http.MethodPost, "/v1/enrolments", start)
			mu.Lock()
			defer mu.Unlock()
			if resp.StatusCode == http.StatusServiceUnavailable {
				refused(t, api.Busy, resp)
				require.Equal(t, "1", resp.Header.Get("Retry-After"))
				busy++
			}
		})
	}
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return busy >= 12 }, 10*time.Second, 10*time.Millisecond)
	// What needs no verification goes on.
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/health", nil).StatusCode)
	close(s.leave)
	wg.Wait()
	require.Len(t, s.entered, 20-busy)
}

func TestPanicIsAnInternalErrorAndFreesItsPlace(t *testing.T) {
	r := newRig(t, func(set *settings) {
		set.Enrolment, set.MaxVerifications = &slow{}, 1
	})
	complete := api.EnrolmentComplete{}
	for range 3 {
		e := refused(t, api.Internal, r.do(http.MethodPost, "/v1/enrolments/complete", complete))
		require.NotContains(t, e.Error, "on purpose", "what went wrong is not told to strangers")
	}
}

func TestAdminCallsAreNotTakenOverPlainHTTPFromAfar(t *testing.T) {
	r := newRig(t, func(s *settings) { s.handler = from("198.51.100.1") })
	for _, path := range []string{"/v1/tokens", "/v1/audit"} {
		e := refused(t, api.Forbidden, r.do(http.MethodGet, path, nil, r.as("admin")))
		require.Contains(t, e.Error, "TLS")
	}
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/machines", nil, r.as("viewer")).StatusCode)

	// A proxy on this machine says where the client is, and how it came.
	r = newRig(t, func(s *settings) {
		s.handler, s.Proxies = from("127.0.0.1"), []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	far := header("X-Forwarded-For", "198.51.100.1")
	refused(t, api.Forbidden, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin"), far))
	refused(t, api.Forbidden, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin"), far, header("X-Forwarded-Proto", "http")))
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin"), far, header("X-Forwarded-Proto", "https")).StatusCode)
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin")).StatusCode)
}

func TestRequestsOfForeignPagesAreRefused(t *testing.T) {
	r := newRig(t)
	for _, e := range []edit{header("Sec-Fetch-Site", "cross-site"), header("Origin", "https://evil.example")} {
		refused(t, api.Forbidden, r.do(http.MethodPost, "/v1/tokens", api.TokenRequest{}, r.as("admin"), e))
	}
}

func TestAnonymousViewersWhereTheOperatorWantsThem(t *testing.T) {
	r := newRig(t, func(s *settings) { s.auth = func(f *auth.File) { f.Anonymous = []string{"viewer"} } })
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/machines", nil).StatusCode)
	refused(t, api.Unauthenticated, r.do(http.MethodGet, "/v1/tokens", nil))
}

func TestClientCertificatesHaveRoles(t *testing.T) {
	now := time.Now()
	ca, err := devca.NewCA("test", now, time.Hour)
	require.NoError(t, err)
	other, err := devca.NewCA("test", now, time.Hour)
	require.NoError(t, err)
	pair := func(by *devca.Pair, name string, hosts ...string) tls.Certificate {
		p, err := by.Issue(name, hosts, now, time.Hour)
		require.NoError(t, err)
		return tls.Certificate{Certificate: [][]byte{p.Certificate.Raw}, PrivateKey: p.Key}
	}
	r := newRig(t, func(s *settings) {
		s.handler = from("198.51.100.1")
		s.auth = func(f *auth.File) {
			f.MTLS = []auth.FileMTLS{
				{Subject: "ops", Roles: []string{"admin"}},
				{DNS: "collector.example", Roles: []string{"viewer"}},
			}
		}
		s.tune = func(h *httptest.Server) {
			pool := x509.NewCertPool()
			pool.AddCert(ca.Certificate)
			h.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
			h.StartTLS()
		}
	})
	with := func(certs ...tls.Certificate) func() {
		transport := r.http.Client().Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.Certificates = certs
		r.client = &http.Client{Transport: transport}
		return transport.CloseIdleConnections
	}
	with(pair(ca, "ops"))
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/tokens", nil).StatusCode)
	with(pair(ca, "whoever", "collector.example"))
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/machines", nil).StatusCode)
	refused(t, api.Forbidden, r.do(http.MethodGet, "/v1/tokens", nil))
	with(pair(ca, "nobody"))
	refused(t, api.Unauthenticated, r.do(http.MethodGet, "/v1/machines", nil))
	with()
	refused(t, api.Unauthenticated, r.do(http.MethodGet, "/v1/machines", nil))
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/v1/tokens", nil, r.as("admin")).StatusCode, "a token does without certificate")
	// The same name from another authority ends the handshake.
	with(pair(other, "ops"))
	_, err = r.client.Get(r.http.URL + "/health")
	require.Error(t, err)
}

// raw sends bytes and returns what comes back until the connection ends or the
// time is over.
func (r *rig) raw(t *testing.T, send string, wait time.Duration) string {
	t.Helper()
	u, err := url.Parse(r.http.URL)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, send)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(wait)))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	content, _ := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Header.Get("Content-Type"), content)
}

// Who may not call is told so before a byte of the body arrived.
func TestBodyOfStrangersIsNotWaitedFor(t *testing.T) {
	r := newRig(t)
	began := time.Now()
	got := r.raw(t, "POST /v1/machines/import HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n", 5*time.Second)
	require.Contains(t, got, "401 application/json")
	require.Less(t, time.Since(began), 2*time.Second)
}

func TestSlowBodyIsTimedOut(t *testing.T) {
	r := newRig(t, func(s *settings) { s.BodyTimeout = 200 * time.Millisecond })
	got := r.raw(t, "POST /register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"inst", 5*time.Second)
	require.Contains(t, got, "408 application/json")
	require.Contains(t, got, `"reason":"request_timeout"`)
	// Nor does a refused request hold its connection with a body that never comes.
	began := time.Now()
	got = r.raw(t, "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n", 5*time.Second)
	require.Contains(t, got, "401")
	require.Less(t, time.Since(began), 3*time.Second)
}

// The answer takes longer than a body may, and comes all the same.
func TestTimeForTheBodyIsNotTimeForTheAnswer(t *testing.T) {
	s := &slow{entered: make(chan struct{}, 1), leave: make(chan struct{})}
	r := newRig(t, func(set *settings) { set.Enrolment, set.BodyTimeout = s, 100*time.Millisecond })
	time.AfterFunc(400*time.Millisecond, func() { close(s.leave) })
	refused(t, api.EKMalformed, r.do(http.MethodPost, "/v1/enrolments", api.EnrolmentStart{}))
}

func TestSlowHeadersEndTheConnection(t *testing.T) {
	r := newRig(t, func(s *settings) {
		s.tune = func(h *httptest.Server) { h.Config.ReadHeaderTimeout = 200 * time.Millisecond }
	})
	began := time.Now()
	got := r.raw(t, "GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ", 5*time.Second)
	require.NotContains(t, got, "200")
	require.Less(t, time.Since(began), 3*time.Second)
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	r := newRig(t)
	got := r.raw(t, "GET /health HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("a", 64<<10)+"\r\n\r\n", 5*time.Second)
	require.Contains(t, got, "431")
	got = r.raw(t, "GET /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+strings.Repeat("a", 12<<10)+"\r\n\r\n", 5*time.Second)
	require.Contains(t, got, "401")
	got = r.raw(t, "GET /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+r.tokens["admin"]+"\r\nAuthorization: Bearer x\r\n\r\n", 5*time.Second)
	require.Contains(t, got, "401", "two headers are none")
}
