package sshd

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// session is one channel: first requests that describe it, then one that
// starts it, then those that go with what runs.
type session struct {
	c       *connection
	channel ssh.Channel

	// Of the goroutine that reads requests.
	env     []string
	tty     *Size
	term    string
	started bool

	mu      sync.Mutex
	process Process // set once it was started
	resized *Size   // what came before that
	over    bool    // the channel is closed: what starts now is to end

	input sync.WaitGroup // what copies the input
}

const (
	startTime  = 30 * time.Second
	askTime    = 10 * time.Second
	codeFailed = 126 // as shells say it: there, and cannot be run
	waitingIn  = 60 * time.Second
)

func newSession(c *connection, channel ssh.Channel) *session {
	return &session{c: c, channel: channel}
}

// serve returns when nothing of the session is left.
func (s *session) serve(requests <-chan *ssh.Request) {
	var running sync.WaitGroup
	defer running.Wait()
	defer func() { _ = s.channel.Close() }()
	// A session in which nothing is started does not hold its place for long.
	waiting := time.AfterFunc(waitingIn, func() { _ = s.channel.Close() })
	defer waiting.Stop()
	for r := range requests {
		start, ok := s.request(r)
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if start != nil {
			waiting.Stop()
			s.started = true
			running.Go(func() {
				defer s.input.Wait()
				defer func() { _ = s.channel.Close() }()
				start()
			})
		}
	}
	// The channel is closed by the client or the connection: end what runs.
	s.kill()
}

// request answers a request, and returns what it starts.
func (s *session) request(r *ssh.Request) (start func(), ok bool) {
	if s.started {
		return nil, s.during(r)
	}
	switch r.Type {
	case "env":
		v, ok := parseEnv(r.Payload)
		if !ok || len(s.env) >= maxEnv {
			return nil, false
		}
		s.env = append(s.env, v)
		return nil, true
	case "pty-req":
		term, size, ok := parsePty(r.Payload)
		if !ok || s.tty != nil {
			return nil, false
		}
		s.tty, s.term = &size, term
		return nil, true
	case "window-change":
		size, ok := parseWindow(r.Payload)
		if ok && s.tty != nil {
			s.tty = &size
		}
		return nil, ok
	case "shell":
		if len(r.Payload) != 0 {
			return nil, false
		}
		return func() { s.run(Command{Shell: true}) }, true
	case "exec":
		line, ok := parseText(r.Payload, maxCommand)
		if !ok {
			return nil, false
		}
		return func() { s.run(Command{Line: line}) }, true
	case "subsystem":
		if name, ok := parseText(r.Payload, 64); !ok || name != "sftp" {
			return nil, false
		}
		return s.files, true
	default: // x11-req, auth-agent-req@openssh.com and others
		return nil, false
	}
}

// during answers requests to what runs.
func (s *session) during(r *ssh.Request) bool {
	switch r.Type {
	case "window-change":
		size, ok := parseWindow(r.Payload)
		if !ok || s.tty == nil {
			return false
		}
		s.mu.Lock()
		p := s.process
		if p == nil {
			s.resized = &size
		}
		s.mu.Unlock()
		if p == nil {
			return true
		}
		ctx, cancel := context.WithTimeout(s.c.ended, askTime)
		defer cancel()
		return p.Resize(ctx, size) == nil
	case "signal":
		name, ok := parseText(r.Payload, 16)
		s.mu.Lock()
		p := s.process
		s.mu.Unlock()
		if !ok || p == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(s.c.ended, askTime)
		defer cancel()
		return p.Signal(ctx, name) == nil
	default:
		return false
	}
}

// run runs a command in the container and sends its exit code.
func (s *session) run(command Command) {
	command.Env, command.TTY = s.env, s.tty
	if s.tty != nil {
		command.Env = append(command.Env, "TERM="+s.term)
	}
	// Not under the connection's context: a process that was half started when
	// the connection ended would be nobody's.
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	p, err := s.c.server.config.Container.Start(ctx, command)
	if err != nil {
		s.say("identityd: %v\r\n", err)
		s.exit(codeFailed)
		return
	}
	defer func() {
		if err := p.Close(); err != nil {
			s.c.server.lost(err)
		}
	}()
	if !s.attach(p) {
		return
	}
	s.stream(p)
	code, err := p.Wait(s.c.ended)
	if err != nil {
		if s.c.ended.Err() == nil {
			s.say("identityd: %v\r\n", err)
		}
		code = codeFailed
	}
	s.exit(code)
}

// attach lets requests reach the process, unless the session is over.
func (s *session) attach(p Process) bool {
	s.mu.Lock()
	size, over := s.resized, s.over
	s.process = p
	s.mu.Unlock()
	if size != nil && !over {
		ctx, cancel := context.WithTimeout(s.c.ended, askTime)
		defer cancel()
		_ = p.Resize(ctx, *size)
	}
	return !over
}

// kill ends the process, now or as soon as it has started.
func (s *session) kill() {
	s.mu.Lock()
	p := s.process
	s.over = true
	s.mu.Unlock()
	if p != nil {
		// Its error is noted where the process was started.
		_ = p.Close()
	}
}

// stream copies until the outputs have ended. The input ends with the channel.
func (s *session) stream(p Process) {
	s.input.Go(func() {
		_, _ = io.Copy(p, touching{s.channel, s.c})
		_ = p.CloseWrite()
	})
	var outputs sync.WaitGroup
	if errs := p.Stderr(); errs != nil {
		outputs.Go(func() { s.copy(s.channel.Stderr(), errs, p) })
	}
	s.copy(s.channel, p.Stdout(), p)
	outputs.Wait()
}

// copy ends the process when the client does not take its output any more:
// nobody would read the rest, and it would wait for ever.
func (s *session) copy(to io.Writer, from io.Reader, p Process) {
	if _, err := io.Copy(to, touching{from, s.c}); err != nil {
		_ = p.Close()
	}
}

// touching notes that there was data.
type touching struct {
	io.Reader
	c *connection
}

func (t touching) Read(b []byte) (int, error) {
	n, err := t.Reader.Read(b)
	if n > 0 {
		t.c.touch()
	}
	return n, err
}

func (s *session) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.channel.Stderr(), format, args...)
}

func (s *session) exit(code int) {
	_ = s.channel.CloseWrite()
	_, _ = s.channel.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(code)))
}
