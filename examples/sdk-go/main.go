// Command sdk-go is an ordinary application instrumented with the
// OpenTelemetry SDK. It knows nothing of signing: it sends traces, metrics and logs
// to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, and prints as JSON how
// many spans it ended, orders it counted and records it logged.
//
//	OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 sdk-go -for 15s
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
)

// sent is what the application said.
type sent struct {
	Spans   int `json:"spans"`
	Orders  int `json:"orders"`  // value of the counter at the end
	Records int `json:"records"` // of the log
}

func main() {
	length := flag.Duration("for", 15*time.Second, "how long to run")
	rate := flag.Int("rate", 40, "orders per second; an order has three spans and a record")
	signals := flag.String("signals", "traces,metrics,logs", "what to send")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := run(ctx, *length, *rate, strings.Split(*signals, ","))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sdk-go:", err)
		os.Exit(1)
	}
}

// run ends only when everything was handed to the collector.
func run(ctx context.Context, length time.Duration, rate int, signals []string) (s sent, err error) {
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(attribute.String("service.name", "orders")))
	if err != nil {
		return s, fmt.Errorf("describe the resource: %w", err)
	}
	t, err := instrument(ctx, res, signals)
	if err != nil {
		return s, err
	}
	counter, err := t.meter.Int64Counter("orders.accepted", metric.WithUnit("{order}"), metric.WithDescription("Orders that were accepted."))
	if err != nil {
		return s, fmt.Errorf("make the counter: %w", err)
	}
	shop := &shop{tracer: t.tracer, counter: counter, logger: t.logger}

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
			shop.order(ctx, &s)
		}
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	var errs []error
	for _, shutdown := range t.shutdown {
		errs = append(errs, shutdown(flush))
	}
	if err := errors.Join(errs...); err != nil {
		return s, fmt.Errorf("hand over the last telemetry: %w", err)
	}
	return s, nil
}

type shop struct {
	tracer  trace.Tracer
	counter metric.Int64Counter
	logger  log.Logger
}

// order is one request with what it does.
func (p *shop) order(ctx context.Context, s *sent) {
	n := s.Orders
	ctx, root := p.tracer.Start(ctx, "POST /orders", trace.WithSpanKind(trace.SpanKindServer))
	root.SetAttributes(attribute.String("http.request.method", "POST"), attribute.Int("http.response.status_code", 201))
	_, query := p.tracer.Start(ctx, "INSERT orders", trace.WithSpanKind(trace.SpanKindClient))
	query.SetAttributes(attribute.String("db.system.name", "postgresql"), attribute.Float64("order.amount", float64(n%9000)/100))
	query.End()
	_, pay := p.tracer.Start(ctx, "charge card", trace.WithSpanKind(trace.SpanKindClient))
	if n%50 == 0 {
		pay.SetStatus(codes.Error, "card declined")
	}
	pay.End()
	root.AddEvent("order accepted")
	p.counter.Add(ctx, 1, metric.WithAttributes(attribute.String("currency", "EUR")))
	var record log.Record
	record.SetTimestamp(time.Now())
	record.SetSeverity(log.SeverityInfo)
	record.SetBody(attribute.StringValue("order accepted"))
	record.AddAttributes(attribute.Int("order.number", n))
	p.logger.Emit(ctx, record) // in the span
	root.End()
	s.Spans, s.Orders, s.Records = s.Spans+3, s.Orders+1, s.Records+1
}
