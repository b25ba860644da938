// Package proxy stands in front of the exposed port: it ends TLS with the
// instance's RA-TLS certificate (package ratls), so that whoever connects knows
// which VM it is and what runs in it, and hands requests on to the container, on
// loopback. Each answer carries the instance's key in the header
// x-instance-pubkey.
//
// Requests are read by net/http and written anew (RFC 9110, RFC 9112): what
// the container sees has one framing, whatever the client sent. HTTP/2 ends here;
// the container is spoken to by HTTP/1.1. Upgrades are for WebSockets (RFC 6455)
// only. It decides nothing about who may connect, and leaves out HTTP/3, trailers
// of requests that the client did not announce, CONNECT and TRACE.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/identity/api"
)

// Options of New.
type Options struct {
	Upstream netip.AddrPort // of the container, on loopback
	// Instance is the key of this boot, 32 bytes.
	Instance       []byte
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Connections that may be open at once, a quarter of them from one address; 0
	// is 1024.
	Connections int
	// HeaderTimeout bounds the handshake, the header of a request, and connecting
	// to the container; 0 is 10 s. IdleTimeout is for connections without a
	// request, 0 is 2 min. AnswerTimeout is how long the container may take to begin
	// an answer; 0 is 5 min. Bodies and streams may take as long as they like.
	HeaderTimeout, IdleTimeout, AnswerTimeout time.Duration
	MaxHeader                                 int // bytes, of requests and answers; 0 is 64 KiB

	Logger *zap.Logger
}

// Proxy is safe for concurrent use.
type Proxy struct {
	o      Options
	server *http.Server
}

// New returns a Proxy that listens to nothing yet.
func New(o Options) (*Proxy, error) {
	if !o.Upstream.IsValid() || !o.Upstream.Addr().IsLoopback() || o.Upstream.Port() == 0 {
		return nil, fmt.Errorf("the attested proxy's upstream %s is no port on loopback", o.Upstream)
	}
	if len(o.Instance) != 32 || o.GetCertificate == nil {
		return nil, errors.New("the attested proxy has no instance key or no certificate")
	}
	defaults(&o)
	log := zap.NewStdLog(o.Logger)
	p := &Proxy{o: o}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	p.server = &http.Server{
		Handler:           p.handler(log),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: o.GetCertificate, GetConfigForClient: notTheAPI},
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 128},
		ReadHeaderTimeout: o.HeaderTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    o.MaxHeader,
		ErrorLog:          log,
	}
	return p, nil
}

// notTheAPI refuses who asks for identityd itself: the key is the same here, and
// what answers is the workload.
func notTheAPI(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if strings.EqualFold(strings.TrimSuffix(hello.ServerName, "."), api.ServerName) {
		return nil, errors.New("operators and owners are led to the published port")
	}
	return nil, nil
}

func defaults(o *Options) {
	for _, d := range []struct {
		of *time.Duration
		is time.Duration
	}{{&o.HeaderTimeout, 10 * time.Second}, {&o.IdleTimeout, 2 * time.Minute}, {&o.AnswerTimeout, 5 * time.Minute}} {
		if *d.of == 0 {
			*d.of = d.is
		}
	}
	if o.Connections == 0 {
		o.Connections = 1024
	}
	if o.MaxHeader == 0 {
		o.MaxHeader = 64 << 10
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Serve answers on a listener until Close. It returns nil then.
func (p *Proxy) Serve(ln net.Listener) error {
	err := p.server.ServeTLS(httpd.Limit(ln, p.o.Connections, nil), "", "")
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the exposed port: %w", err)
}

// Close lets requests under way end until ctx does, and ends the rest:
// WebSockets are not waited for, nor told.
func (p *Proxy) Close(ctx context.Context) error {
	if err := p.server.Shutdown(ctx); err != nil {
		return errors.Join(err, p.server.Close())
	}
	return nil
}

func (p *Proxy) transport() *http.Transport {
	dialer := &net.Dialer{Timeout: p.o.HeaderTimeout}
	return &http.Transport{
		// Whatever a request names, it goes to the container, and not by way of a
		// proxy of the environment.
		Proxy: nil,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", p.o.Upstream.String())
		},
		DisableCompression:     true, // bodies pass as they are
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    128,
		IdleConnTimeout:        p.o.IdleTimeout,
		ResponseHeaderTimeout:  p.o.AnswerTimeout,
		MaxResponseHeaderBytes: int64(p.o.MaxHeader),
		ExpectContinueTimeout:  time.Second,
	}
}

func (p *Proxy) upstream() *url.URL {
	return &url.URL{Scheme: "http", Host: p.o.Upstream.String()}
}

var _ httputil.BufferPool = (*buffers)(nil)
