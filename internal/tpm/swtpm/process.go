//go:build unix

package swtpm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// ErrMissing says that swtpm is not installed.
var ErrMissing = errors.New("swtpm is not installed (Debian, Ubuntu: apt install swtpm swtpm-tools; Fedora: dnf install swtpm swtpm-tools)")

// Process is a running swtpm.
type Process struct {
	cmd    *exec.Cmd
	stderr tail
	done   chan struct{} // closed when the process was reaped
	err    error         // valid after done
}

// Start runs swtpm on the state in dir and returns the connection to it; when
// that is closed, swtpm ends. The child keeps the lock's file open, so that
// dir stays owned until it is gone too.
func Start(dir string, lock *private.Lock) (*Process, net.Conn, error) {
	fds, err := socketPair()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "swtpm")
	theirs := os.NewFile(uintptr(fds[1]), "swtpm child")
	defer func() { _ = theirs.Close() }()
	defer func() { _ = ours.Close() }() // FileConn makes a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, err
	}
	p, err := run(dir, []*os.File{theirs, lock.File()}, "--fd", "3") // the first of ExtraFiles
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return p, conn, nil
}

// Serve runs swtpm on the state in dir and lets it listen on a unix socket,
// where it serves one client after the other. It returns when a client can connect.
func Serve(dir, socket string) (*Process, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	p, err := run(dir, nil, "--server", "type=unixio,mode=0600,path="+socket)
	if err != nil {
		return nil, err
	}
	for range 500 {
		if c, err := net.Dial("unix", socket); err == nil {
			return p, c.Close()
		}
		select {
		case <-p.done:
			return nil, p.err
		case <-time.After(10 * time.Millisecond):
		}
	}
	p.Stop(0)
	return nil, fmt.Errorf("swtpm does not listen on its socket %s", socket)
}

func run(dir string, files []*os.File, args ...string) (*Process, error) {
	program, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	args = append([]string{
		"socket", "--tpm2",
		"--tpmstate", "dir=" + dir + ",mode=0600",
		"--flags", "not-need-init,startup-clear",
		"--log", "file=" + filepath.Join(dir, "swtpm.log") + ",level=1,truncate",
	}, args...)
	p := &Process{cmd: exec.Command(program, args...), done: make(chan struct{})} //nolint:gosec // no shell, and dir is the operator's
	p.cmd.ExtraFiles = files
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = childAttributes()
	started := make(chan error)
	go p.supervise(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting swtpm: %w", err)
	}
	return p, nil
}

// supervise starts and reaps the process. Its thread is kept to the end, since
// the kernel tells a child of its parent's death when the thread dies that started it.
func (p *Process) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	err := p.cmd.Wait()
	if err == nil {
		err = errors.New("exit status 0")
	}
	p.err = fmt.Errorf("swtpm ended: %w%s", err, p.stderr.suffix())
	close(p.done)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended. It is valid after Done.
func (p *Process) Err() error { return p.err }

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stop waits for at most grace until the process ends by itself, as it does
// when its connection was closed, then kills it. It returns when the process is gone.
func (p *Process) Stop(grace time.Duration) {
	if grace > 0 {
		select {
		case <-p.done:
			return
		case <-time.After(grace):
		}
	}
	_ = p.cmd.Process.Kill() // only fails when the process has ended
	<-p.done
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 1 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// suffix returns what was written, in a form to end an error with.
func (t *tail) suffix() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := strings.TrimSpace(string(t.b)); s != "" {
		return ": " + s
	}
	return ""
}
