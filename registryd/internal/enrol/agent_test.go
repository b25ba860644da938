package enrol_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/telemark-otel/telemark/extension/tpmextension"
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/signing"
	"github.com/telemark-otel/telemark/internal/strictjson"
	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/fleet"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// What follows runs the agent's own extension, with a software TPM that has an
// EK certificate, against the service over a real store and real HTTP.

const agentPatience = 30 * time.Second

// registry is the service behind HTTP, as an agent meets it.
type registry struct {
	*httptest.Server
	fleet *fleet.Service
	down  atomic.Bool
	// completed, when set, is called after a completion was written and before
	// it is answered.
	completed atomic.Pointer[func()]
}

func startRegistry(t *testing.T, tpmDir string, change func(*enrol.Options)) *registry {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "registry.db"), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	o := enrol.Options{Store: db, SealKey: question("seal"), Roots: vendor(t, tpmDir), Lease: time.Hour}
	change(&o)
	service, err := enrol.New(o)
	require.NoError(t, err)
	r := &registry{}
	r.fleet, err = fleet.New(fleet.Options{Store: db, Signer: signer(t), SealKey: o.SealKey})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/enrolments", func(w http.ResponseWriter, req *http.Request) {
		serve(w, req, func(in *api.EnrolmentStart) (*api.Challenge, int, error) {
			out, err := service.Start(req.Context(), in)
			return out, http.StatusOK, err
		})
	})
	mux.HandleFunc("POST /v1/enrolments/complete", func(w http.ResponseWriter, req *http.Request) {
		serve(w, req, func(in *api.EnrolmentComplete) (*api.Enrolment, int, error) {
			out, err := service.Complete(req.Context(), in, "127.0.0.1")
			if hook := r.completed.Load(); hook != nil && err == nil {
				(*hook)()
			}
			if err == nil && out.State == api.StatePending {
				return out, http.StatusAccepted, nil
			}
			return out, http.StatusOK, err
		})
	})
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.down.Load() {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func serve[In, Out any](w http.ResponseWriter, req *http.Request, fn func(*In) (*Out, int, error)) {
	var in In
	var out any
	status := http.StatusBadRequest
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 2<<20))
	if err == nil {
		err = strictjson.Unmarshal(body, &in)
	}
	if err == nil {
		out, status, err = fn(&in)
	}
	if err != nil {
		reason := api.ReasonOf(err)
		status, out = reason.Status(), api.ErrorBody{Error: err.Error(), Reason: reason, Help: reason.Help()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out) // the agent may be gone
}

func signer(t *testing.T) *answer.Signer {
	t.Helper()
	s, err := answer.NewSigner(ed25519.NewKeyFromSeed(question("signer")))
	require.NoError(t, err)
	return s
}

// vendor is the authority that certified the software TPM in dir.
func vendor(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	dev, err := tpm.Open(t.Context(), "swtpm:"+dir, tpm.Options{}) // makes it
	require.NoError(t, err)
	require.NoError(t, dev.Close())
	pool := x509.NewCertPool()
	roots, err := filepath.Glob(filepath.Join(dir, "ca", "*cert.pem"))
	require.NoError(t, err)
	require.NotEmpty(t, roots)
	for _, file := range roots {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, pool.AppendCertsFromPEM(content), file)
	}
	return pool
}

// host is a Collector with nothing but a storage.
type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

func newHost(t *testing.T, dir string) host {
	t.Helper()
	f := filestorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory = dir
	ext, err := f.Create(t.Context(), extensiontest.NewNopSettings(f.Type()), cfg)
	require.NoError(t, err)
	require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, ext.Shutdown(context.Background())) })
	return host{component.MustNewID("file_storage"): ext}
}

// agent is what processors see of the extension.
type agent interface {
	extension.Extension
	Submit(leaves []group.Leaf) (*group.Ticket, error)
	Status() signing.Status
}

func startAgent(t *testing.T, h host, tpmDir, url string, settings map[string]any) agent {
	t.Helper()
	settings["endpoint"] = url
	f := tpmextension.NewFactory()
	cfg := f.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{
		"device": "swtpm:" + tpmDir, "storage": "file_storage", "registry": settings,
		"retry": map[string]any{"initial_interval": "10ms", "max_interval": "100ms"},
	}).Unmarshal(cfg))
	set := extensiontest.NewNopSettings(f.Type())
	set.ID = component.NewID(f.Type()) // the same at each start, since the storage goes by it
	ext, err := f.Create(t.Context(), set, cfg)
	require.NoError(t, err)
	require.NoError(t, ext.Start(t.Context(), h))
	t.Cleanup(func() { require.NoError(t, ext.Shutdown(context.Background())) })
	return ext.(agent)
}

