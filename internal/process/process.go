// Package process runs the binaries of the distribution: each with its output in
// a file, ending with whoever started it. It implements no specification.
package process

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one running binary. Its output goes to a file, so that it can be
// read after the process is gone. It may be started again after it ended.
type Process struct {
	Name string
	Path string
	Args []string
	Env  []string // besides the environment of the caller
	// Unset are variables of the caller's environment that it does not get.
	Unset []string
	Log   string // file; appended to

	mu   sync.Mutex
	from int64 // where in the log the last start began
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start runs the process. It dies with the caller.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return fmt.Errorf("%s is running already", p.Name)
	}
	if err := os.MkdirAll(filepath.Dir(p.Log), 0o750); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	info, err := log.Stat()
	if err != nil {
		return err
	}
	cmd := exec.Command(p.Path, p.Args...) //nolint:gosec // what its user runs on purpose
	inherited := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(p.Unset, name)
	})
	cmd.Env = append(inherited, p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started, done := make(chan error), make(chan struct{})
	go p.supervise(cmd, started, done)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.done, p.from = cmd, done, info.Size()
	return nil
}

// supervise starts and reaps the process. Its thread is kept to the end, since
// the kernel takes the death of the thread that started a child for the death
// of its parent.
func (p *Process) supervise(cmd *exec.Cmd, started chan<- error, done chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	started <- err
	if err != nil {
		return
	}
	err = cmd.Wait()
	p.mu.Lock()
	p.cmd, p.err = nil, err
	p.mu.Unlock()
	close(done)
}

// Signal sends sig; a process that ended already gets nothing.
func (p *Process) Signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(sig)
	}
}

// Wait waits until the process has ended.
func (p *Process) Wait(ctx context.Context) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s has not ended: %w", p.Name, ctx.Err())
	}
}

// Kill ends the process as a power cut would: SIGKILL, and no farewell.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	_ = p.Wait(context.Background())
}

// Stop asks the process to end and kills it when it has not within limit.
func (p *Process) Stop(limit time.Duration) error {
	p.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		p.Kill()
		return err
	}
	return nil
}

// Running says whether the process has not ended yet.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// PID is the process id, 0 when it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Ready waits until url answers 200; client nil is one without TLS of its own. It
// gives up when the process ends.
func (p *Process) Ready(ctx context.Context, client *http.Client, url string) error {
	if client == nil {
		client = &http.Client{Timeout: 2 * time.Second}
	}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !p.Running() {
			return fmt.Errorf("%s ended before it was ready; its last lines:\n%s", p.Name, p.Last(15))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its last lines:\n%s", p.Name, errors.Join(ctx.Err(), err), p.Last(15))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Last returns the last n lines that were written since the last start.
func (p *Process) Last(n int) string {
	p.mu.Lock()
	from := p.from
	p.mu.Unlock()
	return p.tail(n, from)
}

// Tail returns the last n lines of the log.
func (p *Process) Tail(n int) string { return p.tail(n, 0) }

func (p *Process) tail(n int, from int64) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	data = data[min(from, int64(len(data))):] // it may have been cut
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
