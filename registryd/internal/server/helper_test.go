package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx/collateral"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/fleet"
	"github.com/telemark-otel/telemark/registryd/internal/instance"
	"github.com/telemark-otel/telemark/registryd/internal/metrics"
	"github.com/telemark-otel/telemark/registryd/internal/server"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// rig is a whole registry: real store, real services, real connections. Only
// the roots of trust are the laboratories'.
type rig struct {
	t        testing.TB
	db       *store.DB
	lab      *tdxlab.Lab
	vendor   *attesttest.Authority
	server   *server.Server
	http     *httptest.Server
	client   *http.Client
	signer   *answer.Signer
	verifier *answer.Verifier
	metrics  *metrics.Metrics
	tokens   map[string]string // by role
	key      ed25519.PrivateKey
}

type settings struct {
	server.Options
	enrol   enrol.Options
	tune    func(*httptest.Server)
	handler func(http.Handler) http.Handler
	auth    func(*auth.File)
}

func newRig(t testing.TB, change ...func(*settings)) *rig {
	t.Helper()
	return newRigOn(t, filepath.Join(t.TempDir(), "registry.db"), change...)
}

// newRigOn makes a registry over the store at dsn.
func newRigOn(t testing.TB, dsn string, change ...func(*settings)) *rig {
	t.Helper()
	r := &rig{t: t, lab: tdxlab.New("server"), vendor: attesttest.NewAuthority(t), metrics: metrics.New(), tokens: map[string]string{}}
	_, r.key, _ = ed25519.GenerateKey(nil)
	signer, err := answer.NewSigner(r.key)
	require.NoError(t, err)
	r.signer = signer
	r.verifier, err = answer.NewVerifier(signer.Public())
	require.NoError(t, err)
	r.db, err = store.Open(t.Context(), dsn, store.Options{
		Sign: func(seq uint64, hash []byte, at time.Time) ([]byte, error) {
			return signer.Sign(answer.KindAuditHead, &answer.AuditHead{
				Head: answer.Head{Store: r.db.ID(), IssuedAt: at, NotAfter: at.Add(time.Hour)}, Seq: seq, Hash: hash,
			})
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.db.Close()) })

	seal := bytes.Repeat([]byte{7}, 32)
	s := settings{
		enrol: enrol.Options{Store: r.db, SealKey: seal, Roots: r.vendor.Roots(), Intermediates: r.vendor.Intermediates()},
		Options: server.Options{
			Store: r.db, Signer: signer, Metrics: r.metrics, PublicKey: signer.Public(), Version: "test",
			Heartbeat: 50 * time.Millisecond, StaleAfter: 10 * time.Second, MaxVerifications: 2,
		},
	}
	file := r.authFile()
	machines, err := fleet.New(fleet.Options{Store: r.db, Signer: signer, SealKey: seal})
	require.NoError(t, err)
	s.Fleet = machines
	quotes := r.quotes()
	instances, err := instance.New(instance.Options{Store: r.db, Quotes: quotes, Signer: signer, SealKey: seal})
	require.NoError(t, err)
	s.Instances = instances
	for _, f := range change {
		f(&s)
	}
	if s.Enrolment == nil {
		s.Enrolment, err = enrol.New(s.enrol)
		require.NoError(t, err)
	}
	if s.auth != nil {
		s.auth(file)
	}
	r.server = server.New(s.Options)
	r.server.SetAuth(auth.New(file))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.server.Run(ctx) })
	var handler http.Handler = r.server
	if s.handler != nil {
		handler = s.handler(handler)
	}
	r.http = httptest.NewUnstartedServer(handler)
	r.http.Config.ReadHeaderTimeout = time.Second
	r.http.Config.MaxHeaderBytes = 16 << 10
	if s.tune != nil {
		s.tune(r.http)
	}
	if r.http.URL == "" {
		r.http.Start()
	}
	r.client = r.http.Client()
	t.Cleanup(func() {
		r.server.Stop()
		r.http.Close()
		cancel()
		running.Wait()
	})
	return r
}

// authFile has one token for each role.
func (r *rig) authFile() *auth.File {
	f := &auth.File{}
	for _, role := range auth.Names {
		token, entry, err := auth.NewToken(role, []string{role})
		require.NoError(r.t, err)
		r.tokens[role] = token
		f.Tokens = append(f.Tokens, entry)
	}
	return f
}

func (r *rig) quotes() *collateral.Verifier {
	bundle := r.t.(interface{ TempDir() string }).TempDir()
	require.NoError(r.t, r.lab.WriteBundle(bundle, time.Now()))
	v, err := collateral.New(collateral.Options{Source: collateral.Bundle{Dir: bundle}, Roots: r.lab.Roots()})
	require.NoError(r.t, err)
	r.t.Cleanup(v.Close)
	return v
}

// reply is an answer that was read, and held against openapi.yaml.
type reply struct {
	*http.Response
	body []byte
}

// edit changes a request before it is sent.
type edit func(*http.Request)

func (r *rig) as(role string) edit {
	return func(req *http.Request) { req.Header.Set("Authorization", "Bearer "+r.tokens[role]) }
}

func header(name, value string) edit {
	return func(req *http.Request) { req.Header.Set(name, value) }
}

// do sends a request; body is nil, text, or something for JSON.
func (r *rig) do(method, path string, body any, edits ...edit) *reply {
	r.t.Helper()
	var content []byte
	switch b := body.(type) {
	case nil:
	case string:
		content = []byte(b)
	case []byte:
		content = b
	default:
		var err error
		content, err = json.Marshal(b)
		require.NoError(r.t, err)
	}
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
func refused(t testing.TB, reason api.Reason, r *reply) *api.ErrorBody {
	t.Helper()
	var e api.ErrorBody
	require.NoError(t, json.Unmarshal(r.body, &e), "%d %s", r.StatusCode, r.body)
	require.Equal(t, reason, e.Reason, "%s", r.body)
	require.Equal(t, reason.Status(), r.StatusCode)
	require.NotEmpty(t, e.Error)
	return &e
}

var spec = sync.OnceValue(func() *openapi3.T {
	for _, media := range []string{"application/cose", "application/x-pem-file", "text/event-stream"} {
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
	bare := req.Clone(context.Background())
	bare.URL.Scheme, bare.URL.Host, bare.Host = "", "", ""
	bare.Body = io.NopCloser(bytes.NewReader(content))
	if bare.Method == http.MethodHead {
		return
	}
	route, params, err := router().FindRoute(bare)
	if err != nil {
		// What is not in the file is refused.
		require.Contains(t, []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusTooManyRequests}, r.StatusCode, "%s %s: %v", req.Method, req.URL.Path, err)
		var e api.ErrorBody
		require.NoError(t, json.Unmarshal(r.body, &e), "%s", r.body)
		require.True(t, e.Reason.Known())
		return
	}
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, RejectWhenRequestBodyNotSpecified: true}
	in := &openapi3filter.RequestValidationInput{Request: bare, PathParams: params, Route: route, Options: options}
	if r.StatusCode < 300 {
		require.NoError(t, openapi3filter.ValidateRequest(context.Background(), in))
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: r.StatusCode, Header: r.Header, Options: options}
	if len(r.body) > 0 {
		out.SetBodyBytes(r.body)
	}
	require.NoError(t, openapi3filter.ValidateResponse(context.Background(), out), "%s %s: %s", req.Method, req.URL.Path, r.body)
	if r.StatusCode >= 400 {
		require.True(t, strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"))
	}
	if r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusServiceUnavailable {
		require.Regexp(t, `^[1-9][0-9]*$`, r.Header.Get("Retry-After"))
	}
}
