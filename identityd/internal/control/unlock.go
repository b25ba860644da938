package control

import (
	"context"
	"crypto/ed25519"
	"errors"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
)

// StorageRequest asks an owner for the volume's key: a transcript (package
// unlock) and a quote whose report data are its hash. Before an owner is
// registered any owner may be asked, for a volume to be made; afterwards only
// the registered one.
func (c *Control) StorageRequest(ctx context.Context, nonce [32]byte, owner ed25519.PublicKey) (transcript, quote []byte, err error) {
	if c.o.Source != storage.OwnerKey {
		return nil, nil, reason.Refuse(reason.SealedKeyUnwanted, "the key of the volume comes from %s", c.o.Source)
	}
	v := c.o.Machine.View()
	if v.RolledBack {
		return nil, nil, reason.Refuse(reason.StateRollback, "the disk was set back")
	}
	want := v.ExpectedOwner
	if v.Owner != nil {
		want = v.Owner.Pubkey
	}
	if len(want) != 0 && string(want) != string(owner) {
		return nil, nil, reason.Refuse(reason.OtherOwner, "this instance has another owner")
	}
	id, there, err := c.volumeID()
	if err != nil {
		return nil, nil, refusal.Of(err)
	}
	if !there && v.Owner != nil {
		return nil, nil, reason.Refuse(reason.VolumeMissing, "the volume is gone from the disk")
	}
	t, err := c.requests.New(nonce, owner, c.current(&v, id), c.o.Now())
	if err != nil {
		return nil, nil, refusal.Of(err)
	}
	if quote, err = c.o.Quotes.Quote(ctx, t.ReportData()); err != nil {
		return nil, nil, refusal.Of(err)
	}
	return t.Bytes(), quote, nil
}

func (c *Control) current(v *state.View, id storage.ID) unlock.Current {
	return unlock.Current{TLS: c.o.TLSKey, Volume: id, State: string(v.State), Counter: v.Counter}
}

// Unlock goes on after a reboot. It also takes the key anew where it was lost
// within a boot, and the owner's word on the counter where the service was
// killed before it was heard.
func (c *Control) Unlock(ctx context.Context, u *request.Unlock) (Outcome, error) {
	if err := c.begin(ctx); err != nil {
		return Outcome{}, err
	}
	err := c.unlock(ctx, u)
	c.step.leave()
	return c.told(ctx, Outcome{}, err)
}

func (c *Control) unlock(ctx context.Context, u *request.Unlock) error {
	v := c.o.Machine.View()
	switch {
	case v.RolledBack:
		return reason.Refuse(reason.StateRollback, "the disk was set back")
	case v.Owner == nil:
		return reason.Refuse(reason.OwnerMissing, "the state is %s", v.State)
	case v.Linked && v.Witnessed && c.alive():
		return reason.Refuse(reason.StateLinked, "the storage is unlocked")
	}
	if err := c.sealedAsWanted(u.SealedKey); err != nil {
		return err
	}
	owner := ed25519.PublicKey(v.Owner.Pubkey)
	k, err := c.ask(&v, owner, u.SealedKey)
	if err != nil {
		return err
	}
	defer k.wipe()
	k.Witness = u.LastCounter
	ctx, cancel := outside(ctx)
	defer cancel()
	if err := c.openVolume(ctx, k, owner); err != nil {
		return err
	}
	if !v.Linked {
		if err := c.link(ctx, state.Role{Pubkey: owner, Signature: u.Signature}); err != nil {
			return errors.Join(err, c.unmount(ctx), c.forgetKey())
		}
	}
	err = c.witnessed(ctx)
	// The storage is unlocked and stays so, whatever becomes of the container, and
	// who has not spoken yet is asked again: that stands in View.
	c.bringBack(ctx)
	return err
}

// openVolume mounts the volume with a key that came now. It is kept only once it
// has turned out to be the right one, or a wrong one would be in the way of it
// after a restart.
func (c *Control) openVolume(ctx context.Context, k *kept, owner ed25519.PublicKey) error {
	if !c.alive() {
		if err := c.takeDown(ctx); err != nil {
			return err
		}
		if err := c.unmount(ctx); err != nil {
			return err
		}
		if err := c.mount(ctx, k, owner); err != nil {
			return err
		}
	}
	return c.keep(k)
}

// link goes on with the identity in the volume.
func (c *Control) link(ctx context.Context, owner state.Role) error {
	identity, err := c.readInVolume(ctx, nameIdentity, maxIdentity)
	if errors.Is(err, errNotThere) {
		return reason.Refuse(reason.IdentityInvalid, "there is none in the volume")
	}
	if err != nil {
		return err
	}
	defer clear(identity)
	if err := c.o.Machine.Link(c.o.Now(), identity, owner); err != nil {
		return err
	}
	return c.writeIdentity(ctx)
}
