package attest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/attest"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/ratls"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var lab = tdxlab.New("attest")

// platform makes quotes of the lab, each in a second.
type platform struct {
	quotes   atomic.Int32
	at       atomic.Int32 // how many at once
	stuck    atomic.Bool
	fails    atomic.Bool
	register func() [48]byte
	ppid     byte
}

var errPlatform = errors.New("no quote today")

func (p *platform) Quote(ctx context.Context, data [64]byte) ([]byte, error) {
	if p.at.Add(1) > 1 {
		panic("two quotes at once")
	}
	defer p.at.Add(-1)
	if p.stuck.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if p.fails.Load() {
		return nil, errPlatform
	}
	time.Sleep(time.Second)
	p.quotes.Add(1)
	return lab.Quote(data, func(q *tdxlab.Quote) {
		if p.register != nil {
			q.RTMR[3] = p.register()
		}
		if p.ppid != 0 {
			q.Certificate = append(q.Certificate, func(c *tdxlab.Certificate) { c.PPID[0] = p.ppid })
		}
	}), nil
}

func (p *platform) RTMR3(context.Context) ([48]byte, error)     { panic("not asked for") }
func (p *platform) ExtendRTMR3(context.Context, [48]byte) error { panic("not asked for") }
func service(p *platform, edits ...func(*attest.Options)) *attest.Service {
	o := attest.Options{Guest: p, Now: time.Now}
	for _, edit := range edits {
		edit(&o)
	}
	return attest.New(o)
}

func TestQuotesAreMadeOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &platform{}
		var observed atomic.Int32
		s := service(p, func(o *attest.Options) {
			o.Observe = func(took time.Duration, err error) {
				if err == nil && took == time.Second {
					observed.Add(1)
				}
			}
		})
		require.Zero(t, s.QuotedAt())
		start := time.Now()
		done := make(chan error)
		for i := range byte(17) {
			go func() {
				quote, err := s.Quote(t.Context(), [64]byte{i})
				if err == nil {
					data, _ := tdx.ReportData(quote)
					if data != [64]byte{i} {
						err = errors.New("another's quote")
					}
				}
				done <- err
			}()
		}
		synctest.Wait()
		_, err := s.Quote(t.Context(), [64]byte{99})
		require.Equal(t, reason.Busy, reason.Of(err), "as many wait as may")
		for range 17 {
			require.NoError(t, <-done)
		}
		require.Equal(t, 17*time.Second, time.Since(start))
		require.EqualValues(t, 17, observed.Load())
		require.Equal(t, time.Now(), s.QuotedAt())
	})
}

func TestPlatformThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &platform{}
		p.stuck.Store(true)
		s := service(p)
		start := time.Now()
		done := make(chan error)
		for range 3 {
			go func() { _, err := s.Quote(t.Context(), [64]byte{}); done <- err }()
		}
		for range 3 {
			err := <-done
			require.Equal(t, reason.QuoteUnavailable, reason.Of(err))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, 30*time.Second, time.Since(start), "who waits is not longer under way than who is served")
		p.stuck.Store(false)
		_, err := s.Quote(t.Context(), [64]byte{})
		require.NoError(t, err)
	})
}

func TestPPIDIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &platform{}
		s := service(p)
		first, err := s.PPID(t.Context())
		require.NoError(t, err)
		require.Len(t, first, 16)
		again, err := s.PPID(t.Context())
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.EqualValues(t, 1, p.quotes.Load())
		p.ppid = first[0] + 1
		_, err = s.Quote(t.Context(), [64]byte{})
		require.NoError(t, err)
		moved, err := s.PPID(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, first, moved, "the VM runs on another platform now")

		p = &platform{}
		p.fails.Store(true)
		_, err = service(p).PPID(t.Context())
		require.ErrorIs(t, err, errPlatform)
	})
}

// instance is a machine whose log grows.
type instance struct {
	key  *ecdsa.PrivateKey
	hash []byte

	mu  sync.Mutex
	log statement.Log
}

func newInstance(t *testing.T) *instance {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	hash, err := ratls.KeyHash(&key.PublicKey)
	require.NoError(t, err)
	return &instance{key: key, hash: hash, log: statement.Log{Register: statement.RTMR3, Base: make([]byte, 48)}}
}

func (i *instance) say() (*statement.Statement, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &statement.Statement{
		Version: 1, Instance: slices.Repeat([]byte{1}, 32), Origin: slices.Repeat([]byte{1}, 32), Boot: "b", State: statement.OwnerRegistered, Counter: 4,
		Operator: slices.Repeat([]byte{2}, 32), Owner: slices.Repeat([]byte{3}, 32), TLSKey: i.hash, Log: i.log,
	}, nil
}

func (i *instance) register() [48]byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return statement.Replay([48]byte(i.log.Base), i.log.Events)
}

