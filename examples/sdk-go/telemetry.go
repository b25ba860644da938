package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/log"
	nolog "go.opentelemetry.io/otel/log/noop"
	"go.opentelemetry.io/otel/metric"
	nometric "go.opentelemetry.io/otel/metric/noop"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	notrace "go.opentelemetry.io/otel/trace/noop"
)

// scope names what is instrumented.
const scope = "orders"

// telemetry is the SDK, set up for some signals; the others go nowhere.
type telemetry struct {
	tracer   trace.Tracer
	meter    metric.Meter
	logger   log.Logger
	shutdown []func(context.Context) error
}

func instrument(ctx context.Context, res *resource.Resource, signals []string) (*telemetry, error) {
	t := &telemetry{
		tracer: notrace.NewTracerProvider().Tracer(scope),
		meter:  nometric.NewMeterProvider().Meter(scope),
		logger: nolog.NewLoggerProvider().Logger(scope),
	}
	for _, s := range signals {
		if !slices.Contains([]string{"traces", "metrics", "logs"}, s) {
			return nil, fmt.Errorf("-signals: %q is none of traces, metrics and logs", s)
		}
	}
	if slices.Contains(signals, "traces") {
		exporter, err := otlptracegrpc.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("make the exporter of traces: %w", err)
		}
		p := sdktrace.NewTracerProvider(sdktrace.WithResource(res),
			sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(500*time.Millisecond), sdktrace.WithBlocking()))
		t.tracer, t.shutdown = p.Tracer(scope), append(t.shutdown, p.Shutdown)
	}
	if slices.Contains(signals, "metrics") {
		exporter, err := otlpmetricgrpc.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("make the exporter of metrics: %w", err)
		}
		p := sdkmetric.NewMeterProvider(sdkmetric.WithResource(res),
			sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(500*time.Millisecond))))
		t.meter, t.shutdown = p.Meter(scope), append(t.shutdown, p.Shutdown)
	}
	if slices.Contains(signals, "logs") {
		exporter, err := otlploggrpc.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("make the exporter of logs: %w", err)
		}
		p := sdklog.NewLoggerProvider(sdklog.WithResource(res),
			sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter, sdklog.WithExportInterval(200*time.Millisecond))))
		t.logger, t.shutdown = p.Logger(scope), append(t.shutdown, p.Shutdown)
	}
	return t, nil
}