func submit(t *testing.T, a agent) *group.Ticket {
	t.Helper()
	ticket, err := a.Submit([]group.Leaf{{Signal: block.Logs, Stream: "s", Items: 1, Digest: block.Digest{1}}})
	require.NoError(t, err)
	return ticket
}

func requireSigned(t *testing.T, a agent, ticket *group.Ticket) {
	t.Helper()
	select {
	case <-ticket.Done():
	case <-time.After(agentPatience):
		require.FailNow(t, "not signed", "%+v", a.Status().Enrolment)
	}
	_, err := ticket.Result()
	require.NoError(t, err)
}

func requireHeld(t *testing.T, ticket *group.Ticket) {
	t.Helper()
	select {
	case <-ticket.Done():
		require.FailNow(t, "signed though the key is not enrolled")
	case <-time.After(200 * time.Millisecond):
	}
}

func requireState(t *testing.T, a agent, state string) *signing.Enrolment {
	t.Helper()
	require.Eventually(t, func() bool { return a.Status().Enrolment.State == state }, agentPatience, 10*time.Millisecond, state)
	return a.Status().Enrolment
}

func (r *registry) token(t *testing.T, uses int) string {
	t.Helper()
	token, err := r.fleet.CreateToken(t.Context(), "test", &api.TokenRequest{Uses: uses, ValidFor: "1h"})
	require.NoError(t, err)
	return token.Token
}

func tpmDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "tpm")
}

func TestAgentJoinsByTokenAndCertificateOfEveryKind(t *testing.T) {
	t.Parallel()
	for _, ek := range []string{"rsa2048", "p384"} {
		dir := tpmDir(t)
		r := startRegistry(t, dir, func(*enrol.Options) {})
		a := startAgent(t, newHost(t, t.TempDir()), dir, r.URL, map[string]any{"token": r.token(t, 1), "name": "edge-a", "ek": ek})
		requireSigned(t, a, submit(t, a))
		s := requireState(t, a, "enrolled")
		require.Equal(t, "edge-a", s.Name)
		require.Equal(t, string(api.EvidenceChain), s.Evidence)
		m, err := r.fleet.Machine(t.Context(), "edge-a")
		require.NoError(t, err)
		require.Equal(t, s.Machine, m.Machine)
		require.Equal(t, a.Status().KID, m.Keys[0].KID)
		require.Equal(t, api.StateEnrolled, m.State)
	}
}

func TestAgentWithoutATokenWaitsForApprovalAndThenSigns(t *testing.T) {
	t.Parallel()
	dir := tpmDir(t)
	r := startRegistry(t, dir, func(o *enrol.Options) { o.Queue = enrol.QueueGenuine })
	a := startAgent(t, newHost(t, t.TempDir()), dir, r.URL, map[string]any{"name": "edge-a"})
	ticket := submit(t, a)
	requireState(t, a, "pending")
	requireHeld(t, ticket)
	page, err := r.fleet.Machines(t.Context(), store.MachineFilter{})
	require.NoError(t, err)
	require.Len(t, page.Items, 1)
	_, err = r.fleet.Approve(t.Context(), "test", page.Items[0].Machine, &api.ApproveRequest{Name: "edge-7"})
	require.NoError(t, err)
	requireSigned(t, a, ticket)
	require.Equal(t, "edge-7", requireState(t, a, "enrolled").Name)
}

func TestAgentWithAForeignTPMIsRefusedAndSaysWhy(t *testing.T) {
	t.Parallel()
	r := startRegistry(t, tpmDir(t), func(o *enrol.Options) { o.Queue = enrol.QueueGenuine })
	a := startAgent(t, newHost(t, t.TempDir()), tpmDir(t), r.URL, map[string]any{"name": "edge-a"})
	ticket := submit(t, a)
	require.Equal(t, string(api.EKCertificateUntrusted), requireState(t, a, "refused").Reason)
	requireHeld(t, ticket)
}

