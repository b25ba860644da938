package enrol_test

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// world is a registry's enrolment over a store, and a maker of TPMs.
type world struct {
	t       testing.TB
	clock   *clock
	db      *store.DB
	service *enrol.Service
	options enrol.Options
	lab     *attesttest.Authority
}

const lease = 24 * time.Hour

func newWorld(t testing.TB, change ...func(*enrol.Options)) *world {
	t.Helper()
	return newWorldOn(t, filepath.Join(t.TempDir(), "registry.db"), change...)
}

// newWorldOn is newWorld on a store of this name.
func newWorldOn(t testing.TB, dsn string, change ...func(*enrol.Options)) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{t: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}, lab: attesttest.NewAuthority(t)}
	var err error
	w.db, err = store.Open(t.Context(), dsn, store.Options{Now: w.clock.now})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.db.Close() })
	w.options = enrol.Options{
		Store: w.db, SealKey: question("seal"), Roots: w.lab.Roots(), Intermediates: w.lab.Intermediates(), Lease: lease, Now: w.clock.now,
	}
	for _, f := range change {
		f(&w.options)
	}
	w.service, err = enrol.New(w.options)
	require.NoError(t, err)
	return w
}

func question(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// machine is a TPM with its keys. One TPM can be several machines, since an
// endorsement key depends on what stands in its template.
type machine struct {
	tpm         *attesttest.TPM
	ek, ak, key *attesttest.Object
	certificate []byte
	name        string
	token       *api.Token
}

func (m *machine) hierarchy() api.Hierarchy {
	return api.Hierarchy{EK: m.ek.Public, AK: m.ak.Public, Key: m.key.Public}
}

// newMachine makes a machine with an EK certificate.
func (w *world) newMachine() *machine { return w.machineOn(attesttest.New(w.t), "") }

// machineEK makes the TPM's EK, or another one for a seed.
func (w *world) machineEK(m *attesttest.TPM, seed string) *attesttest.Object {
	w.t.Helper()
	template := attesttest.EKP256
	if seed != "" {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: question(seed)}})
	}
	return m.EK(template)
}

func (w *world) machineOn(m *attesttest.TPM, seed string) *machine {
	w.t.Helper()
	out := &machine{
		tpm: m, ek: w.machineEK(m, seed),
		ak:  m.Primary(tpm2.TPMRHEndorsement, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.AKAttributes, "ak"+seed)),
		key: m.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attesttest.KeyAttributes, "key"+seed)),
	}
	ek, err := tpmattest.ParseEK(out.ek.Public)
	require.NoError(w.t, err)
	out.certificate = w.lab.Certify(ek.Public)
	return out
}

// anotherKey gives a machine another signing key.
func (m *machine) anotherKey(seed string, attributes tpm2.TPMAObject) {
	m.tpm.Flush(m.key)
	m.key = m.tpm.Primary(tpm2.TPMRHOwner, attesttest.ECDSA(tpm2.TPMECCNistP256, attributes, seed))
}

func (m *machine) hash(t testing.TB) string {
	t.Helper()
	ek, err := tpmattest.ParseEK(m.ek.Public)
	require.NoError(t, err)
	return ek.Hash
}

func (m *machine) kid() string { return fmt.Sprintf("%x", m.key.Name.Buffer) }

func (m *machine) start() *api.EnrolmentStart {
	return &api.EnrolmentStart{Hierarchy: m.hierarchy(), EKCertificate: m.certificate, Name: m.name}
}

// request goes through the first half of an enrolment and makes the second
// request.
func (w *world) request(m *machine) *api.EnrolmentComplete {
	w.t.Helper()
	challenge, err := w.service.Start(w.t.Context(), m.start())
	require.NoError(w.t, err)
	return w.answer(m, challenge)
}

// answer makes what an honest machine says to a challenge.
func (w *world) answer(m *machine, c *api.Challenge) *api.EnrolmentComplete {
	w.t.Helper()
	secret, err := m.tpm.Activate(m.ek, m.ak, c.Credential)
	require.NoError(w.t, err)
	h := m.hierarchy()
	r := &api.EnrolmentComplete{
		EnrolmentStart: *m.start(),
		Session:        c.Session,
		Activation:     api.ActivationProof(secret, c.Session, h),
		Certify:        m.tpm.Certify(m.ak, m.key, api.CertifyData(c.Nonce, c.Session, h.Key)),
	}
	if len(c.PCRs) > 0 {
		r.Quote = m.tpm.Quote(m.ak, api.QuoteData(c.Nonce, c.Session, h.Key), tpm2.TPMAlgSHA256, c.PCRs...)
	}
	if m.token != nil {
		r.Token = &api.TokenProof{ID: m.token.ID, Proof: api.JoinProof(m.token.Key(), c.Session, h)}
	}
	return r
}

