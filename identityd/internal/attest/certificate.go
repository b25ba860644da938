package attest

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/ratls"
)

// CertificateOptions are for NewCertificate.
type CertificateOptions struct {
	Service *Service
	Key     *ecdsa.PrivateKey // its hash is the statement's tls_key
	// Statement is what the instance says of itself now.
	Statement func() (*statement.Statement, error)
	Names     []string
	Addresses []netip.Addr

	// MaxAge at which it is made anew, 0 is 6 h; it is valid for twice as long
	// and an hour. Pause is the least time between two, 0 is a minute. Look is how
	// often the statement is compared with the one in the certificate, 0 is 5 s.
	MaxAge, Pause, Look time.Duration

	Now    func() time.Time // time.Now when nil
	Logger *zap.Logger
}

// Certificate is an RA-TLS certificate that is kept fresh: Run makes it anew
// when it is old, and when the instance would say something else now. It is safe
// for concurrent use.
type Certificate struct {
	o     CertificateOptions
	first chan struct{} // closed when there is one
	nudge chan struct{}

	mu      sync.Mutex
	current *tls.Certificate
	raw     []byte // the statement in it
	made    time.Time

	tried time.Time // by Run alone
}

// NewCertificate returns one that Run will make.
func NewCertificate(o CertificateOptions) *Certificate {
	for _, d := range []struct {
		of *time.Duration
		is time.Duration
	}{{&o.MaxAge, 6 * time.Hour}, {&o.Pause, time.Minute}, {&o.Look, 5 * time.Second}} {
		if *d.of == 0 {
			*d.of = d.is
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Certificate{o: o, first: make(chan struct{}), nudge: make(chan struct{}, 1)}
}

// wait is how long a handshake waits for the first certificate.
const wait = 10 * time.Second

// Get is for tls.Config.GetCertificate. Before the first certificate it waits.
func (c *Certificate) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.Current(hello.Context())
}

// Current returns the present certificate, as Get does.
func (c *Certificate) Current(ctx context.Context) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case <-c.first:
	case <-ctx.Done():
		return nil, fmt.Errorf("there is no certificate yet: %w", ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, nil
}

// Made is when the present certificate was made, zero before the first.
func (c *Certificate) Made() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made
}

// Changed says that the statement has changed: Run looks at once.
func (c *Certificate) Changed() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

// Run keeps the certificate fresh until ctx ends.
func (c *Certificate) Run(ctx context.Context) {
	ticker := time.NewTicker(c.o.Look)
	defer ticker.Stop()
	for {
		c.look(ctx)
		select {
		case <-ticker.C:
		case <-c.nudge:
		case <-ctx.Done():
			return
		}
	}
}

// look makes it anew where that is due. What fails is tried again after the
// pause; the certificate before stays.
func (c *Certificate) look(ctx context.Context) {
	now, pause := c.o.Now(), c.o.Pause
	if c.Made().IsZero() {
		pause = c.o.Look // handshakes wait for the first one
	}
	if since := now.Sub(c.tried); since >= 0 && since < pause || !c.due(now) {
		return
	}
	c.tried = now
	if err := c.make(ctx); err != nil && ctx.Err() == nil {
		c.o.Logger.Warn("The TLS certificate could not be made anew", zap.Error(err), zap.Time("made", c.Made()))
	}
}

func (c *Certificate) due(now time.Time) bool {
	c.mu.Lock()
	raw, made := c.raw, c.made
	c.mu.Unlock()
	if age := now.Sub(made); raw == nil || age >= c.o.MaxAge || age < 0 {
		return true
	}
	s, err := c.o.Statement()
	if err != nil {
		return false // the old one says what was true last
	}
	present, err := s.Encode()
	return err == nil && string(present) != string(raw)
}

func (c *Certificate) make(ctx context.Context) error {
	raw, quote, err := c.o.Service.Attest(ctx, nil, c.o.Statement)
	if err != nil {
		return err
	}
	now := c.o.Now()
	der, err := ratls.Make(&ratls.Template{
		Key: c.o.Key, Statement: raw, Quote: quote, Names: c.o.Names, Addresses: c.o.Addresses,
		Lifetime: min(2*c.o.MaxAge+time.Hour, ratls.MaxLifetime),
	}, now)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		close(c.first)
	}
	c.current = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.o.Key}
	c.raw, c.made = raw, now
	return nil
}
