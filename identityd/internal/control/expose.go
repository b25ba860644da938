package control

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// Once SSH is closed there is only forward: so often, and after such a pause,
// before it is gone on with in the background.
const (
	publishAttempts = 3
	publishPause    = time.Second
)

// Expose closes SSH for good and publishes the port.
func (c *Control) Expose(ctx context.Context, r *request.Expose, auth request.Auth) (Outcome, error) {
	if err := c.begin(ctx); err != nil {
		return Outcome{}, err
	}
	bounded, stop := c.whileOpen(ctx)
	err := c.expose(bounded, *r.Image, auth)
	stop()
	c.step.leave()
	return c.told(ctx, Outcome{}, err)
}

func (c *Control) expose(ctx context.Context, name string, auth request.Auth) error {
	p, err := c.o.Machine.Expose(c.o.Now(), state.Auth(auth), name)
	if err != nil {
		return err
	}
	image, err := c.canPublish(ctx)
	if err != nil {
		return c.undo(p, err)
	}
	ctx, cancel := outside(ctx)
	defer cancel()
	for attempt := 1; ; attempt++ {
		if err = c.closeAndPublish(ctx, p, image); err == nil {
			c.healthy()
			return nil
		}
		if attempt == publishAttempts {
			c.later(err)
			return err
		}
		c.log.Warn("exposing is tried again", zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(publishPause):
		}
	}
}

// canPublish finds what keeps the port from being published, while the door is
// still open.
func (c *Control) canPublish(ctx context.Context) (workload.Image, error) {
	if err := c.canRecord(ctx); err != nil {
		return workload.Image{}, err
	}
	w := c.o.Machine.View().Workload
	image, err := c.loadImage(ctx, w)
	if err != nil {
		return image, err
	}
	return image, c.o.Workload.CanPublish(ctx, c.spec(w, image, 1))
}

// closeAndPublish may be done again after it failed or was killed anywhere.
func (c *Control) closeAndPublish(ctx context.Context, p *state.Pending, image workload.Image) error {
	w := c.o.Machine.View().Workload
	c.closeDoor(ctx)
	if err := p.Note(c.o.Now(), state.SSHListenerClosed); err != nil {
		return err
	}
	if err := c.publish(ctx, w, image, p.Step().Begun); err != nil {
		return err
	}
	if err := p.Note(c.o.Now(), state.SSHSessionsEnded); err != nil {
		return err
	}
	if err := c.record(ctx, statement.SSHClosed, imageData(w)); err != nil {
		return err
	}
	if err := c.writeIdentity(ctx); err != nil {
		return err
	}
	return p.Finish()
}

// publish makes the container anew, with its port. Whatever a session started
// ends with the one before.
func (c *Control) publish(ctx context.Context, w *state.Workload, image workload.Image, revision uint64) error {
	if err := c.takeDown(ctx); err != nil {
		return err
	}
	spec, err := c.prepare(ctx, w, image, revision)
	if err != nil {
		return err
	}
	_, err = c.o.Workload.EnsurePublished(ctx, spec)
	return err
}
