// Command sdk-go is an ordinary application instrumented with the
// OpenTelemetry SDK. It knows nothing of signing: it sends its traces to the
// collector that OTEL_EXPORTER_OTLP_ENDPOINT names, and prints how many spans
// it ended.
//
//	OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 sdk-go -for 15s
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

func main() {
	length := flag.Duration("for", 15*time.Second, "how long to run")
	rate := flag.Int("rate", 40, "orders per second; an order has three spans")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	spans, err := run(ctx, *length, *rate)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sdk-go:", err)
		os.Exit(1)
	}
	fmt.Println(spans)
}

// run ends only when every span was handed to the collector.
func run(ctx context.Context, length time.Duration, rate int) (spans int, err error) {
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return 0, fmt.Errorf("make the exporter: %w", err)
	}
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(attribute.String("service.name", "orders")))
	if err != nil {
		return 0, fmt.Errorf("describe the resource: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(500*time.Millisecond), sdktrace.WithBlocking()),
	)
	otel.SetTracerProvider(provider)
	tracer := otel.Tracer("orders")

	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	end := time.After(length)
loop:
	for {
		select {
		case <-ctx.Done():
			break loop
		case <-end:
			break loop
		case <-tick.C:
			spans += order(ctx, tracer, spans)
		}
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := provider.Shutdown(flush); err != nil {
		return spans, fmt.Errorf("hand over the last spans: %w", err)
	}
	return spans, nil
}

// order is one request with what it does; n tells orders apart.
func order(ctx context.Context, tracer trace.Tracer, n int) (spans int) {
	ctx, root := tracer.Start(ctx, "POST /orders", trace.WithSpanKind(trace.SpanKindServer))
	root.SetAttributes(attribute.String("http.request.method", "POST"), attribute.Int("http.response.status_code", 201))
	_, query := tracer.Start(ctx, "INSERT orders", trace.WithSpanKind(trace.SpanKindClient))
	query.SetAttributes(attribute.String("db.system.name", "postgresql"), attribute.Float64("order.amount", float64(n%9000)/100))
	query.End()
	_, pay := tracer.Start(ctx, "charge card", trace.WithSpanKind(trace.SpanKindClient))
	if n%50 == 0 {
		pay.SetStatus(codes.Error, "card declined")
	}
	pay.End()
	root.AddEvent("order accepted")
	root.End()
	return 3
}
