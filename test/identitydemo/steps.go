package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	registryapi "github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
	"github.com/telemark-otel/telemark/test/identitylab"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func (d *demo) startWorld(ctx context.Context) error {
	lab := tdxlab.New("demonstration")
	d.root = d.file("root.pem")
	if err := os.WriteFile(d.root, lab.RootPEM(), 0o600); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.lab, d.labs = "http://"+l.Addr().String(), &http.Server{Handler: lab.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = d.labs.Serve(l) }()
	if d.registry, err = harness.NewRegistry(d.file("registry"), harness.RegistryOptions{
		Untrusted: true, Args: []string{"--dev", "--tdx-roots", d.root, "--pccs-url", d.lab},
	}); err != nil {
		return err
	}
	if err := d.registry.Start(); err != nil {
		return err
	}
	say("mock quotes %s · registry %s", d.lab, d.registry.URL)
	return d.registry.Ready(ctx, nil, d.registry.URL+"/ready")
}

func (d *demo) startVM(ctx context.Context) (err error) {
	if d.vm, err = identitylab.New(identitylab.Options{
		Lab: d.lab, Registry: d.registry.URL, Pin: d.registry.Pin,
		Args: []string{"--rate-quote", "5/s:100"}, // all people of the demonstration have one address
	}); err != nil {
		return err
	}
	say("building the workload's image from one static binary")
	if err := d.makeImage(ctx); err != nil {
		return err
	}
	if err := d.vm.Up(ctx); err != nil {
		return err
	}
	s, err := d.state(ctx)
	if err != nil {
		return err
	}
	say("instance %s", s.Instance)
	d.check(s.State == statement.Fresh, "its state is %s", s.State)
	return nil
}

