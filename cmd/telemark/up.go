package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/stack"
)

const (
	upLong = `Start a registry, a collector, a gateway and agents with software TPMs on this
machine, with the shipped configurations and TLS on every hop, and run until
Ctrl-C. For development: certificates, tokens and keys are made in DIR, and what
is there from an earlier start is used again. The configurations are written to
DIR/configs, where they may be changed: what is there stays, also when another
version of this program starts, so delete what is to be written anew. TELEMARK_…
variables of configurations that are not set here hold for all of them.

The binaries otelcol-telemark and registryd are looked for beside this program
and in PATH ('make build' builds them), swtpm and swtpm_setup in PATH.

Nothing listens where the collector passes verified data on to; it waits in the
collector's queue on disk. The archive, DIR/archive, does not wait for it.`

	upExample = `  telemark up
  telemark up --dir ./dev --agents 3
  telemark up --port-offset 20000 --output json
  curl --cacert dev/certs/ca.crt https://localhost:8442/metrics/status
  telemark smoke --ca dev/certs/ca.crt --agent https://localhost:8442 --gateway https://localhost:8443 --collector https://localhost:8444`
)

type upOptions struct {
	stack.Options
}

func newUp() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:     "up",
		Short:   "Start registry, collector, gateway and agents on this machine, for development",
		Long:    upLong,
		Example: upExample,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			return up(cmd, &o)
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "telemark-dev", "directory of everything that runs")
	cmd.Flags().StringVar(&o.Bin, "bin", "", "directory of the binaries")
	cmd.Flags().IntVar(&o.Agents, "agents", 1, fmt.Sprintf("agents, 1 to %d", stack.MaxAgents))
	cmd.Flags().IntVar(&o.Offset, "port-offset", 0, fmt.Sprintf("added to every port, 0 to %d", stack.MaxOffset))
	return cmd
}

func (o *upOptions) validate() error {
	switch {
	case o.Dir == "":
		return errors.New("--dir is empty: name a directory")
	case o.Agents < 1 || o.Agents > stack.MaxAgents:
		return fmt.Errorf("--agents %d: want 1 to %d", o.Agents, stack.MaxAgents)
	case o.Offset < 0 || o.Offset > stack.MaxOffset:
		return fmt.Errorf("--port-offset %d: want 0 to %d", o.Offset, stack.MaxOffset)
	}
	return nil
}

// running is what JSON readers are told.
type running struct {
	Dir    string        `json:"dir"`
	CA     string        `json:"ca"`
	Places []stack.Place `json:"places"`

	Status        string `json:"status"` // the collector's admin listener
	StatusToken   string `json:"status_token_file"`
	RegistryToken string `json:"registry_token_file"`
	RegistryPin   string `json:"registry_pin"`
	Archive       string `json:"archive"`
}

func up(cmd *cobra.Command, o *upOptions) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return work(err)
	}
	certs := certsOptions{dir: filepath.Join(o.Dir, "certs"), roles: []string{"agent", "gateway", "collector", "registry"}, days: 365}
	if err := certs.ensure(time.Now()); err != nil {
		return err
	}
	o.EKHash = func(ctx context.Context, device string) (string, error) {
		keys, err := readEKs(ctx, device, 0, false)
		if err != nil {
			return "", err
		}
		return keys[0].Hash, nil
	}
	s, err := stack.Start(ctx, o.Options, func(step string) { say(cmd.ErrOrStderr(), "starting: %s", step) })
	if err != nil {
		if ctx.Err() != nil {
			return work(errors.New("interrupted; what was started is stopped"))
		}
		return work(err)
	}
	defer s.Stop()
	out := running{
		Dir: o.Dir, CA: filepath.Join(certs.dir, "ca.crt"), Places: s.Places(),
		Status: s.Admin(), StatusToken: filepath.Join(certs.dir, "admin.token"),
		RegistryToken: filepath.Join(o.Dir, "registry", "admin.token"), RegistryPin: filepath.Join(o.Dir, "registry", "registry-key.pem.pub"),
		Archive: filepath.Join(o.Dir, "archive"),
	}
	if err := show(cmd, out, func(w io.Writer) { sayRunning(w, &out) }); err != nil {
		return err
	}
	err = s.Wait(ctx)
	say(cmd.ErrOrStderr(), "stopping")
	return work(err)
}

// ensure makes the certificates unless they are there.
func (o *certsOptions) ensure(now time.Time) error {
	if _, err := os.Stat(o.file("registry", "crt")); err == nil {
		return makeToken(o.token())
	}
	if _, err := makeCerts(o, now); err != nil {
		return err
	}
	return makeToken(o.token())
}

func sayRunning(w io.Writer, r *running) {
	t := newTable(w, "WHAT", "ADDRESS", "LOG")
	for _, p := range r.Places {
		t.AppendRow([]any{p.Name, p.URL, p.Log})
	}
	t.Render()
	say(w, "\nTry it, in another terminal:\n%s", r.commands())
	say(w, "\nTheir authority is %s. Ctrl-C stops all; %s stays.", r.CA, r.Dir)
}

// commands are for pasting: places are registry, collector, gateway, and of
// each agent its HTTP side and its OTLP/HTTP receiver.
func (r *running) commands() string {
	path := func(p string) string { return quoted([]string{p}) }
	return fmt.Sprintf(`  telemark smoke --ca %[1]s --agent %[2]s --gateway %[3]s --collector %[4]s \
      --admin %[5]s --admin-token-file %[6]s
  telemark load --endpoint %[7]s --signal logs
  curl -H "Authorization: Bearer $(cat %[6]s)" %[5]s/metrics/status
  export TELEMARK_REGISTRY=%[8]s TELEMARK_REGISTRY_CA=%[1]s TELEMARK_REGISTRY_TOKEN_FILE=%[9]s
  telemark fleet list
  telemark fleet keys --pin %[10]s > keys.json
  telemark receipt inspect --summary --keys keys.json %[11]s/*.jsonl`,
		path(r.CA), r.Places[3].URL, r.Places[2].URL, r.Places[1].URL, r.Status, path(r.StatusToken),
		r.Places[4].URL, r.Places[0].URL, path(r.RegistryToken), path(r.RegistryPin), path(r.Archive))
}