func (i *instance) event(image string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.log.Events = append(slices.Clip(i.log.Events), statement.Event{
		Name: statement.Image, Data: image + "@sha256:" + string(slices.Repeat([]byte{'a'}, 64)),
	})
}

func TestEventBetweenStatementAndQuoteIsNotAContradiction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstance(t)
		p := &platform{}
		p.register = func() [48]byte {
			if p.quotes.Load() == 1 {
				i.event("app") // while the first quote is made
			}
			return i.register()
		}
		nonce := slices.Repeat([]byte{9}, 16)
		said, quote, err := service(p).Attest(t.Context(), nonce, i.say)
		require.NoError(t, err)
		require.EqualValues(t, 2, p.quotes.Load())
		data, err := tdx.ReportData(quote)
		require.NoError(t, err)
		require.Equal(t, statement.AttestData(nonce, said), data)
		rtmr3, err := tdx.RTMR3(quote)
		require.NoError(t, err)
		s, err := statement.Parse(said)
		require.NoError(t, err)
		_, err = s.Judge(rtmr3)
		require.NoError(t, err)
	})
}

// A log that somebody else extended is told as it is, and no verifier takes it.
func TestForeignLogIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstance(t)
		p := &platform{register: func() [48]byte { return [48]byte{1} }}
		said, quote, err := service(p).Attest(t.Context(), nil, i.say)
		require.NoError(t, err)
		s, err := statement.Parse(said)
		require.NoError(t, err)
		rtmr3, err := tdx.RTMR3(quote)
		require.NoError(t, err)
		_, err = s.Judge(rtmr3)
		require.ErrorIs(t, err, &statement.Error{Kind: statement.BadRegister})
	})
}

func TestAttestFailsAsItsPartsDo(t *testing.T) {
	p := &platform{}
	locked := reason.Refuse(reason.StateUnlinked, "locked")
	_, _, err := service(p).Attest(t.Context(), nil, func() (*statement.Statement, error) { return nil, locked })
	require.ErrorIs(t, err, locked)
	_, _, err = service(p).Attest(t.Context(), nil, func() (*statement.Statement, error) { return &statement.Statement{}, nil })
	require.Equal(t, reason.Internal, reason.Of(err))
	p.fails.Store(true)
	_, _, err = service(p).Attest(t.Context(), nil, newInstance(t).say)
	require.Equal(t, reason.QuoteUnavailable, reason.Of(err))
}

func said(t *testing.T, c *attest.Certificate) *ratls.Evidence {
	t.Helper()
	cert, err := c.Current(t.Context())
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	require.NoError(t, err)
	e, err := ratls.Extract(parsed, time.Now())
	require.NoError(t, err)
	return e
}

func TestCertificateIsKeptFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstance(t)
		p := &platform{register: i.register}
		c := attest.NewCertificate(attest.CertificateOptions{Service: service(p), Key: i.key, Statement: i.say, Now: time.Now})
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go c.Run(ctx)
		require.Empty(t, said(t, c).Statement.Log.Events, "the first handshake waits for it")
		require.EqualValues(t, 1, p.quotes.Load())

		time.Sleep(5 * time.Hour)
		require.EqualValues(t, 1, p.quotes.Load(), "nothing changed")
		time.Sleep(2 * time.Hour)
		require.EqualValues(t, 2, p.quotes.Load(), "it was old")

		i.event("app:1")
		c.Changed()
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 3, p.quotes.Load())
		require.Len(t, said(t, c).Statement.Log.Events, 1)
		for range 20 { // a machine that changes all the time
			i.event("app:2")
			c.Changed()
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 3, p.quotes.Load(), "at most once a minute")
		time.Sleep(time.Minute)
		require.Len(t, said(t, c).Statement.Log.Events, 21)

		p.fails.Store(true)
		made := c.Made()
		time.Sleep(7 * time.Hour)
		require.Equal(t, made, c.Made(), "the one before stays")
		require.NotNil(t, said(t, c))
		p.fails.Store(false)
		time.Sleep(2 * time.Minute)
		require.NotEqual(t, made, c.Made())
	})
}

func TestFirstCertificateIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstance(t)
		p := &platform{register: i.register}
		p.fails.Store(true)
		c := attest.NewCertificate(attest.CertificateOptions{Service: service(p), Key: i.key, Statement: i.say})
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go c.Run(ctx)
		time.Sleep(time.Second)
		p.fails.Store(false)
		start := time.Now()
		_, err := c.Current(t.Context())
		require.NoError(t, err)
		require.Less(t, time.Since(start), 10*time.Second)
	})
}

func TestHandshakeDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstance(t)
		p := &platform{}
		p.fails.Store(true)
		c := attest.NewCertificate(attest.CertificateOptions{Service: service(p), Key: i.key, Statement: i.say})
		start := time.Now()
		_, err := c.Current(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 10*time.Second, time.Since(start))
		require.Zero(t, c.Made())
	})
}
