// Package identitytest is an instance of identityd that is no machine: it keeps
// the state machine's outside in memory, forges its quotes in a laboratory
// (test/tdxlab), and lies where a test wants it to. It verifies what is signed as
// the real one does, but for canonical forms.
package identitytest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	registry "github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// Token is the owner's token of every instance.
const Token = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"

// Lies are what an instance does that it should not. The zero value is honest.
type Lies struct {
	Pubkey      func([]byte) []byte
	Nonce       func([]byte) []byte
	Statement   func(*statement.Statement)
	Quote       []func(*tdxlab.Quote)
	Attestation func(*api.Attestation)
	Transcript  func(*unlock.Transcript)
	// Serve answers in the instance's place where it returns true.
	Serve func(http.ResponseWriter, *http.Request) bool
	// Lost takes the step and then ends the connection.
	Lost bool
}

// Instance is safe for concurrent use.
type Instance struct {
	Lab    *tdxlab.Lab
	TLS    tls.Certificate
	Source string // of the volume's key
	Legacy bool   // no /v1/

	mu       sync.Mutex
	pending  bool // the registry hears of nothing
	lies     Lies
	key      ed25519.PrivateKey // of this boot
	origin   ed25519.PrivateKey
	link     *statement.Link
	locked   bool
	state    string
	counter  uint64
	operator []byte
	expected []byte
	owner    []byte
	workload *statement.Workload
	ssh      statement.SSH
	events   []statement.Event
	asks     unlock.Requests
	volume   [16]byte
	secret   []byte // the volume's key
	steps    []string
	boot     int
}

// New returns a fresh instance.
func New(lab *tdxlab.Lab) (*Instance, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	i := &Instance{Lab: lab, Source: "owner", key: key, origin: key, state: statement.Fresh, counter: 1}
	rand.Read(i.volume[:])
	i.TLS, err = Certificate()
	return i, err
}

// TLSConfig serves TLS with the key of the instance's boot.
func (i *Instance) TLSConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		i.mu.Lock()
		defer i.mu.Unlock()
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.TLS}}, nil
	}}
}

// Certificate makes one that nobody vouches for.
func Certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "instance"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// Lie changes what it lies about.
func (i *Instance) Lie(l Lies) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lies = l
}

// RegistryDown has the registry not hear of anything.
func (i *Instance) RegistryDown() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pending = true
}

// Key returns the instance key.
func (i *Instance) Key() ed25519.PublicKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return public(i.key)
}

// Steps returns the paths of the steps that were taken.
func (i *Instance) Steps() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.steps...)
}

// Secret returns the key that the volume was given.
func (i *Instance) Secret() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.secret
}

// Counter returns the state's counter.
func (i *Instance) Counter() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.counter
}

// Rollback puts an older disk under the instance, without a reboot.
func (i *Instance) Rollback(counter uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.counter = counter
}

// Reboot starts the VM anew.
func (i *Instance) Reboot() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	i.key, i.link, i.locked, i.events = key, nil, true, nil
	i.boot++
	i.TLS, err = Certificate()
	return err
}

func public(key ed25519.PrivateKey) ed25519.PublicKey {
	p, _ := key.Public().(ed25519.PublicKey) // it is one
	return p
}

func (i *Instance) tlsKey() []byte {
	leaf, err := x509.ParseCertificate(i.TLS.Certificate[0])
	if err != nil {
		panic(err) // it was made here
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return sum[:]
}

// statement is what the instance says of itself; i.mu is held.
func (i *Instance) statement() *statement.Statement {
	s := &statement.Statement{
		Version: 1, Instance: registry.Hex(public(i.key)), Origin: registry.Hex(public(i.origin)), Link: i.link,
		Boot: "boot-" + strconv.Itoa(i.boot), State: i.state, Counter: i.counter, Operator: i.operator, Owner: i.owner,
		TLSKey: i.tlsKey(), SSHHostKey: registry.Hex(public(i.key)), Storage: i.Source,
		Workload: i.workload, SSH: i.ssh, Log: statement.Log{Events: i.events},
	}
	if i.locked {
		s.State, s.Counter, s.Origin, s.Operator, s.Owner, s.Workload = statement.Locked, 0, s.Instance, nil, nil, nil
		s.SSH, s.Log.Events = statement.SSH{}, nil
	}
	if i.lies.Statement != nil {
		i.lies.Statement(s)
	}
	return s
}

// Handler serves the instance.
func (i *Instance) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathPubkey, i.pubkey)
	mux.HandleFunc("POST /operator/register", i.step(i.registerOperator))
	mux.HandleFunc("POST /owner/register", i.step(i.registerOwner))
	mux.HandleFunc("POST /workload/configure", i.step(i.configure))
	mux.HandleFunc("POST /workload/expose", i.step(i.expose))
	if !i.Legacy {
		mux.HandleFunc("GET "+api.PathAttestation, i.attestation)
		mux.HandleFunc("GET "+api.PathState, i.view)
		mux.HandleFunc("POST "+api.PathRegisterOperator, i.step(i.registerOperator))
		mux.HandleFunc("POST "+api.PathRenewOperator, i.step(i.renew))
		mux.HandleFunc("POST "+api.PathRegisterOwner, i.step(i.registerOwner))
		mux.HandleFunc("POST "+api.PathConfigure, i.step(i.configure))
		mux.HandleFunc("POST "+api.PathExpose, i.step(i.expose))
		mux.HandleFunc("POST "+api.PathStorageRequest, i.ask)
		mux.HandleFunc("POST "+api.PathUnlock, i.step(i.unlock))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404, "not_found", "there is no such path") })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		serve := i.lies.Serve
		i.mu.Unlock()
		if serve == nil || !serve(w, r) {
			mux.ServeHTTP(w, r)
		}
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, reason, detail string) {
	answer(w, status, &api.Error{Error: reason + ": " + detail, Reason: reason, Help: "The help of the service."})
}

