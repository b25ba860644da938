package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/telemark-otel/telemark/identityd/internal/control"
	"github.com/telemark-otel/telemark/identityd/internal/metrics"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/server"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

const image = "registry.example/app:1"

// steps is a Control over a real state machine whose world outside is nothing:
// each step is begun and finished. Tests make it wait, fail or panic.
type steps struct {
	machine *state.Machine
	before  func(ctx context.Context, what string) error // nil: nothing
	pending error                                        // what the registry said
	view    func(*control.View)
	calls   atomic.Int64
}

func (s *steps) begin(ctx context.Context, what string) error {
	s.calls.Add(1)
	if s.before != nil {
		return s.before(ctx, what)
	}
	return nil
}

func (s *steps) RegisterOperator(ctx context.Context, o *request.Operator) (control.Outcome, error) {
	if err := s.begin(ctx, "operator"); err != nil {
		return control.Outcome{}, err
	}
	token, err := s.machine.RegisterOperator(state.Role{Pubkey: o.Pubkey, Signature: o.Signature}, o.OwnerPubkey)
	return control.Outcome{Token: token, Registry: s.pending}, err
}

func (s *steps) RenewOperator(ctx context.Context, who state.Role) (control.Outcome, error) {
	if err := s.begin(ctx, "renew"); err != nil {
		return control.Outcome{}, err
	}
	return control.Outcome{Registry: s.pending}, s.machine.Renew(who)
}

func (s *steps) RegisterOwner(ctx context.Context, token string, o *request.Owner) (control.Outcome, error) {
	if err := s.begin(ctx, "owner"); err != nil {
		return control.Outcome{}, err
	}
	p, err := s.machine.RegisterOwner(time.Now(), token, state.Role{Pubkey: o.Pubkey, Signature: o.Signature})
	if err != nil {
		return control.Outcome{}, err
	}
	return control.Outcome{Registry: s.pending}, p.Finish()
}

func (s *steps) Configure(ctx context.Context, w *request.Configure, auth request.Auth) (control.Outcome, error) {
	if err := s.begin(ctx, "configure"); err != nil {
		return control.Outcome{}, err
	}
	p, err := s.machine.Configure(time.Now(), state.Auth(auth), state.Workload{Image: *w.Image, PersistDirs: w.PersistDirs, Port: uint16(*w.Port)})
	if err != nil {
		return control.Outcome{}, err
	}
	return control.Outcome{Registry: s.pending}, errors.Join(p.Resolve("sha256:"+strings.Repeat("ab", 32)), p.Note(time.Now(), state.SSHOpened), p.Finish())
}

func (s *steps) Expose(ctx context.Context, e *request.Expose, auth request.Auth) (control.Outcome, error) {
	if err := s.begin(ctx, "expose"); err != nil {
		return control.Outcome{}, err
	}
	p, err := s.machine.Expose(time.Now(), state.Auth(auth), *e.Image)
	if err != nil {
		return control.Outcome{}, err
	}
	return control.Outcome{Registry: s.pending}, errors.Join(p.Note(time.Now(), state.SSHListenerClosed), p.Note(time.Now(), state.SSHSessionsEnded), p.Finish())
}

func (s *steps) StorageRequest(ctx context.Context, nonce [32]byte, owner ed25519.PublicKey) ([]byte, []byte, error) {
	return append(nonce[:], owner...), []byte("quote"), s.begin(ctx, "storage")
}

func (s *steps) Unlock(ctx context.Context, _ *request.Unlock) (control.Outcome, error) {
	if err := s.begin(ctx, "unlock"); err != nil {
		return control.Outcome{}, err
	}
	return control.Outcome{}, reason.Refuse(reason.StateLinked, "there is nothing to unlock")
}

func (s *steps) Attest(ctx context.Context, nonce []byte) ([]byte, []byte, error) {
	return append([]byte("statement "), nonce...), []byte("quote"), s.begin(ctx, "attest")
}

func (s *steps) View(context.Context) control.View {
	v := control.View{State: s.machine.View(), Volume: "none", Container: workload.Status{Phase: workload.Absent}}
	if s.view != nil {
		s.view(&v)
	}
	return v
}