func TestRevokedAgentIsStoppedAtRenewalAndAfterARestart(t *testing.T) {
	t.Parallel()
	dir := tpmDir(t)
	r := startRegistry(t, dir, func(o *enrol.Options) { o.Lease = 6 * time.Second })
	h := newHost(t, t.TempDir())
	settings := map[string]any{"token": r.token(t, 1), "name": "edge-a"}
	a := startAgent(t, h, dir, r.URL, settings)
	requireSigned(t, a, submit(t, a))
	_, err := r.fleet.RevokeMachine(t.Context(), "test", "edge-a", "stolen")
	require.NoError(t, err)
	require.Equal(t, string(api.MachineRevoked), requireState(t, a, "revoked").Reason)
	requireHeld(t, submit(t, a))
	require.NoError(t, a.Shutdown(t.Context()))

	a = startAgent(t, h, dir, r.URL, settings)
	requireHeld(t, submit(t, a))
	requireState(t, a, "revoked")
}

func TestRegistryAwayAtStartAndAfterARestartWithinTheLease(t *testing.T) {
	t.Parallel()
	dir := tpmDir(t)
	r := startRegistry(t, dir, func(*enrol.Options) {})
	h := newHost(t, t.TempDir())
	settings := map[string]any{"token": r.token(t, 1), "name": "edge-a"}
	r.down.Store(true)
	a := startAgent(t, h, dir, r.URL, settings)
	ticket := submit(t, a)
	requireHeld(t, ticket)
	r.down.Store(false)
	requireSigned(t, a, ticket)
	require.NoError(t, a.Shutdown(t.Context()))

	r.down.Store(true)
	a = startAgent(t, h, dir, r.URL, settings)
	requireSigned(t, a, submit(t, a))
}

// The registry has written the enrolment, and consumed the token's only use,
// when the agent dies without having heard of it.
func TestCrashBeforeTheAnswerCostsNoSecondUseOfTheToken(t *testing.T) {
	t.Parallel()
	dir := tpmDir(t)
	r := startRegistry(t, dir, func(*enrol.Options) {})
	h := newHost(t, t.TempDir())
	settings := map[string]any{"token": r.token(t, 1), "name": "edge-a"}
	died := make(chan struct{})
	hook := func() {
		if !r.down.Swap(true) {
			close(died)
		}
		panic(http.ErrAbortHandler) // the answer is never sent
	}
	r.completed.Store(&hook)
	a := startAgent(t, h, dir, r.URL, settings)
	ticket := submit(t, a)
	<-died
	requireHeld(t, ticket)
	require.NoError(t, a.Shutdown(t.Context()))

	r.completed.Store(nil)
	r.down.Store(false)
	a = startAgent(t, h, dir, r.URL, settings)
	requireSigned(t, a, submit(t, a))
	tokens, err := r.fleet.Tokens(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, tokens[0].Used)
	page, err := r.fleet.Machines(t.Context(), store.MachineFilter{})
	require.NoError(t, err)
	require.Len(t, page.Items, 1)
}

func TestAgentQuotesItsRegistersAndShowsItsEventLog(t *testing.T) {
	t.Parallel()
	dir := tpmDir(t)
	zero := bytes.Repeat([]byte{0}, 32)
	r := startRegistry(t, dir, func(o *enrol.Options) { o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{0: {zero}, 7: {zero}}} })
	a := startAgent(t, newHost(t, t.TempDir()), dir, r.URL, map[string]any{"token": r.token(t, 1), "name": "edge-a"})
	requireSigned(t, a, submit(t, a))

	dir = tpmDir(t)
	r = startRegistry(t, dir, func(o *enrol.Options) {
		o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{7: {question("another boot")}}}
	})
	a = startAgent(t, newHost(t, t.TempDir()), dir, r.URL, map[string]any{"token": r.token(t, 1), "name": "edge-a"})
	require.Equal(t, string(api.PCRMismatch), requireState(t, a, "refused").Reason)

	dir = tpmDir(t)
	r = startRegistry(t, dir, func(o *enrol.Options) {
		o.PCRs = &enrol.PCRPolicy{PCRs: map[uint][][]byte{7: {}}, EventLog: true}
	})
	missing := filepath.Join(t.TempDir(), "no log")
	a = startAgent(t, newHost(t, t.TempDir()), dir, r.URL, map[string]any{"token": r.token(t, 1), "name": "edge-a", "event_log": missing})
	s := requireState(t, a, "refused")
	require.Equal(t, string(api.EventLogMissing), s.Reason)
	require.Contains(t, s.Error, missing)
}
