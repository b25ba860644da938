// Package enrolmenttest gives tests a registry that speaks docs/spec/enrolment.md
// for real, as far as a machine can tell: it makes credentials that only the
// right TPM opens, and checks every proof. It judges no certificates and keeps
// nothing. What it answers can be set, also to what no registry would say.
package enrolmenttest

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// Answer is what the registry says to a machine whose proofs are right. The
// zero value enrols it for an hour under the name that it asks for.
type Answer struct {
	State    api.KeyState
	Name     string
	Evidence api.Evidence
	Lease    time.Duration
	Renew    time.Duration // default half of Lease
	Refuse   *api.Error    // at completion, instead
	After    int           // Retry-After of Refuse, in seconds
	PCRs     []uint
	EventLog bool
	// Start and Complete, when set, answer instead of everything.
	Start, Complete http.HandlerFunc
	// Enrolled is called before the answer to a completion is sent.
	Enrolled func()
}

// Registry is an http.Handler.
type Registry struct {
	*httptest.Server
	Token api.Token // proofs made with any other are refused

	mu       sync.Mutex
	answer   Answer
	sessions map[string]session
	log      []api.EnrolmentComplete
}

type session struct {
	secret, nonce []byte
}

// Start starts a registry for the length of a test.
func Start(t testing.TB) *Registry {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	r := &Registry{Token: api.Token{ID: "0123456789abcdef", Secret: secret}, sessions: map[string]session{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// Set changes what the registry answers from now on.
func (r *Registry) Set(a Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = a
}

// Completions returns the completions that came, whatever was answered.
func (r *Registry) Completions() []api.EnrolmentComplete {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]api.EnrolmentComplete(nil), r.log...)
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	a := r.answer
	r.mu.Unlock()
	switch req.Method + " " + req.URL.Path {
	case "POST /v1/enrolments":
		if a.Start != nil {
			a.Start(w, req)
			return
		}
		r.start(w, req, a)
	case "POST /v1/enrolments/complete":
		if a.Complete != nil {
			a.Complete(w, req)
			return
		}
		r.complete(w, req, a)
	default:
		Refuse(w, api.Refuse(api.NotFound, "%s %s", req.Method, req.URL.Path), 0)
	}
}

// Hang never answers.
func Hang(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client is gone
	<-r.Context().Done()
}

// Refuse answers with a refusal, as a registry does.
func Refuse(w http.ResponseWriter, e *api.Error, after int) {
	if after > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(after))
	}
	Reply(w, e.Reason.Status(), api.ErrorBody{Error: e.Error(), Reason: e.Reason, Help: e.Reason.Help(), RetryAfter: after})
}

// Reply answers with JSON.
func Reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

func (r *Registry) start(w http.ResponseWriter, req *http.Request, a Answer) {
	var in api.EnrolmentStart
	if err := json.NewDecoder(io.LimitReader(req.Body, 1<<20)).Decode(&in); err != nil {
		Refuse(w, api.Because(api.BadRequest, err), 0)
		return
	}
	id, s := make([]byte, 32), session{secret: make([]byte, 32), nonce: make([]byte, api.NonceSize)}
	for _, b := range [][]byte{id, s.secret, s.nonce} {
		_, _ = rand.Read(b) // never fails
	}
	credential, err := makeCredential(in.Hierarchy, s.secret)
	if err != nil {
		Refuse(w, api.Because(api.EKMalformed, err), 0)
		return
	}
	r.mu.Lock()
	r.sessions[string(id)] = s
	r.mu.Unlock()
	Reply(w, http.StatusOK, api.Challenge{
		Session: id, Nonce: s.nonce, Credential: *credential,
		PCRs: a.PCRs, EventLog: a.EventLog, ExpiresAt: time.Now().Add(time.Minute),
	})
}

func makeCredential(h api.Hierarchy, secret []byte) (*api.Credential, error) {
	ek, err := tpm2.Unmarshal[tpm2.TPMTPublic](h.EK)
	if err != nil {
		return nil, err
	}
	ak, err := tpm2.Unmarshal[tpm2.TPMTPublic](h.AK)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(ak)
	if err != nil {
		return nil, err
	}
	key, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, err
	}
	blob, encrypted, err := tpm2.CreateCredential(rand.Reader, key, name.Buffer, secret)
	return &api.Credential{Blob: blob, Secret: encrypted}, err
}

