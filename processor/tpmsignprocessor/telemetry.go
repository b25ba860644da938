package tpmsignprocessor

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadata"
)

// cause says why a request went into the pending store.
type cause string

const (
	causeNotReady   cause = "not_ready"
	causeSlow       cause = "slow_signature"
	causeCallerGone cause = "caller_gone"
	causeDownstream cause = "downstream"
	causeShutdown   cause = "shutdown"
)

// kinds of things cleaned.
const (
	kindAttributes = "attributes"
	kindReceipts   = "receipts"
	kindScopes     = "scopes"
	kindStrings    = "strings"
	kindContainers = "containers"
	kindNaNs       = "nans"
)

// meters are the instruments of one stream. The attribute sets of what is
// counted for every request are made once.
type meters struct {
	*metadata.TelemetryBuilder
	stream attribute.KeyValue
	plain  metric.MeasurementOption
}

func newMeters(b *metadata.TelemetryBuilder, stream string) *meters {
	kv := attribute.String("stream", stream)
	return &meters{
		TelemetryBuilder: b,
		stream:           kv,
		plain:            metric.WithAttributeSet(attribute.NewSet(kv)),
	}
}

func (m *meters) with(key, value string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(m.stream, attribute.String(key, value)))
}

func (m *meters) signed(ctx context.Context, blocks, items int) {
	m.TpmsignSignedBlocks.Add(ctx, int64(blocks), m.plain)
	m.TpmsignSignedItems.Add(ctx, int64(items), m.plain)
}

func (m *meters) latency(ctx context.Context, d time.Duration) {
	m.TpmsignAddedLatency.Record(ctx, d.Seconds(), m.plain)
}

func (m *meters) refused(ctx context.Context, r reason.Reason) {
	m.TpmsignRefusedBlocks.Add(ctx, 1, m.with("reason", string(r)))
}

func (m *meters) pended(ctx context.Context, blocks int, c cause) {
	m.TpmsignPendedBlocks.Add(ctx, int64(blocks), m.with("cause", string(c)))
}

func (m *meters) spoke(ctx context.Context, k utterance) {
	m.TpmsignHeartbeats.Add(ctx, 1, m.with("kind", string(k)))
}

func (m *meters) cleaned(ctx context.Context, c digest.Cleaning) {
	for _, n := range [...]struct {
		kind  string
		count int
	}{
		{kindAttributes, c.Attributes},
		{kindReceipts, c.Receipts},
		{kindScopes, c.Scopes},
		{kindStrings, c.Strings},
		{kindContainers, c.Containers},
		{kindNaNs, c.NaNs},
	} {
		if n.count > 0 {
			m.TpmsignCleaned.Add(ctx, int64(n.count), m.with("kind", n.kind))
		}
	}
}

// addCleaning sums up what was done to the blocks of a request.
func addCleaning(sum *digest.Cleaning, c digest.Cleaning) {
	sum.Attributes += c.Attributes
	sum.Receipts += c.Receipts
	sum.Scopes += c.Scopes
	sum.Strings += c.Strings
	sum.Containers += c.Containers
	sum.NaNs += c.NaNs
}

// sampler lets one log line through per period and counts the others.
type sampler struct {
	next       atomic.Int64 // Unix ns
	suppressed atomic.Int64
}

const samplePeriod = 10 * time.Second

// check returns the fields to log with, or false to be silent.
func (s *sampler) check(now time.Time) ([]zap.Field, bool) {
	next := s.next.Load()
	wait := next - now.UnixNano() // more than a period when the clock was set back
	if 0 < wait && wait <= int64(samplePeriod) || !s.next.CompareAndSwap(next, now.Add(samplePeriod).UnixNano()) {
		s.suppressed.Add(1)
		return nil, false
	}
	return []zap.Field{zap.Int64("suppressed", s.suppressed.Swap(0))}, true
}
