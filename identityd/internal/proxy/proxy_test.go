package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/proxy"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/ratls"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var (
	lab      = tdxlab.New("proxy")
	instance = bytes.Repeat([]byte{0xab}, 32)
	key      = hex.EncodeToString(instance)
)

// certificate is an RA-TLS certificate of a fresh instance.
func certificate(t *testing.T) *tls.Certificate {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	hash, err := ratls.KeyHash(&k.PublicKey)
	require.NoError(t, err)
	raw, err := (&statement.Statement{Version: 1, Instance: instance, Origin: instance, Boot: "b", State: statement.Fresh, Counter: 1, TLSKey: hash}).Encode()
	require.NoError(t, err)
	der, err := ratls.Make(&ratls.Template{Key: k, Statement: raw, Quote: lab.Quote(statement.AttestData(nil, raw)), Lifetime: time.Hour}, time.Now())
	require.NoError(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

func verifier(quote []byte) (*ratls.Quoted, error) {
	if _, err := tdx.Authenticate(quote, tdx.Options{Roots: lab.Roots()}, time.Now()); err != nil {
		return nil, err
	}
	data, err := tdx.ReportData(quote)
	return &ratls.Quoted{ReportData: data}, err
}

// front is a proxy in front of a handler, or of a listener.
type front struct {
	address string
	client  *http.Client // speaks HTTP/2
	proxy   *proxy.Proxy
}

func started(t *testing.T, upstream string, edits ...func(*proxy.Options)) *front {
	t.Helper()
	cert := certificate(t)
	o := proxy.Options{
		Upstream: netip.MustParseAddrPort(strings.TrimPrefix(upstream, "http://")), Instance: instance,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
	}
	for _, edit := range edits {
		edit(&o)
	}
	p, err := proxy.New(o)
	require.NoError(t, err)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- p.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = p.Close(ctx)
		require.NoError(t, <-done)
	})
	transport := &http.Transport{TLSClientConfig: ratls.Client(verifier, nil, time.Now), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &front{ln.Addr().String(), &http.Client{Transport: transport}, p}
}

// http1 is a client that speaks HTTP/1.1 only.
func (f *front) http1() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: ratls.Client(verifier, nil, time.Now)}}
}

// dial is a connection that speaks whatever the test says.
func (f *front) dial(t *testing.T) *tls.Conn {
	t.Helper()
	c, err := (&tls.Dialer{Config: ratls.Client(verifier, nil, time.Now)}).DialContext(t.Context(), "tcp", f.address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c.(*tls.Conn)
}

func handled(t *testing.T, h http.HandlerFunc, edits ...func(*proxy.Options)) *front {
	t.Helper()
	upstream := httptest.NewServer(h)
	t.Cleanup(upstream.Close)
	return started(t, upstream.URL, edits...)
}

func get(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

func request(t *testing.T, f *front, method, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+f.address+path, body)
	require.NoError(t, err)
	return req
}

func TestRequestsReachTheWorkload(t *testing.T) {
	f := handled(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Workload", "yes")
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.RequestURI(), r.Host, b)
	})
	for name, c := range map[string]*http.Client{"HTTP/2.0": f.client, "HTTP/1.1": f.http1()} {
		resp, body := get(t, c, request(t, f, http.MethodPut, "/a%2Fb/../c?x=1&y=%20", strings.NewReader("hello")))
		require.Equal(t, name, resp.Proto)
		require.Equal(t, http.StatusTeapot, resp.StatusCode)
		require.Equal(t, "PUT /a%2Fb/../c?x=1&y=%20 "+f.address+" hello", body)
		require.Equal(t, []string{key}, resp.Header.Values("x-instance-pubkey"))
		require.Equal(t, "yes", resp.Header.Get("X-Workload"))
		require.EqualValues(t, tls.VersionTLS13, resp.TLS.Version)
	}
}

func TestOnlyTheProxySaysWhoseAnswerItIs(t *testing.T) {
	forged := strings.Repeat("00", 32)
	f := handled(t, func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.Contains(strings.ToLower(name), "pubkey") {
				w.Header().Set("X-Seen", name)
			}
		}
		w.Header().Add("X-Instance-Pubkey", forged)
		w.Header().Add("x-instance-pubkey", forged)
		w.Header().Set("Trailer", "X-Instance-Pubkey, X-Sum")
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Instance-Pubkey", forged)
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-Instance-Pubkey", forged)
	})
	for _, c := range []*http.Client{f.client, f.http1()} {
		req := request(t, f, http.MethodGet, "/", nil)
		req.Header.Set("X-Instance-Pubkey", forged)
		req.Header["x_instance_pubkey"] = []string{forged}
		resp, _ := get(t, c, req)
		require.Equal(t, []string{key}, resp.Header.Values("X-Instance-Pubkey"))
		require.Empty(t, resp.Header.Get("X-Seen"), "nor does the workload see another's")
		require.Equal(t, "1", resp.Trailer.Get("X-Sum"))
		require.Empty(t, resp.Trailer.Get("X-Instance-Pubkey"))
	}
	// What comes before the answer, by the wire.
	c := f.dial(t)
	_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	hints, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusEarlyHints, hints.StatusCode)
	require.Equal(t, []string{key}, hints.Header.Values("X-Instance-Pubkey"))
}

