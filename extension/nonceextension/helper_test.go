package nonceextension

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadata"
)

const (
	kid1 = "000b1111111111111111111111111111111111111111111111111111111111111111"
	kid2 = "000b2222222222222222222222222222222222222222222222222222222222222222"
)

// testHost has extensions and remembers statuses.
type testHost struct {
	extensions map[component.ID]component.Component

	mu       sync.Mutex
	statuses []componentstatus.Status
}

func (h *testHost) GetExtensions() map[component.ID]component.Component { return h.extensions }

func (h *testHost) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses = append(h.statuses, e.Status())
}

func (h *testHost) reported() []componentstatus.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]componentstatus.Status(nil), h.statuses...)
}

func hostWith(id component.ID, c component.Component) *testHost {
	return &testHost{extensions: map[component.ID]component.Component{id: c}}
}

// freePort reserves nothing; it names a port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, ln.Close()) }()
	return ln.Addr().String()
}

func testConfig(t *testing.T, change ...func(*Config)) *Config {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.ServerConfig.NetAddr.Endpoint = freePort(t)
	cfg.Admin.NetAddr.Endpoint = freePort(t)
	for _, c := range change {
		c(cfg)
	}
	require.NoError(t, cfg.Validate())
	return cfg
}

func settings() (extension.Settings, *observer.ObservedLogs) {
	set := extensiontest.NewNopSettings(metadata.Type)
	set.ID = component.NewID(metadata.Type) // the same after a restart
	core, logs := observer.New(zap.DebugLevel)
	set.Logger = zap.New(core)
	return set, logs
}

// running is an extension that was started.
type running struct {
	*Extension
	logs *observer.ObservedLogs
	tel  *componenttest.Telemetry
	url  string
	adm  string
}

func start(t *testing.T, host component.Host, cfg *Config) *running {
	t.Helper()
	set, logs := settings()
	e, err := newExtension(set, cfg)
	require.NoError(t, err)
	tel := metered(t, e)
	require.NoError(t, e.Start(t.Context(), host))
	t.Cleanup(func() { require.NoError(t, e.Shutdown(context.Background())) })
	return &running{e, logs, tel, "http://" + cfg.ServerConfig.NetAddr.Endpoint, "http://" + cfg.Admin.NetAddr.Endpoint}
}

// call sends a request and decodes the answer's JSON into out.
func call(t *testing.T, client *http.Client, method, url, body string, out any) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if method == http.MethodHead {
		return resp
	}
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"), "%s", b)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(out), "%s", b)
	return resp
}

func get(t *testing.T, url string, out any) *http.Response {
	t.Helper()
	return call(t, plainClient(t), http.MethodGet, url, "", out)
}

// plainClient leaves no connection behind.
func plainClient(t *testing.T) *http.Client {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func requireRefused(t *testing.T, client *http.Client, method, url, body string, status int, reason code) {
	t.Helper()
	var a errorAnswer
	resp := call(t, client, method, url, body, &a)
	require.Equal(t, status, resp.StatusCode, "%+v", a)
	require.Equal(t, reason, a.Reason)
	require.Equal(t, "nonce", a.ValidationType)
	require.NotEmpty(t, a.Error)
}

// memoryStorage is a storage extension in memory that can fail.
type memoryStorage struct {
	component.StartFunc
	component.ShutdownFunc

	mu     sync.Mutex
	values map[string][]byte
	broken bool
}

var errStorage = errors.New("no space left")

func newMemoryStorage() *memoryStorage { return &memoryStorage{values: map[string][]byte{}} }

func (m *memoryStorage) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return m, nil
}

func (m *memoryStorage) breakDown(broken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = broken
}

func (m *memoryStorage) Get(ctx context.Context, key string) ([]byte, error) {
	op := storage.GetOperation(key)
	err := m.Batch(ctx, op)
	return op.Value, err
}

func (m *memoryStorage) Set(ctx context.Context, key string, value []byte) error {
	return m.Batch(ctx, storage.SetOperation(key, value))
}

func (m *memoryStorage) Delete(ctx context.Context, key string) error {
	return m.Batch(ctx, storage.DeleteOperation(key))
}

func (m *memoryStorage) Close(context.Context) error { return nil }

func (m *memoryStorage) Batch(_ context.Context, ops ...*storage.Operation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errStorage
	}
	for _, op := range ops {
		switch op.Type {
		case storage.Get:
			op.Value = bytes.Clone(m.values[op.Key])
		case storage.Set:
			m.values[op.Key] = bytes.Clone(op.Value)
		case storage.Delete:
			delete(m.values, op.Key)
		default:
			return errors.New("unknown operation")
		}
	}
	return nil
}
