package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// fake is a container whose commands echo their input, and end when they are
// told to.
type fake struct {
	mu      sync.Mutex
	started []Command
	running atomic.Int32
	stuck   bool // a process cannot be ended
	refuse  error
}

func (f *fake) Start(_ context.Context, c Command) (Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	f.started = append(f.started, c)
	f.running.Add(1)
	p := &fakeProcess{fake: f, signals: make(chan string, 8), sizes: make(chan Size, 8)}
	p.out, p.in = io.Pipe()
	return p, nil
}

type fakeProcess struct {
	fake    *fake
	out     *io.PipeReader
	in      *io.PipeWriter
	once    sync.Once
	signals chan string
	sizes   chan Size
}

func (p *fakeProcess) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p *fakeProcess) CloseWrite() error           { return p.in.Close() }
func (p *fakeProcess) Stdout() io.Reader           { return p.out }
func (p *fakeProcess) Stderr() io.Reader           { return nil }
func (p *fakeProcess) Resize(_ context.Context, s Size) error {
	_, err := fmt.Fprintf(p.in, "%dx%d\n", s.Cols, s.Rows)
	return err
}

func (p *fakeProcess) Signal(_ context.Context, name string) error {
	_, err := fmt.Fprintf(p.in, "signal %s\n", name)
	return err
}
func (p *fakeProcess) Wait(context.Context) (int, error) { return 5, nil }
func (p *fakeProcess) Close() error {
	p.once.Do(func() {
		_ = p.in.Close()
		_ = p.out.Close()
		p.fake.running.Add(-1)
	})
	if p.fake.stuck {
		return errors.New("it does not end")
	}
	return nil
}

type lab struct {
	server    *Server
	container *fake
	address   string
	owner     ed25519.PrivateKey
	data      string
}

func newLab(t *testing.T, change func(*Config)) *lab {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, host, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	lab := &lab{container: &fake{}, address: l.Addr().String(), owner: private, data: t.TempDir()}
	config := Config{HostKey: host, Owner: public, Container: lab.container, Directories: []Directory{{"/data", lab.data}}}
	if change != nil {
		change(&config)
	}
	lab.server, err = New(l, config)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- lab.server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := lab.server.Close(ctx)
		require.Equal(t, lab.container.stuck, err != nil, err)
		require.ErrorIs(t, <-served, ErrClosed)
		require.Zero(t, lab.container.running.Load())
	})
	return lab
}

func (l *lab) dial(auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", l.address, &ssh.ClientConfig{
		User: "owner", Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
	})
}

func signer(t *testing.T, key ed25519.PrivateKey) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromSigner(key)
	require.NoError(t, err)
	return s
}

func (l *lab) login(t *testing.T) *ssh.Client {
	t.Helper()
	c, err := l.dial(ssh.PublicKeys(signer(t, l.owner)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// impostor offers the owner's public key and signs with another.
type impostor struct {
	ssh.Signer
	offered ssh.PublicKey
}

func (i impostor) PublicKey() ssh.PublicKey { return i.offered }

func TestWhoIsNotTheOwnerIsRefused(t *testing.T) {
	l := newLab(t, nil)
	_, other, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	owner, stranger := signer(t, l.owner), signer(t, other)
	certificate := &ssh.Certificate{Key: owner.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity, ValidPrincipals: []string{"owner"}}
	require.NoError(t, certificate.SignCert(readerOf(1), owner))
	certified, err := ssh.NewCertSigner(certificate, owner)
	require.NoError(t, err)
	for name, auth := range map[string][]ssh.AuthMethod{
		"another key":                          {ssh.PublicKeys(stranger)},
		"owner's key offered, another's proof": {ssh.PublicKeys(impostor{stranger, owner.PublicKey()})},
		"owner's key offered, then another":    {ssh.PublicKeys(impostor{stranger, owner.PublicKey()}, stranger)},
		"certificate of the owner's key":       {ssh.PublicKeys(certified)},
		"password":                             {ssh.Password("secret")},
		"keyboard": {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) {
			return nil, nil
		})},
		"nothing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.dial(auth...)
			require.ErrorContains(t, err, "handshake failed")
		})
	}
	require.Zero(t, l.server.Facts().Logins)
	require.Eventually(t, func() bool { return l.server.Facts().Refused == 7 }, 5*time.Second, time.Millisecond)
}

