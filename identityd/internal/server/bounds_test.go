package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/server"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/limit"
)

func TestBodiesHaveASizeForEachRoute(t *testing.T) {
	r := newRig(t, func(s *settings) { s.PerAddress = limit.Rate{} }).owned()
	for _, line := range server.Table() {
		method, path, _ := strings.Cut(line, " ")
		size := server.Size(method, path)
		if size == 0 {
			refused(t, reason.BadRequest, r.do(method, path, "{}"))
			continue
		}
		over := bytes.Repeat([]byte(" "), int(size)+1)
		refused(t, reason.BodyTooLarge, r.do(method, path, over, header(api.HeaderToken, r.token)))
		// Without a length nobody knows before.
		refused(t, reason.BodyTooLarge, r.do(method, path, over, header(api.HeaderToken, r.token), func(req *http.Request) { req.ContentLength = -1 }))
	}
	require.EqualValues(t, 2, r.control.calls.Load())
}

// zeros is a body without end that counts what was taken of it.
type zeros struct{ taken atomic.Int64 } // the client's own goroutine may still read

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.taken.Add(int64(len(p)))
	return len(p), nil
}

func TestGigabyteBodyIsRefusedUnread(t *testing.T) {
	r := newRig(t)
	conn, err := net.Dial("tcp", r.http.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "POST /workload/configure HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n")
	require.NoError(t, err)
	// The answer comes before a byte of it was sent.
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	require.True(t, resp.Close)

	// Sent in pieces without a length, it is read to its bound and no further.
	z := &zeros{}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.http.URL+"/workload/configure", io.LimitReader(z, 1<<30))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if resp, err := r.client.Do(req); err == nil {
		require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		_ = resp.Body.Close()
	}
	require.Less(t, z.taken.Load(), int64(64<<20))
	require.Zero(t, r.control.calls.Load())
}

func TestSlowBodiesTimeOut(t *testing.T) {
	r := newRig(t, func(s *settings) { s.BodyTimeout = 100 * time.Millisecond })
	conn, err := net.Dial("tcp", r.http.Listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "POST /operator/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	refused(t, reason.RequestTimeout, &reply{resp, body})
}

func TestSlowBodiesTimeOutOverHTTP2(t *testing.T) {
	r := newRig(t, func(s *settings) { s.BodyTimeout, s.tls = 100*time.Millisecond, true })
	never, end := io.Pipe()
	defer func() { _ = end.Close() }()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.http.URL+"/operator/register", never)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	require.NoError(t, err)
	require.Equal(t, 2, resp.ProtoMajor)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	refused(t, reason.RequestTimeout, &reply{resp, body})
}

func TestOtherContentTypesAreRefused(t *testing.T) {
	r := newRig(t)
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"} {
		refused(t, reason.MediaType, r.do(http.MethodPost, "/operator/register", r.role(r.operator), header("Content-Type", media)))
	}
	refused(t, reason.MediaType, r.do(http.MethodPost, "/operator/register", r.role(r.operator), header("Content-Encoding", "gzip")))
}

func TestOneAddressHasARate(t *testing.T) {
	r := newRig(t, func(s *settings) { s.PerAddress = limit.Rate{Events: 1, Per: time.Hour, Burst: 3} })
	for range 3 {
		ok[api.Pubkey](t, r.do(http.MethodGet, "/instance/pubkey", nil))
	}
	got := r.do(http.MethodGet, "/instance/pubkey", nil)
	e := refused(t, reason.RateLimited, got)
	require.Contains(t, e.Error, "127.0.0.1")
	require.NotEqual(t, "1", got.Header.Get("Retry-After"))
	refused(t, reason.RateLimited, r.do(http.MethodGet, "/nowhere", nil))
}

func TestAnIPv6ClientHasAWholeNetwork(t *testing.T) {
	r := newRig(t, func(s *settings) { s.PerAddress = limit.Rate{Events: 1, Per: time.Hour} })
	ask := func(from string) int {
		req := httptest.NewRequest(http.MethodGet, "/instance/pubkey", nil)
		req.RemoteAddr = from
		w := httptest.NewRecorder()
		r.server.ServeHTTP(w, req)
		return w.Code
	}
	require.Equal(t, http.StatusOK, ask("[2001:db8::1]:1"))
	require.Equal(t, http.StatusTooManyRequests, ask("[2001:db8::2]:1"))
	require.Equal(t, http.StatusOK, ask("[2001:db8:0:1::1]:1"))
	require.Equal(t, http.StatusOK, ask("192.0.2.1:1"))
	require.Equal(t, http.StatusTooManyRequests, ask("[::ffff:192.0.2.1]:1"), "the same client")
}

