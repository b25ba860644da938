//go:build !unix

package swtpm

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// ErrMissing says that there is no swtpm.
var ErrMissing = errors.New("swtpm can be run on Unix systems only")

const StateFile = "tpm2-00.permall"

type Process struct{}

func Start(string, *private.Lock) (*Process, net.Conn, error) { return nil, nil, ErrMissing }
func Serve(string, string) (*Process, error)                  { return nil, ErrMissing }
func (p *Process) Done() <-chan struct{}                      { return nil }
func (p *Process) Err() error                                 { return ErrMissing }
func (p *Process) PID() int                                   { return 0 }
func (p *Process) Stop(time.Duration)                         {}

func Exists(string) (bool, error)                            { return false, ErrMissing }
func Manufacture(context.Context, string, ...*os.File) error { return ErrMissing }
