package sshd

import (
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/ssh"

	"github.com/telemark-otel/telemark/internal/httpd"
)

// Config says who may come in, and how long and how often.
type Config struct {
	HostKey     ed25519.PrivateKey
	Owner       ed25519.PublicKey // checked by the caller to be a canonical point of full order
	Container   Container
	Directories []Directory
	Logger      *zap.Logger

	MaxSessions      int           // at once, over all connections; 0: 4
	MaxConnections   int           // of the owner at once; 0: 8
	MaxUnknown       int           // connections that have not authenticated, at once; 0: 16
	HandshakeTimeout time.Duration // from connecting to authenticated; 0: 15 s
	IdleTimeout      time.Duration // of a connection without data in any session; 0: 15 min
	TotalTimeout     time.Duration // of a connection; 0: 8 h
	KeepAlive        time.Duration // between questions whether the client is there; 0: 30 s
}

// Facts are what happened, for the state and the attestation.
type Facts struct {
	OpenedAt time.Time `json:"opened_at,omitzero"`
	ClosedAt time.Time `json:"closed_at,omitzero"` // zero while open, or while anything of it is left
	Active   int       `json:"active"`             // sessions now
	Sessions uint64    `json:"sessions"`           // since opening
	Logins   uint64    `json:"logins"`
	Refused  uint64    `json:"refused"` // connections that did not become the owner's
	LastAt   time.Time `json:"last_login_at,omitzero"`
}

// Server is open from New until Close.
type Server struct {
	config   Config
	ssh      *ssh.ServerConfig
	listener net.Listener
	log      *zap.Logger

	work sync.WaitGroup // everything that Close waits for

	mu       sync.Mutex
	closed   bool
	facts    Facts
	unknown  []net.Conn            // oldest first
	known    map[net.Conn]struct{} // authenticated
	failures []error               // processes of which nobody knows whether they ended
	gone     chan struct{}         // made by the first Close, closed when all has ended
}

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("the SSH server is closed")

const verified = "owner-verified"

// New opens the door on the listener, which it owns from now on. Call Serve.
func New(listener net.Listener, config Config) (*Server, error) {
	if len(config.Owner) != ed25519.PublicKeySize || len(config.HostKey) != ed25519.PrivateKeySize {
		return nil, errors.New("the SSH server needs an Ed25519 host key and the owner's Ed25519 key")
	}
	if config.Container == nil {
		return nil, errors.New("the SSH server needs a container")
	}
	config.complete()
	s := &Server{
		config: config, listener: listener, log: config.Logger,
		known: map[net.Conn]struct{}{}, facts: Facts{OpenedAt: time.Now()},
	}
	if err := s.configure(); err != nil {
		return nil, err
	}
	return s, nil
}

func (c *Config) complete() {
	number := func(n *int, usual int) {
		if *n <= 0 {
			*n = usual
		}
	}
	duration := func(d *time.Duration, usual time.Duration) {
		if *d <= 0 {
			*d = usual
		}
	}
	number(&c.MaxSessions, 4)
	number(&c.MaxConnections, 8)
	number(&c.MaxUnknown, 16)
	duration(&c.HandshakeTimeout, 15*time.Second)
	duration(&c.IdleTimeout, 15*time.Minute)
	duration(&c.TotalTimeout, 8*time.Hour)
	duration(&c.KeepAlive, 30*time.Second)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
}

// configure sets up the handshake: one method, one key, current algorithms.
func (s *Server) configure() error {
	signer, err := ssh.NewSignerFromSigner(s.config.HostKey)
	if err != nil {
		return fmt.Errorf("use the SSH host key: %w", err)
	}
	owner := []byte(s.config.Owner)
	isOwner := func(key ssh.PublicKey) bool {
		if key.Type() != ssh.KeyAlgoED25519 {
			return false
		}
		k, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return false
		}
		raw, ok := k.CryptoPublicKey().(ed25519.PublicKey)
		return ok && subtle.ConstantTimeCompare(raw, owner) == 1
	}
	s.ssh = &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-identityd",
		MaxAuthTries:  3,
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
			Ciphers:      []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM},
		},
		PublicKeyAuthAlgorithms: []string{ssh.KeyAlgoED25519},
		// Called for keys that are merely offered, too: it says what may be
		// tried, and nothing is decided from its having been called.
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !isOwner(key) {
				return nil, errors.New("not the owner's key")
			}
			return &ssh.Permissions{}, nil
		},
		// Called only after the client has signed with the key. The mark it
		// leaves is what lets a connection in.
		VerifiedPublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			if !isOwner(key) {
				return nil, errors.New("not the owner's key")
			}
			return &ssh.Permissions{Extensions: map[string]string{verified: ssh.FingerprintSHA256(key)}}, nil
		},
	}
	s.ssh.AddHostKey(signer)
	return nil
}

