package unlock

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// Lifetime is how long a request can be answered.
	Lifetime = 5 * time.Minute
	// MaxRequests bounds the requests that wait or are remembered; the oldest
	// goes first.
	MaxRequests = 32
)

// Current is what holds of the VM as it makes a request and again as it opens
// the answer.
type Current struct {
	TLS     []byte // SHA-256 of the SubjectPublicKeyInfo of the VM's TLS key, or empty
	Volume  [16]byte
	State   string
	Counter uint64
}

type request struct {
	transcript []byte
	key        hpke.PrivateKey // nil once it was used
	expires    time.Time
}

// Requests are a VM's questions for its volume's key. They live in memory: a VM
// that was restarted asks anew. Safe for concurrent use.
type Requests struct {
	mu    sync.Mutex
	byKey map[[32]byte]*request // by the hash of the HPKE part
}

// New makes a key pair for one answer of owner's.
func (r *Requests) New(nonce [32]byte, owner ed25519.PublicKey, c Current, now time.Time) (*Transcript, error) {
	private, err := kem().GenerateKey()
	if err != nil {
		return nil, refuse(SuiteUnsupported, "generate a key: %v", err)
	}
	t := &Transcript{
		OwnerNonce: nonce, Owner: bytes.Clone(owner), HPKE: hpkePart(private.PublicKey()), TLS: bytes.Clone(c.TLS),
		Volume: c.Volume, State: c.State, Counter: c.Counter,
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.makeRoom(now)
	r.byKey[sha256.Sum256(t.HPKE)] = &request{transcript: t.Bytes(), key: private, expires: now.Add(Lifetime)}
	return t, nil
}

func (r *Requests) makeRoom(now time.Time) {
	if r.byKey == nil {
		r.byKey = map[[32]byte]*request{}
	}
	var oldest [32]byte
	var at time.Time
	for id, q := range r.byKey {
		// Kept for as long again, so that what comes late is told so.
		if now.After(q.expires.Add(Lifetime)) {
			delete(r.byKey, id)
			continue
		}
		if at.IsZero() || q.expires.Before(at) {
			oldest, at = id, q.expires
		}
	}
	if len(r.byKey) >= MaxRequests {
		delete(r.byKey, oldest)
	}
}

// Open returns the key of an owner's message; whoever takes it wipes it. A
// request is used up by the first message that its owner signed and that says
// what was asked, whether it then decrypts or not; nobody else's can use it up.
func (r *Requests) Open(raw []byte, owner ed25519.PublicKey, c Current, now time.Time) ([]byte, error) {
	m, err := parseMessage(raw)
	if err != nil {
		return nil, err
	}
	t := m.transcript
	if len(owner) != ed25519.PublicKeySize || !bytes.Equal(t.Owner, owner) {
		return nil, refuse(OtherOwner, "the message is of the owner %x", []byte(t.Owner))
	}
	if !ed25519.Verify(owner, m.signed(), m.signature) {
		return nil, refuse(SignatureInvalid, "not signed by this VM's owner")
	}
	if err := c.compare(t); err != nil {
		return nil, err
	}
	private, err := r.take(m, now)
	if err != nil {
		return nil, err
	}
	key, err := hpke.Open(private, kdf(), aead(), m.raw, m.ciphertext)
	if err != nil {
		return nil, refuse(CiphertextInvalid, "it does not open: %v", err)
	}
	if len(key) != KeySize || bytes.Equal(key, make([]byte, KeySize)) {
		clear(key)
		return nil, refuse(CiphertextInvalid, "what it holds is no key of %d bytes", KeySize)
	}
	return key, nil
}

func (r *Requests) take(m *message, now time.Time) (hpke.PrivateKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.byKey[sha256.Sum256(m.transcript.HPKE)]
	switch {
	case q == nil:
		return nil, refuse(RequestUnknown, "nothing was asked under this HPKE key, or not since the start")
	case q.key == nil:
		return nil, refuse(Replayed, "this request was answered before")
	case now.After(q.expires):
		q.key = nil
		return nil, refuse(RequestExpired, "the request ended at %s", q.expires.UTC().Format(time.RFC3339))
	case !bytes.Equal(q.transcript, m.raw):
		return nil, refuse(TranscriptChanged, "what was asked under this HPKE key was something else")
	}
	private := q.key
	q.key = nil
	return private, nil
}

func (c *Current) compare(t *Transcript) error {
	switch {
	case t.Volume != c.Volume:
		return refuse(OtherVolume, "the key is of the volume %x, this is %x", t.Volume, c.Volume)
	case !bytes.Equal(t.TLS, c.TLS):
		return refuse(TLSKeyMismatch, "the VM's TLS key is %x, the message is for %x", c.TLS, t.TLS)
	case t.State != c.State:
		return refuse(StateMismatch, "the VM is %s, the message is for %s", c.State, t.State)
	case t.Counter != c.Counter:
		return refuse(StateRollback, "the VM's counter is %d, the message is for %d", c.Counter, t.Counter)
	}
	return nil
}
