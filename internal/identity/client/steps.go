package client

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/telemark-otel/telemark/internal/identity/api"
)

// Done is a step that was taken.
type Done struct {
	OwnerToken string
	// Pending is true when the registry has not heard of it yet, for Reason. The
	// step is done and kept all the same.
	Pending        bool
	Reason, Detail string
}

// RegisterOperator makes the signer the instance's operator. owner, if not empty,
// is the only key that may become owner; in the older form nothing signs it.
func (i *Instance) RegisterOperator(ctx context.Context, signer crypto.Signer, owner ed25519.PublicKey) (*Done, error) {
	key, signature, err := i.role(signer)
	if err != nil {
		return nil, err
	}
	if len(owner) == 0 || i.c.o.Legacy {
		if err := i.MaySend("the owner's token"); err != nil {
			return nil, err
		}
	}
	done, err := i.step(ctx, signer, api.PathRegisterOperator, nil, &api.Operator{Pubkey: key, Signature: signature, OwnerPubkey: api.Hex(owner)})
	if err != nil {
		return nil, err
	}
	if _, ok := api.ParseHex(done.OwnerToken, 1024); !ok || done.OwnerToken == "" {
		return nil, doubt(AnswerMalformed, "there is no owner's token in the answer")
	}
	return done, nil
}

// RenewOperator signs the instance key of this boot.
func (i *Instance) RenewOperator(ctx context.Context, signer crypto.Signer) (*Done, error) {
	key, signature, err := i.role(signer)
	if err != nil {
		return nil, err
	}
	return i.step(ctx, signer, api.PathRenewOperator, nil, &api.Renewal{Pubkey: key, Signature: signature})
}

// RegisterOwner makes the signer the instance's owner. sealed is what Ask.Seal
// made, or empty where the volume's key does not come from the owner.
func (i *Instance) RegisterOwner(ctx context.Context, signer crypto.Signer, token string, sealed []byte) (*Done, error) {
	if err := i.MaySend("the owner's token"); err != nil {
		return nil, err
	}
	key, signature, err := i.role(signer)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	header.Set(api.HeaderToken, token)
	return i.step(ctx, signer, api.PathRegisterOwner, header, &api.Owner{Pubkey: key, Signature: signature, SealedKey: sealed})
}

// Configure starts a workload.
func (i *Instance) Configure(ctx context.Context, signer crypto.Signer, w api.Configure) (*Done, error) {
	if w.Registry != nil {
		if err := i.MaySend("the registry's credentials"); err != nil {
			return nil, err
		}
	}
	w.InstancePubkey = api.Hex(i.Key)
	return i.step(ctx, signer, api.PathConfigure, nil, &w)
}

// Expose closes SSH for good and publishes the workload's port.
func (i *Instance) Expose(ctx context.Context, signer crypto.Signer, image string) (*Done, error) {
	return i.step(ctx, signer, api.PathExpose, nil, &api.Expose{InstancePubkey: api.Hex(i.Key), Image: &image})
}

// MaySend refuses to send a secret that others would read.
func (i *Instance) MaySend(what string) error {
	if i.c.channel.Private() || i.c.o.Plaintext {
		return nil
	}
	return doubt(ChannelOpen, "%s would cross the network in clear", what)
}

// role signs the raw instance key, which makes an operator or owner.
func (i *Instance) role(signer crypto.Signer) (key, signature api.Hex, err error) {
	s, err := sign(signer, i.Key)
	if err != nil {
		return nil, nil, err
	}
	return api.Hex(signer.Public().(ed25519.PublicKey)), s, nil
}

// sign signs, and verifies what came back: a signer may be another process.
func sign(signer crypto.Signer, message []byte) ([]byte, error) {
	public, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return nil, doubt(SignerInvalid, "a %T, not an Ed25519 key", signer.Public())
	}
	s, err := signer.Sign(rand.Reader, message, crypto.Hash(0))
	if err != nil {
		return nil, &Doubt{Reason: SignerInvalid, Err: err}
	}
	if !ed25519.Verify(public, message, s) {
		return nil, doubt(SignerInvalid, "the signature is not of the key that the signer names")
	}
	return s, nil
}

// step signs one request, sends it and reads the outcome.
func (i *Instance) step(ctx context.Context, signer crypto.Signer, path string, header http.Header, body any) (*Done, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	if header == nil {
		header = http.Header{}
	}
	if i.c.o.Legacy {
		path = strings.TrimPrefix(path, "/v1")
	}
	if err := i.authenticate(signer, path, header, raw); err != nil {
		return nil, err
	}
	var done api.Done
	got, err := i.c.call(ctx, http.MethodPost, path, nil, header, raw, &done)
	if err != nil {
		return nil, err
	}
	if done.Status != api.StatusSuccess {
		return nil, doubt(AnswerMalformed, "%s answers without saying success", path)
	}
	out := &Done{OwnerToken: done.OwnerToken, Pending: got.status == http.StatusAccepted}
	if out.Pending {
		out.Reason, out.Detail = bounded(done.Reason, 64), bounded(done.Error, 1024)
	}
	return out, nil
}

// authenticate puts the signature into the header. In the older form the body is
// what is signed, and registrations are not.
func (i *Instance) authenticate(signer crypto.Signer, path string, header http.Header, raw []byte) error {
	message := raw
	switch {
	case !i.c.o.Legacy:
		message = api.Message(http.MethodPost, path, i.Key, i.counter, raw)
		header.Set(api.HeaderCounter, strconv.FormatUint(i.counter, 10))
	case strings.HasSuffix(path, "/register"):
		return nil
	}
	s, err := sign(signer, message)
	if err != nil {
		return err
	}
	header.Set(api.HeaderSignature, hex.EncodeToString(s))
	return nil
}