// HostKeyFingerprint is how OpenSSH shows a host key.
func HostKeyFingerprint(key ed25519.PublicKey) (string, error) {
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("use the SSH host key: %w", err)
	}
	return ssh.FingerprintSHA256(k), nil
}

// Serve takes connections until Close, and then returns ErrClosed. Any other
// error means that the listener failed; Close is still to be called.
func (s *Server) Serve() error {
	pause := time.Duration(0)
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			if s.isClosed() {
				return ErrClosed
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept SSH connections: %w", err)
			}
			// Out of file descriptors and the like: they come back.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		}
		pause = 0
		if !s.admit(conn) {
			_ = conn.Close()
			continue
		}
		go func() {
			defer s.work.Done()
			s.handle(conn)
		}()
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// admit makes room for an unknown connection by closing another one: neither
// silent ones nor many of one machine must lock the owner out.
func (s *Server) admit(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if len(s.unknown) >= s.config.MaxUnknown {
		i := s.crowd()
		_ = s.unknown[i].Close()
		s.unknown = slices.Delete(s.unknown, i, i+1)
	}
	s.unknown = append(s.unknown, conn)
	s.work.Add(1)
	return true
}

// crowd is the oldest unknown connection of the client that has most.
func (s *Server) crowd() int {
	of, most, first := map[string]int{}, 0, 0
	for _, conn := range s.unknown {
		of[client(conn)]++
		most = max(most, of[client(conn)])
	}
	for i, conn := range slices.Backward(s.unknown) {
		if of[client(conn)] == most {
			first = i
		}
	}
	return first
}

func client(conn net.Conn) string {
	return httpd.Bucket(httpd.Address(conn.RemoteAddr().String()))
}

// settle moves a connection from the unknown ones to the owner's, or away.
func (s *Server) settle(conn net.Conn, owner bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.unknown {
		if c == conn {
			s.unknown = append(s.unknown[:i:i], s.unknown[i+1:]...)
			break
		}
	}
	if !owner || s.closed || len(s.known) >= s.config.MaxConnections {
		s.facts.Refused++
		return false
	}
	s.known[conn] = struct{}{}
	s.facts.Logins++
	s.facts.LastAt = time.Now()
	return true
}

// enter counts a session in, if there may be one more.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.facts.Active >= s.config.MaxSessions {
		return false
	}
	s.facts.Active++
	s.facts.Sessions++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.facts.Active--
}

// lost notes a process that may still run.
func (s *Server) lost(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.failures) < 16 {
		s.failures = append(s.failures, err)
	}
	s.log.Error("a session's process could not be ended", zap.Error(err))
}

// Facts returns what happened until now.
func (s *Server) Facts() Facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts
}

// Close shuts the door: no new connections, every connection and session
// ended, every process in them killed. It returns nil only when all of them are
// gone; an error says what may be left, and that making the container anew is
// the way to be sure. It may be called again to go on waiting.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.gone = make(chan struct{})
		_ = s.listener.Close()
		for _, conn := range s.unknown {
			_ = conn.Close()
		}
		for conn := range s.known {
			_ = conn.Close()
		}
		go func() {
			s.work.Wait()
			close(s.gone)
		}()
	}
	gone := s.gone
	s.mu.Unlock()
	select {
	case <-gone:
	case <-ctx.Done():
		return fmt.Errorf("wait for SSH sessions to end: %w", ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.failures...); err != nil {
		return fmt.Errorf("end the processes of SSH sessions: %w", err)
	}
	if s.facts.ClosedAt.IsZero() {
		s.facts.ClosedAt = time.Now()
	}
	return nil
}