// registerOperator: proven is that the TLS connection ends in the VM that the quote
// is of, before anything is signed or sent.
func (d *demo) registerOperator(ctx context.Context) error {
	for _, who := range []string{"operator", "owner"} {
		if _, err := d.people(ctx, who, "key", "new", d.file(who+".key")); err != nil {
			return err
		}
	}
	public, err := d.people(ctx, "owner", "key", "show", "--key", d.file("owner.key"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.file("owner.pub"), []byte(public), 0o600); err != nil {
		return err
	}
	var taken standing
	if err := d.json(ctx, &taken, "operator", "register", d.vm.TLSURL, "--key", d.file("operator.key"),
		"--owner-key", d.file("owner.pub"), "--write-token", d.file("owner.token")); err != nil {
		return err
	}
	d.check(taken.Verified, "the quote is verified, under a nonce of the operator's")
	d.check(taken.Channel == "attested", "the TLS connection ends at the key that the quote names: the host does not see the token")
	_, err = d.known(ctx, taken.Instance, func(f *registryapi.InstanceFacts) bool { return f.State == statement.OperatorRegistered })
	d.check(err == nil && taken.Registry == "", "the registry has verified its quote, too")
	return nil
}

// standing is what the command says of an instance.
type standing struct {
	Verified bool             `json:"verified"`
	Channel  string           `json:"channel"`
	Instance string           `json:"instance_pubkey"`
	Origin   string           `json:"origin_pubkey"`
	Facts    *statement.Facts `json:"facts"`
	Registry string           `json:"registry"` // pending, or nothing
}

// registerOwner: the key of the storage comes into the VM past its host.
func (d *demo) registerOwner(ctx context.Context) error {
	var taken standing
	if err := d.json(ctx, &taken, "owner", "register", d.vm.TLSURL, "--token-file", d.file("owner.token"), "--key", d.file("owner.key")); err != nil {
		return err
	}
	d.check(taken.Verified, "the key is encrypted for a key that the quote names: for this VM, in this boot")
	s, err := d.state(ctx)
	if err != nil {
		return err
	}
	d.check(s.State == statement.OwnerRegistered && s.Storage.Volume == "mounted", "the volume is made and mounted")
	_, _, err = d.try(ctx, "owner", "register", d.vm.TLSURL, "--token-file", d.file("owner.token"), "--key", d.file("owner.key"))
	d.check(err != nil, "the token works once")
	return nil
}

func (d *demo) configure(ctx context.Context) error {
	var taken standing
	if err := d.json(ctx, &taken, "workload", "configure", d.vm.TLSURL, "--key", d.file("owner.key"), "--image", image, "--persist", "/data", "--port", "8080"); err != nil {
		return err
	}
	s, err := d.state(ctx)
	if err != nil {
		return err
	}
	say("image %s", s.Workload.Digest)
	d.check(s.Container.Running && s.SSH.State == api.SSHOpen, "the container runs, and SSH is open")
	d.check(taken.Facts.Image == image+"@"+s.Workload.Digest && taken.Facts.Evidence == statement.ByRegister, "image and opening are in RTMR3")
	_, err = get(ctx, d.vm.Exposed)
	d.check(err != nil, "its port is not published")
	return nil
}

// ssh is what `telemark workload ssh` prints, as a command of OpenSSH: with the
// attested host key.
func (d *demo) ssh(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	var line struct {
		Command []string `json:"command"`
	}
	out, errs, err := d.try(ctx, "workload", "ssh", d.vm.TLSURL, "--key", d.file("owner.key"), "--output", "json")
	if err != nil {
		return nil, fmt.Errorf("telemark workload ssh: %w: %s", err, errs)
	}
	if err := decode(out, &line); err != nil {
		return nil, err
	}
	var options []string
	for i, word := range line.Command[1:] {
		if word == "-l" {
			break // user and host follow
		}
		if word == "-p" {
			word = "-oPort=" + line.Command[i+2]
		} else if line.Command[i] == "-p" {
			continue
		}
		options = append(options, word)
	}
	options = append(options, "-oUser=root", "-oBatchMode=yes", "-oLogLevel=ERROR", "-F/dev/null")
	return exec.CommandContext(ctx, program, append(options, args...)...), nil
}

func (d *demo) work(ctx context.Context) error {
	if err := os.WriteFile(d.file("page"), []byte(page+"\n"), 0o600); err != nil {
		return err
	}
	scp, err := d.ssh(ctx, "scp", d.file("page"), "127.0.0.1:/data/page")
	if err != nil {
		return err
	}
	fmt.Println("    $ scp page vm:/data/page")
	if out, err := scp.CombinedOutput(); err != nil {
		return fmt.Errorf("scp: %w: %s", err, out)
	}
	out, err := d.people(ctx, "workload", "ssh", d.vm.TLSURL, "--key", d.file("owner.key"), "--exec", "--", "cat /data/page")
	if err != nil {
		return err
	}
	d.check(strings.TrimSpace(out) == page, "the host key is the one in the quote, and the file is in the container")
	hidden := true
	err = filepath.WalkDir(filepath.Join(d.vm.Disk, "volume"), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			b, err := os.ReadFile(path)
			hidden = hidden && !strings.Contains(string(b), page)
			return err
		}
		return err
	})
	d.check(err == nil && hidden, "on the disk it is not to be read")
	say("the host takes a copy of the disk, for later")
	// And somebody keeps a copy of what the owner's command remembers.
	_, err = exec.CommandContext(ctx, "cp", "--archive", d.file("instances"), d.file("instances-before")).CombinedOutput()
	return errors.Join(err, d.vm.Save(ctx, saved))
}

// intrude: what is signed by others, or leads elsewhere, does not work.
func (d *demo) intrude(ctx context.Context) error {
	if _, err := d.people(ctx, "owner", "key", "new", d.file("thief.key")); err != nil {
		return err
	}
	cmd, err := d.ssh(ctx, "ssh", "-oIdentityFile=none", "127.0.0.1", "echo in")
	if err != nil {
		return err
	}
	for i, a := range cmd.Args {
		if a == d.file("owner.key") {
			cmd.Args[i] = d.file("thief.key")
		}
	}
	out, err := cmd.CombinedOutput()
	d.check(err != nil && strings.Contains(string(out), "Permission denied"), "another key does not get in by SSH")
	cmd, err = d.ssh(ctx, "ssh", "-W", strings.TrimPrefix(d.vm.URL, "http://"), "127.0.0.1")
	if err != nil {
		return err
	}
	_, err = cmd.CombinedOutput()
	d.check(err != nil, "SSH forwards nothing")
	_, errs, err := d.try(ctx, "workload", "expose", d.vm.TLSURL, "--key", d.file("thief.key"), "--image", image)
	d.check(err != nil && strings.Contains(errs, "owner"), "another key exposes nothing")
	_, errs, err = d.try(ctx, "workload", "expose", d.vm.TLSURL, "--key", d.file("owner.key"), "--image", "localhost/other:1")
	d.check(err != nil && strings.Contains(errs, "image_mismatch"), "another image than the configured one is not exposed")
	return nil
}

