package registrar_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/registrar"
	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// registry is a registryd process, and somebody in front of it.
type registry struct {
	t     *testing.T
	dir   string
	args  []string
	url   string
	cmd   *exec.Cmd
	pin   []byte
	front *httptest.Server

	mu     sync.Mutex
	before func(w http.ResponseWriter, r *http.Request) bool // true: it is answered
	after  func(r *http.Response) error
	calls  []string
}

func newRegistry(t *testing.T, args ...string) *registry {
	t.Helper()
	x := &registry{t: t, dir: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	x.url = "http://" + address
	lab := tdxlab.New("registrar")
	require.NoError(t, os.WriteFile(filepath.Join(x.dir, "root.pem"), lab.RootPEM(), 0o600))
	bundle := filepath.Join(x.dir, "bundle")
	require.NoError(t, os.Mkdir(bundle, 0o700))
	require.NoError(t, lab.WriteBundle(bundle, time.Now()))
	x.args = append([]string{
		"serve", "--dev", "--listen", address, "--db", filepath.Join(x.dir, "registry.db"), "--key-file", filepath.Join(x.dir, "key.pem"),
		"--tdx-roots", filepath.Join(x.dir, "root.pem"), "--collateral-dir", bundle,
	}, args...)
	target, err := url.Parse(x.url)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(r *http.Response) error {
		x.mu.Lock()
		after := x.after
		x.mu.Unlock()
		if after == nil {
			return nil
		}
		return after(r)
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	x.front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		x.calls = append(x.calls, r.Method+" "+r.URL.Path)
		before := x.before
		x.mu.Unlock()
		if before == nil || !before(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(x.front.Close)
	t.Cleanup(x.down)
	return x
}

// hooks puts somebody between.
func (x *registry) hooks(before func(http.ResponseWriter, *http.Request) bool, after func(*http.Response) error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.before, x.after = before, after
}

func (x *registry) seen(path string) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.calls {
		if c == path {
			n++
		}
	}
	return n
}

func (x *registry) up() *registry {
	x.t.Helper()
	x.cmd = exec.Command(program, x.args...) //nolint:noctx // ended by down
	log := &bytes.Buffer{}
	x.cmd.Stdout, x.cmd.Stderr = log, log
	require.NoError(x.t, x.cmd.Start())
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get(x.url + "/ready")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		require.True(x.t, time.Now().Before(deadline), "registryd is not ready: %s", log)
		time.Sleep(20 * time.Millisecond)
	}
	var err error
	x.pin, err = os.ReadFile(filepath.Join(x.dir, "key.pem.pub"))
	require.NoError(x.t, err)
	return x
}

func (x *registry) down() {
	if x.cmd == nil {
		return
	}
	_ = x.cmd.Process.Kill()
	_ = x.cmd.Wait()
	x.cmd = nil
}

func (x *registry) client() *admin.Client {
	c, err := admin.New(x.url, http.DefaultClient, "")
	require.NoError(x.t, err)
	return c
}

// of returns the registrar of a VM.
func (x *registry) of(v *vm, change ...func(*registrar.Options)) *registrar.Registrar {
	x.t.Helper()
	o := registrar.Options{URL: x.front.URL, Pin: x.pin, Machine: v.m, Statement: v.statement, Quote: v.quote, PPID: v.ppid}
	for _, f := range change {
		f(&o)
	}
	r, err := registrar.New(o)
	require.NoError(x.t, err)
	return r
}

func refused(t *testing.T, want reason.Reason, err error) {
	t.Helper()
	require.Equal(t, want, reason.Of(err), "%v", err)
}

// forge turns an answer into another one.
func forge(r *http.Response, status int, body []byte) {
	_ = r.Body.Close()
	r.StatusCode, r.ContentLength, r.Body = status, int64(len(body)), io.NopCloser(bytes.NewReader(body))
	r.Header.Del("Content-Length")
}
