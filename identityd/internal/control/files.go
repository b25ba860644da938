package control

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
)

// What identityd keeps in the volume.
const (
	nameIdentity = "identity" // package state's
	nameOwner    = "owner"    // the owner's public key

	maxIdentity = 8 << 10
	filesTime   = 30 * time.Second // a disk that is busy may take long to sync
)

var errNotThere = errors.New("not in the volume")

// place is identityd's directory of the volume, and what its files end with:
//
//	content | HMAC-SHA-256(key of the volume for "identityd-files", "telemark-identityd-file-v1\0" | P(name) | P(content))
//	P(x) = u32 length of x, big-endian | x
//
// gocryptfs alone lets the host put one file of the volume in another's place,
// one that the workload wrote for instance.
type place struct {
	*os.Root
	key [32]byte
}

func (p *place) seal(name string, content []byte) []byte {
	h := hmac.New(sha256.New, p.key[:])
	h.Write([]byte("telemark-identityd-file-v1\x00"))
	for _, part := range [][]byte{[]byte(name), content} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

// replace writes a file whole.
func (p *place) replace(name string, content []byte) error {
	whole := append(bytes.Clone(content), p.seal(name, content)...)
	if err := state.Replace(state.DirOf(p.Root), name, whole); err != nil {
		return reason.Because(reason.DiskFailed, fmt.Errorf("in the volume: %w", err))
	}
	return nil
}

// read returns what replace wrote, errNotThere, or a refusal.
func (p *place) read(name string, limit int64) ([]byte, error) {
	whole, err := state.DirOf(p.Root).ReadFile(name, limit+sha256.Size)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errNotThere
	case err != nil:
		return nil, reason.Because(reason.DiskFailed, fmt.Errorf("in the volume: %w", err))
	}
	cut := len(whole) - sha256.Size
	if cut < 0 || !hmac.Equal(whole[cut:], p.seal(name, whole[:cut])) {
		return nil, reason.Refuse(reason.IdentityInvalid, "the file %.100s in the volume was not written by identityd as it stands: files were moved", name)
	}
	return whole[:cut], nil
}

// inVolume does something in identityd's directory of the volume. Calls to a
// volume whose gocryptfs hangs do not return by themselves: then it is taken
// down, which ends them.
func (c *Control) inVolume(ctx context.Context, do func(context.Context, *place) error) error {
	if !c.alive() {
		return reason.Refuse(reason.NotMounted, "the volume is not mounted")
	}
	// Package storage takes a volume down that does not answer before its context
	// ends. A caller who goes away is no reason for that.
	root, err := c.volume.Identity(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	p := &place{root, c.volume.Derive("identityd-files")}
	done := make(chan error, 1)
	go func() {
		defer clear(p.key[:])
		done <- errors.Join(do(ctx, p), root.Close())
	}()
	select {
	case err = <-done:
		return err
	case <-ctx.Done():
	}
	// What notices ctx by itself gets the time to.
	select {
	case err = <-done:
		return err
	case <-time.After(filesTime):
	}
	gone, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	err = errors.Join(reason.Refuse(reason.MountTimeout, "the volume does not answer and was taken down"), c.unmount(gone))
	return errors.Join(err, <-done)
}

func (c *Control) writeInVolume(ctx context.Context, name string, content []byte) error {
	ctx, cancel := context.WithTimeout(ctx, filesTime)
	defer cancel()
	return c.inVolume(ctx, func(_ context.Context, p *place) error { return p.replace(name, content) })
}

func (c *Control) readInVolume(ctx context.Context, name string, limit int64) (content []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, filesTime)
	defer cancel()
	err = c.inVolume(ctx, func(_ context.Context, p *place) (err error) {
		content, err = p.read(name, limit)
		return err
	})
	return content, err
}

// writeIdentity keeps the means to go on after a reboot, and the counter below
// which no state is taken.
func (c *Control) writeIdentity(ctx context.Context) error {
	identity, err := c.o.Machine.Identity()
	if err != nil {
		return err
	}
	defer clear(identity)
	return c.writeInVolume(ctx, nameIdentity, identity)
}
