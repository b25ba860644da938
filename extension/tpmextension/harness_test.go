package tpmextension

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/telemark-otel/telemark/extension/tpmextension/internal/metadata"
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/receipt"
)

const patience = 20 * time.Second // of a test with a real process in it

var storageID = component.MustNewID("file_storage")

// testHost is a Collector that remembers what components report.
type testHost struct {
	extensions map[component.ID]component.Component

	mu     sync.Mutex
	events []*componentstatus.Event
}

func (h *testHost) GetExtensions() map[component.ID]component.Component { return h.extensions }

func (h *testHost) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// status is the last status reported.
func (h *testHost) status() (componentstatus.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == 0 {
		return componentstatus.StatusNone, nil
	}
	last := h.events[len(h.events)-1]
	return last.Status(), last.Err()
}

func (h *testHost) waitFor(t *testing.T, want componentstatus.Status) error {
	t.Helper()
	require.Eventually(t, func() bool {
		got, _ := h.status()
		return got == want
	}, patience, 5*time.Millisecond, "status %v", want)
	_, err := h.status()
	return err
}

// withStorage returns a host with a real file storage in dir.
func withStorage(t *testing.T, dir string) *testHost {
	t.Helper()
	f := filestorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory = dir
	ext, err := f.Create(t.Context(), extensiontest.NewNopSettings(f.Type()), cfg)
	require.NoError(t, err)
	require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, ext.Shutdown(context.Background())) })
	return &testHost{extensions: map[component.ID]component.Component{storageID: ext}}
}

// agent is a started extension and what it needs to start again.
type agent struct {
	*tpmExtension
	host      *testHost
	logs      *observer.ObservedLogs
	telemetry *componenttest.Telemetry
}

type configure func(*Config)

func stored(c *Config)                  { c.Storage = &storageID }
func noncesFrom(s *nonceStub) configure { return func(c *Config) { c.Nonce = s.config() } }

// testConfig is the default one, made impatient.
func testConfig(device, keys string, more ...configure) *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.Device = device
	cfg.Key.Dir = keys
	cfg.CommandTimeout = 5 * time.Second
	cfg.Retry = RetryConfig{InitialInterval: 5 * time.Millisecond, MaxInterval: 50 * time.Millisecond, Multiplier: 2}
	for _, f := range more {
		f(cfg)
	}
	return cfg
}

func newTestExtension(t *testing.T, cfg *Config) (*tpmExtension, *observer.ObservedLogs, *componenttest.Telemetry) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	set := extension.Settings{ID: component.NewID(metadata.Type), TelemetrySettings: tel.NewTelemetrySettings()}
	set.Logger = zap.New(core)
	return newExtension(cfg, set), logs, tel
}

func startAgent(t *testing.T, host *testHost, cfg *Config) *agent {
	t.Helper()
	ext, logs, tel := newTestExtension(t, cfg)
	require.NoError(t, ext.Start(t.Context(), host))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = ext.Shutdown(ctx)
	})
	return &agent{tpmExtension: ext, host: host, logs: logs, telemetry: tel}
}

// leaves makes n different leaves of a stream.
func leaves(stream string, n int) []group.Leaf {
	out := make([]group.Leaf, n)
	for i := range out {
		out[i] = group.Leaf{Signal: block.Logs, Stream: stream, Items: 1 + uint64(i), Digest: block.Digest{byte(i), byte(i >> 8), 1}}
	}
	return out
}

func (a *agent) submit(t *testing.T, l []group.Leaf) *group.Ticket {
	t.Helper()
	ticket, err := a.Submit(l)
	require.NoError(t, err)
	return ticket
}

// signed waits for a ticket.
func signed(t *testing.T, ticket *group.Ticket) []group.Signed {
	t.Helper()
	select {
	case <-ticket.Done():
	case <-time.After(patience):
		require.FailNow(t, "the ticket was not signed in time")
	}
	out, err := ticket.Result()
	require.NoError(t, err)
	return out
}

