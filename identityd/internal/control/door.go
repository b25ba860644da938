package control

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/workload/shell"
)

// hostKey is how the event log names the SSH host key.
func (c *Control) hostKey() string {
	return hex.EncodeToString(c.o.SSHHostKey.Public().(ed25519.PublicKey))
}

// openDoor opens the temporary way in, if the state allows it.
func (c *Control) openDoor(ctx context.Context) error {
	v := c.o.Machine.View()
	if !v.SSHAllowed() {
		return reason.Refuse(reason.SSHUnavailable, "the state does not allow it")
	}
	listener, err := c.o.ListenSSH(ctx)
	if err != nil {
		return reason.Because(reason.SSHUnavailable, err)
	}
	config := sshd.Config{
		HostKey: c.o.SSHHostKey, Owner: ed25519.PublicKey(v.Owner.Pubkey),
		Container: shell.Container{Manager: c.o.Workload}, Logger: c.log.Named("ssh"),
	}
	for _, b := range c.binds {
		config.Directories = append(config.Directories, sshd.Directory{Inside: b.Container, Host: b.Host})
	}
	server, err := sshd.New(listener, config)
	if err != nil {
		return errors.Join(reason.Because(reason.SSHUnavailable, err), listener.Close())
	}
	c.door = server
	c.show()
	c.work.Go(func() {
		if err := server.Serve(); !errors.Is(err, sshd.ErrClosed) {
			c.log.Error("SSH ended", zap.Error(err))
			c.lost(server)
		}
	})
	return nil
}

// closeDoor ends SSH. What could not be ended of its sessions ends with the
// container.
func (c *Control) closeDoor(ctx context.Context) {
	if c.door == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	if err := c.door.Close(ctx); err != nil {
		c.log.Warn("SSH sessions are ended with the container", zap.Error(err))
	}
}

// doorEmpty returns when nothing of SSH is left. The container is gone, and with
// it every process of a session; but what copies files into the volume runs here,
// and where it hangs, it hangs on the volume, which is taken down then.
func (c *Control) doorEmpty(ctx context.Context) error {
	if c.door == nil {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	err := c.door.Close(waiting)
	if err == nil || waiting.Err() == nil { // otherwise a process that the container took along
		return nil
	}
	gone, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	return errors.Join(reason.Because(reason.SSHNotClosed, err), c.unmount(gone))
}

// lost says that a door that was to be open is not.
func (c *Control) lost(server *sshd.Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shown.door == server {
		c.shown.lostDoor = true
		c.shown.trouble = reason.Because(reason.SSHUnavailable, fmt.Errorf("the port of SSH failed"))
	}
}
