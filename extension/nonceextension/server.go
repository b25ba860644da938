package nonceextension

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/confighttp"
)

// server is one listener that serves.
type server struct {
	http *http.Server
	done sync.WaitGroup
}

// listen opens a listener and serves on it. key names it in errors.
func (e *Extension) listen(ctx context.Context, host component.Host, key string, cfg *confighttp.ServerConfig, handler http.Handler) error {
	refuse := confighttp.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, msg string, status int) {
		e.fail(w, status, codeOf(status), msg)
	})
	// ToServer writes defaults into what it is given.
	own := *cfg
	srv, err := own.ToServer(ctx, host.GetExtensions(), e.set.TelemetrySettings, handler, refuse)
	if err != nil {
		return fmt.Errorf("server of `%s`: %w", key, err)
	}
	ln, err := own.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("listen on `%s`: %w", key, err)
	}
	s := &server{http: srv}
	s.done.Go(func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(fmt.Errorf("serve on `%s`: %w", key, err)))
		}
	})
	e.servers = append(e.servers, s)
	return nil
}

// stop lets running requests end until ctx does.
func (s *server) stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.done.Wait()
	return err
}
