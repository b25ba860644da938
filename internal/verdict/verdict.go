// Package verdict judges a block that carries a receipt: it is the single
// place of the order of judgement of docs/spec/receipt.md,
//
//	decode → nonce MAC and time → key → digest and proof → signature → policy
//
// and, after it and not here, the claim in the replay windows: what this
// package refuses has claimed nothing, so that a forgery never burns an honest
// block's place.
//
// It is pure. The time is a parameter; keys and nonces come through the small
// interfaces [KeySource] and [NonceAuthority]. The digest of the content is
// asked of the block itself ([Content]). What it leaves out: replay windows,
// unsigned data, and what becomes of a refused block.
package verdict

import (
	"crypto"
	"errors"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// Superseded is the revocation of a key that was replaced in good order. What
// it signed before its NotAfter stays acceptable; every other revocation
// refuses whatever arrives.
const Superseded = "superseded"

// Key is what is known of a key. It is immutable once given out.
type Key struct {
	KID       string // the 34 raw bytes of the TPM Name
	Name      string // of the machine
	Algorithm receipt.Algorithm
	Public    crypto.PublicKey
	NotBefore time.Time // zero: always
	NotAfter  time.Time // zero: for ever
	Revoked   string    // why, "" if not
	Labels    map[string]string
	Evidence  policy.Evidence
	Pending   bool           // known, and trusted by nobody yet; only KID is set then
	Policy    *policy.Policy // never nil
}

// ErrUnavailable is what a KeySource answers when it cannot know, now, whether
// a key is trusted.
var ErrUnavailable = errors.New("the key source does not answer")

// KeySource knows keys.
type KeySource interface {
	// Lookup returns the key, or nil when it is certain that no such key is
	// trusted, or an error that wraps ErrUnavailable when that cannot be found
	// out now. It answers from memory, and may be called concurrently.
	Lookup(kid []byte) (*Key, error)
}

// Rechecker is a KeySource that learns of changes over a network. A machine that
// has just renewed its lease, or was let in, signs at once, and its block may be
// here before the word of it.
type Rechecker interface {
	KeySource
	// Recheck is called before a block is refused since the lease of its key is
	// over or its machine waits for approval. It returns nil when it is certain
	// that this is still so, or an error that wraps ErrUnavailable.
	Recheck(kid []byte) error
}

// NonceAuthority checks nonces; *nonce.Authority is one.
type NonceAuthority interface {
	Audience() string
	Check(nonce, kid []byte) (issued time.Time, err error)
}

// Signatures checks a signature over a Sig_structure, and may remember the
// outcome of the curve arithmetic; *receipt.SignatureCache is one. It keeps
// nothing of what it is given, and returns receipt.StatementHash of it.
type Signatures interface {
	Verify(alg receipt.Algorithm, pub crypto.PublicKey, sigStructure, sig []byte) (statement block.Digest, err error)
}

// Content is the block as it arrived; digest.Block is one.
type Content interface {
	Signal() block.Signal
	Proof() (digest.Proof, error)
	Check(want digest.Expected) (digest.Arrived, error)
}

// Judge judges blocks. Its fields are set once; it is safe for concurrent use
// when they are.
type Judge struct {
	Keys       KeySource
	Signatures Signatures
	// Decode reads receipts, receipt.Decode when nil.
	Decode func(encoded []byte) (*receipt.Receipt, error)
	// MaxDelay and Skew bound the time of a nonce around now: accepted is
	// T - Skew ≤ now ≤ T + MaxDelay.
	MaxDelay, Skew time.Duration
}

// Verdict is the outcome for one block.
type Verdict struct {
	// Reason is "" when nothing speaks against the block; it may then be
	// claimed. Detail is for people, and bounded.
	Reason reason.Reason
	Detail string

	// Receipt is nil when there is none that can be decoded. When Reason is
	// set, what it says is the sender's word.
	Receipt *receipt.Receipt
	// Key is nil until the receipt's kid was found.
	Key *Key

	Tolerances block.Tolerance
	Arrived    digest.Arrived
	Freshness  policy.Freshness
	Issued     time.Time // T, zero without a checked nonce
	// MaxSpeed in metres per second bounds the way from earlier positions of the
	// key to this one, which was taken at Taken (Unix seconds); 0 when policy asks
	// nothing or there is no position. It is judged with the claim.
	MaxSpeed  float64
	Taken     int64
	Statement block.Digest // receipt.StatementHash, set when Reason is ""
}

func (v *Verdict) refuse(err error) {
	var e *reason.Error
	if !errors.As(err, &e) {
		// Every judge's error is enumerated; one that is not is refused as
		// what cannot be read.
		v.Reason, v.Detail = reason.ReceiptMalformed, err.Error()
		return
	}
	v.Reason = e.Reason
	switch {
	case e.Err != nil && e.Detail != "":
		v.Detail = e.Detail + ": " + e.Err.Error()
	case e.Err != nil:
		v.Detail = e.Err.Error()
	default:
		v.Detail = e.Detail
	}
}