// rig is a server over a real state machine and real connections.
type rig struct {
	t       testing.TB
	machine *state.Machine
	control *steps
	server  *server.Server
	http    *httptest.Server
	client  *http.Client
	logs    *observer.ObservedLogs

	operator, owner ed25519.PrivateKey
	token           string
}

type settings struct {
	server.Options
	tls bool
}

func newRig(t testing.TB, change ...func(*settings)) *rig {
	t.Helper()
	dir := t.TempDir()
	run, err := state.OpenRunDir(filepath.Join(dir, "run"), true)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "state"), 0o700))
	disk, err := state.OpenDir(filepath.Join(dir, "state"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(disk.Close(), run.Close())) })
	machine, err := state.Open(state.Options{Dir: disk, RunDir: run, BootID: "11111111-2222-3333-4444-555555555555"})
	require.NoError(t, err)

	core, logs := observer.New(zapcore.DebugLevel)
	r := &rig{t: t, machine: machine, control: &steps{machine: machine}, logs: logs, operator: newKey(t), owner: newKey(t)}
	s := settings{Options: server.Options{
		Control: r.control, Machine: machine, Metrics: metrics.New(), Logger: zap.New(core),
		Fixed: api.State{Version: "test", Storage: api.Storage{Source: "owner"}},
	}}
	for _, f := range change {
		f(&s)
	}
	r.server = server.New(s.Options)
	r.http = httptest.NewUnstartedServer(r.server)
	r.http.Config.ReadHeaderTimeout = time.Second
	r.http.Config.MaxHeaderBytes = 16 << 10
	if s.tls {
		r.http.EnableHTTP2 = true
		r.http.StartTLS()
	} else {
		r.http.Start()
	}
	r.client = r.http.Client()
	t.Cleanup(func() {
		r.server.Stop()
		r.http.Close()
	})
	return r
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return key
}

func public(key ed25519.PrivateKey) api.Hex { return api.Hex(key.Public().(ed25519.PublicKey)) }

// reply is an answer that was read, and held against openapi.yaml.
type reply struct {
	*http.Response
	body []byte
}

// edit changes a request before it is sent.
type edit func(*http.Request)

func header(name, value string) edit {
	return func(req *http.Request) { req.Header.Set(name, value) }
}

// signed signs the raw body.
func signed(key ed25519.PrivateKey) edit {
	return func(req *http.Request) {
		req.Header.Set(api.HeaderSignature, hex.EncodeToString(ed25519.Sign(key, content(req))))
	}
}

// signedFor signs in the form of the second generation.
func (r *rig) signedFor(key ed25519.PrivateKey, counter uint64) edit {
	return func(req *http.Request) {
		message := api.Message(req.Method, req.URL.Path, r.machine.Instance(), counter, content(req))
		req.Header.Set(api.HeaderSignature, hex.EncodeToString(ed25519.Sign(key, message)))
		req.Header.Set(api.HeaderCounter, strconv.FormatUint(counter, 10))
	}
}

func content(req *http.Request) []byte {
	body, err := req.GetBody()
	if err != nil {
		panic(err)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		panic(err)
	}
	return b
}

func encode(t testing.TB, body any) []byte {
	t.Helper()
	switch b := body.(type) {
	case nil:
		return nil
	case string:
		return []byte(b)
	case []byte:
		return b
	default:
		out, err := json.Marshal(b)
		require.NoError(t, err)
		return out
	}
}