type readerOf byte

func (r readerOf) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r)
	}
	return len(b), nil
}

func TestSessionsAreCommandsInTheContainer(t *testing.T) {
	l := newLab(t, nil)
	c := l.login(t)
	session, err := c.NewSession()
	require.NoError(t, err)
	require.NoError(t, session.Setenv("LC_ALL", "C"))
	require.Error(t, session.Setenv("LD_PRELOAD", "/data/x.so"))
	require.NoError(t, session.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.ECHO: 0}))
	in, err := session.StdinPipe()
	require.NoError(t, err)
	out, err := session.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, session.Start("list"))
	line := func() string {
		b := make([]byte, 64)
		n, err := out.Read(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	_, err = io.WriteString(in, "hello\n")
	require.NoError(t, err)
	require.Equal(t, "hello\n", line())
	require.NoError(t, session.WindowChange(50, 132))
	require.Equal(t, "132x50\n", line())
	require.NoError(t, session.Signal(ssh.SIGTERM))
	require.Equal(t, "signal TERM\n", line())
	require.NoError(t, in.Close())
	exit, ok := errors.AsType[*ssh.ExitError](session.Wait())
	require.True(t, ok)
	require.Equal(t, 5, exit.ExitStatus())
	require.Equal(t, []Command{{Line: "list", Env: []string{"LC_ALL=C", "TERM=xterm"}, TTY: &Size{80, 24}}}, l.container.started)
}

func TestErrorOfTheContainerIsShown(t *testing.T) {
	l := newLab(t, nil)
	l.container.refuse = errors.New("the workload is not running")
	session, err := l.login(t).NewSession()
	require.NoError(t, err)
	var errs bytes.Buffer
	session.Stderr = &errs
	exit, ok := errors.AsType[*ssh.ExitError](session.Run("x"))
	require.True(t, ok)
	require.Equal(t, codeFailed, exit.ExitStatus())
	require.Contains(t, errs.String(), "the workload is not running")
}

func TestNothingIsForwarded(t *testing.T) {
	c := newLab(t, nil).login(t)
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "tun@openssh.com", "forwarded-tcpip"} {
		_, _, err := c.OpenChannel(kind, nil)
		refusal, ok := errors.AsType[*ssh.OpenChannelError](err)
		require.True(t, ok, kind)
		require.Equal(t, ssh.Prohibited, refusal.Reason)
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "cancel-tcpip-forward", "no-more-sessions@openssh.com"} {
		ok, _, err := c.SendRequest(kind, true, nil)
		require.NoError(t, err)
		require.False(t, ok, kind)
	}
	session, err := c.NewSession()
	require.NoError(t, err)
	for _, kind := range []string{"x11-req", "auth-agent-req@openssh.com", "break", "xon-xoff"} {
		ok, err := session.SendRequest(kind, true, nil)
		require.NoError(t, err)
		require.False(t, ok, kind)
	}
	require.Error(t, session.RequestSubsystem("netconf"))
}

func TestFifthSessionIsRefused(t *testing.T) {
	l := newLab(t, nil)
	var last *ssh.Session
	for range 2 {
		c := l.login(t)
		for range 2 {
			session, err := c.NewSession()
			require.NoError(t, err)
			in, err := session.StdinPipe()
			require.NoError(t, err)
			t.Cleanup(func() { _ = in.Close() })
			require.NoError(t, session.Start("x"))
			last = session
		}
	}
	another := l.login(t)
	_, err := another.NewSession()
	require.ErrorContains(t, err, "too many sessions")
	require.NoError(t, last.Close())
	require.Eventually(t, func() bool {
		session, err := another.NewSession()
		return err == nil && session.Close() == nil
	}, 5*time.Second, time.Millisecond)
}

