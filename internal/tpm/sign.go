package tpm

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// SignatureSize is the length of an ES256 signature, r ‖ s.
const SignatureSize = 64

// Sign returns the ECDSA signature r ‖ s of a SHA-256 digest, verified in
// software. It recovers once from a TPM that was restarted or a session that was
// lost; what to do about other errors is for the caller to say.
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
	answer, err := authorised(l, k, func(key tpm2.AuthHandle) (*signature, error) { return l.signDigest(key, digest) })
	if err != nil {
		return nil, err
	}
	sig := make([]byte, SignatureSize)
	if err := errors.Join(
		padTo(sig[:SignatureSize/2], answer.r),
		padTo(sig[SignatureSize/2:], answer.s),
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
