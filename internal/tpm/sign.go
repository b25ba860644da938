package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Sign returns the signature of a digest, whose hash is the algorithm's (SHA-384
// for ES384, SHA-256 otherwise), verified in software: r | s of ECDSA, or
// RSASSA-PSS. It recovers once from a TPM that was restarted or a session that was
// lost; what to do about other errors is for the caller to say.
func (k *Key) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	if want := suites[k.rec.alg].hash.Size(); len(digest) != want {
		return nil, fmt.Errorf("digest of %d bytes, %s signs %d", len(digest), k.rec.alg, want)
	}
	sig, err := k.signOnce(ctx, digest)
	if err != nil && ctx.Err() == nil && Classify(err) == Gone {
		sig, err = k.signOnce(ctx, digest)
	}
	return sig, err
}

func (k *Key) signOnce(ctx context.Context, digest []byte) ([]byte, error) {
	if k.closed.Load() {
		return nil, ErrClosed
	}
	return ask(ctx, k.dev, "signing", func(l *link) ([]byte, error) { return k.sign(l, digest) })
}

// sign makes one signature. Part 3, section 20.2, TPM2_Sign.
func (k *Key) sign(l *link, digest []byte) ([]byte, error) {
	s := suites[k.rec.alg]
	answer, err := authorised(l, k, func(key tpm2.AuthHandle) (*signature, error) { return l.signDigest(s, key, digest) })
	if err != nil {
		return nil, err
	}
	// The TPM may leave out leading zeros of each number.
	sig := make([]byte, s.size)
	each := s.size / len(answer.numbers)
	for i, n := range answer.numbers {
		if err := padTo(sig[i*each:(i+1)*each], n); err != nil {
			return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
		}
	}
	if !s.verifies(k.rec.pub, digest, sig) {
		return nil, ErrBadSignature
	}
	return sig, nil
}

// authorised runs use with the loaded key and its session. When the TPM does
// not accept the session, a new one is made and use runs once more: the TPM and we may
// have lost step. A key that is made here is not subject to lockout, so asking
// twice costs nothing. Of another one, each such answer is counted: it is asked
// twice only after it has worked, and then never again.
func authorised[R any](l *link, k *Key, use func(tpm2.AuthHandle) (*R, error)) (*R, error) {
	for first := true; ; first = false {
		if k.closed.Load() {
			return nil, ErrClosed
		}
		if k.rejected != nil {
			return nil, k.rejected
		}
		if err := k.load(l); err != nil {
			return nil, err
		}
		k.session.uses++
		r, err := use(tpm2.AuthHandle{Handle: k.handle, Name: k.rec.key.name, Auth: k.session.Session})
		if err == nil {
			k.signed = true
		}
		if !isCode(err, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth, tpm2.TPMRCNonce) {
			return r, err
		}
		k.session.end(l)
		if !k.transient { // another key may be at the handle by now, and is not asked again
			k.handle = 0
			if err := k.load(l); err != nil {
				return nil, err
			}
		}
		if first && (k.signed || !k.rec.protected()) {
			continue
		}
		if !isCode(err, tpm2.TPMRCNonce) {
			err = fmt.Errorf("%w: %w", ErrWrongAuth, err)
			if k.rec.protected() {
				k.rejected = err
			}
		}
		return nil, err
	}
}