func (r *Registry) complete(w http.ResponseWriter, req *http.Request, a Answer) {
	var in api.EnrolmentComplete
	if err := json.NewDecoder(io.LimitReader(req.Body, 4<<20)).Decode(&in); err != nil {
		Refuse(w, api.Because(api.BadRequest, err), 0)
		return
	}
	r.mu.Lock()
	s, ok := r.sessions[string(in.Session)]
	delete(r.sessions, string(in.Session))
	r.log = append(r.log, in)
	r.mu.Unlock()
	if !ok {
		Refuse(w, api.Refuse(api.SessionUsed, "unknown session"), 0)
		return
	}
	out, err := r.judge(&in, s, a)
	if err != nil {
		refusal, _ := errors.AsType[*api.Error](err)
		Refuse(w, refusal, a.After)
		return
	}
	if a.Enrolled != nil {
		a.Enrolled()
	}
	status := http.StatusOK
	if out.State == api.StatePending {
		status = http.StatusAccepted
	}
	Reply(w, status, out)
}

// judge checks the proofs, and gives the answer that was set.
func (r *Registry) judge(in *api.EnrolmentComplete, s session, a Answer) (*api.Enrolment, error) {
	if !hmac.Equal(in.Activation, api.ActivationProof(s.secret, in.Session, in.Hierarchy)) {
		return nil, api.Refuse(api.ActivationFailed, "another secret")
	}
	if err := checkAttest(in.Certify.Attest, api.CertifyData(s.nonce, in.Session, in.Key)); err != nil {
		return nil, api.Because(api.CertifyNonce, err)
	}
	if len(a.PCRs) > 0 {
		if in.Quote == nil || len(in.Quote.PCRs) != len(a.PCRs) {
			return nil, api.Refuse(api.PCRQuoteMissing, "no quote")
		}
		if err := checkAttest(in.Quote.Attest, api.QuoteData(s.nonce, in.Session, in.Key)); err != nil {
			return nil, api.Because(api.PCRQuoteNonce, err)
		}
		if a.EventLog && len(in.Quote.EventLog) == 0 {
			return nil, api.Refuse(api.EventLogMissing, "no log")
		}
	}
	if in.Token != nil && (in.Token.ID != r.Token.ID || !hmac.Equal(in.Token.Proof, api.JoinProof(r.Token.Key(), in.Session, in.Hierarchy))) {
		return nil, api.Refuse(api.TokenProofInvalid, "token %.16s", in.Token.ID)
	}
	if a.Refuse != nil {
		return nil, a.Refuse
	}
	return a.enrolment(in)
}

func checkAttest(attest, want []byte) error {
	parsed, err := tpm2.Unmarshal[tpm2.TPMSAttest](attest)
	if err != nil {
		return err
	}
	if !bytes.Equal(parsed.ExtraData.Buffer, want) {
		return errors.New("another nonce")
	}
	return nil
}

func (a *Answer) enrolment(in *api.EnrolmentComplete) (*api.Enrolment, error) {
	public, err := (&tpm.EK{Public: in.EK}).PublicKey()
	if err != nil {
		return nil, api.Because(api.EKMalformed, err)
	}
	machine, err := api.EKHash(public)
	if err != nil {
		return nil, api.Because(api.EKMalformed, err)
	}
	key, err := tpm2.Unmarshal[tpm2.TPMTPublic](in.Key)
	if err != nil {
		return nil, api.Because(api.KeyMalformed, err)
	}
	name, err := tpm2.ObjectName(key)
	if err != nil {
		return nil, api.Because(api.KeyMalformed, err)
	}
	out := &api.Enrolment{
		State: a.State, Evidence: a.Evidence, KID: hex.EncodeToString(name.Buffer), Name: a.Name, Machine: machine, Revision: 1,
	}
	if out.State == "" {
		out.State = api.StateEnrolled
	}
	if out.Evidence == "" {
		out.Evidence = api.EvidenceChain
	}
	if out.Name == "" {
		out.Name = in.Name
	}
	if out.State == api.StatePending {
		return out, nil
	}
	lease, renew := a.Lease, a.Renew
	if lease == 0 {
		lease = time.Hour
	}
	if renew == 0 {
		renew = lease / 2
	}
	now := time.Now()
	out.Expires, out.RenewAt = now.Add(lease), now.Add(renew)
	return out, nil
}