func (i *Instance) pubkey(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	key := []byte(public(i.key))
	if i.lies.Pubkey != nil {
		key = i.lies.Pubkey(key)
	}
	answer(w, 200, &api.Pubkey{Pubkey: key})
}

func (i *Instance) attestation(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	nonce, err := hex.DecodeString(r.URL.Query().Get("nonce"))
	if err != nil || len(nonce) < api.MinNonce || len(nonce) > api.MaxNonce {
		refuse(w, 400, "bad_request", "nonce")
		return
	}
	if i.lies.Nonce != nil {
		nonce = i.lies.Nonce(nonce)
	}
	raw, err := i.statement().Encode()
	if err != nil {
		refuse(w, 500, "internal", err.Error())
		return
	}
	a := &api.Attestation{Statement: raw, Quote: i.Lab.Quote(statement.AttestData(nonce, raw), i.lies.Quote...)}
	if i.lies.Attestation != nil {
		i.lies.Attestation(a)
	}
	answer(w, 200, a)
}

func (i *Instance) view(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := &api.State{
		Version: "test", Instance: api.Hex(public(i.key)), Origin: api.Hex(public(i.origin)), State: i.state, Counter: i.counter,
		Operator: i.operator, Owner: i.owner, Linked: !i.locked, Witnessed: true,
		Storage: api.Storage{Source: i.Source, Volume: "none"}, SSH: api.SSH{State: api.SSHNeverOpened, Port: 2222},
		Registry: &api.Registry{URL: "http://registry", Told: !i.pending},
	}
	if wl := i.workload; wl != nil {
		s.Workload = &api.Workload{Image: wl.Image, Digest: wl.Digest, Port: wl.Port, PersistDirs: []string{"/data"}}
		s.Container = &api.Container{Phase: "configured", Running: true, StartedAt: time.Now()}
	}
	if i.locked {
		s.Problems = []api.Problem{{Reason: "state_unlinked", Detail: "the storage is locked"}}
	}
	answer(w, 200, s)
}

func (i *Instance) ask(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var in api.StorageRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Nonce) != 32 {
		refuse(w, 400, "bad_request", "body")
		return
	}
	if i.owner != nil && !bytes.Equal(i.owner, in.Owner) {
		refuse(w, 409, "owner_registered", "another key is the owner's")
		return
	}
	t, err := i.asks.New([32]byte(in.Nonce), ed25519.PublicKey(in.Owner), i.current(), time.Now())
	if err != nil {
		refuse(w, 400, "bad_request", err.Error())
		return
	}
	if i.lies.Transcript != nil {
		i.lies.Transcript(t)
	}
	answer(w, 200, &api.StorageAsk{Transcript: t.Bytes(), Quote: i.Lab.Quote(t.ReportData(), i.lies.Quote...)})
}

func (i *Instance) current() unlock.Current {
	return unlock.Current{TLS: i.tlsKey(), Volume: i.volume, State: i.state, Counter: i.counter}
}

// fault is a refusal of a step.
type fault struct {
	status         int
	reason, detail string
}

// step verifies what is signed and takes the step. i.mu is held by take.
func (i *Instance) step(take func(raw []byte, r *http.Request) *fault) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, api.MaxBody))
		if err != nil {
			return
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		if f := i.authentic(raw, r); f != nil {
			refuse(w, f.status, f.reason, f.detail)
			return
		}
		if f := take(raw, r); f != nil {
			refuse(w, f.status, f.reason, f.detail)
			return
		}
		i.counter++
		i.steps = append(i.steps, r.URL.Path)
		if i.lies.Lost {
			panic(http.ErrAbortHandler)
		}
		out := &api.Done{Status: api.StatusSuccess, Counter: i.counter}
		if strings.HasSuffix(r.URL.Path, "/operator/register") {
			out.OwnerToken = Token
		}
		status := 200
		if i.pending {
			status, out.Registry, out.Reason, out.Error = 202, api.RegistryPending, "registry_unreachable", "nobody answers"
		}
		answer(w, status, out)
	}
}

// authentic verifies the header's signature.
func (i *Instance) authentic(raw []byte, r *http.Request) *fault {
	var who struct {
		Pubkey api.Hex `json:"pubkey"`
	}
	if err := json.Unmarshal(raw, &who); err != nil {
		return &fault{400, "bad_request", "body"}
	}
	key, message := ed25519.PublicKey(i.owner), raw
	if who.Pubkey != nil {
		key = ed25519.PublicKey(who.Pubkey)
	}
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		n, err := strconv.ParseUint(r.Header.Get(api.HeaderCounter), 10, 64)
		if err != nil || n != i.counter {
			return &fault{409, "counter_mismatch", "signed for another counter"}
		}
		message = api.Message(r.Method, r.URL.Path, public(i.key), n, raw)
	} else if who.Pubkey != nil {
		return nil
	}
	signature, err := hex.DecodeString(r.Header.Get(api.HeaderSignature))
	if err != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, message, signature) {
		return &fault{403, "signature_invalid", "it does not fit key and bytes"}
	}
	return nil
}
