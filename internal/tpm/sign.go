package tpm

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// SignatureSize is the length of an ES256 signature, r ‖ s.
const SignatureSize = 64

// Sign returns the ECDSA signature r ‖ s of a SHA-256 digest, verified in
// software. It recovers once from a TPM that was restarted or a session that was lost; other
// errors are the caller's (see [Key.SignRetry]).
func (k *Key) Sign(ctx context.Context, digest [32]byte) ([]byte, error) {
	sig, err := k.signOnce(ctx, digest)
	if err != nil && ctx.Err() == nil && Classify(err) == Gone {
		sig, err = k.signOnce(ctx, digest)
	}
	return sig, err
}

func (k *Key) signOnce(ctx context.Context, digest [32]byte) ([]byte, error) {
	if k.closed.Load() {
		return nil, ErrClosed
	}
	return ask(ctx, k.dev, "signing", func(l *link) ([]byte, error) { return k.sign(l, digest) })
}

// sign makes one signature. Part 3, section 20.2, TPM2_Sign.
func (k *Key) sign(l *link, digest [32]byte) ([]byte, error) {
	rsp, err := authorised(l, k, func(key tpm2.AuthHandle) (*tpm2.SignResponse, error) {
		return exec(l, tpm2.Sign{
			KeyHandle: key,
			Digest:    tpm2.TPM2BDigest{Buffer: digest[:]},
			Validation: tpm2.TPMTTKHashCheck{
				Tag:       tpm2.TPMSTHashCheck,
				Hierarchy: tpm2.TPMRHNull,
			},
		})
	})
	if err != nil {
		return nil, err
	}
	ecc, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	sig := make([]byte, SignatureSize)
	if err := errors.Join(
		padTo(sig[:SignatureSize/2], ecc.SignatureR.Buffer),
		padTo(sig[SignatureSize/2:], ecc.SignatureS.Buffer),
	); err != nil {
		return nil, l.breakOff(fmt.Errorf("%w: %w", ErrMalformed, err))
	}
	r := new(big.Int).SetBytes(sig[:SignatureSize/2])
	s := new(big.Int).SetBytes(sig[SignatureSize/2:])
	if !ecdsa.Verify(k.rec.pub, digest[:], r, s) {
		return nil, ErrBadSignature
	}
	return sig, nil
}

// authorised runs use with the loaded key and its session. When the TPM does
// not accept the session, a new one is made and use runs once more: the TPM and we may
// have lost step. The key is not subject to lockout, so asking twice costs nothing.
func authorised[R any](l *link, k *Key, use func(tpm2.AuthHandle) (*R, error)) (*R, error) {
	for first := true; ; first = false {
		if k.closed.Load() {
			return nil, ErrClosed
		}
		if err := k.load(l); err != nil {
			return nil, err
		}
		k.session.uses++
		r, err := use(tpm2.AuthHandle{Handle: k.handle, Name: k.rec.key.name, Auth: k.session.Session})
		if first && isCode(err, tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth, tpm2.TPMRCNonce) {
			k.session.end(l)
			continue
		}
		return r, err
	}
}

// Retry says how [Key.SignRetry] waits.
type Retry struct {
	// Min and Max bound the wait after a failure, which doubles each time; 0
	// is 100 ms and 10 s.
	Min, Max time.Duration
	// Notify, when not nil, is called after each failure, with the wait that
	// follows, and with a nil error when signing works again after failures.
	// It must not block.
	Notify func(err error, class Class, wait time.Duration)
}

const (
	defaultRetryMin = 100 * time.Millisecond
	defaultRetryMax = 10 * time.Second
)

// SignRetry signs until it succeeds, ctx is done, or the Key or its Device is
// closed ([ErrClosed]). It goes on after permanent errors too, at the longest wait, since
// somebody may repair what is wrong, and what waits to be signed must not be lost.
func (k *Key) SignRetry(ctx context.Context, digest [32]byte, r Retry) ([]byte, error) {
	if r.Min <= 0 {
		r.Min = defaultRetryMin
	}
	if r.Max <= 0 {
		r.Max = defaultRetryMax
	}
	notify := func(err error, class Class, wait time.Duration) {
		if r.Notify != nil {
			r.Notify(err, class, wait)
		}
	}
	next := min(r.Min, r.Max)
	for failed := false; ; failed = true {
		sig, err := k.Sign(ctx, digest)
		if err == nil {
			if failed {
				notify(nil, OK, 0)
			}
			return sig, nil
		}
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return nil, err
		}
		class, wait := Classify(err), next
		if class == Permanent || class == Lockout {
			wait = r.Max
		}
		next = min(2*next, r.Max)
		notify(err, class, wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w; the last failure: %w", context.Cause(ctx), err)
		case <-k.dev.life.Done():
			timer.Stop()
			return nil, ErrClosed
		}
	}
}
