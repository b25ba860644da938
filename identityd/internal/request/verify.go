package request

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"strconv"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// Signed is a signed request as it came.
type Signed struct {
	Method, Path string // of the request line; the path without query, as it was routed
	Signature    string // header x-signature: 128 lower-case hexadecimal digits
	Counter      string // header x-counter, /v1/ only: decimal
	Body         []byte // raw
}

// Auth says what a request that was verified may be used for; package state makes
// sure that it is used once.
type Auth struct {
	V1      bool
	Counter uint64            // V1: the counter it was signed for
	Body    [sha256.Size]byte // SHA-256 of the raw body
}

// Memory is what is remembered of requests, durably. Both answers are hints that
// save work: whoever begins the step asks again, in one with the beginning.
type Memory interface {
	// Accepted reports whether a body of the older form with this SHA-256 was
	// accepted before, and may not be sent again.
	Accepted(body [sha256.Size]byte) bool
	// Counter is what a request of the /v1/ form has to be signed for now.
	Counter() uint64
}

// Verifier verifies requests of the owner to one instance. It is safe for
// concurrent use.
type Verifier struct {
	Instance  ed25519.PublicKey
	Owner     ed25519.PublicKey // empty: there is none yet
	Memory    Memory
	RequireV1 bool // refuse the older form
}

// Message is what a request of the /v1/ form signs, with Ed25519:
//
//	"telemark-request-v1" 00 | P(method) | P(path) | P(instance key) | P(counter) | P(SHA-256(body))
//
//	P(x) = u32 length of x | x
//
// The method is in capitals, the path begins with a slash and has no query, the
// instance key has 32 bytes, the counter is a u64. Numbers are big-endian.
func Message(method, path string, instance ed25519.PublicKey, counter uint64, body []byte) []byte {
	digest := sha256.Sum256(body)
	b := []byte("telemark-request-v1\x00")
	for _, p := range [][]byte{[]byte(method), []byte(path), instance, binary.BigEndian.AppendUint64(nil, counter), digest[:]} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// RegisterOperator verifies the body of POST /operator/register.
func RegisterOperator(instance ed25519.PublicKey, raw []byte) (*Operator, error) {
	var o Operator
	if err := decode(raw, &o); err != nil {
		return nil, err
	}
	if err := verifyRole(instance, o.Pubkey, o.Signature); err != nil {
		return nil, err
	}
	return &o, nil
}

// RegisterOwner verifies the body of POST /owner/register. Its token is for
// package state to compare.
func RegisterOwner(instance ed25519.PublicKey, raw []byte) (*Owner, error) {
	var o Owner
	if err := decode(raw, &o); err != nil {
		return nil, err
	}
	if err := verifyRole(instance, o.Pubkey, o.Signature); err != nil {
		return nil, err
	}
	return &o, nil
}

// verifyRole: the key that signs stands in the body, so that the body has to be
// read first.
func verifyRole(instance ed25519.PublicKey, key, signature []byte) error {
	if bytes.Equal(key, instance) {
		return reason.Refuse(reason.PubkeyTaken, "it is this instance's key")
	}
	return Verify(key, instance, signature)
}

// Configure verifies a signed POST /workload/configure, of either form.
func (v *Verifier) Configure(r *Signed, v1 bool) (*Configure, Auth, error) {
	var c Configure
	auth, err := v.verify(r, v1, &c, func() Hex { return c.InstancePubkey })
	if err != nil {
		return nil, Auth{}, err
	}
	return &c, auth, nil
}

// Expose verifies a signed POST /workload/expose, of either form.
func (v *Verifier) Expose(r *Signed, v1 bool) (*Expose, Auth, error) {
	var e Expose
	auth, err := v.verify(r, v1, &e, func() Hex { return e.InstancePubkey })
	if err != nil {
		return nil, Auth{}, err
	}
	return &e, auth, nil
}

// Unlock verifies a signed POST /v1/storage/unlock, which has the /v1/ form only.
// Owner is then what the disk claims: the volume shows whether it is true.
func (v *Verifier) Unlock(r *Signed) (*Unlock, Auth, error) {
	var u Unlock
	auth, err := v.verify(r, true, &u, func() Hex { return u.InstancePubkey })
	if err != nil {
		return nil, Auth{}, err
	}
	if err := Verify(v.Owner, v.Instance, u.Signature); err != nil {
		return nil, Auth{}, err
	}
	return &u, auth, nil
}

// verify reads top to bottom: who, over which bytes, saying what, to whom, how
// often. Nothing of the body is looked at before its signature.
func (v *Verifier) verify(r *Signed, v1 bool, into body, instance func() Hex) (Auth, error) {
	auth := Auth{V1: v1, Body: sha256.Sum256(r.Body)}
	if v.RequireV1 && !v1 {
		return Auth{}, reason.Refuse(reason.V1Required, "%s %.64q", r.Method, r.Path)
	}
	if len(v.Owner) == 0 {
		return Auth{}, reason.Refuse(reason.OwnerMissing, "nobody could have signed it")
	}
	signature, err := header(r.Signature)
	if err != nil {
		return Auth{}, err
	}
	signed := r.Body
	if v1 {
		if auth.Counter, err = counter(r.Counter); err != nil {
			return Auth{}, err
		}
		signed = Message(r.Method, r.Path, v.Instance, auth.Counter, r.Body)
	}
	if err := Verify(v.Owner, signed, signature); err != nil {
		return Auth{}, err
	}
	if err := decode(r.Body, into); err != nil {
		return Auth{}, err
	}
	if !bytes.Equal(instance(), v.Instance) {
		return Auth{}, reason.Refuse(reason.WrongInstance, "it names %.64x", []byte(instance()))
	}
	if v1 {
		if now := v.Memory.Counter(); auth.Counter != now {
			return Auth{}, reason.Refuse(reason.CounterMismatch, "signed for %d, the counter is %d", auth.Counter, now)
		}
	} else if v.Memory.Accepted(auth.Body) {
		return Auth{}, reason.Refuse(reason.Replayed, "these bytes were accepted before")
	}
	return auth, nil
}

// counter reads the header x-counter, which has one spelling.
func counter(value string) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != value {
		return 0, reason.Refuse(reason.CounterMalformed, "%.24q", value)
	}
	return n, nil
}
