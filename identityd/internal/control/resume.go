package control

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// bringBack is resume, which is tried again later if it fails. It is called with
// step held, or by Open.
func (c *Control) bringBack(ctx context.Context) {
	if err := c.resume(ctx); err != nil {
		c.log.Error("what should run does not", zap.Error(err))
		c.later(err)
		return
	}
	c.healthy()
}

// resume brings everything outside to where the state says it is: after a crash,
// after an unlocking, after gocryptfs ended. It may be done again after it failed
// or was killed anywhere.
func (c *Control) resume(ctx context.Context) error {
	v := c.o.Machine.View()
	if !v.Linked || v.RolledBack {
		// Nothing that a disk merely claims is opened.
		return errors.Join(c.down(ctx), c.forgetKey())
	}
	p := c.o.Machine.InFlight()
	if p != nil && p.Step().Kind == state.RegisterOwner {
		return c.resumeOwner(ctx, p)
	}
	if v.Owner == nil {
		return c.takeDown(ctx)
	}
	if err := c.remount(ctx); err != nil {
		return err
	}
	if err := c.witnessed(ctx); err != nil {
		return err
	}
	if p != nil {
		return c.settle(ctx, p)
	}
	return c.runAgain(ctx, &v)
}

// remount mounts the volume unless it is mounted. A container of before has lost
// its mounts and goes first: it would hold what is left of the volume.
func (c *Control) remount(ctx context.Context) error {
	if c.alive() {
		return nil
	}
	if err := c.takeDown(ctx); err != nil {
		return err
	}
	return c.mounted(ctx)
}

// settle ends the step that was interrupted. A configuring is undone, since the
// owner was told nothing, and may ask for it again; an exposing is finished, but
// for one that had closed nothing and cannot be done.
func (c *Control) settle(ctx context.Context, p *state.Pending) error {
	v := c.o.Machine.View()
	switch kind := p.Step().Kind; kind {
	case state.Configure:
		c.log.Warn("the configuring that was interrupted is undone")
		if err := c.runAgain(ctx, &v); err != nil {
			return err
		}
		if err := p.Undo(); err != nil {
			return err
		}
		c.tidy(ctx, v.Workload)
		return nil
	case state.Expose:
		return c.settleExpose(ctx, p, &v)
	case state.RegisterOwner:
	}
	return reason.Refuse(reason.Internal, "step %.32q is unknown", p.Step().Kind)
}

func (c *Control) settleExpose(ctx context.Context, p *state.Pending, v *state.View) error {
	c.log.Warn("the exposing that was interrupted is finished")
	if err := c.takeDown(ctx); err != nil {
		return err
	}
	image, err := c.canPublish(ctx)
	if err == nil {
		return c.closeAndPublish(ctx, p, image)
	}
	if !v.SSH.ListenerClosed.IsZero() || !lasting(err) {
		return err
	}
	c.log.Warn("the exposing is undone: it cannot be done, and nothing was closed", zap.Error(err))
	if err := p.Undo(); err != nil {
		return err
	}
	now := c.o.Machine.View()
	return c.runAgain(ctx, &now)
}

// lasting reports whether nothing but the owner's doing something else helps.
func lasting(err error) bool {
	switch refusal.Of(err).Reason {
	case reason.PortTaken, reason.PortInvalid, reason.ImageNotFound, reason.ImageMismatch, reason.ImageFailed, reason.ImageTooLarge, reason.EventLogForeign:
		return true
	default:
		return false
	}
}

// runAgain makes the container of the last completed state anew.
func (c *Control) runAgain(ctx context.Context, v *state.View) error {
	if err := c.takeDown(ctx); err != nil {
		return err
	}
	w := v.Workload
	if w == nil {
		return nil
	}
	image, err := c.loadImage(ctx, w)
	if err != nil {
		return err
	}
	if v.State == state.WorkloadExposed {
		if err := c.publish(ctx, w, image, v.Counter); err != nil {
			return err
		}
		return c.record(ctx, statement.SSHClosed, imageData(w))
	}
	spec, err := c.prepare(ctx, w, image, v.Counter)
	if err != nil {
		return err
	}
	if _, err := c.o.Workload.EnsureConfigured(ctx, spec); err != nil {
		return err
	}
	if now := c.o.Machine.View(); !now.SSHAllowed() {
		return nil
	}
	if err := c.record(ctx, statement.SSHOpen, c.hostKey()); err != nil {
		return err
	}
	return c.openDoor(ctx)
}

// witnessed hears, after a reboot, who saw which counter last. Nothing runs
// before somebody has spoken.
func (c *Control) witnessed(ctx context.Context) error {
	registry := c.askRegistry(ctx)
	if c.o.Machine.View().OwnerPending {
		k, err := c.loadKept()
		if err != nil {
			return err
		}
		// A tool that remembers nothing is no witness as long as there is another:
		// the host, who owns the network too, would keep that one away.
		if k != nil && k.Witness != nil && (*k.Witness != 0 || registry == nil) {
			if err := c.o.Machine.Witness(state.OwnerTool, *k.Witness); err != nil {
				return err
			}
		}
	}
	v := c.o.Machine.View()
	switch {
	case v.RolledBack:
		return reason.Refuse(reason.StateRollback, "the disk was set back")
	case !v.Witnessed:
		return reason.Refuse(reason.StateUnwitnessed, "neither registry nor owner has spoken")
	}
	return nil
}

// askRegistry returns nil when the registry has spoken, or there is none whose
// word is worth anything.
func (c *Control) askRegistry(ctx context.Context) error {
	if !c.o.Machine.View().RegistryPending || c.o.Registrar == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	err := c.o.Registrar.Witness(ctx)
	if err != nil {
		c.log.Warn("the registry did not say which counter it saw last", zap.Error(err))
	}
	if reason.Of(err) == reason.RegistryUnpinned {
		return nil
	}
	return err
}

// down ends everything: SSH, the container, the volume.
func (c *Control) down(ctx context.Context) error {
	return errors.Join(c.takeDown(ctx), c.unmount(ctx))
}
