package tpmverifyprocessor

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/processor/tpmverifyprocessor/internal/metadata"
)

// meters are the processor's own metrics with their attribute sets made once.
type meters struct {
	*metadata.TelemetryBuilder
	signal  metric.MeasurementOption
	adds    []metric.AddOption // signal, as counters take it
	record  []metric.RecordOption
	reasons map[reason.Reason]metric.MeasurementOption
}

func newMeters(set component.TelemetrySettings, id component.ID, signal block.Signal) (*meters, error) {
	b, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	m := &meters{TelemetryBuilder: b, reasons: map[reason.Reason]metric.MeasurementOption{}}
	of := []attribute.KeyValue{attribute.String("processor", id.String()), attribute.String("signal", signal.String())}
	m.signal = metric.WithAttributeSet(attribute.NewSet(of...))
	m.adds, m.record = []metric.AddOption{m.signal}, []metric.RecordOption{m.signal}
	for _, r := range reason.All() {
		m.reasons[r] = metric.WithAttributeSet(attribute.NewSet(append(of[:2:2], attribute.String("reason", string(r)))...))
	}
	return m, nil
}

func (m *meters) add(ctx context.Context, c metric.Int64Counter, n int64) {
	if n > 0 {
		c.Add(ctx, n, m.adds...)
	}
}

func (m *meters) refused(ctx context.Context, r reason.Reason) {
	m.TpmverifyRefusedBlocks.Add(ctx, 1, m.reasons[r])
}
