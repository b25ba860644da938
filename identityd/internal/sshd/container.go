package sshd

import (
	"context"
	"io"
)

// Container is where sessions land.
type Container interface {
	// Start starts the owner's command. The context is for starting only. An
	// error is shown to the owner.
	Start(ctx context.Context, c Command) (Process, error)
}

// Command is what the owner asked for.
type Command struct {
	Shell bool   // an interactive shell, Line is empty
	Line  string // for the shell to interpret
	Env   []string
	TTY   *Size // nil: no terminal
}

// Size is a terminal's.
type Size struct{ Cols, Rows uint16 }

// Process is a command that was started. Write, Resize, Signal and Close may be
// called by different goroutines; each output has one reader.
type Process interface {
	io.Writer
	// CloseWrite ends the input.
	CloseWrite() error
	Stdout() io.Reader
	Stderr() io.Reader // nil with a terminal
	Resize(ctx context.Context, size Size) error
	// Signal takes a name of RFC 4254 section 6.10 such as TERM, and ignores
	// those that it does not know.
	Signal(ctx context.Context, name string) error
	// Wait returns the exit code. It is called after the outputs have ended.
	Wait(ctx context.Context) (int, error)
	// Close kills what still runs and returns when it is gone, or with an error
	// when that cannot be said. It may be called again.
	Close() error
}

// Directory is a persisted directory that SFTP reaches.
type Directory struct {
	Inside string // absolute path in the container
	Host   string // the same directory on the host
}