// do sends a request; body is nil, text, or something for JSON.
func (r *rig) do(method, path string, body any, edits ...edit) *reply {
	r.t.Helper()
	content := encode(r.t, body)
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.http.URL+path, bytes.NewReader(content))
	require.NoError(r.t, err)
	if content == nil {
		req.Body, req.ContentLength, req.GetBody = http.NoBody, 0, nil
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, e := range edits {
		e(req)
	}
	resp, err := r.client.Do(req)
	require.NoError(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	out := &reply{resp, got}
	conforms(r.t, req, content, out)
	return out
}

// role is the body of a registration.
func (r *rig) role(key ed25519.PrivateKey) map[string]any {
	return map[string]any{"pubkey": public(key), "signature": api.Hex(ed25519.Sign(key, r.machine.Instance()))}
}

func (r *rig) registerOperator() *reply {
	r.t.Helper()
	got := r.do(http.MethodPost, "/operator/register", r.role(r.operator))
	r.token = ok[api.Done](r.t, got).OwnerToken
	return got
}

func (r *rig) registerOwner() *reply {
	r.t.Helper()
	got := r.do(http.MethodPost, "/owner/register", r.role(r.owner), header(api.HeaderToken, r.token))
	ok[api.Done](r.t, got)
	return got
}

// configuration is the body of a configure.
func (r *rig) configuration() map[string]any {
	return map[string]any{"instance_pubkey": api.Hex(r.machine.Instance()), "image": image, "persist_dirs": []string{"/data"}, "port": 80}
}

func (r *rig) exposure() map[string]any {
	return map[string]any{"instance_pubkey": api.Hex(r.machine.Instance()), "image": image}
}

// owned registers both roles.
func (r *rig) owned() *rig {
	r.t.Helper()
	r.registerOperator()
	r.registerOwner()
	return r
}

// ok decodes a success.
func ok[T any](t testing.TB, r *reply) *T {
	t.Helper()
	require.Less(t, r.StatusCode, 300, "%s", r.body)
	var v T
	require.NoError(t, json.Unmarshal(r.body, &v), "%s", r.body)
	return &v
}

// refused checks a refusal: its reason, the reason's status and what belongs to
// every one.
func refused(t testing.TB, want reason.Reason, r *reply) *api.Error {
	t.Helper()
	var e api.Error
	require.NoError(t, json.Unmarshal(r.body, &e), "%d %s", r.StatusCode, r.body)
	require.Equal(t, string(want), e.Reason, "%s", r.body)
	require.Equal(t, want.Status(), r.StatusCode)
	require.NotEmpty(t, e.Error)
	require.Less(t, len(e.Error), 600)
	return &e
}

var spec = sync.OnceValue(func() *openapi3.T {
	for _, media := range []string{"application/yaml", "text/plain"} {
		openapi3filter.RegisterBodyDecoder(media, openapi3filter.FileBodyDecoder)
	}
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		panic(err)
	}
	return doc
})

var router = sync.OnceValue(func() routers.Router {
	r, err := legacy.NewRouter(spec())
	if err != nil {
		panic(err)
	}
	return r
})

// conforms holds an answer, and a request that was taken, to openapi.yaml.
func conforms(t testing.TB, req *http.Request, content []byte, r *reply) {
	t.Helper()
	if req.Method == http.MethodHead || req.Method == http.MethodOptions {
		require.Empty(t, r.body)
		return
	}
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	require.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"))
	bare := req.Clone(context.Background())
	bare.URL.Scheme, bare.URL.Host, bare.Host = "", "", ""
	bare.Body = io.NopCloser(bytes.NewReader(content))
	route, params, err := router().FindRoute(bare)
	if err != nil {
		// What is not in the file is refused.
		require.Contains(t, []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusTooManyRequests, http.StatusForbidden}, r.StatusCode, "%s %s: %v", req.Method, req.URL.Path, err)
		var e api.Error
		require.NoError(t, json.Unmarshal(r.body, &e), "%s", r.body)
		require.True(t, reason.Reason(e.Reason).Known())
		return
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, RejectWhenRequestBodyNotSpecified: true}
	in := &openapi3filter.RequestValidationInput{Request: bare, PathParams: params, Route: route, Options: options}
	if r.StatusCode < 300 {
		require.NoError(t, openapi3filter.ValidateRequest(context.Background(), in))
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: r.StatusCode, Header: r.Header, Options: options}
	out.SetBodyBytes(r.body)
	require.NoError(t, openapi3filter.ValidateResponse(context.Background(), out), "%s %s: %s", req.Method, req.URL.Path, r.body)
	if r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusServiceUnavailable {
		require.Regexp(t, `^[1-9][0-9]*$`, r.Header.Get("Retry-After"))
	}
}
