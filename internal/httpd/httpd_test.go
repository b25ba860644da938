package httpd_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

func fault(t *testing.T, want httpd.Word, err error) {
	t.Helper()
	f, ok := errors.AsType[*httpd.Fault](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, want, f.Word)
	require.NotEmpty(t, f.Detail)
	require.True(t, api.Reason(f.Word).Known(), "registryd has no such reason")
}

func post(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func TestBodiesAreBoundedWhoeverSendsThem(t *testing.T) {
	b := httpd.NewBodies(30, 20)
	read := func(who, body string, size, announced int64) (string, func(), error) {
		r := post(body)
		r.ContentLength = announced
		content, release, err := b.Read(httpd.NewAnswer(httptest.NewRecorder()), r, who, size)
		return string(content), release, err
	}
	ten := strings.Repeat("x", 10)
	got, first, err := read("a", ten, 10, 10)
	require.NoError(t, err)
	require.Equal(t, ten, got)

	_, release, err := read("b", ten+"x", 10, 11)
	fault(t, httpd.BodyTooLarge, err)
	release()
	_, release, err = read("b", ten+"x", 10, -1)
	fault(t, httpd.BodyTooLarge, err)
	release()

	_, second, err := read("a", ten, 10, 10)
	require.NoError(t, err)
	_, release, err = read("a", "x", 10, 1)
	fault(t, httpd.Busy, err)
	release()
	_, third, err := read("b", ten, 10, 10)
	require.NoError(t, err)
	_, release, err = read("c", "x", 10, 1)
	fault(t, httpd.Busy, err)
	release()
	for _, f := range []func(){first, second, third, third} {
		f()
	}
	_, release, err = read("c", ten, 10, 10)
	require.NoError(t, err, "what was released is there again")
	release()
}

func TestBodyThatEndsEarlyIsNoBody(t *testing.T) {
	r := post("")
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), failing{}))
	_, release, err := httpd.NewBodies(100, 100).Read(httpd.NewAnswer(httptest.NewRecorder()), r, "a", 10)
	defer release()
	fault(t, httpd.BadRequest, err)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestSlowBodyEnds(t *testing.T) {
	bodies, got := httpd.NewBodies(100, 100), make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := httpd.NewAnswer(w)
		a.Deadlines(r, 50*time.Millisecond, time.Second)
		_, release, err := bodies.Read(a, r, "a", 10)
		release()
		got <- err
	}))
	defer s.Close()
	never, end := io.Pipe()
	go func() { _, _ = http.Post(s.URL, "application/json", never) }() //nolint:bodyclose,noctx // there is no answer to read
	fault(t, httpd.RequestTimeout, <-got)
	_ = end.Close()
}

func TestOtherMediaTypesAreFaults(t *testing.T) {
	require.NoError(t, httpd.IsJSON(post("{}")))
	for name, value := range map[string]string{"Content-Type": "text/plain", "Content-Encoding": "gzip"} {
		r := post("{}")
		r.Header.Set(name, value)
		fault(t, httpd.MediaType, httpd.IsJSON(r))
	}
}

func TestParametersStandOnceAndAreKnown(t *testing.T) {
	ask := func(query string) error {
		_, err := httpd.Query(httptest.NewRequest(http.MethodGet, "/?"+query, nil), []string{"nonce", "label"}, "label")
		return err
	}
	require.NoError(t, ask("nonce=1&label=a&label=b"))
	for _, query := range []string{"nonce=1&nonce=1", "Nonce=1", "%zz", "a;b"} {
		fault(t, httpd.BadRequest, ask(query))
	}
}

func TestAddressOfAClient(t *testing.T) {
	require.Equal(t, netip.MustParseAddr("192.0.2.1"), httpd.Address("[::ffff:192.0.2.1]:5"))
	require.False(t, httpd.Address("nonsense").IsValid())
	require.Equal(t, httpd.Bucket(netip.MustParseAddr("2001:db8::1")), httpd.Bucket(netip.MustParseAddr("2001:db8::2")))
	require.NotEqual(t, httpd.Bucket(netip.MustParseAddr("192.0.2.1")), httpd.Bucket(netip.MustParseAddr("192.0.2.2")))
	for host, want := range map[string]bool{"localhost": true, "::1": true, "127.8.0.1": true, "": false, "10.0.0.1": false, "example.org": false} {
		require.Equal(t, want, httpd.Loopback(host), host)
	}
}

func TestAnswerSaysThatNobodyKeepsIt(t *testing.T) {
	w := httptest.NewRecorder()
	a := httpd.NewAnswer(w)
	require.Zero(t, a.Status())
	require.NoError(t, a.JSON(http.StatusAccepted, map[string]string{"a": "<b>"}))
	require.Equal(t, http.StatusAccepted, a.Status())
	require.Equal(t, "{\"a\":\"<b>\"}\n", w.Body.String())
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	require.Error(t, a.JSON(http.StatusOK, func() {}))
}

func TestOptionsOfEverythingAreTheHandlers(t *testing.T) {
	seen := make(chan string, 1)
	s := httpd.New(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Method + " " + r.RequestURI
		w.WriteHeader(http.StatusTeapot)
	}), zap.NewNop())
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = s.Serve(ln) }()
	defer func() { _ = s.Close() }()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), " 418 ")
	require.Equal(t, "OPTIONS *", <-seen)
}