func TestSecondCommandInASessionIsRefused(t *testing.T) {
	l := newLab(t, nil)
	session, err := l.login(t).NewSession()
	require.NoError(t, err)
	in, err := session.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = in.Close() }()
	require.NoError(t, session.Start("x"))
	for _, kind := range []string{"exec", "shell", "subsystem", "pty-req", "env"} {
		ok, err := session.SendRequest(kind, true, ssh.Marshal(struct{ Name string }{"sftp"}))
		require.NoError(t, err)
		require.False(t, ok, kind)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	l := newLab(t, nil)
	c := l.login(t)
	for range 3 {
		session, err := c.NewSession()
		require.NoError(t, err)
		in, err := session.StdinPipe()
		require.NoError(t, err)
		t.Cleanup(func() { _ = in.Close() })
		require.NoError(t, session.Start("x"))
	}
	files, err := sftp.NewClient(c)
	require.NoError(t, err)
	defer func() { _ = files.Close() }()
	silent, err := net.Dial("tcp", l.address)
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	require.Eventually(t, func() bool { return l.container.running.Load() == 3 }, 5*time.Second, time.Millisecond)
	require.True(t, l.server.Facts().ClosedAt.IsZero())

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, l.server.Close(ctx))
	require.Zero(t, l.container.running.Load())
	facts := l.server.Facts()
	require.Zero(t, facts.Active)
	require.EqualValues(t, 4, facts.Sessions)
	require.False(t, facts.ClosedAt.IsZero())
	_, err = l.dial(ssh.PublicKeys(signer(t, l.owner)))
	require.ErrorContains(t, err, "refused")
	require.NoError(t, l.server.Close(ctx))
	require.Equal(t, facts, l.server.Facts())
}

func TestCloseDoesNotClaimWhatItDoesNotKnow(t *testing.T) {
	l := newLab(t, nil)
	l.container.stuck = true
	session, err := l.login(t).NewSession()
	require.NoError(t, err)
	in, err := session.StdinPipe()
	require.NoError(t, err)
	defer func() { _ = in.Close() }()
	require.NoError(t, session.Start("x"))
	require.Eventually(t, func() bool { return l.container.running.Load() == 1 }, 5*time.Second, time.Millisecond)
	require.ErrorContains(t, l.server.Close(t.Context()), "it does not end")
	require.True(t, l.server.Facts().ClosedAt.IsZero())
}

func TestSilentConnectionsDoNotLockTheOwnerOut(t *testing.T) {
	l := newLab(t, func(c *Config) { c.MaxUnknown = 4 })
	for range 20 {
		conn, err := net.Dial("tcp", l.address)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
	}
	l.login(t)
	require.Eventually(t, func() bool {
		l.server.mu.Lock()
		defer l.server.mu.Unlock()
		return len(l.server.unknown) <= 4
	}, 5*time.Second, time.Millisecond)
}

func TestLimitsInTime(t *testing.T) {
	gone := func(t *testing.T, c *ssh.Client) {
		t.Helper()
		ended := make(chan struct{})
		go func() {
			_ = c.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the connection did not end")
		}
	}
	t.Run("handshake", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.HandshakeTimeout = 50 * time.Millisecond })
		conn, err := net.Dial("tcp", l.address)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err, "ended by the server")
	})
	t.Run("idle", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.IdleTimeout, c.KeepAlive = 200*time.Millisecond, 20*time.Millisecond })
		gone(t, l.login(t))
	})
	t.Run("total, although busy", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.TotalTimeout = 300 * time.Millisecond })
		c := l.login(t)
		session, err := c.NewSession()
		require.NoError(t, err)
		in, err := session.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, session.Start("x"))
		go func() {
			for err := error(nil); err == nil; _, err = in.Write(make([]byte, 1024)) {
				time.Sleep(time.Millisecond)
			}
		}()
		gone(t, c)
	})
	t.Run("client that is gone", func(t *testing.T) {
		l := newLab(t, func(c *Config) { c.KeepAlive = 20 * time.Millisecond })
		// The network between swallows what the client would answer.
		conn, err := net.Dial("tcp", l.address)
		require.NoError(t, err)
		dead := &deaf{Conn: conn}
		sc, channels, requests, err := ssh.NewClientConn(dead, l.address, &ssh.ClientConfig{
			User: "owner", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer(t, l.owner))}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		})
		require.NoError(t, err)
		c := ssh.NewClient(sc, channels, requests)
		defer func() { _ = c.Close() }()
		dead.on.Store(true)
		require.Eventually(t, func() bool {
			l.server.mu.Lock()
			defer l.server.mu.Unlock()
			return len(l.server.known) == 0
		}, 10*time.Second, 10*time.Millisecond)
	})
}

// deaf drops what is written once it is on.
type deaf struct {
	net.Conn
	on atomic.Bool
}

func (d *deaf) Write(b []byte) (int, error) {
	if d.on.Load() {
		return len(b), nil
	}
	return d.Conn.Write(b)
}
