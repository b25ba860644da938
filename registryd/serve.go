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
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/registryd/internal/config"
	"github.com/telemark-otel/telemark/registryd/internal/server"
	"github.com/telemark-otel/telemark/registryd/internal/tlsfiles"
)

// Times of the beginning and the end.
const (
	drainTimeout = 20 * time.Second
	startTimeout = time.Minute
)

// serve runs the registry until it is told to end.
func serve(cmd *cobra.Command, c *config.Config) error {
	if err := config.FromEnvironment(cmd.Flags()); err != nil {
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
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// From the beginning: a SIGHUP that nobody awaits would end the program.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	p, err := open(ctx, c, logger)
	if err != nil {
		return err
	}
	defer p.close()
	return daemon.Failed(p.listen(ctx, hangup))
}

// listen serves until ctx ends, and drains then.
func (p *program) listen(ctx context.Context, hangup <-chan os.Signal) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	// A second listener on the port would be a mistake to be told, so that
	// nothing runs before there is one.
	ln, err := net.Listen("tcp", p.config.Address()) //nolint:noctx // there is nothing to wait for
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	ln = httpd.Limit(ln, p.config.MaxConnections, p.config.Proxy)
	background.Go(func() { p.server.Run(work) })
	background.Go(func() { p.keepHouse(work) })
	background.Go(func() { p.reloadOnChange(work, hangup) })

	srv := newHTTP(p.server, p.tls, p.logger)
	served := make(chan error, 1)
	background.Go(func() {
		if p.tls != nil {
			served <- srv.ServeTLS(ln, "", "")
			return
		}
		served <- srv.Serve(ln)
	})
	p.logger.Info("Serving.", zap.String("address", ln.Addr().String()), zap.Bool("tls", p.tls != nil),
		zap.String("store", p.store.Kind()), zap.String("version", daemon.Version(version)), zap.Strings("off", p.off))

	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	p.logger.Info("Ending: requests that run are let through.")
	p.server.Stop()
	drain, end := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer end()
	if err := srv.Shutdown(drain); err != nil {
		p.logger.Warn("Not all requests came to their end.", zap.Error(err))
		_ = srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

func newHTTP(s *server.Server, files *tlsfiles.Files, logger *zap.Logger) *http.Server {
	srv := httpd.New(s, logger)
	if files != nil {
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: files.Config}
	}
	return srv
}
