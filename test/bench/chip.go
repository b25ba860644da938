package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmproxy"
)

// chip is a software TPM behind a proxy that makes it as slow as a real one.
// Both run outside of the agent's process.
type chip struct {
	process *swtpm.Process
	proxy   *tpmproxy.Proxy
	device  string
	dir     string
	stop    context.CancelFunc
}

func newChip(ctx context.Context) (*chip, error) {
	dir, err := os.MkdirTemp("", "bench") // short: it holds unix sockets
	if err != nil {
		return nil, err
	}
	c := &chip{dir: dir}
	if c.process, err = swtpm.Serve(dir, filepath.Join(dir, "tpm")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	if err := c.serve(running); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *chip) serve(ctx context.Context) error {
	var err error
	if c.proxy, err = tpmproxy.New("unix:" + filepath.Join(c.dir, "tpm")); err != nil {
		return err
	}
	socket := filepath.Join(c.dir, "slow")
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	c.device = "unix:" + socket
	go func() { _ = c.proxy.Serve(ctx, l) }()
	return nil
}

// commandSign is TPM_CC_Sign.
const commandSign = 0x15D

// takes sets how long a signature takes; 0 is the software TPM's own time.
func (c *chip) takes(d time.Duration) {
	if d == 0 {
		c.proxy.Set()
		return
	}
	c.proxy.Set(tpmproxy.Fault{Command: commandSign, Delay: tpmproxy.Duration(d)})
}

func (c *chip) close() {
	c.stop()
	c.process.Stop(0)
	_ = os.RemoveAll(c.dir)
}
