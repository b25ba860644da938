package request

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"strconv"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

// Signed is a signed request as it came.
type Signed struct {
	Method, Path string // of the request line; the path without query, as it was routed
	Signature    string // header x-signature: 128 lower-case hexadecimal digits; none in a registration of the older form
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

// Verifier verifies requests to one instance. It is safe for concurrent use.
type Verifier struct {
	Instance  ed25519.PublicKey
	Owner     ed25519.PublicKey // empty: there is none yet
	Memory    Memory
	RequireV1 bool // refuse the older form
}

// Message is what a request of the /v1/ form signs, with Ed25519.
func Message(method, path string, instance ed25519.PublicKey, counter uint64, body []byte) []byte {
	return api.Message(method, path, instance, counter, body)
}

// RegisterOperator verifies a POST /operator/register, of either form.
func (v *Verifier) RegisterOperator(r *Signed, v1 bool) (*Operator, Auth, error) {
	return verifyRole(v, r, v1, checkOperator, func(o *Operator) (key, signature Hex) { return o.Pubkey, o.Signature })
}

// Renew verifies a POST /v1/operator/renew, which has the /v1/ form only. Whether
// the key is the operator's, package state knows.
func (v *Verifier) Renew(r *Signed) (*Renewal, Auth, error) {
	return verifyRole(v, r, true, checkRenewal, func(o *Renewal) (key, signature Hex) { return o.Pubkey, o.Signature })
}

// RegisterOwner verifies a POST /owner/register, of either form. Its token is for
// package state to compare.
func (v *Verifier) RegisterOwner(r *Signed, v1 bool) (*Owner, Auth, error) {
	return verifyRole(v, r, v1, checkOwner, func(o *Owner) (key, signature Hex) { return o.Pubkey, o.Signature })
}

// AskStorage reads a POST /v1/storage/request, which nobody signs.
func AskStorage(raw []byte) (*StorageRequest, error) { return read(raw, checkStorageRequest) }

// verifyRole: the key that signs stands in the body, so that the body has to be
// read first. In the /v1/ form it signs twice: the instance key, which the
// registry wants to see, and this very request.
func verifyRole[T any](v *Verifier, r *Signed, v1 bool, check func(*T) error, role func(*T) (key, signature Hex)) (*T, Auth, error) {
	if v.RequireV1 && !v1 {
		return nil, Auth{}, reason.Refuse(reason.V1Required, "%s %.64q", r.Method, r.Path)
	}
	into, err := read(r.Body, check)
	if err != nil {
		return nil, Auth{}, err
	}
	key, signature := role(into)
	if bytes.Equal(key, v.Instance) {
		return nil, Auth{}, reason.Refuse(reason.PubkeyTaken, "it is this instance's key")
	}
	if err := Verify(ed25519.PublicKey(key), v.Instance, signature); err != nil {
		return nil, Auth{}, err
	}
	auth := Auth{V1: v1, Body: sha256.Sum256(r.Body)}
	if !v1 {
		return into, auth, nil
	}
	if auth.Counter, err = v.authentic(r, v1, ed25519.PublicKey(key)); err != nil {
		return nil, Auth{}, err
	}
	if err := v.current(auth.Counter); err != nil {
		return nil, Auth{}, err
	}
	return into, auth, nil
}

// Configure verifies a signed POST /workload/configure, of either form.
func (v *Verifier) Configure(r *Signed, v1 bool) (*Configure, Auth, error) {
	return verify(v, r, v1, checkConfigure, func(c *Configure) Hex { return c.InstancePubkey })
}

// Expose verifies a signed POST /workload/expose, of either form.
func (v *Verifier) Expose(r *Signed, v1 bool) (*Expose, Auth, error) {
	return verify(v, r, v1, checkExpose, func(e *Expose) Hex { return e.InstancePubkey })
}

// Unlock verifies a signed POST /v1/storage/unlock, which has the /v1/ form only.
// Owner is then what the disk claims: the volume shows whether it is true.
func (v *Verifier) Unlock(r *Signed) (*Unlock, Auth, error) {
	u, auth, err := verify(v, r, true, checkUnlock, func(u *Unlock) Hex { return u.InstancePubkey })
	if err != nil {
		return nil, Auth{}, err
	}
	if err := Verify(v.Owner, v.Instance, u.Signature); err != nil {
		return nil, Auth{}, err
	}
	return u, auth, nil
}

// verify reads top to bottom: who, over which bytes, saying what, to whom, how
// often. Nothing of the body is looked at before its signature.
func verify[T any](v *Verifier, r *Signed, v1 bool, check func(*T) error, instance func(*T) Hex) (*T, Auth, error) {
	if v.RequireV1 && !v1 {
		return nil, Auth{}, reason.Refuse(reason.V1Required, "%s %.64q", r.Method, r.Path)
	}
	if len(v.Owner) == 0 {
		return nil, Auth{}, reason.Refuse(reason.OwnerMissing, "nobody could have signed it")
	}
	auth := Auth{V1: v1, Body: sha256.Sum256(r.Body)}
	var err error
	if auth.Counter, err = v.authentic(r, v1, v.Owner); err != nil {
		return nil, Auth{}, err
	}
	into, err := read(r.Body, check)
	if err != nil {
		return nil, Auth{}, err
	}
	if !bytes.Equal(instance(into), v.Instance) {
		return nil, Auth{}, reason.Refuse(reason.WrongInstance, "it names %.64x", []byte(instance(into)))
	}
	if v1 {
		err = v.current(auth.Counter)
	} else if v.Memory.Accepted(auth.Body) {
		err = reason.Refuse(reason.Replayed, "these bytes were accepted before")
	}
	if err != nil {
		return nil, Auth{}, err
	}
	return into, auth, nil
}

// authentic verifies the header's signature, and returns the counter that it is
// for, 0 in the older form.
func (v *Verifier) authentic(r *Signed, v1 bool, key ed25519.PublicKey) (n uint64, err error) {
	signature, err := header(r.Signature)
	if err != nil {
		return 0, err
	}
	message := r.Body
	if v1 {
		if n, err = counter(r.Counter); err != nil {
			return 0, err
		}
		message = Message(r.Method, r.Path, v.Instance, n, r.Body)
	}
	return n, Verify(key, message, signature)
}

// current refuses what was signed for another counter than the present one.
func (v *Verifier) current(n uint64) error {
	if now := v.Memory.Counter(); n != now {
		return reason.Refuse(reason.CounterMismatch, "signed for %d, the counter is %d", n, now)
	}
	return nil
}

// counter reads the header x-counter, which has one spelling.
func counter(value string) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != value {
		return 0, reason.Refuse(reason.CounterMalformed, "%.24q", value)
	}
	return n, nil
}
