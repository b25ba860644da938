package storage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is a gocryptfs that runs.
type child struct {
	process *os.Process
	said    *tail
	ready   *phrase       // is on its standard output once it has mounted
	done    chan struct{} // closed when it has ended
	err     error         // how, once done is closed
}

// start runs gocryptfs and gives it password as one line on standard input. It
// is killed when this process ends, however that happens: a gocryptfs that
// nobody watches would keep the volume open. conf, if any, is its descriptor 3.
func (p *programs) start(password []byte, conf *os.File, args ...string) (*child, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()                         //nolint:errcheck // closed below where it matters
	cmd := exec.Command(p.gocryptfs, args...) //nolint:gosec // found in PATH, with arguments of ours
	// Nothing of our environment is its business.
	cmd.Env = []string{"PATH=" + p.path}
	cmd.Dir = "/"
	cmd.Stdin = in
	if conf != nil {
		cmd.ExtraFiles = []*os.File{conf}
	}
	c := &child{said: &tail{}, ready: newPhrase("mounted and ready"), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = c.ready, c.said
	// Its own group: a ^C in the terminal is for us, who unmount first. A grandchild
	// that holds its outputs does not hold Wait.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second

	started := make(chan error)
	go func() {
		// The signal is sent when the starting thread ends: it stays here until
		// the child has.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.process = cmd.Process
		}
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	err = <-started
	_ = in.Close()
	if err != nil {
		return nil, err
	}
	// Before it has the key: no core dump on the host's disk. 1 also keeps the
	// kernel from starting a program that takes dumps (core(5)); 0 does not.
	err = unix.Prlimit(c.process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}, nil)
	if err == nil {
		_, err = out.Write(password) // less than a pipe holds: never blocks
	}
	if err = errors.Join(err, out.Close()); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// run runs gocryptfs to its end.
func (p *programs) run(ctx context.Context, password []byte, args ...string) (string, error) {
	c, err := p.start(password, nil, args...)
	if err != nil {
		return "", err
	}
	select {
	case <-c.done:
		return c.said.String(), c.err
	case <-ctx.Done():
		c.kill()
		return c.said.String(), ctx.Err()
	}
}

// kill ends the child and waits for it, but not for ever: a process can hang in
// the kernel.
func (c *child) kill() {
	_ = c.process.Kill()
	c.wait(5 * time.Second)
}

func (c *child) wait(d time.Duration) bool {
	select {
	case <-c.done:
		return true
	case <-time.After(d):
		return false
	}
}

// tail keeps the last bytes that a child said.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 1 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-tailSize):]...)
	t.b = append(t.b[:0], t.b[max(0, len(t.b)-tailSize):]...)
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

// phrase waits for words in an output, and keeps nothing else of it.
type phrase struct {
	words []byte
	seen  chan struct{} // closed when they were there

	// Of the one who writes.
	last []byte // what may be their beginning
	over bool
}

func newPhrase(words string) *phrase {
	return &phrase{words: []byte(words), seen: make(chan struct{})}
}

func (p *phrase) Write(b []byte) (int, error) {
	if p.over {
		return len(b), nil
	}
	p.last = append(p.last, b...)
	if p.over = bytes.Contains(p.last, p.words); p.over {
		p.last = nil
		close(p.seen)
		return len(b), nil
	}
	p.last = append([]byte(nil), p.last[max(0, len(p.last)-len(p.words)+1):]...)
	return len(b), nil
}
