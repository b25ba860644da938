package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/client"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

const minWatch = time.Second

const statusLong = `Show how an instance stands: first what its quote vouches for, under a fresh nonce, and then
what it says beyond that.

With --watch it is shown again every few seconds until interrupted, as one JSON object after
the other with --output json. Exit code 1: the instance is not to be believed, or says that
something keeps it from running as it should.`

// overview is what the command prints.
type overview struct {
	At    time.Time  `json:"at"`
	Facts *facts     `json:"attested"`
	Said  *api.State `json:"state,omitempty"` // nothing vouches for it
}

func newWorkloadStatus() *cobra.Command {
	var (
		o     instanceFlags
		watch time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status URL",
		Short: "Show what the quote vouches for, and how the instance stands",
		Long:  statusLong,
		Example: `  telemark workload status https://vm.example:3443 --policy tdx.yaml
  telemark workload status https://vm.example:3443 --watch 5s
  telemark workload status https://vm.example:3443 --output json`,
		Args: operands(1, whichURL),
	}
	o.trust(cmd.Flags(), callPatience)
	cmd.Flags().DurationVar(&watch, "watch", 0, "show it again this often")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if watch != 0 && watch < minWatch {
			return fmt.Errorf("--watch %s: want %s or more, since every time a quote is made", watch, minWatch)
		}
		s, err := o.dial(cmd, args[0])
		if err != nil {
			return err
		}
		defer s.close()
		for {
			troubled, err := s.standing(cmd.Context(), watch != 0)
			switch {
			case err != nil && watch != 0 && errors.Is(err, errWork):
				say(cmd.ErrOrStderr(), "%s  %v", when(time.Now()), err) // it may come back
			case err != nil:
				return err
			case watch == 0 && troubled:
				return errFound
			case watch == 0:
				return nil
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(watch):
			}
		}
	}
	return cmd
}

// standing shows once, and reports whether something is wrong.
func (s *session) standing(ctx context.Context, again bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.flags.timeout)
	defer cancel()
	if err := s.attest(ctx); err != nil {
		return false, err
	}
	out := &overview{At: time.Now().UTC().Truncate(time.Second), Facts: factsOf(s.instance)}
	if !s.flags.legacy {
		var err error
		if out.Said, err = s.client.State(ctx); err != nil {
			return false, instanceError(err)
		}
	}
	err := show(s.cmd, out, func(w io.Writer) {
		if again {
			say(w, "%s %s", when(out.At), strings.Repeat("─", 40))
		}
		sayFacts(w, out.Facts)
		if out.Said != nil {
			say(w, "")
			sayState(w, out.Said)
		}
	})
	return out.Said != nil && (len(out.Said.Problems) > 0 || out.Said.RolledBack), err
}

// sayFacts writes what the quote vouches for.
func sayFacts(w io.Writer, f *facts) {
	say(w, "instance    %s", f.Instance)
	if f.Origin != "" && f.Origin != f.Instance {
		say(w, "began as    %s", f.Origin)
	}
	switch {
	case f.Facts == nil:
		say(w, "attested    no: a service of the older form")
		return
	case !f.Verified:
		say(w, "attested    NO: the quote was not looked at")
	default:
		say(w, "attested    by its quote, now (policy %s, platform %s)", f.Policy, f.TCB)
	}
	say(w, "connection  %s", channelText(f.Channel))
	sayClaims(w, f)
}

func sayClaims(w io.Writer, f *facts) {
	c := f.Facts
	state := strings.ReplaceAll(c.State, "_", " ")
	switch c.State {
	case statement.Locked:
		state = "locked: the VM was started anew, and waits for 'telemark storage unlock'"
	case statement.RolledBack:
		state = "rolled back: the disk was set back"
	}
	if c.Step != "" {
		state += ", under way: " + strings.ReplaceAll(c.Step, "_", " ")
	}
	say(w, "state       %s (counter %d)", state, c.Counter)
	say(w, "operator    %s", short(f.Operator))
	say(w, "owner       %s", short(f.Owner))
	say(w, "image       %s", orDash(printable(c.Image)))
	say(w, "SSH         %s", sshText(f))
}

// sshText says what is shown of the way in, and by what. The time is of a clock that
// the host sets.
func sshText(f *facts) string {
	c, by := f.Facts, "as the quote's report data show"
	switch {
	case !f.Verified:
		by = "as nothing shows"
	case c.Evidence == statement.ByRegister:
		by = "as RTMR3 shows"
	}
	switch c.SSH {
	case statement.SSHIsClosed:
		return fmt.Sprintf("closed, %s; since %s by the VM's own clock", by, when(c.SSHClosed))
	case statement.SSHIsOpen:
		return "may be open"
	default:
		return "never opened in this boot, " + by
	}
}

func channelText(c client.Channel) string {
	switch c {
	case client.Attested:
		return "TLS that ends in the instance"
	case client.Authority:
		return "TLS that ends with whom the CA vouches for"
	case client.Local:
		return "plain HTTP on this machine"
	case client.Plain:
		return "plain HTTP: others read what is sent"
	default:
		return string(c)
	}
}

// sayState writes what nothing vouches for.
func sayState(w io.Writer, s *api.State) {
	say(w, "It says beyond that, unproven:")
	if wl := s.Workload; wl != nil {
		say(w, "  workload   %s, port %d, keeps %s", printable(wl.Image), wl.Port, orDash(printable(strings.Join(wl.PersistDirs, " "))))
	}
	if c := s.Container; c != nil {
		say(w, "  container  %s", containerText(c))
	}
	say(w, "  SSH        %s", printable(join(", ", strings.ReplaceAll(string(s.SSH.State), "_", " "), count(s.SSH.Active, "session")+" now", count(s.SSH.Logins, "login"))))
	say(w, "  storage    %s", orDash(printable(join(", ", s.Storage.Volume, keyText(s.Storage.Source)))))
	if r := s.Registry; r != nil {
		say(w, "  registry   %s", registryText(r))
	}
	say(w, "  last quote %s", when(s.Quote.At))
	for _, p := range s.Problems {
		say(w, "PROBLEM  %s", printable(join(": ", p.Reason, p.Detail)))
		if next := nextStep[p.Reason]; next != "" {
			say(w, "         %s", next)
		}
	}
	for _, warning := range s.Warnings {
		say(w, "WARNING  %s", printable(warning))
	}
}

func keyText(source string) string {
	if source == "" {
		return ""
	}
	return "key from " + source
}

func containerText(c *api.Container) string {
	state := "not running, exit code " + fmt.Sprint(c.ExitCode)
	if c.Running {
		state = "running since " + when(c.StartedAt)
	}
	parts := []string{printable(c.Phase), state}
	if c.Restarts > 0 {
		parts = append(parts, count(c.Restarts, "restart"))
	}
	if c.OutOfMemory {
		parts = append(parts, "out of memory")
	}
	return join(", ", parts...)
}

func registryText(r *api.Registry) string {
	if r.Told {
		return printable(r.URL) + " knows it, lease until " + when(r.Expires)
	}
	return printable(r.URL + " has not heard of it yet: " + orDash(join(": ", r.Reason, r.LastError)))
}
