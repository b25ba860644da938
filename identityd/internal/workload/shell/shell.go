// Package shell lets SSH sessions into the workload's container: it is
// sshd.Container over workload.Manager, and the one place that knows both.
package shell

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
)

// Container starts commands in the workload.
type Container struct{ Manager *workload.Manager }

// shells by preference. Commands go to the second in any case.
const (
	interactive = "/bin/bash"
	standard    = "/bin/sh"
)

// An image without a shell still runs a program with plain arguments.
var plain = regexp.MustCompile(`^[A-Za-z0-9/._][A-Za-z0-9 /._:=@,+%-]*$`)

// Start implements sshd.Container.
func (c Container) Start(ctx context.Context, asked sshd.Command) (sshd.Process, error) {
	argv, err := c.argv(ctx, asked)
	if err != nil {
		return nil, err
	}
	command := workload.Command{Argv: argv, Env: asked.Env}
	if asked.TTY != nil {
		command.TTY, command.Cols, command.Rows = true, asked.TTY.Cols, asked.TTY.Rows
	}
	p, err := c.Manager.Exec(ctx, command)
	if err != nil {
		return nil, err
	}
	return process{p}, nil
}

func (c Container) argv(ctx context.Context, asked sshd.Command) ([]string, error) {
	if asked.Shell {
		for _, shell := range []string{interactive, standard} {
			if there, err := c.Manager.HasFile(ctx, shell); err != nil || there {
				return []string{shell}, err
			}
		}
		return nil, errors.New("the image has no shell; name a program to run, or copy files by sftp")
	}
	there, err := c.Manager.HasFile(ctx, standard)
	switch {
	case err != nil:
		return nil, err
	case there:
		return []string{standard, "-c", asked.Line}, nil
	case plain.MatchString(asked.Line):
		return strings.Fields(asked.Line), nil
	default:
		return nil, errors.New("the image has no shell: only a program with plain arguments can be run")
	}
}

// process is a workload.Process as sshd wants it.
type process struct{ *workload.Process }

func (p process) Resize(ctx context.Context, size sshd.Size) error {
	return p.Process.Resize(ctx, size.Cols, size.Rows)
}

// signals of RFC 4254 section 6.10.
var signals = map[string]unix.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE, "HUP": unix.SIGHUP, "ILL": unix.SIGILL,
	"INT": unix.SIGINT, "KILL": unix.SIGKILL, "PIPE": unix.SIGPIPE, "QUIT": unix.SIGQUIT, "SEGV": unix.SIGSEGV,
	"TERM": unix.SIGTERM, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

func (p process) Signal(ctx context.Context, name string) error {
	s, ok := signals[name]
	if !ok {
		return nil
	}
	return p.Process.Signal(ctx, s)
}
