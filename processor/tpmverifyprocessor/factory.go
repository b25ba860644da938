package tpmverifyprocessor

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/processor/tpmverifyprocessor/internal/metadata"
)

// NewFactory returns the factory of tpmverify.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		metadata.Type,
		createDefaultConfig,
		processor.WithMetrics(createMetrics, metadata.MetricsStability),
		processor.WithLogs(createLogs, metadata.LogsStability),
		processor.WithTraces(createTraces, metadata.TracesStability),
	)
}

func createDefaultConfig() component.Config {
	return &Config{
		Mode:            ModeEnforce,
		Unsigned:        UnsignedDrop,
		Receipts:        ReceiptsStrip,
		Emit:            EmitAll,
		Keys:            defaultKeys(),
		RequireEvidence: "any",
		Freshness:       FreshnessConfig{Require: policy.Stale.String(), LiveWithin: policy.DefaultLiveWithin},
		Enrich:          EnrichConfig{Action: EnrichStrip},
		Attributes:      AttributesConfig{Verdict: true, Name: true},
		Park:            ParkConfig{MaxBytes: 64 << 20, Wait: 24 * time.Hour},
		InFlightWait:    500 * time.Millisecond,
		RefusalLog:      RefusalLogConfig{Interval: time.Minute, Burst: 5},
	}
}

func createMetrics(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	return newProcessor(set, cfg.(*Config), block.Metrics, func(ctx context.Context, b digest.Batch) error {
		return next.ConsumeMetrics(ctx, b.Metrics())
	})
}

func createLogs(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
	return newProcessor(set, cfg.(*Config), block.Logs, func(ctx context.Context, b digest.Batch) error {
		return next.ConsumeLogs(ctx, b.Logs())
	})
}

func createTraces(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
	return newProcessor(set, cfg.(*Config), block.Traces, func(ctx context.Context, b digest.Batch) error {
		return next.ConsumeTraces(ctx, b.Traces())
	})
}