func TestGuessedTokensHaveARateOfTheirOwn(t *testing.T) {
	r := newRig(t, func(s *settings) { s.PerToken = limit.Rate{Events: 1, Per: time.Hour, Burst: 2} })
	r.registerOperator()
	guess := func(path string) *reply {
		return r.do(http.MethodPost, path, r.role(r.owner), header(api.HeaderToken, strings.Repeat("0", 64)), r.signedFor(r.owner, r.machine.Counter()))
	}
	refused(t, reason.TokenInvalid, guess("/owner/register"))
	refused(t, reason.TokenInvalid, guess(api.PathRegisterOwner))
	refused(t, reason.RateLimited, guess("/owner/register"))
	refused(t, reason.RateLimited, guess(api.PathRegisterOwner))
	ok[api.Pubkey](t, r.do(http.MethodGet, "/instance/pubkey", nil))
}

func TestQuotesHaveARateOfTheirOwn(t *testing.T) {
	r := newRig(t, func(s *settings) { s.PerQuote = limit.Rate{Events: 1, Per: time.Hour, Burst: 2} })
	attest := func() *reply {
		return r.do(http.MethodGet, api.PathAttestation+"?nonce="+strings.Repeat("ab", 32), nil)
	}
	ask := func() *reply {
		return r.do(http.MethodPost, api.PathStorageRequest, map[string]any{"owner": public(r.owner), "nonce": strings.Repeat("ab", 32)})
	}
	ok[api.Attestation](t, attest())
	ok[api.StorageAsk](t, ask())
	refused(t, reason.RateLimited, attest())
	refused(t, reason.RateLimited, ask())
	require.EqualValues(t, 2, r.control.calls.Load())
}

