// Package tpmtest gives tests a TPM of their own: an swtpm process that lives
// as long as the test, and a proxy that makes trouble in front of it.
package tpmtest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmproxy"
)

// New starts an swtpm for the length of the test and returns its device
// string ("unix:PATH"). It serves one client at a time.
func New(t testing.TB) string {
	t.Helper()
	return Start(t).Device()
}

// TPM is a software TPM that listens on a unix socket.
type TPM struct {
	t      testing.TB
	dir    string
	socket string
	proc   *swtpm.Process
}

// Start starts an swtpm for the length of the test.
func Start(t testing.TB) *TPM {
	t.Helper()
	dir := Dir(t)
	s := &TPM{t: t, dir: dir, socket: filepath.Join(dir, "s")}
	s.Restart()
	t.Cleanup(s.Kill)
	return s
}

// Device returns the device string.
func (s *TPM) Device() string { return "unix:" + s.socket }

// Kill ends the swtpm with SIGKILL; its state stays. It may be called twice.
func (s *TPM) Kill() {
	if s.proc != nil {
		s.proc.Stop(0)
		s.proc = nil
	}
	_ = os.Remove(s.socket) // left behind by a process that was killed
}

// Restart starts the swtpm again, on its state and its socket, after killing it if need be.
func (s *TPM) Restart() {
	s.t.Helper()
	s.Kill()
	proc, err := swtpm.Serve(s.dir, s.socket)
	require(s.t, err)
	s.proc = proc
}

// require fails the test; a missing swtpm is said in the error.
func require(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, swtpm.ErrMissing) {
		t.Fatalf("this test needs a software TPM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// maxSocketDir leaves room for a socket's name in the 107 bytes of a path.
const maxSocketDir = 90

// Dir returns a directory for the length of the test whose path is short
// enough for a unix socket in it, which that of t.TempDir need not be.
func Dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if len(dir) > maxSocketDir {
		var err error
		dir, err = os.MkdirTemp("", "tpm") //nolint:usetesting // t.TempDir is too long
		require(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	require(t, os.Chmod(dir, 0o700)) //nolint:gosec // a directory needs its x
	return dir
}

// Proxied is a proxy for the length of a test.
type Proxied struct {
	*tpmproxy.Proxy
	socket string
}

// Device returns the device string of the proxy.
func (p *Proxied) Device() string { return "unix:" + p.socket }

// Proxy starts a proxy in front of a device, with faults that may be replaced by Set.
func Proxy(t testing.TB, device string, faults ...tpmproxy.Fault) *Proxied {
	t.Helper()
	p, err := tpmproxy.New(device, faults...)
	require(t, err)
	socket := filepath.Join(Dir(t), "p")
	l, err := net.Listen("unix", socket)
	require(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("proxy: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the proxy does not end")
		}
	})
	return &Proxied{Proxy: p, socket: socket}
}