func pending(t *testing.T, ticket *group.Ticket, why string) {
	t.Helper()
	select {
	case <-ticket.Done():
		require.FailNow(t, "signed though "+why)
	case <-time.After(100 * time.Millisecond):
	}
}

func (a *agent) sign(t *testing.T, l []group.Leaf) []*receipt.Receipt {
	t.Helper()
	ticket := a.submit(t, l)
	select {
	case <-ticket.Done():
	case <-time.After(patience):
		require.FailNow(t, "not signed in time", "%+v", a.Status())
	}
	return a.verify(t, l, signed(t, ticket))
}

// verify holds receipts against their leaves with nothing but the public key.
func (a *agent) verify(t *testing.T, l []group.Leaf, s []group.Signed) []*receipt.Receipt {
	t.Helper()
	require.Len(t, s, len(l))
	o := a.signer.opened.Load()
	pub := o.key.PublicKey()
	out := make([]*receipt.Receipt, len(l))
	for i := range l {
		r, err := receipt.Decode(s[i].Receipt)
		require.NoError(t, err)
		require.Equal(t, a.KID(), r.Statement.KID)
		require.Equal(t, l[i].Digest, r.Digest)
		require.Equal(t, l[i].Items, r.Items)
		require.Equal(t, s[i].BlockNo, r.BlockNo)
		leaf := receipt.Leaf{
			Signal: l[i].Signal, Tolerances: l[i].Tolerances,
			Stream: r.Stream, BlockNo: r.BlockNo, Items: r.Items, Digest: l[i].Digest,
		}
		root, err := r.Root(leaf.Hash())
		require.NoError(t, err)
		require.NoError(t, receipt.VerifySignature(o.algorithm, pub, receipt.SigStructure(r.Protected, root), r.Signature))
		out[i] = r
	}
	return out
}

// nonceStub is a nonce server that can be made to fail or to lie.
type nonceStub struct {
	*httptest.Server

	mu     sync.Mutex
	down   bool
	kid    []byte // to answer with, nil = the one asked for
	issued int
	failed int // requests answered while it is down
}

func newNonceStub(t *testing.T) *nonceStub {
	t.Helper()
	s := &nonceStub{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *nonceStub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down || r.URL.Path != "/nonce" {
		s.failed++
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	kid := s.kid
	if kid == nil {
		kid, _ = hex.DecodeString(r.URL.Query().Get("kid"))
	}
	s.issued++
	_, _ = fmt.Fprint(w, answerJSON(s.nonce(s.issued), kid, time.Hour))
}

func (s *nonceStub) nonce(n int) []byte {
	out := make([]byte, 32)
	out[0], out[31] = byte(n), 1
	return out
}

func (s *nonceStub) set(down bool, kid []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.kid = down, kid
}

func (s *nonceStub) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}

func (s *nonceStub) failures() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// config is impatient beyond what Validate lets through.
func (s *nonceStub) config() configoptional.Optional[NonceConfig] {
	cfg := NonceConfig{ClientConfig: confighttp.NewDefaultClientConfig(), RenewInterval: 50 * time.Millisecond, MaxAge: time.Hour}
	cfg.Endpoint = s.URL
	cfg.Timeout = 5 * time.Second
	return configoptional.Some(cfg)
}

// software is an swtpm that the test owns and can kill, at a socket.
type software struct {
	dir     string
	process *exec.Cmd
}

func newSoftware(t *testing.T) *software {
	t.Helper()
	s := &software{dir: shortDir(t)}
	t.Cleanup(s.kill)
	return s
}

func (s *software) device() string { return "unix:" + filepath.Join(s.dir, "sock") }

func (s *software) start(t *testing.T) {
	t.Helper()
	s.process = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.dir,
		"--server", "type=unixio,path="+filepath.Join(s.dir, "sock"), "--flags", "not-need-init,startup-clear")
	s.process.Stderr = os.Stderr
	require.NoError(t, s.process.Start())
}

func (s *software) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
	_ = os.Remove(filepath.Join(s.dir, "sock"))
}

// shortDir is a directory short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") //nolint:usetesting // t.TempDir has the test's name in it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}