// wait makes calls wait until release.
func (r *rig) wait() (entered chan string, release chan struct{}) {
	entered, release = make(chan string), make(chan struct{})
	r.control.before = func(ctx context.Context, what string) error {
		select {
		case entered <- what:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return entered, release
}

func TestNoMoreCallsThanMayBeAreUnderWay(t *testing.T) {
	r := newRig(t, func(s *settings) { s.MaxCalls, s.MaxQuotes = 2, 1 })
	entered, release := r.wait()
	first := make(chan int, 2)
	attest := func() *reply {
		return r.do(http.MethodGet, api.PathAttestation+"?nonce="+strings.Repeat("ab", 32), nil)
	}
	go func() { first <- attest().StatusCode }()
	require.Equal(t, "attest", <-entered)
	refused(t, reason.Busy, attest())
	go func() { first <- r.do(http.MethodPost, "/operator/register", r.role(r.operator)).StatusCode }()
	require.Equal(t, "operator", <-entered)
	refused(t, reason.Busy, r.do(http.MethodGet, api.PathState, nil))
	// Whether it is there is always told.
	ok[api.Health](t, r.do(http.MethodGet, "/health", nil))
	require.Equal(t, http.StatusOK, r.do(http.MethodGet, "/metrics", nil).StatusCode)
	close(release)
	require.Equal(t, http.StatusOK, <-first)
	require.Equal(t, http.StatusOK, <-first)
	ok[api.State](t, r.do(http.MethodGet, api.PathState, nil))
}

func TestStopEndsWhatCanBeUndoneAndRefusesTheRest(t *testing.T) {
	r := newRig(t)
	entered, _ := r.wait()
	got := make(chan *reply, 1)
	go func() { got <- r.do(http.MethodPost, "/operator/register", r.role(r.operator)) }()
	require.Equal(t, "operator", <-entered)
	r.server.Stop()
	refused(t, reason.CallTimeout, <-got)
	refused(t, reason.Stopping, r.do(http.MethodPost, "/operator/register", r.role(r.operator)))
	ok[api.Health](t, r.do(http.MethodGet, "/health", nil))
	require.Equal(t, state.Fresh, r.machine.View().State)
}

func TestCallsEndInTime(t *testing.T) {
	r := newRig(t, func(s *settings) { s.CallTimeout = 50 * time.Millisecond })
	r.control.before = func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return fmt.Errorf("quote: %w", ctx.Err())
	}
	refused(t, reason.CallTimeout, r.do(http.MethodGet, api.PathAttestation+"?nonce="+strings.Repeat("ab", 32), nil))
}

func TestPanicsAndErrorsWithoutAReasonAreInternal(t *testing.T) {
	r := newRig(t)
	r.control.before = func(context.Context, string) error { panic("secret " + r.token) }
	e := refused(t, reason.Internal, r.do(http.MethodPost, "/operator/register", r.role(r.operator)))
	require.NotContains(t, e.Error, "secret")
	r.control.before = func(context.Context, string) error { return errors.New("open /secret/path: no such file") }
	e = refused(t, reason.Internal, r.do(http.MethodPost, "/operator/register", r.role(r.operator)))
	require.NotContains(t, e.Error, "secret", "what failed inside stands in the log")
	require.Len(t, r.logs.FilterField(zap.String("reason", "internal")).All(), 2, "each refusal is logged once")
	require.Contains(t, string(r.do(http.MethodGet, "/metrics", nil).body),
		`telemark_identity_requests_total{code="500",reason="internal",route="/operator/register"} 2`)
}

func TestTokensNeedTLSWhereItIsRequired(t *testing.T) {
	require0 := func(s *settings) { s.Fixed.RequireTLS = true }
	r := newRig(t, require0)
	from := func(address string, tls bool, path string, body any, edits ...edit) *reply {
		req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(encode(t, body)))
		req.RemoteAddr = address
		req.Header.Set("Content-Type", "application/json")
		content := encode(t, body)
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
		if !tls {
			req.TLS = nil
		}
		for _, e := range edits {
			e(req)
		}
		w := httptest.NewRecorder()
		r.server.ServeHTTP(w, req)
		return &reply{w.Result(), w.Body.Bytes()}
	}
	const far = "192.0.2.1:1"
	refused(t, reason.TLSRequired, from(far, false, "/operator/register", r.role(r.operator)))
	refused(t, reason.TLSRequired, from(far, false, api.PathRegisterOperator, r.role(r.operator), r.signedFor(r.operator, r.machine.Counter())))
	// A proxy on this machine speaks for somebody else.
	refused(t, reason.TLSRequired, from("127.0.0.1:1", false, "/operator/register", r.role(r.operator), header("X-Forwarded-For", "192.0.2.1")))
	r.token = ok[api.Done](t, from("127.0.0.1:1", false, "/operator/register", r.role(r.operator))).OwnerToken
	refused(t, reason.TLSRequired, from(far, false, "/owner/register", r.role(r.owner), header(api.HeaderToken, r.token)))
	ok[api.Done](t, from("[::1]:1", false, "/owner/register", r.role(r.owner), header(api.HeaderToken, r.token)))

	w := r.configuration()
	w["registry_credentials"] = map[string]string{"username": "a", "password": "b"}
	refused(t, reason.TLSRequired, from(far, false, "/workload/configure", w, signed(r.owner)))
	ok[api.Done](t, from(far, false, "/workload/configure", r.configuration(), signed(r.owner)))
}

func TestTokensAreTakenOverTLS(t *testing.T) {
	r := newRig(t, func(s *settings) { s.Fixed.RequireTLS, s.tls = true, true })
	r.owned()
}

func TestOwnerNamedByNobodyIsNotTakenInTheClear(t *testing.T) {
	r := newRig(t)
	body := r.role(r.operator)
	body["owner_pubkey"] = public(r.owner)
	req := httptest.NewRequest(http.MethodPost, "/operator/register", bytes.NewReader(encode(t, body)))
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder() // from 192.0.2.1
	r.server.ServeHTTP(w, req)
	refused(t, reason.TLSRequired, &reply{w.Result(), w.Body.Bytes()})
	require.Equal(t, state.Fresh, r.machine.View().State)
	ok[api.Done](t, r.do(http.MethodPost, "/operator/register", body))
}
