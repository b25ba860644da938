// Package attest gets quotes for all who need them: readers with a nonce, the
// registry, the storage's owner, and the certificate of the TLS listener, which
// it keeps fresh. A quote takes the platform up to a second and there is one
// quoting enclave for all: quotes are made one at a time, within a time limit,
// and those who wait are few.
package attest

import (
	"bytes"
	"context"
	"crypto/sha512"
	"fmt"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
)

// Options of New.
type Options struct {
	Guest   guest.Guest
	Timeout time.Duration    // of one quote, and of waiting for one's turn; 0 is 30 s
	Waiting int              // how many may wait for their turn; 0 is 16
	Now     func() time.Time // time.Now when nil
	// Observe is told of every quote that was asked of the platform, and of every
	// caller that was turned away (took is 0). May be nil.
	Observe func(took time.Duration, err error)
}

// Service is safe for concurrent use.
type Service struct {
	o     Options
	turn  chan struct{} // held by who is being served
	place chan struct{} // one for each who waits or is served

	mu       sync.Mutex
	ppid     []byte
	quotedAt time.Time
}

// New returns a Service that does nothing by itself.
func New(o Options) *Service {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Waiting == 0 {
		o.Waiting = 16
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(time.Duration, error) {}
	}
	return &Service{o: o, turn: make(chan struct{}, 1), place: make(chan struct{}, o.Waiting+1)}
}

// Quote returns a quote over report data. Errors are *reason.Error: busy when
// too many wait, quote_unavailable when none could be had in time.
func (s *Service) Quote(ctx context.Context, reportData [64]byte) ([]byte, error) {
	select {
	case s.place <- struct{}{}:
		defer func() { <-s.place }()
	default:
		err := reason.Refuse(reason.Busy, "%d callers wait for a quote", s.o.Waiting)
		s.o.Observe(0, err)
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, reason.Because(reason.QuoteUnavailable, fmt.Errorf("wait for other quotes: %w", ctx.Err()))
	}
	start := s.o.Now()
	quote, err := s.o.Guest.Quote(ctx, reportData)
	s.o.Observe(s.o.Now().Sub(start), err)
	if err != nil {
		return nil, reason.Because(reason.QuoteUnavailable, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quotedAt = s.o.Now()
	// The platform's, which is another after a migration of the VM.
	if ppid, err := guest.PPID(quote); err == nil {
		s.ppid = ppid
	}
	return quote, nil
}

// PPID returns the platform's PPID, from the last quote or, before there is one,
// from one that is made for it.
func (s *Service) PPID(ctx context.Context) ([]byte, error) {
	if ppid := s.known(); ppid != nil {
		return ppid, nil
	}
	quote, err := s.Quote(ctx, sha512.Sum512([]byte("telemark-identity-ppid-v1\x00")))
	if err != nil {
		return nil, err
	}
	ppid, err := guest.PPID(quote)
	if err != nil {
		return nil, reason.Because(reason.QuoteUnavailable, err)
	}
	return ppid, nil
}

func (s *Service) known() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.ppid)
}

// QuotedAt is when the last quote was made, zero for none.
func (s *Service) QuotedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quotedAt
}

// attempts at a quote of the same moment as its statement.
const attempts = 3

// Attest returns a statement's bytes and a quote over statement.AttestData of
// them and the nonce, in which RTMR3 is what the statement's log makes of it: an
// event that is recorded in between would have both refused, so that they are
// taken again.
func (s *Service) Attest(ctx context.Context, nonce []byte, say func() (*statement.Statement, error)) (raw, quote []byte, err error) {
	for range attempts {
		now, err := say()
		if err != nil {
			return nil, nil, err
		}
		if raw, err = now.Encode(); err != nil {
			return nil, nil, reason.Because(reason.Internal, err)
		}
		if quote, err = s.Quote(ctx, statement.AttestData(nonce, raw)); err != nil {
			return nil, nil, err
		}
		fits, err := ofOneMoment(now, quote)
		if err != nil {
			return nil, nil, reason.Because(reason.QuoteUnavailable, err)
		}
		if fits {
			return raw, quote, nil
		}
	}
	// Told as it is: the log may be foreign, which readers have to find out.
	return raw, quote, nil
}

func ofOneMoment(now *statement.Statement, quote []byte) (bool, error) {
	if now.Log.Register != statement.RTMR3 || len(now.Log.Base) != 48 {
		return true, nil
	}
	got, err := tdx.RTMR3(quote)
	if err != nil {
		return false, err
	}
	return got == statement.Replay([48]byte(now.Log.Base), now.Log.Events), nil
}
