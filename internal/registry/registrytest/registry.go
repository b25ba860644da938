// Package registrytest is a small registry for tests of those who ask one. It
// signs its answers like the real one (internal/registry/answer), and lies in
// every way a test asks for. It keeps everything in memory and checks nobody's
// rights.
package registrytest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Registry is the stand-in. Its switches may be set while it serves, through
// Set.
type Registry struct {
	t      testing.TB
	signer *answer.Signer

	mu       sync.Mutex // guards what follows
	s        Switches
	revision uint64
	records  map[string]answer.Record
	events   []answer.Event
	changed  chan struct{} // closed at each change
	requests map[string]int
	streams  int
}

// Switches say how it behaves.
type Switches struct {
	Store string
	TTL   time.Duration
	Now   func() time.Time
	Beat  time.Duration // between heartbeats
	Page  int           // records in a page, what is asked for when 0
	Down  int           // status of every answer, 0 when it is up

	// SilentStream accepts streams and sends nothing, MuteStream stops sending
	// on streams that are there, as a connection does that a middle box forgot.
	SilentStream, MuteStream bool
	// NoStreams refuses streams.
	NoStreams bool
	// HideEvents leaves events out of the stream, and lets heartbeats tell.
	HideEvents bool
	// Mangle returns what is sent instead of v, signed by whomever; nil sends v.
	Mangle func(kind answer.Kind, v any) []byte
	// Hold is called before an answer is made, and may wait.
	Hold func(path string)
}

// New returns an empty registry.
func New(t testing.TB) *Registry {
	r := &Registry{
		t:        t,
		signer:   NewSigner(t),
		s:        Switches{Store: "store-1", TTL: 15 * time.Minute, Now: time.Now, Beat: time.Second},
		records:  map[string]answer.Record{},
		changed:  make(chan struct{}),
		requests: map[string]int{},
	}
	return r
}

// Rekey makes the registry sign with this key. Call it first.
func (r *Registry) Rekey(private ed25519.PrivateKey) {
	s, err := answer.NewSigner(private)
	require.NoError(r.t, err)
	r.signer = s
}

// NewSigner returns a signer with a fresh key.
func NewSigner(t testing.TB) *answer.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	s, err := answer.NewSigner(private)
	require.NoError(t, err)
	return s
}

// Verifier trusts this registry and nobody else.
func (r *Registry) Verifier() *answer.Verifier {
	v, err := answer.NewVerifier(r.signer.Public())
	require.NoError(r.t, err)
	return v
}

// Public is what a pin file holds.
func (r *Registry) Public() []byte { return r.signer.Public() }

// Sign signs as the registry does.
func (r *Registry) Sign(kind answer.Kind, v any) []byte {
	b, err := r.signer.Sign(kind, v)
	require.NoError(r.t, err)
	return b
}

// Set changes the switches.
func (r *Registry) Set(change func(*Switches)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.s)
	r.wake()
}

func (r *Registry) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Requests returns how many requests for a path there were: /v1/keys,
// /v1/keys/{kid}, /v1/events.
func (r *Registry) Requests(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[path]
}

// Streams returns how many streams are open.
func (r *Registry) Streams() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.streams
}

// Revision returns the present one.
func (r *Registry) Revision() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.revision
}

// Rewind puts the registry back to an earlier revision, as a restored backup
// does, under the same store.
func (r *Registry) Rewind(revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revision = revision
	for kid, rec := range r.records {
		if rec.Revision > revision {
			delete(r.records, kid)
		}
	}
	r.events = slices.DeleteFunc(r.events, func(e answer.Event) bool { return e.Revision > revision })
	r.wake()
}

// Record returns what it would say of a kid (raw) now.
func (r *Registry) Record(kid []byte) answer.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record(hex.EncodeToString(kid))
}

func (r *Registry) record(kid string) answer.Record {
	if rec, ok := r.records[kid]; ok {
		return rec
	}
	return answer.Record{KID: kid}
}

// Head makes the head of an answer.
func (r *Registry) Head(nonce []byte) answer.Head {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head(nonce)
}

func (r *Registry) head(nonce []byte) answer.Head {
	now := r.s.Now().UTC().Round(0)
	return answer.Head{Store: r.s.Store, Nonce: nonce, Revision: r.revision, IssuedAt: now, NotAfter: now.Add(r.s.TTL)}
}

// Put writes records under the next revision and tells of them.
func (r *Registry) Put(what string, records ...answer.Record) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := answer.Event{Previous: r.revision, What: what}
	r.revision++
	for _, rec := range records {
		rec.Revision = r.revision
		r.records[rec.KID] = rec
		e.Records = append(e.Records, rec)
	}
	e.Revision = r.revision
	r.events = append(r.events, e)
	r.wake()
	return r.revision
}

// Machine is one that can be enrolled.
type Machine struct {
	KID   []byte
	Entry keyfile.Entry
}

// NewMachine makes a machine with a key of its own, that binds host.name to its
// name and whose lease ends in a day.
func NewMachine(t testing.TB, name string, now time.Time) *Machine {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(name))
	return MachineOf(t, append([]byte{0x00, 0x0b}, sum[:]...), name, &key.PublicKey, now)
}

// MachineOf makes a machine of a key that is there.
func MachineOf(t testing.TB, kid []byte, name string, public *ecdsa.PublicKey, now time.Time) *Machine {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	end := now.Add(24 * time.Hour).UTC().Round(0)
	return &Machine{KID: kid, Entry: keyfile.Entry{
		KID:       hex.EncodeToString(kid),
		Name:      name,
		Algorithm: "ES256",
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		NotAfter:  &end,
		Evidence:  string(api.EvidenceChain),
		Bind:      map[string]string{"host.name": "name"},
	}}
}

// RecordOf is what a registry says of a machine's key in this state; why is that
// of a revocation.
func RecordOf(t testing.TB, m *Machine, state api.KeyState, why string) answer.Record {
	t.Helper()
	rec := answer.Record{KID: m.Entry.KID, State: state, Evidence: api.Evidence(m.Entry.Evidence)}
	if state == api.StatePending {
		return rec
	}
	e := m.Entry
	e.Revoked = why
	var err error
	rec.Entry, err = json.Marshal(e)
	require.NoError(t, err)
	return rec
}

// Enrol makes a machine's key trusted, Pend lets it wait, Revoke revokes it.
func (r *Registry) Enrol(m *Machine) uint64 {
	return r.Put("enrolled", RecordOf(r.t, m, api.StateEnrolled, ""))
}

// Pend lets a machine's key wait for approval.
func (r *Registry) Pend(m *Machine) uint64 {
	return r.Put("pending", RecordOf(r.t, m, api.StatePending, ""))
}

// Revoke revokes a machine's key.
func (r *Registry) Revoke(m *Machine, why string) uint64 {
	state := api.StateRevoked
	if why == api.Superseded {
		state = api.StateSuperseded
	}
	return r.Put("revoked", RecordOf(r.t, m, state, why))
}