func (d *demo) expose(ctx context.Context) error {
	session, err := d.ssh(ctx, "ssh", "127.0.0.1", "sleep 10m")
	if err != nil {
		return err
	}
	if err := session.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	if err := soon(ctx, func() error {
		s, err := d.state(ctx)
		if err == nil && s.SSH.Active != 1 {
			err = errors.New("the session of SSH did not begin")
		}
		return err
	}); err != nil {
		return err
	}
	say("a session of SSH is open")
	var taken standing
	if err := d.json(ctx, &taken, "workload", "expose", d.vm.TLSURL, "--key", d.file("owner.key")); err != nil {
		return err
	}
	select {
	case err = <-ended:
		d.check(err != nil, "the session was ended")
	case <-time.After(10 * time.Second):
		d.check(false, "the session was ended")
	}
	_, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", fmt.Sprint("127.0.0.1:", d.vm.Ports.SSH))
	d.check(err != nil, "nobody listens on the port of SSH")
	d.check(taken.Facts.SSH == statement.SSHIsClosed && taken.Facts.Evidence == statement.ByRegister, "the closing is in RTMR3, after the container was made anew")
	return d.serves(ctx)
}

// serves checks that the workload is reached and has its data.
func (d *demo) serves(ctx context.Context) error {
	var got string
	err := soon(ctx, func() (err error) { got, err = get(ctx, d.vm.Exposed); return err })
	if err != nil {
		return err
	}
	d.check(got == page, "%s says: %s", d.vm.Exposed, got)
	return nil
}

// ask is what somebody does who trusts the registry's roots and nobody else.
func (d *demo) ask(ctx context.Context) error {
	s, err := d.state(ctx)
	if err != nil {
		return err
	}
	f, err := d.known(ctx, s.Instance.String(), func(f *registryapi.InstanceFacts) bool { return f.SSH == statement.SSHIsClosed })
	if err != nil {
		return err
	}
	quote := "quote, verified to the vendor's root"
	d.fact(f.SSH == statement.SSHIsClosed && !f.SSHClosed.IsZero(), "SSH closed since", f.SSHClosed.UTC().Format(time.RFC3339), "event log, replayed against RTMR3 of the quote")
	d.fact(f.Image == image+"@"+s.Workload.Digest, "image", f.Image, "the same")
	d.fact(f.Evidence == registryapi.FactsRTMR3, "evidence", string(f.Evidence), quote)
	d.fact(f.Counter == s.Counter, "state counter", fmt.Sprint(f.Counter), "statement, in the quote's report data")
	d.fact(f.State == statement.WorkloadExposed, "state", f.State, "the same")
	d.fact(f.Boot == d.vm.Boot, "boot", f.Boot, "the same")
	say("SSH closed since %s, image %s", f.SSHClosed.UTC().Format(time.RFC3339), f.Image)
	return nil
}

// known waits for the registry's facts about an instance.
func (d *demo) known(ctx context.Context, instance string, want func(*registryapi.InstanceFacts) bool) (*registryapi.InstanceFacts, error) {
	var facts *registryapi.InstanceFacts
	err := soon(ctx, func() error {
		i, err := d.registry.Client.Instance(ctx, instance)
		switch {
		case err != nil:
			return err
		case i.Facts == nil || !want(i.Facts):
			return fmt.Errorf("the registry does not show it: %+v", i.Facts)
		}
		facts = i.Facts
		return nil
	})
	return facts, err
}
