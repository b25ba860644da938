package control

import (
	"context"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/persist"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// Configure starts the workload and opens SSH.
func (c *Control) Configure(ctx context.Context, r *request.Configure, auth request.Auth) (Outcome, error) {
	w := state.Workload{Image: *r.Image, PersistDirs: r.PersistDirs, Port: uint16(*r.Port)}
	if _, err := workload.ParseReference(w.Image); err != nil {
		return c.told(ctx, Outcome{}, err)
	}
	if err := persist.Validate(w.PersistDirs); err != nil {
		return c.told(ctx, Outcome{}, err)
	}
	var credentials *workload.Credentials
	if r.Registry != nil {
		credentials = &workload.Credentials{Username: r.Registry.Username, Password: r.Registry.Password}
	}
	if err := c.begin(ctx); err != nil {
		return Outcome{}, err
	}
	bounded, stop := c.whileOpen(ctx)
	err := c.configure(bounded, w, auth, credentials)
	stop()
	c.step.leave()
	return c.told(ctx, Outcome{}, err)
}

// configure reads from top to bottom. Until the image is in the volume nothing
// outside was touched, and the step is undone by being forgotten; after that the
// workload before has to be brought back first.
func (c *Control) configure(ctx context.Context, w state.Workload, auth request.Auth, credentials *workload.Credentials) error {
	p, err := c.o.Machine.Configure(c.o.Now(), state.Auth(auth), w)
	if err != nil {
		return err
	}
	image, err := c.fetch(ctx, p, w.Image, credentials)
	if err != nil {
		return c.undo(p, err)
	}
	ctx, cancel := outside(ctx)
	defer cancel()
	if err := c.replace(ctx, p, image); err != nil {
		return c.back(ctx, p, err)
	}
	c.healthy()
	c.tidy(ctx, c.o.Machine.View().Workload)
	return nil
}

// fetch resolves the image's name, once, and keeps the image in the volume.
func (c *Control) fetch(ctx context.Context, p *state.Pending, name string, credentials *workload.Credentials) (workload.Image, error) {
	if !c.alive() {
		return workload.Image{}, reason.Refuse(reason.NotMounted, "the volume is not mounted")
	}
	if err := c.canRecord(ctx); err != nil {
		return workload.Image{}, err
	}
	image, err := c.o.Workload.Resolve(ctx, name, credentials)
	if err != nil {
		return image, err
	}
	if err := p.Resolve(image.Digest); err != nil {
		return image, err
	}
	return image, c.keepImage(ctx, image)
}

// replace puts the new workload in the place of the one before.
func (c *Control) replace(ctx context.Context, p *state.Pending, image workload.Image) error {
	step := p.Step()
	w := *step.Workload
	w.Digest = image.Digest
	if err := c.takeDown(ctx); err != nil {
		return err
	}
	spec, err := c.prepare(ctx, &w, image, step.Begun)
	if err != nil {
		return err
	}
	if _, err := c.o.Workload.EnsureConfigured(ctx, spec); err != nil {
		return err
	}
	if err := c.record(ctx, statement.SSHOpen, c.hostKey()); err != nil {
		return err
	}
	if err := p.Note(c.o.Now(), state.SSHOpened); err != nil {
		return err
	}
	if err := c.openDoor(ctx); err != nil {
		return err
	}
	if err := c.writeIdentity(ctx); err != nil {
		return err
	}
	return p.Finish()
}

// takeDown ends SSH and the container: its sessions, and with it everything that
// uses the directories of the volume.
func (c *Control) takeDown(ctx context.Context) error {
	c.closeDoor(ctx)
	if err := c.o.Workload.EnsureGone(ctx); err != nil {
		return err
	}
	return c.doorEmpty(ctx)
}

// prepare makes everything ready for a container: its directories, and the log
// entry that says what is going to run.
func (c *Control) prepare(ctx context.Context, w *state.Workload, image workload.Image, revision uint64) (workload.Spec, error) {
	if !c.alive() {
		return workload.Spec{}, reason.Refuse(reason.NotMounted, "the volume is not mounted")
	}
	binds, err := c.volume.Bind(ctx, w.PersistDirs)
	if err != nil {
		return workload.Spec{}, err
	}
	c.binds = binds
	spec := c.spec(w, image, revision)
	return spec, c.record(ctx, statement.Image, imageData(w))
}

func (c *Control) spec(w *state.Workload, image workload.Image, revision uint64) workload.Spec {
	spec := workload.Spec{Revision: revision, Image: image, Port: w.Port, HostPort: c.o.HostPort, HostAddress: c.o.HostAddress}
	for _, b := range c.binds {
		spec.Mounts = append(spec.Mounts, workload.Mount{Source: b.Host, Target: b.Container})
	}
	return spec
}

// imageData is what the event log says of a workload.
func imageData(w *state.Workload) string { return statement.ImageData(w.Image, w.Digest) }

// canRecord finds out whether the log still is what the register holds, before
// anything is taken down: what runs is recorded once more, which adds nothing.
func (c *Control) canRecord(ctx context.Context) error {
	if err := c.o.Events.Problem(); err != nil {
		return err
	}
	w := c.o.Machine.View().Workload
	if w == nil {
		return nil
	}
	return c.record(ctx, statement.Image, imageData(w))
}

func (c *Control) record(ctx context.Context, name statement.Name, data string) error {
	return c.o.Events.Record(ctx, statement.Event{Name: name, Data: data})
}

// undo forgets a step that touched nothing outside, and returns why. Where the
// disk does not let it, that is tried again.
func (c *Control) undo(p *state.Pending, why error) error {
	if err := p.Undo(); err != nil {
		c.log.Error("a step is not undone yet", zap.Error(err))
		c.later(err)
	}
	return why
}

// back brings the workload before back and forgets the step.
func (c *Control) back(ctx context.Context, p *state.Pending, why error) error {
	v := c.o.Machine.View()
	err := c.takeDown(ctx)
	if err == nil && v.Workload != nil {
		err = c.runAgain(ctx, &v)
	}
	if err != nil {
		c.log.Error("the workload before is not back yet", zap.Error(err))
		c.later(err)
	}
	c.tidy(ctx, v.Workload)
	return c.undo(p, why)
}
