package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/cmd/telemark/internal/idkey"
	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

const (
	sshPort = 2222
	sshUser = "root" // any name is taken: the key says who it is

	sshLong = `Print the command line of ssh that leads into the container, or run it (--exec). The host key
stands in the VM's quote: it is written into a file that this command line names, and no other
host key is taken.

Your key is the owner's, from a file in OpenSSH's format or from the ssh-agent. What follows
-- goes to ssh as the command to run.`
)

// sshLine is what the command prints.
type sshLine struct {
	Command    []string `json:"command"`
	KnownHosts string   `json:"known_hosts"`
	HostKey    string   `json:"host_key"`
}

func newWorkloadSSH() *cobra.Command {
	var (
		o    instanceFlags
		run  bool
		port int
		host string
	)
	cmd := &cobra.Command{
		Use:   "ssh URL [-- COMMAND…]",
		Short: "Lead into the container by SSH, with the attested host key",
		Long:  sshLong,
		Example: `  telemark workload ssh https://vm.example:3443 --key owner.key --exec
  telemark workload ssh https://vm.example:3443 --agent-key me@example --exec -- tail -f /data/log
  eval "$(telemark workload ssh https://vm.example:3443 --key owner.key)"`,
		Args: cobra.MinimumNArgs(1),
	}
	o.signing(cmd.Flags(), callPatience)
	f := cmd.Flags()
	f.BoolVar(&run, "exec", false, "run ssh instead of printing the command line")
	f.IntVar(&port, "ssh-port", 0, "port of SSH; the one that the instance names when 0")
	f.StringVar(&host, "ssh-host", "", "host of SSH; that of the URL when empty")
	var line *sshLine
	prepare := withInstance(&o, func(ctx context.Context, s *session) error {
		var err error
		line, err = s.ssh(ctx, host, port)
		return err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := prepare(cmd, args[:1]); err != nil {
			return err
		}
		line.Command = append(line.Command, args[1:]...)
		if !run {
			return show(cmd, line, func(w io.Writer) { say(w, "%s", quoted(line.Command)) })
		}
		return runSSH(cmd, line.Command)
	}
	return cmd
}

// ssh makes the command line, and the file with the host key that it names.
func (s *session) ssh(ctx context.Context, host string, port int) (*sshLine, error) {
	st := s.instance.Statement
	switch {
	case st == nil:
		return nil, refuse("a service of the older form does not attest its SSH host key")
	case s.instance.Facts.SSH == statement.SSHIsClosed:
		return nil, refuse("SSH is closed for good, since %s", when(s.instance.Facts.SSHClosed))
	case s.instance.Facts.SSH == statement.SSHNeverOpened:
		return nil, refuse("SSH is not open: it was not opened in this boot\n%s", nextStep["workload_missing"])
	case len(st.SSHHostKey) != ed25519.PublicKeySize:
		return nil, refuse("the instance states no SSH host key")
	}
	if port == 0 {
		port = sshPort
		if state, err := s.client.State(ctx); err == nil && state.SSH.Port > 0 && state.SSH.Port < 1<<16 {
			port = state.SSH.Port // the host key says whether it is the right one
		}
	}
	if host == "" {
		u, err := url.Parse(s.cmd.Flags().Arg(0))
		if err != nil {
			return nil, err
		}
		host = u.Hostname()
	}
	if strings.HasPrefix(host, "-") {
		return nil, fmt.Errorf("--ssh-host %.64q is no host", host)
	}
	line, _, err := idkey.Line(ed25519.PublicKey(st.SSHHostKey))
	if err != nil {
		return nil, work(err)
	}
	alias := "telemark-" + api.Hex(st.Instance).String()
	known := filepath.Join(s.memory.Path, api.Hex(st.Origin).String()+".known_hosts")
	if strings.ContainsAny(known, " \t\"%$~") {
		return nil, work(fmt.Errorf("ssh cannot be told the file %s: give a --state-dir without blanks, quotes and %%", known))
	}
	if err := errors.Join(private.Dir(s.memory.Path), private.WriteFile(known, []byte(alias+" "+line+"\n"))); err != nil {
		return nil, work(err)
	}
	command := []string{
		"ssh", "-p", strconv.Itoa(port), "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "HostKeyAlias=" + alias, "-o", "HostKeyAlgorithms=ssh-ed25519", "-o", "StrictHostKeyChecking=yes", "-o", "ForwardAgent=no",
	}
	identity, err := s.identity()
	if err != nil {
		return nil, err
	}
	command = append(command, identity...)
	return &sshLine{append(command, "-l", sshUser, "--", host), known, line}, nil
}

// identity is how ssh finds the owner's key.
func (s *session) identity() ([]string, error) {
	o := s.flags
	if o.key == "" || o.agentKey != "" {
		return nil, nil // the agent offers what it has
	}
	key, err := o.openKey()
	if err != nil {
		return nil, err
	}
	defer func() { _ = key.Close() }()
	if err := s.mine(key.Bytes()); err != nil {
		return nil, err
	}
	if key.File == "" {
		return nil, work(fmt.Errorf("--key: ssh does not read %s; it reads OpenSSH's format, as 'telemark owner key new' writes it", o.key))
	}
	path := absolute(key.File)
	if strings.ContainsAny(path, "%$~") {
		return nil, work(fmt.Errorf("--key: ssh cannot be told the file %s", path))
	}
	return []string{"-i", path, "-o", "IdentitiesOnly=yes"}, nil
}

func runSSH(cmd *cobra.Command, command []string) error {
	run := exec.CommandContext(cmd.Context(), command[0], command[1:]...) //nolint:gosec // it was made here
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr()
	err := run.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return refuse("ssh ended with exit code %d", exit.ExitCode())
	}
	return work(err)
}

// quoted writes a command line for a shell.
func quoted(command []string) string {
	parts := make([]string, len(command))
	for i, p := range command {
		parts[i] = p
		if p == "" || strings.ContainsFunc(p, unsafe) {
			parts[i] = "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
		}
	}
	return strings.Join(parts, " ")
}

func unsafe(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("@%_-+=:,./", r)
}
