package unlock

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
)

// NewNonce returns a nonce for a request of a quote.
func NewNonce() [32]byte {
	var n [nonceSize]byte
	rand.Read(n[:])
	return n
}

// NewKey returns the key of a volume to be made. The owner's tool keeps it: the
// VM forgets it with every reboot.
func NewKey() []byte {
	k := make([]byte, KeySize)
	rand.Read(k)
	return k
}

// Mine is what the owner's tool knows by itself, and holds a VM's transcript
// against.
type Mine struct {
	Nonce [32]byte
	// Signer holds the owner's Ed25519 key: in memory, in an agent, in a token.
	Signer crypto.Signer
	// TLS is SHA-256 of the SubjectPublicKeyInfo that the tool's own connection
	// ended at; empty over plain HTTP, where a transcript with a TLS key is
	// taken too.
	TLS []byte
	// Volume is the volume that the key is of; nil for one to be made.
	Volume *[16]byte
	// State is what the tool expects the VM to be in; empty takes any.
	State string
	// Counter is the highest state counter that is known of this instance, to
	// the tool or to the registry.
	Counter uint64
}

// Wrap encrypts key for the VM of a transcript and signs it. reportData is of
// the VM's quote, which the caller has verified and found to be of a VM that may
// have the key: without that the key goes to whoever asks.
func Wrap(reportData [64]byte, t *Transcript, mine Mine, key []byte) ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if reportData != t.ReportData() {
		return nil, refuse(QuoteMismatch, "the quote is of another transcript")
	}
	if err := mine.compare(t); err != nil {
		return nil, err
	}
	if len(key) != KeySize || bytes.Equal(key, make([]byte, KeySize)) {
		return nil, refuse(KeyInvalid, "a volume's key is %d random bytes", KeySize)
	}
	to, err := t.publicKey()
	if err != nil {
		return nil, err
	}
	m := &message{transcript: t, raw: t.Bytes()}
	if m.ciphertext, err = hpke.Seal(to, kdf(), aead(), m.raw, key); err != nil {
		return nil, refuse(Malformed, "encrypt to the VM: %v", err)
	}
	if m.signature, err = mine.Signer.Sign(rand.Reader, m.signed(), crypto.Hash(0)); err != nil {
		return nil, refuse(SignerInvalid, "sign: %v", err)
	}
	if !ed25519.Verify(t.Owner, m.signed(), m.signature) {
		return nil, refuse(SignerInvalid, "the signature is not of the key that the signer names")
	}
	return m.bytes(), nil
}

func (mine *Mine) compare(t *Transcript) error {
	if mine.Signer == nil {
		return refuse(SignerInvalid, "no signer")
	}
	public, ok := mine.Signer.Public().(ed25519.PublicKey)
	switch {
	case !ok:
		return refuse(SignerInvalid, "a %T, not an Ed25519 key", mine.Signer.Public())
	case t.OwnerNonce != mine.Nonce:
		return refuse(NonceMismatch, "the VM's answer is to another request")
	case !bytes.Equal(public, t.Owner):
		return refuse(OtherOwner, "the VM asks the owner %x", []byte(t.Owner))
	case len(mine.TLS) > 0 && !bytes.Equal(mine.TLS, t.TLS):
		return refuse(TLSKeyMismatch, "the connection ended at the key %x, the VM has %x", mine.TLS, t.TLS)
	case mine.Volume != nil && *mine.Volume != t.Volume:
		return refuse(OtherVolume, "the VM asks for the volume %x, not %x", t.Volume, *mine.Volume)
	case mine.State != "" && mine.State != t.State:
		return refuse(StateMismatch, "the VM is %s, not %.64q", t.State, mine.State)
	case t.Counter < mine.Counter:
		return refuse(StateRollback, "the VM's counter is %d where %d is known: its disk is from before", t.Counter, mine.Counter)
	}
	return nil
}