const peer = "192.0.2.1"

func (w *world) complete(r *api.EnrolmentComplete) (*api.Enrolment, error) {
	return w.service.Complete(w.t.Context(), r, peer)
}

// enrol lets a machine go all the way.
func (w *world) enrol(m *machine) (*api.Enrolment, error) { return w.complete(w.request(m)) }

func (w *world) enrolled(m *machine) *api.Enrolment {
	w.t.Helper()
	e, err := w.enrol(m)
	require.NoError(w.t, err)
	require.Equal(w.t, api.StateEnrolled, e.State)
	return e
}

func (w *world) pending(m *machine) *api.Enrolment {
	w.t.Helper()
	e, err := w.enrol(m)
	require.NoError(w.t, err)
	require.Equal(w.t, api.StatePending, e.State)
	return e
}

func (w *world) refused(reason api.Reason, m *machine) {
	w.t.Helper()
	_, err := w.enrol(m)
	refusedFor(w.t, reason, err)
}

func refusedFor(t testing.TB, reason api.Reason, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, reason, api.ReasonOf(err), "%v", err)
}

// newToken puts a join token into the store.
func (w *world) newToken(uses int, change ...func(*store.Token)) *api.Token {
	w.t.Helper()
	var secret [32]byte
	copy(secret[:], question(fmt.Sprint("token", uses, w.count())))
	token := &api.Token{ID: fmt.Sprintf("%x", secret[:8]), Secret: secret[:]}
	sealed, err := enrol.SealTokenKey(w.options.SealKey, token.ID, token.Key())
	require.NoError(w.t, err)
	row := &store.Token{ID: token.ID, SealedKey: sealed, Uses: uses, NamePattern: "*", CreatedAt: w.clock.now(), CreatedBy: "test", ExpiresAt: w.clock.now().Add(time.Hour)}
	for _, f := range change {
		f(row)
	}
	w.update(func(tx *store.Tx) error { return tx.PutToken(row) })
	return token
}

var counter struct {
	sync.Mutex
	n int
}

func (w *world) count() int {
	counter.Lock()
	defer counter.Unlock()
	counter.n++
	return counter.n
}

func (w *world) update(fn func(*store.Tx) error) {
	w.t.Helper()
	require.NoError(w.t, w.db.Update(w.t.Context(), fn))
}

func (w *world) view(fn func(*store.Tx) error) {
	w.t.Helper()
	require.NoError(w.t, w.db.View(w.t.Context(), fn))
}

func (w *world) machineRow(m *machine) (out *store.Machine) {
	w.t.Helper()
	w.view(func(tx *store.Tx) (err error) {
		out, err = tx.Machine(m.hash(w.t))
		return err
	})
	return out
}

func (w *world) keyRow(kid string) (out *store.Key) {
	w.t.Helper()
	w.view(func(tx *store.Tx) (err error) {
		out, err = tx.Key(kid)
		return err
	})
	return out
}

// allow puts a machine on the allow-list.
func (w *world) allow(m *machine, name string) {
	w.t.Helper()
	w.update(func(tx *store.Tx) error {
		return tx.PutMachine(&store.Machine{EKHash: m.hash(w.t), Name: name, Allowed: true, CreatedAt: w.clock.now(), Labels: map[string]string{"site": "berlin"}})
	})
}

// log returns the audit log from behind seq.
func (w *world) log(after uint64) (out []audit.Entry) {
	w.t.Helper()
	w.view(func(tx *store.Tx) (err error) {
		out, err = tx.AuditEntries(after, 1000)
		return err
	})
	return out
}

func (w *world) events() (out []store.Event) {
	w.t.Helper()
	w.view(func(tx *store.Tx) (err error) {
		out, err = tx.Events(0, 1000)
		return err
	})
	return out
}
