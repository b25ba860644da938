package nonce

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telemark-otel/telemark/internal/reason"
)

// MinLen and MaxLen bound a nonce in bytes; DefaultLen is what is issued.
const (
	MinLen     = 32
	DefaultLen = 32
	MaxLen     = 64
)

// Bounds of what a nonce is bound to and made with, in bytes.
const (
	MinSecretLen   = 32
	MaxKIDLen      = 64
	MaxAudienceLen = 128
)

// Offsets and sizes of the fields; see the package comment.
const (
	timeLen  = 6
	epochOff = timeLen
	epochLen = 4
	forOff   = epochOff + epochLen
	forLen   = 2
	rndOff   = forOff + forLen
	macLen   = 16

	maxMillis = 1<<(8*timeLen) - 1
)

const (
	forDomain = "telemark-nonce-for-v1\x00"
	keyInfo   = "telemark-nonce-v1"
)

// maxLost bounds how many keys of lost stores are kept at hand.
const maxLost = 8

// Errors of NewAuthority and Mint, which are mistakes of the caller.
var (
	ErrSecretTooShort = fmt.Errorf("the secret must have at least %d bytes", MinSecretLen)
	ErrAudience       = fmt.Errorf("the audience must have 1 to %d bytes", MaxAudienceLen)
	ErrKID            = fmt.Errorf("the key id must have 1 to %d bytes", MaxKIDLen)
	ErrLength         = fmt.Errorf("the nonce length must be %d to %d bytes", MinLen, MaxLen)
	ErrTime           = errors.New("the time does not fit into 48 bits of Unix milliseconds")
)

// Authority mints and checks nonces. It is pure: no clock, no storage. It is
// safe for concurrent use.
type Authority struct {
	secret   []byte
	audience string
	own      *epochKey

	// lost holds the keys of earlier store epochs under which a nonce was found
	// genuine, newest first. Only genuine nonces get an entry, so forged ones
	// cannot push anything out. Replaced as a whole, never changed.
	lost atomic.Pointer[[]*epochKey]
}

// NewAuthority takes the MAC secret (at least 32 bytes), the store epoch and
// the audience. It keeps a copy of the secret.
func NewAuthority(secret []byte, storeEpoch [4]byte, audience string) (*Authority, error) {
	if len(secret) < MinSecretLen {
		return nil, fmt.Errorf("%w, got %d", ErrSecretTooShort, len(secret))
	}
	if audience == "" || len(audience) > MaxAudienceLen {
		return nil, fmt.Errorf("%w, got %d", ErrAudience, len(audience))
	}
	a := &Authority{secret: append([]byte(nil), secret...), audience: audience}
	own, err := newEpochKey(a.secret, storeEpoch)
	if err != nil {
		return nil, err
	}
	a.own = own
	return a, nil
}

// Audience is the audience that the nonces are bound to.
func (a *Authority) Audience() string { return a.audience }

// Mint returns a nonce of length bytes for kid, issued at now (millisecond
// precision). random fills the slice it is given, as crypto/rand.Read does.
func (a *Authority) Mint(kid []byte, now time.Time, length int, random func([]byte) error) ([]byte, error) {
	if len(kid) == 0 || len(kid) > MaxKIDLen {
		return nil, fmt.Errorf("%w, got %d", ErrKID, len(kid))
	}
	if length < MinLen || length > MaxLen {
		return nil, fmt.Errorf("%w, got %d", ErrLength, length)
	}
	ms := now.UnixMilli()
	if ms < 0 || ms > maxMillis {
		return nil, fmt.Errorf("%w: %v", ErrTime, now)
	}

	n := make([]byte, length)
	var t [8]byte
	binary.BigEndian.PutUint64(t[:], uint64(ms))
	copy(n[:timeLen], t[8-timeLen:])
	copy(n[epochOff:forOff], a.own.epoch[:])
	macOff := length - macLen
	if err := random(n[rndOff:macOff]); err != nil {
		return nil, fmt.Errorf("randomness for a nonce: %w", err)
	}
	m := a.own.get()
	defer a.own.put(m)
	m.hint(n[forOff:rndOff], kid, a.audience)
	copy(n[macOff:], m.mac(kid, a.audience, n[:macOff]))
	return n, nil
}

