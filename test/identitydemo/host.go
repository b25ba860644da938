package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	registryapi "github.com/telemark-otel/telemark/internal/registry/api"
)

// saved is the host's copy of the disk.
const saved = "while SSH was open"

func decode(s string, into any) error { return json.NewDecoder(strings.NewReader(s)).Decode(into) }

// reboot: memory and RTMR3 are gone, and nothing runs before the owner has spoken.
func (d *demo) reboot(ctx context.Context) error {
	before, err := d.state(ctx)
	if err != nil {
		return err
	}
	if err := d.vm.Reboot(ctx); err != nil {
		return err
	}
	s, err := d.state(ctx)
	if err != nil {
		return err
	}
	d.check(s.Instance.String() != before.Instance.String(), "the instance key is another")
	_, err = get(ctx, d.vm.Exposed)
	d.check(s.Storage.Volume == "locked" && err != nil, "the storage is locked, and nothing runs")
	if _, err := d.people(ctx, "storage", "unlock", d.vm.TLSURL, "--key", d.file("owner.key")); err != nil {
		return err
	}
	var taken standing
	if err := d.json(ctx, &taken, "operator", "renew", d.vm.TLSURL, "--key", d.file("operator.key")); err != nil {
		return err
	}
	d.check(taken.Origin == before.Origin.String(), "it goes on as the same identity, by a signature of the old key")
	if s, err = d.state(ctx); err != nil {
		return err
	}
	f, err := d.known(ctx, s.Instance.String(), func(f *registryapi.InstanceFacts) bool { return f.SSH == statement.SSHIsClosed })
	if err != nil {
		return err
	}
	d.fact(f.Evidence == registryapi.FactsRTMR3 && f.Boot == d.vm.Boot, "after the reboot", "SSH "+f.SSH+", same image", "event log of the new boot")
	return d.serves(ctx)
}

// setBack: the disk is the host's, and what it holds is authentic. It is old.
func (d *demo) setBack(ctx context.Context) error {
	s, err := d.state(ctx)
	if err != nil {
		return err
	}
	counter := s.Counter
	if err := d.vm.Off(); err != nil {
		return err
	}
	if err := d.vm.SetBack(ctx, saved); err != nil {
		return err
	}
	if err := d.vm.On(ctx); err != nil {
		return err
	}
	if err := d.vm.Up(ctx); err != nil {
		return err
	}
	refused := func(why string, more ...string) {
		args := append([]string{"storage", "unlock", d.vm.TLSURL, "--key", d.file("owner.key")}, more...)
		d.shown(args)
		_, errs, err := d.try(ctx, args...)
		d.check(err != nil && strings.Contains(errs, "state_rollback"), "state_rollback: %s", why)
	}
	refused(fmt.Sprintf("the owner's command has seen the counter %d", counter))
	refused("it remembers no more than the disk, and the registry has seen it", "--state-dir", d.file("instances-before"))
	if s, err = d.state(ctx); err != nil {
		return err
	}
	_, err = get(ctx, d.vm.Exposed)
	shut := s.RolledBack && s.SSH.State != api.SSHOpen && s.Storage.Volume != "mounted" && err != nil
	d.check(shut, "SSH stays shut, and nothing runs")
	d.fact(shut, "disk set back", "noticed, nothing opened", "counters of the registry and of the owner's command")
	return nil
}

// keep leaves the exposed VM running until ctx ends.
func (d *demo) keep(ctx context.Context) {
	fmt.Println("\nleft running:")
	say("workload  %s", d.vm.Exposed)
	say("identityd %s and %s", d.vm.URL, d.vm.TLSURL)
	say("registry  %s", d.registry.URL)
	say("look      TELEMARK_INSTANCES=%s %s workload status %s --quote-roots %s --pccs-url %s", d.file("instances"), d.telemark, d.vm.TLSURL, d.root, d.lab)
	say("log       %s", d.vm.Log)
	say("Ctrl-C ends it")
	<-ctx.Done()
}
