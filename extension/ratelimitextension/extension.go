package ratelimitextension

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/telemark-otel/telemark/extension/ratelimitextension/internal/metadata"
	"github.com/telemark-otel/telemark/internal/limit"
)

// Extension is middleware of servers. All servers that name it share its
// buckets. It works from its making on, since extensions that have servers may be
// started before it.
type Extension struct {
	cfg       *Config
	set       extension.Settings
	telemetry *metadata.TelemetryBuilder
	limiter   *limiter
}

var (
	_ extension.Extension            = (*Extension)(nil)
	_ extensionmiddleware.HTTPServer = (*Extension)(nil)
	_ extensionmiddleware.GRPCServer = (*Extension)(nil)
)

func newExtension(set extension.Settings, cfg *Config) (*Extension, error) {
	l, err := newLimiter(cfg)
	if err != nil {
		return nil, err
	}
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	return &Extension{cfg: cfg, set: set, telemetry: telemetry, limiter: l}, nil
}

// Start registers the metrics, which are read from the limiter when somebody
// asks for them.
func (e *Extension) Start(context.Context, component.Host) error {
	l, t := e.limiter, e.telemetry
	if err := t.RegisterRatelimitAdmittedRequestsCallback(func(_ context.Context, o metric.Int64Observer) error {
		for p := range protocols {
			o.Observe(clamp(l.admitted[p].Load()), metric.WithAttributes(attribute.Stringer("protocol", p)))
		}
		return nil
	}); err != nil {
		return err
	}
	if err := t.RegisterRatelimitRefusedRequestsCallback(func(_ context.Context, o metric.Int64Observer) error {
		for p := range protocols {
			for why := RequestRate; why < reasons; why++ {
				o.Observe(clamp(l.refused[p][why].Load()), metric.WithAttributes(attribute.Stringer("protocol", p), attribute.Stringer("reason", why)))
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := t.RegisterRatelimitBucketsCallback(func(_ context.Context, o metric.Int64Observer) error {
		o.Observe(int64(l.buckets()))
		return nil
	}); err != nil {
		return err
	}
	return t.RegisterRatelimitInFlightRequestsCallback(func(_ context.Context, o metric.Int64Observer) error {
		o.Observe(l.inFlight.Load())
		return nil
	})
}

func clamp(n uint64) int64 { return int64(min(n, 1<<62)) }

// Shutdown takes the metrics away. It may be called twice, and without Start.
func (e *Extension) Shutdown(context.Context) error {
	e.telemetry.Shutdown()
	return nil
}

// RateLimits returns the limits and how they stand, with at most fullest keys
// of each rule, of those of which most is used. Other extensions show it to
// whom they let see keys.
func (e *Extension) RateLimits(fullest int) limit.Status {
	return e.limiter.status(e.set.ID.String(), fullest, time.Now())
}