// Check authenticates n for kid and returns when it was issued. Errors are
// *reason.Error: nonce_malformed, nonce_foreign, nonce_forged,
// nonce_store_lost. Whether that time is acceptable is the caller's to judge.
func (a *Authority) Check(n, kid []byte) (issued time.Time, err error) {
	if len(n) < MinLen || len(n) > MaxLen {
		return time.Time{}, reason.New(reason.NonceMalformed, "%d bytes, want %d to %d", len(n), MinLen, MaxLen)
	}
	if len(kid) == 0 || len(kid) > MaxKIDLen {
		return time.Time{}, reason.New(reason.NonceForeign, "key id of %d bytes", len(kid))
	}
	macOff := len(n) - macLen
	key := a.own
	ours := [epochLen]byte(n[epochOff:forOff]) == key.epoch
	if !ours {
		if key, err = a.lostKey([epochLen]byte(n[epochOff:forOff])); err != nil {
			return time.Time{}, reason.Wrap(reason.NonceForged, err)
		}
	}
	m := key.get()
	defer key.put(m)
	var hint [forLen]byte
	m.hint(hint[:], kid, a.audience)
	if subtle.ConstantTimeCompare(hint[:], n[forOff:rndOff]) != 1 {
		return time.Time{}, reason.New(reason.NonceForeign, "issued for another key or audience")
	}
	if subtle.ConstantTimeCompare(m.mac(kid, a.audience, n[:macOff]), n[macOff:]) != 1 {
		return time.Time{}, reason.New(reason.NonceForged, "MAC does not fit")
	}
	if !ours {
		a.rememberLost(key)
		return time.Time{}, reason.New(reason.NonceStoreLost, "issued under store epoch %x", key.epoch)
	}
	var t [8]byte
	copy(t[8-timeLen:], n[:timeLen])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(t[:]))), nil
}

// lostKey returns the key of another store epoch, derived anew unless a nonce
// of it was genuine before.
func (a *Authority) lostKey(epoch [epochLen]byte) (*epochKey, error) {
	if known := a.lost.Load(); known != nil {
		for _, k := range *known {
			if k.epoch == epoch {
				return k, nil
			}
		}
	}
	return newEpochKey(a.secret, epoch)
}

func (a *Authority) rememberLost(k *epochKey) {
	old := a.lost.Load()
	next := []*epochKey{k}
	if old != nil {
		for _, o := range *old {
			if o.epoch == k.epoch {
				return
			}
		}
		next = append(next, (*old)[:min(len(*old), maxLost-1)]...)
	}
	// Losing the race against another goroutine costs one more derivation later.
	a.lost.CompareAndSwap(old, &next)
}

// epochKey is the MAC key of one store epoch with a pool of keyed states.
type epochKey struct {
	epoch [epochLen]byte
	pool  sync.Pool
}

// macState is one keyed HMAC and a plain hash, with room for their results, so
// that checking a nonce allocates nothing.
type macState struct {
	hmac  hash.Hash
	plain hash.Hash
	buf   []byte
	sum   []byte
}

func newEpochKey(secret []byte, epoch [epochLen]byte) (*epochKey, error) {
	key, err := hkdf.Key(sha256.New, secret, epoch[:], keyInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the nonce key: %w", err)
	}
	k := &epochKey{epoch: epoch}
	k.pool.New = func() any {
		return &macState{
			hmac:  hmac.New(sha256.New, key),
			plain: sha256.New(),
			buf:   make([]byte, 0, 2+MaxKIDLen+MaxAudienceLen+MaxLen),
			sum:   make([]byte, 0, sha256.Size),
		}
	}
	return k, nil
}

func (k *epochKey) get() *macState  { return k.pool.Get().(*macState) }
func (k *epochKey) put(m *macState) { k.pool.Put(m) }

// bind writes u8 len,kid | u8 len,aud; both lengths were checked.
func bind(b, kid []byte, audience string) []byte {
	b = append(b, byte(len(kid)))
	b = append(b, kid...)
	b = append(b, byte(len(audience)))
	return append(b, audience...)
}

func (m *macState) hint(dst, kid []byte, audience string) {
	m.buf = bind(append(m.buf[:0], forDomain...), kid, audience)
	m.plain.Reset()
	_, _ = m.plain.Write(m.buf)
	m.sum = m.plain.Sum(m.sum[:0])
	copy(dst, m.sum[:forLen])
}

// mac returns the truncated MAC; it is valid until the state is used again.
func (m *macState) mac(kid []byte, audience string, head []byte) []byte {
	m.buf = append(bind(m.buf[:0], kid, audience), head...)
	m.hmac.Reset()
	_, _ = m.hmac.Write(m.buf)
	m.sum = m.hmac.Sum(m.sum[:0])
	return m.sum[:macLen]
}
