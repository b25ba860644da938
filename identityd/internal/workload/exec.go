package workload

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Command is a process to start in the container.
type Command struct {
	Argv []string
	Env  []string // NAME=VALUE, on top of the container's
	Dir  string   // "": the image's
	TTY  bool     // one output, through a terminal
	Cols uint16   // of the terminal
	Rows uint16
}

// Process runs in the container, as its root, with what the container may do
// and no more.
//
// Both outputs have to be read, or the process waits. One goroutine may read,
// another write, and any may resize, signal and close.
type Process struct {
	m      *Manager
	id     string
	conn   stream
	stdout io.ReadCloser
	stderr io.ReadCloser // nil with a terminal

	demuxed chan struct{} // closed when the outputs have ended

	closing sync.Once
	closed  error
}

const (
	pollTime    = 20 * time.Millisecond
	maxPollTime = time.Second
	killTime    = 10 * time.Second
)

type execInspect struct {
	Running  bool
	ExitCode int
	Pid      int
}

// Exec starts a process. The context is for starting it only.
func (m *Manager) Exec(ctx context.Context, c Command) (*Process, error) {
	now, err := m.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	if !now.Running {
		if now.Phase == Absent {
			return nil, refuse(NotRunning, "there is no workload")
		}
		return nil, refuse(NotRunning, "the workload is not running: it ended with code %d", now.ExitCode)
	}
	create := map[string]any{
		"AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": c.TTY,
		"Env": c.Env, "Cmd": c.Argv, "User": "0:0", "DetachKeys": "", "Privileged": false,
	}
	if c.Dir != "" {
		create["WorkingDir"] = c.Dir
	}
	var made struct {
		ID string `json:"Id"`
	}
	// By the container's id: the name may be another container's by now.
	if err := m.api.call(ctx, http.MethodPost, "/containers/"+now.ContainerID+"/exec", nil, create, &made); err != nil {
		return nil, &Error{ExecFailed, "prepare a process in the container", err}
	}
	start := map[string]any{"Detach": false, "Tty": c.TTY}
	if c.TTY {
		start["h"], start["w"] = c.Rows, c.Cols
	}
	conn, err := m.api.hijack(ctx, "/exec/"+made.ID+"/start", start)
	if err != nil {
		return nil, &Error{ExecFailed, "start a process in the container", err}
	}
	p := &Process{m: m, id: made.ID, conn: conn, demuxed: make(chan struct{})}
	p.plumb(c.TTY)
	return p, nil
}

// plumb connects the outputs.
func (p *Process) plumb(tty bool) {
	out, toOut := io.Pipe()
	p.stdout = out
	if tty {
		go func() {
			defer close(p.demuxed)
			_, err := io.Copy(toOut, p.conn)
			_ = toOut.CloseWithError(err)
			p.drain()
		}()
		return
	}
	errs, toErrs := io.Pipe()
	p.stderr = errs
	go func() {
		defer close(p.demuxed)
		err := demux(toOut, toErrs, p.conn)
		_ = toOut.CloseWithError(err)
		_ = toErrs.CloseWithError(err)
		p.drain()
	}()
}

// drain throws away what comes after Close: Podman does not note that a process
// has ended before its output is taken.
func (p *Process) drain() { _, _ = io.Copy(io.Discard, p.conn) }

// Stdout is the process's output, or with a terminal both.
func (p *Process) Stdout() io.Reader { return p.stdout }

// Stderr is nil with a terminal.
func (p *Process) Stderr() io.Reader {
	if p.stderr == nil {
		return nil // and not an interface that holds a nil
	}
	return p.stderr
}

// Write writes to the process's input.
func (p *Process) Write(b []byte) (int, error) { return p.conn.Write(b) }

// CloseWrite ends the process's input.
func (p *Process) CloseWrite() error { return p.conn.CloseWrite() }

// Resize sets the size of the terminal.
func (p *Process) Resize(ctx context.Context, cols, rows uint16) error {
	query := url.Values{"w": {strconv.Itoa(int(cols))}, "h": {strconv.Itoa(int(rows))}}
	return p.m.api.call(ctx, http.MethodPost, "/exec/"+p.id+"/resize", query, nil, nil)
}

func (p *Process) inspect(ctx context.Context) (execInspect, error) {
	var found execInspect
	err := p.m.api.call(ctx, http.MethodGet, "/exec/"+p.id+"/json", nil, nil, &found)
	return found, err
}

// Wait returns the exit code once the process has ended. Read the outputs to
// their end first.
func (p *Process) Wait(ctx context.Context) (int, error) {
	for pause := pollTime; ; pause = min(2*pause, maxPollTime) {
		now, err := p.inspect(ctx)
		if notFound(err) {
			return 0, refuse(NotRunning, "the container is gone")
		}
		if err != nil {
			return 0, err
		}
		if !now.Running {
			return now.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			return 0, &Error{PodmanTimeout, "wait for a process in the container", ctx.Err()}
		case <-time.After(pause):
		}
	}
}

// Close kills the process and its group if it still runs, and returns when it
// is gone. The outputs end. What has left its process group stays, until the
// container goes.
func (p *Process) Close() error {
	p.closing.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), killTime)
		defer cancel()
		_ = p.stdout.Close()
		if p.stderr != nil {
			_ = p.stderr.Close()
		}
		p.closed = p.kill(ctx)
		_ = p.conn.Close()
		<-p.demuxed
	})
	return p.closed
}

func (p *Process) kill(ctx context.Context) error {
	err := p.signal(ctx, kill)
	if err != nil && !errors.Is(err, errEnded) {
		return err
	}
	_, err = p.Wait(ctx)
	if ReasonOf(err) == NotRunning {
		return nil
	}
	return err
}

// HasFile reports whether there is something at a path in the container.
func (m *Manager) HasFile(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	resp, err := m.api.do(ctx, http.MethodHead, "/containers/"+Name+"/archive", url.Values{"path": {name}}, nil, nil)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}
