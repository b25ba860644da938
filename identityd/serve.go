package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/identityd/internal/config"
	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/internal/httpd"
)

// Times of the end, from the signal on: requests under way have the first, and
// all parts the second. At the third the process ends whatever is left, which the
// next start takes down.
const (
	drainTimeout = 6 * time.Second
	closeTimeout = 18 * time.Second
	endTimeout   = 20 * time.Second
)

// serve runs the service until it is told to end. A second signal ends it at
// once.
func serve(cmd *cobra.Command, c *config.Config) error {
	if err := config.Variables.Apply(cmd.Flags()); err != nil {
		return err
	}
	if err := c.Validate(); err != nil {
		return err
	}
	logger, err := daemon.NewLogger(c.LogLevel)
	if err != nil {
		return err
	}
	defer logger.Sync() //nolint:errcheck // standard error may be a terminal
	if err := noDumps(); err != nil {
		return daemon.Failed(err)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	// A second service on the ports would be a mistake to be told before anything
	// is touched.
	doors, err := listen(c)
	if err != nil {
		return daemon.Failed(err)
	}
	defer doors.close()
	p, err := open(ctx, c, doors, logger)
	if err != nil {
		return err
	}
	served := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		err := p.serve(ctx)
		close(served)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout-drainTimeout)
		defer cancel()
		ended <- errors.Join(err, p.close(end))
	}()
	select {
	case <-ctx.Done():
	case <-served:
	}
	select {
	case err := <-ended:
		return daemon.Failed(err)
	case <-time.After(endTimeout):
		return daemon.Failed(fmt.Errorf("not everything came to its end within %s; the next start takes down what is left", endTimeout))
	}
}

// noDumps keeps the kernel from writing this process's memory to the host's disk,
// and the memory of all that are started from here: podman's service, and the
// workload with it. 1 also keeps it from starting a program that takes dumps
// (core(5)); 0 does not.
func noDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}); err != nil {
		return fmt.Errorf("allow no core dumps: %w", err)
	}
	return nil
}

// doors are the listeners.
type doors struct {
	plain   net.Listener
	tls     net.Listener // nil without
	publish net.Listener // of the proxy, nil without
}

func listen(c *config.Config) (_ *doors, err error) {
	d := &doors{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for _, l := range []struct {
		flag, address string
		into          *net.Listener
	}{{"listen", c.Listen, &d.plain}, {"tls-listen", c.TLSListen, &d.tls}, {"publish-tls", c.PublishTLS, &d.publish}} {
		if l.address == "" {
			continue
		}
		ln, err := net.Listen("tcp", l.address) //nolint:noctx // there is nothing to wait for
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", l.flag, err)
		}
		*l.into = ln
	}
	return d, nil
}

func (d *doors) close() {
	for _, ln := range []net.Listener{d.plain, d.tls, d.publish} {
		if ln != nil {
			_ = ln.Close() // it may be closed already
		}
	}
}

// serve serves until ctx ends or a listener fails, and lets requests under way
// come to their end then.
func (p *program) serve(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer p.background.Wait()
	defer cancel()
	p.background.Go(func() { p.engine.keep(work) })
	if p.tlsHash != nil {
		p.background.Go(func() { p.certificate.Run(work) })
	}
	if p.registrar != nil {
		p.background.Go(func() { p.registrar.Run(work) })
	}
	plain, secure := httpd.New(p.server, p.logger), httpd.New(p.server, p.logger)
	secure.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: p.certificate.Get}
	failed := make(chan error, 3)
	run := func(what string, serve func() error) {
		p.background.Go(func() {
			if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	run("serve", func() error { return plain.Serve(httpd.Limit(p.doors.plain, p.config.MaxConnections, nil)) })
	if p.doors.tls != nil {
		run("serve TLS", func() error { return secure.ServeTLS(httpd.Limit(p.doors.tls, p.config.MaxConnections, nil), "", "") })
	}
	if p.proxy != nil {
		run("serve the proxy", func() error { return p.proxy.Serve(p.doors.publish) })
	}
	p.logger.Info("Serving.", p.facts()...)

	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	p.logger.Info("Ending: requests under way are let through, steps that can be undone are undone. A second signal ends at once.")
	p.server.Stop()
	drain, end := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer end()
	p.drain(drain, plain, secure)
	return err
}

// drain closes everything that is served, at once, since each may take its time.
func (p *program) drain(ctx context.Context, servers ...*http.Server) {
	done := make(chan error, len(servers)+1)
	for _, s := range servers {
		go func() { done <- errors.Join(s.Shutdown(ctx), s.Close()) }()
	}
	go func() {
		if p.proxy == nil {
			done <- nil
			return
		}
		done <- p.proxy.Close(ctx)
	}()
	for range cap(done) {
		if err := <-done; err != nil {
			p.logger.Warn("Not all requests came to their end.", zap.Error(err))
		}
	}
}
