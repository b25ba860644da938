package control

import (
	"context"
	"crypto/ed25519"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
)

// volumeID is of the volume on the disk or, where there is none, of the one that
// is to be made.
func (c *Control) volumeID() (id storage.ID, there bool, err error) {
	h, err := c.o.Disk.Header()
	switch {
	case err == nil:
		return h.ID, true, nil
	case storage.ReasonOf(err) == storage.VolumeMissing:
		return c.planned, false, nil
	default:
		return storage.ID{}, false, err
	}
}

// source is where the volume's key comes from, for one use.
func (c *Control) source(ctx context.Context, k *kept, owner ed25519.PublicKey) (storage.Source, error) {
	switch c.o.Source {
	case storage.OwnerKey:
		if len(k.Key) == 0 {
			return nil, reason.Refuse(reason.SealedKeyMissing, "the owner has to send the volume's key again")
		}
		key, err := storage.NewKey(append([]byte(nil), k.Key...))
		if err != nil {
			return nil, err
		}
		return storage.Owner(key), nil
	case storage.VaultKey:
		if c.o.Vault == nil {
			return nil, reason.Refuse(reason.SourceFailed, "no vault is configured")
		}
		return c.o.Vault, nil
	case storage.LegacyKey:
		ppid, err := c.o.Quotes.PPID(ctx)
		if err != nil {
			return nil, reason.Because(reason.SourceFailed, err)
		}
		return storage.Legacy(owner, ppid)
	default:
		return nil, reason.Refuse(reason.Internal, "the key source %.32q is unknown", string(c.o.Source))
	}
}

// create makes the volume unless it is there.
func (c *Control) create(ctx context.Context, k *kept, owner ed25519.PublicKey) error {
	if _, there, err := c.volumeID(); err != nil || there {
		return err
	}
	source, err := c.source(ctx, k, owner)
	if err != nil {
		return err
	}
	return c.o.Disk.Create(ctx, storage.ID(k.Volume), source)
}

func (c *Control) mount(ctx context.Context, k *kept, owner ed25519.PublicKey) error {
	source, err := c.source(ctx, k, owner)
	if err != nil {
		return err
	}
	v, err := c.o.Disk.Mount(ctx, storage.ID(k.Volume), source)
	if err != nil {
		return err
	}
	c.volume = v
	c.show()
	return nil
}

// unmount also clears away a dead mount.
func (c *Control) unmount(ctx context.Context) error {
	if c.volume == nil {
		return nil
	}
	if err := c.volume.Unmount(ctx); err != nil {
		return err
	}
	c.volume, c.binds = nil, nil
	c.show()
	return nil
}

// alive reports whether the volume is mounted.
func (c *Control) alive() bool {
	if c.volume == nil {
		return false
	}
	select {
	case <-c.volume.Done():
		return false
	default:
		return true
	}
}

// mounted mounts the volume, unless it is, with what survived in this boot.
func (c *Control) mounted(ctx context.Context) error {
	if c.alive() {
		return nil
	}
	v := c.o.Machine.View()
	k, err := c.loadKept()
	if err != nil {
		return err
	}
	if k == nil {
		// Only the owner's key is not to be had again.
		id, there, err := c.volumeID()
		if err != nil {
			return err
		}
		if !there {
			return reason.Refuse(reason.VolumeMissing, "the volume is gone from the disk")
		}
		k = &kept{Version: 1, Boot: v.Boot, Volume: id[:]}
	}
	defer k.wipe()
	if err := c.unmount(ctx); err != nil {
		return err
	}
	return c.mount(ctx, k, ed25519.PublicKey(v.Owner.Pubkey))
}
