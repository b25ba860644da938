package server

import (
	"context"
	_ "embed" // for openapi.yaml
	"net/http"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

//go:embed openapi.yaml
var openAPIFile []byte

func (s *Server) openAPI(c *call) error {
	return c.Bytes(http.StatusOK, "application/yaml", openAPIFile)
}

func (s *Server) registryKey(c *call) error {
	return c.Bytes(http.StatusOK, "application/x-pem-file", s.o.PublicKey)
}

// Health answers GET /health: the process is alive. Off names what protects and
// is switched off.
type Health struct {
	Status  string   `json:"status"` // ok
	Version string   `json:"version"`
	Off     []string `json:"off"`
}

func (s *Server) health(c *call) error {
	off := s.o.Off
	if off == nil {
		off = []string{}
	}
	return c.JSON(http.StatusOK, Health{Status: "ok", Version: s.o.Version, Off: off})
}

// Ready answers GET /ready when everything is there that requests need.
type Ready struct {
	Status string   `json:"status"` // ready
	Checks []string `json:"checks"`
}

func (s *Server) ready(c *call) error {
	if s.stopping.Load() {
		return api.Refuse(api.Busy, "the registry is shutting down")
	}
	names, err := s.checks.all(c.r.Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, Ready{Status: "ready", Checks: names})
}

func (s *Server) metrics(c *call) error {
	s.o.Metrics.Handler().ServeHTTP(c, c.r)
	return nil
}

// checks asks what the registry depends on, at most once in a while whoever asks.
type checks struct {
	every time.Duration
	list  []check

	mu    sync.Mutex
	asked time.Time
	err   error
}

type check struct {
	name string
	ask  func(context.Context) error
}

const (
	checkEvery   = time.Second
	checkTimeout = 5 * time.Second
)

func newChecks(o Options) *checks {
	c := &checks{every: checkEvery}
	if o.Store != nil {
		c.list = append(c.list, check{"store", o.Store.Ping})
	}
	if len(o.PublicKey) > 0 {
		c.list = append(c.list, check{"key", nil}) // it was read, or we were not here
	}
	if o.Collateral != nil {
		c.list = append(c.list, check{"collateral", o.Collateral})
	}
	return c
}

func (c *checks) all(ctx context.Context) (names []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.list {
		names = append(names, one.name)
	}
	if now := time.Now(); now.Sub(c.asked) >= c.every {
		c.asked, c.err = now, c.ask(ctx)
	}
	return names, c.err
}

func (c *checks) ask(ctx context.Context) error {
	// Others wait for the answer: who asked first may go away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	for _, one := range c.list {
		if one.ask == nil {
			continue
		}
		if err := one.ask(ctx); err != nil {
			reason := api.StoreUnavailable
			if one.name == "collateral" {
				reason = api.CollateralUnavailable
			}
			return &api.Error{Reason: reason, Detail: "not ready: " + one.name, Err: err}
		}
	}
	return nil
}