func TestWhatClientsSayOfThemselvesIsNotPassedOn(t *testing.T) {
	f := handled(t, func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(r.Header) })
	c := f.dial(t)
	_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\nX_Forwarded_For: 6.6.6.6\r\n"+
		"Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Prefix: /admin\r\nConnection: X-Forwarded-Proto, X-Mine, close\r\nX-Mine: 1\r\n"+
		"Proxy-Authorization: Basic eA==\r\nTE: trailers\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Other: 1\r\n\r\n")
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	var got http.Header
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
	require.Equal(t, []string{"127.0.0.1"}, got["X-Forwarded-For"])
	require.Equal(t, []string{"https"}, got["X-Forwarded-Proto"])
	require.Equal(t, []string{"x"}, got["X-Forwarded-Host"])
	require.Equal(t, []string{"1"}, got["X-Other"])
	for _, gone := range []string{"X_forwarded_for", "X_Forwarded_For", "Forwarded", "X-Real-Ip", "X-Forwarded-Prefix", "X-Mine", "Proxy-Authorization", "Keep-Alive", "Upgrade", "Connection"} {
		require.NotContains(t, got, gone)
	}
	require.NotContains(t, fmt.Sprint(got), "6.6.6.6")
}

func TestStreamsArePassedOnAsTheyCome(t *testing.T) {
	for name, c := range map[string]func(*front) *http.Client{
		"HTTP/2":   func(f *front) *http.Client { return f.client },
		"HTTP/1.1": (*front).http1,
	} {
		t.Run(name, func(t *testing.T) { streams(t, c) })
	}
}

func streams(t *testing.T, client func(*front) *http.Client) {
	next := make(chan struct{})
	f := handled(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		b := make([]byte, 4)
		for range 3 {
			_, _ = io.ReadFull(r.Body, b)
			_, _ = w.Write(b)
			_ = http.NewResponseController(w).Flush()
			<-next
		}
	})
	in, out := io.Pipe()
	resp, err := client(f).Do(request(t, f, http.MethodPost, "/", func() io.Reader {
		go func() { _, _ = io.WriteString(out, "ping") }()
		return in
	}()))
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	b := make([]byte, 4)
	for i := range 3 {
		_, err := io.ReadFull(resp.Body, b)
		require.NoError(t, err)
		require.Equal(t, "ping", string(b))
		next <- struct{}{}
		if i < 2 {
			_, err = io.WriteString(out, "ping")
			require.NoError(t, err)
		}
	}
	require.NoError(t, out.Close())
}

func TestWebSocketsPass(t *testing.T) {
	f := handled(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Instance-Pubkey: 00\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	c := f.dial(t)
	_, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.Equal(t, []string{key}, resp.Header.Values("X-Instance-Pubkey"))
	_, err = io.WriteString(c, "frame")
	require.NoError(t, err)
	b := make([]byte, 5)
	_, err = io.ReadFull(r, b)
	require.NoError(t, err)
	require.Equal(t, "frame", string(b))
}

func TestWorkloadThatIsDownHasItsReason(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := ln.Addr().String()
	require.NoError(t, ln.Close())
	f := started(t, address)
	check := func(resp *http.Response, body string) {
		t.Helper()
		require.Equal(t, http.StatusBadGateway, resp.StatusCode)
		require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
		require.Equal(t, key, resp.Header.Get("X-Instance-Pubkey"))
		var e struct{ Error, Reason string }
		require.NoError(t, json.Unmarshal([]byte(body), &e))
		require.Equal(t, "upstream_unavailable", e.Reason)
		require.NotEmpty(t, e.Error)
		require.NotContains(t, body, address)
	}
	resp, body := get(t, f.client, request(t, f, http.MethodGet, "/", nil))
	check(resp, body)

	slow := handled(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(o *proxy.Options) { o.AnswerTimeout = 50 * time.Millisecond })
	resp, body = get(t, slow.client, request(t, slow, http.MethodGet, "/", nil))
	check(resp, body)
	large := handled(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("a", 128<<10)) })
	resp, body = get(t, large.client, request(t, large, http.MethodGet, "/", nil))
	check(resp, body)
}

func TestHeadersAndConnectionsAreBounded(t *testing.T) {
	f := handled(t, func(http.ResponseWriter, *http.Request) {}, func(o *proxy.Options) {
		o.HeaderTimeout, o.Connections, o.MaxHeader = 200*time.Millisecond, 2, 8<<10
	})
	t.Run("large", func(t *testing.T) {
		req := request(t, f, http.MethodGet, "/", nil)
		req.Header.Set("X", strings.Repeat("a", 64<<10))
		resp, _ := get(t, f.http1(), req)
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
	})
	t.Run("slow", func(t *testing.T) {
		c := f.dial(t)
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost:")
		require.NoError(t, err)
		start := time.Now()
		_, _ = io.ReadAll(c)
		require.Less(t, time.Since(start), 5*time.Second)
	})
	t.Run("handshake never made", func(t *testing.T) {
		for range 3 { // more than there may be
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.address)
			require.NoError(t, err)
			defer func() { _ = c.Close() }()
		}
		resp, _ := get(t, f.http1(), request(t, f, http.MethodGet, "/", nil))
		require.Equal(t, http.StatusOK, resp.StatusCode, "they are gone after the time for a handshake")
	})
}

func TestOldTLSIsRefused(t *testing.T) {
	f := handled(t, func(http.ResponseWriter, *http.Request) {})
	c := ratls.Client(verifier, nil, time.Now)
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	_, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", f.address)
	require.Error(t, err)
}

func TestUpstreamElsewhereIsRefused(t *testing.T) {
	cert := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
	for _, o := range []proxy.Options{
		{Instance: instance, GetCertificate: cert},
		{Instance: instance, GetCertificate: cert, Upstream: netip.MustParseAddrPort("10.0.0.1:80")},
		{Instance: instance, GetCertificate: cert, Upstream: netip.MustParseAddrPort("127.0.0.1:0")},
		{GetCertificate: cert, Upstream: netip.MustParseAddrPort("127.0.0.1:80")},
		{Instance: instance, Upstream: netip.MustParseAddrPort("127.0.0.1:80")},
	} {
		_, err := proxy.New(o)
		require.Error(t, err)
	}
}
