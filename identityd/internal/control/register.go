package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
)

// RegisterOperator gives the instance its operator.
//
// Of this and the other transitions: errors are *reason.Error. Each returns only
// when the step is finished or undone; ctx bounds the waiting for what may be
// undone (a pull), never leaves a step half done. A step that can neither be
// finished nor undone, since the disk or Podman fails, is gone on with in the
// background: the error says why, and View.
func (c *Control) RegisterOperator(ctx context.Context, o *request.Operator) (Outcome, error) {
	// Nobody has to be the owner or operator to call this: who is refused anyway
	// does not wait for a step under way, and holds no place meanwhile.
	if v := c.o.Machine.View(); established(&v) {
		return Outcome{}, reason.Refuse(reason.OperatorRegistered, "the state is %s", v.State)
	}
	if err := c.begin(ctx); err != nil {
		return Outcome{}, err
	}
	token, err := c.o.Machine.RegisterOperator(state.Role{Pubkey: o.Pubkey, Signature: o.Signature}, o.OwnerPubkey)
	c.step.leave()
	return c.told(ctx, Outcome{Token: token}, err)
}

// established says that there is an operator, whatever step is under way.
func established(v *state.View) bool {
	return v.Linked && v.Witnessed && !v.RolledBack && v.Operator != nil
}

// RenewOperator takes the operator's signature over the instance key of this boot.
func (c *Control) RenewOperator(ctx context.Context, who state.Role) (Outcome, error) {
	if v := c.o.Machine.View(); established(&v) && !bytes.Equal(v.Operator.Pubkey, who.Pubkey) {
		return Outcome{}, reason.Refuse(reason.OperatorRegistered, "only its operator can sign it anew, once after a reboot")
	}
	if err := c.begin(ctx); err != nil {
		return Outcome{}, err
	}
	err := c.o.Machine.Renew(who)
	c.step.leave()
	return c.told(ctx, Outcome{}, err)
}

// RegisterOwner makes or mounts the volume.
func (c *Control) RegisterOwner(ctx context.Context, token string, o *request.Owner) (Outcome, error) {
	if err := c.begin(ctx); err != nil {
		return Outcome{}, err
	}
	err := c.registerOwner(ctx, token, o)
	c.step.leave()
	return c.told(ctx, Outcome{}, err)
}

func (c *Control) registerOwner(ctx context.Context, token string, o *request.Owner) error {
	if err := c.sealedAsWanted(o.SealedKey); err != nil {
		return err
	}
	// What the owner's tool was told, which beginning changes.
	before := c.o.Machine.View()
	p, err := c.o.Machine.RegisterOwner(c.o.Now(), token, state.Role{Pubkey: o.Pubkey, Signature: o.Signature})
	if err != nil {
		return err
	}
	ctx, cancel := outside(ctx)
	defer cancel()
	k, err := c.ask(&before, ed25519.PublicKey(o.Pubkey), o.SealedKey)
	if err == nil {
		err = c.establish(ctx, p, k)
	}
	k.wipe()
	if err != nil {
		return c.undoOwner(ctx, p, err)
	}
	return nil
}

// sealedAsWanted says whether a wrapped key is there where one is needed, before
// anything is used up by the call.
func (c *Control) sealedAsWanted(sealed []byte) error {
	switch {
	case c.o.Source == storage.OwnerKey && len(sealed) == 0:
		return reason.Refuse(reason.SealedKeyMissing, "the key of the volume comes from its owner")
	case c.o.Source != storage.OwnerKey && len(sealed) != 0:
		return reason.Refuse(reason.SealedKeyUnwanted, "the key of the volume comes from %s", c.o.Source)
	}
	return nil
}

// ask returns what is needed to mount the volume: which it is and, where the
// owner sends it, the key.
func (c *Control) ask(v *state.View, owner ed25519.PublicKey, sealed []byte) (*kept, error) {
	id, there, err := c.volumeID()
	if err != nil {
		return nil, err
	}
	k := &kept{Version: 1, Boot: v.Boot, Volume: id[:], Made: !there}
	if earlier, err := c.loadKept(); err == nil && earlier != nil && storage.ID(earlier.Volume) == id {
		k.Made = k.Made || earlier.Made
	}
	if c.o.Source == storage.OwnerKey {
		k.Key, err = c.requests.Open(sealed, owner, c.current(v, id), c.o.Now())
	}
	return k, err
}

// establish makes the volume, or mounts the one that is there, and writes the
// identity into it.
func (c *Control) establish(ctx context.Context, p *state.Pending, k *kept) error {
	owner := ed25519.PublicKey(p.Step().Owner.Pubkey)
	if err := c.keep(k); err != nil {
		return err
	}
	if err := c.unmount(ctx); err != nil {
		return err
	}
	if err := c.create(ctx, k, owner); err != nil {
		return err
	}
	if err := c.mount(ctx, k, owner); err != nil {
		return err
	}
	if err := c.claimVolume(ctx, k, owner); err != nil {
		return err
	}
	if err := c.writeIdentity(ctx); err != nil {
		return err
	}
	return p.Finish()
}

// claimVolume makes sure that what is in the volume is this owner's. Whoever gets
// hold of a volume's key by other means than the owner's signature, from a vault
// say, may not become the owner of what another one left in it.
func (c *Control) claimVolume(ctx context.Context, k *kept, owner ed25519.PublicKey) error {
	found, err := c.readInVolume(ctx, nameOwner, ed25519.PublicKeySize)
	switch {
	case err == nil && string(found) == string(owner):
		return nil
	case err == nil:
		return reason.Refuse(reason.VolumeOther, "the volume on the disk belongs to another owner")
	case !errors.Is(err, errNotThere):
		return err
	case !k.Made:
		return reason.Refuse(reason.VolumeOther, "the volume on the disk was not made for this instance: remove it, or start the VM with its state")
	}
	return c.writeInVolume(ctx, nameOwner, owner)
}

// undoOwner leaves the volume on the disk: that it was made in this boot is
// remembered, so that the owner can try again.
func (c *Control) undoOwner(ctx context.Context, p *state.Pending, why error) error {
	if err := errors.Join(c.unmount(ctx), c.forgetKey()); err != nil {
		c.log.Error("the volume is not put away", zap.Error(err))
	}
	return c.undo(p, why)
}

// resumeOwner goes on with what a crash interrupted, and undoes it where that
// does not work.
func (c *Control) resumeOwner(ctx context.Context, p *state.Pending) error {
	k, err := c.loadKept()
	if err == nil && (k == nil || c.o.Source == storage.OwnerKey && len(k.Key) == 0) {
		err = reason.Refuse(reason.SealedKeyMissing, "the owner's key did not survive")
	}
	if err == nil {
		err = c.establish(ctx, p, k)
		k.wipe()
	}
	if err == nil {
		return nil
	}
	// That it was undone is no trouble; that it could not be is.
	c.log.Warn("the owner's registration is undone", zap.Error(err))
	if err := errors.Join(c.unmount(ctx), c.forgetKey()); err != nil {
		return err
	}
	return p.Undo()
}
