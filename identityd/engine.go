package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapio"

	"github.com/telemark-otel/telemark/identityd/internal/config"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
)

// The pause before Podman's service is started again, which doubles.
const (
	minPause = time.Second
	maxPause = time.Minute
)

// engine is Podman's API: a service of our own, which is started again when it
// ends, or somebody else's.
type engine struct {
	socket  string
	options workload.ServiceOptions
	said    *tail // by the service
	logger  *zap.Logger

	mu      sync.Mutex
	service *workload.Service // nil when it is somebody else's, and after close; guarded by mu
}

func openEngine(ctx context.Context, c *config.Config, logger *zap.Logger) (*engine, error) {
	if c.PodmanSocket != "" {
		return &engine{socket: c.PodmanSocket}, nil
	}
	e := &engine{socket: filepath.Join(c.PodmanRun(), "podman.sock"), said: &tail{}, logger: logger}
	e.options = workload.ServiceOptions{
		Socket: e.socket, Root: c.PodmanDir(), Config: c.PodmanConfig,
		Output: io.MultiWriter(e.said, &zapio.Writer{Log: logger, Level: zap.DebugLevel}),
	}
	for _, dir := range []string{c.PodmanRun(), e.options.Root} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make podman's directories: %w", err)
		}
	}
	// Beside the run directory need not be in memory, where that is a mount of its
	// own: what podman keeps there decides what runs.
	if !c.Dev {
		if err := state.InMemory(c.PodmanRun()); err != nil {
			return nil, fmt.Errorf("podman's directory beside --run-dir: %w; mount a tmpfs there, or one above both", err)
		}
	}
	var err error
	e.service, err = e.start(ctx)
	return e, err
}

func (e *engine) start(ctx context.Context) (*workload.Service, error) {
	s, err := workload.StartService(ctx, e.options)
	if said := e.said.take(); err != nil && said != "" {
		err = fmt.Errorf("%w: it said %q", err, said)
	}
	return s, err
}

// keep starts the service again whenever it ends, until ctx does. Containers do
// not end with it.
func (e *engine) keep(ctx context.Context) {
	pause := minPause
	for {
		e.mu.Lock()
		s := e.service
		e.mu.Unlock()
		if s == nil {
			return
		}
		began := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-s.Ended():
		}
		if time.Since(began) > maxPause {
			pause = minPause
		}
		e.logger.Warn("Podman's service ended; it is started again.", zap.Duration("in", pause))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
		again, err := e.start(ctx)
		if err != nil {
			e.logger.Error("Podman's service did not start.", zap.Error(err))
			continue
		}
		e.mu.Lock()
		e.service = again
		e.mu.Unlock()
	}
}

func (e *engine) close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.service
	e.service = nil
	if s == nil {
		return nil
	}
	return s.Close()
}

// tail keeps the last of what is written to it. It serves any number of
// goroutines.
type tail struct {
	mu   sync.Mutex
	last []byte // guarded by mu
}

const maxTail = 1 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, b...)
	if over := len(t.last) - maxTail; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	return len(b), nil
}

func (t *tail) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := strings.TrimSpace(string(t.last))
	t.last = nil
	return out
}
