package tpmsignprocessor

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadata"
)

const (
	defaultMaxBlockItems     = 8192
	defaultHeartbeatInterval = 60 * time.Second
	defaultPendingMaxBytes   = 64 << 20
	defaultPendingMaxBlocks  = 100_000
	defaultPendingWait       = 2 * time.Second
)

// NewFactory returns the factory of the tpmsign processor.
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
		MaxBlockItems: defaultMaxBlockItems,
		Heartbeat:     HeartbeatConfig{Interval: defaultHeartbeatInterval},
		Pending: PendingConfig{
			MaxBytes:  defaultPendingMaxBytes,
			MaxBlocks: defaultPendingMaxBlocks,
			Wait:      defaultPendingWait,
			Copy:      copyAuto,
		},
	}
}

func createMetrics(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
	return newSigner(set, cfg.(*Config), block.Metrics, next.Capabilities(), func(ctx context.Context, b digest.Batch) error {
		return next.ConsumeMetrics(ctx, b.Metrics())
	})
}

func createLogs(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
	return newSigner(set, cfg.(*Config), block.Logs, next.Capabilities(), func(ctx context.Context, b digest.Batch) error {
		return next.ConsumeLogs(ctx, b.Logs())
	})
}

func createTraces(_ context.Context, set processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
	return newSigner(set, cfg.(*Config), block.Traces, next.Capabilities(), func(ctx context.Context, b digest.Batch) error {
		return next.ConsumeTraces(ctx, b.Traces())
	})
}
