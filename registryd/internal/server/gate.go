package server

import (
	"context"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/metrics"
)

// maxWait is how long a request waits for its verification to begin.
const maxWait = 2 * time.Second

// gate bounds verifications that run at once, and those that wait. It serves
// any number of goroutines.
type gate struct {
	running chan struct{}
	waiting chan struct{}
	metrics *metrics.Metrics
}

func newGate(n int, m *metrics.Metrics) *gate {
	return &gate{running: make(chan struct{}, n), waiting: make(chan struct{}, 8*n), metrics: m}
}

// run runs fn when there is room for it.
func (g *gate) run(ctx context.Context, kind string, fn func() error) error {
	if err := g.enter(ctx); err != nil {
		return err
	}
	g.metrics.Running.Inc()
	began := time.Now()
	// A panic must not take the place with it.
	outcome := "panic"
	defer func() {
		<-g.running
		g.metrics.Running.Dec()
		g.metrics.Verified(kind, outcome, time.Since(began))
	}()
	err := fn()
	outcome = "ok"
	if err != nil {
		outcome = string(refusalOf(err).Reason)
	}
	return err
}

func (g *gate) enter(ctx context.Context) error {
	select {
	case g.running <- struct{}{}:
		return nil
	default:
	}
	select {
	case g.waiting <- struct{}{}:
	default:
		return api.Refuse(api.Busy, "%d verifications run, and %d wait", cap(g.running), cap(g.waiting))
	}
	g.metrics.Waiting.Inc()
	defer func() {
		<-g.waiting
		g.metrics.Waiting.Dec()
	}()
	t := time.NewTimer(maxWait)
	defer t.Stop()
	select {
	case g.running <- struct{}{}:
		return nil
	case <-t.C:
		return api.Refuse(api.Busy, "no verification came to its end within %s", maxWait)
	case <-ctx.Done():
		return api.Because(api.Busy, ctx.Err())
	}
}
