package digest

import (
	"fmt"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
)

// Batch is one request of any signal: pmetric.Metrics, plog.Logs or
// ptrace.Traces, so that the components are written once and not three times.
type Batch struct {
	signal  block.Signal
	metrics pmetric.Metrics
	logs    plog.Logs
	traces  ptrace.Traces
}

// FromMetrics wraps md without copying.
func FromMetrics(md pmetric.Metrics) Batch { return Batch{signal: block.Metrics, metrics: md} }

// FromLogs wraps ld without copying.
func FromLogs(ld plog.Logs) Batch { return Batch{signal: block.Logs, logs: ld} }

// FromTraces wraps td without copying.
func FromTraces(td ptrace.Traces) Batch { return Batch{signal: block.Traces, traces: td} }

// NewBatch returns an empty batch.
func NewBatch(s block.Signal) Batch {
	switch s {
	case block.Metrics:
		return FromMetrics(pmetric.NewMetrics())
	case block.Logs:
		return FromLogs(plog.NewLogs())
	default:
		return FromTraces(ptrace.NewTraces())
	}
}

// UnmarshalBatch reads an OTLP protobuf MetricsData, LogsData or TracesData.
func UnmarshalBatch(s block.Signal, protobuf []byte) (Batch, error) {
	switch s {
	case block.Metrics:
		md, err := (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(protobuf)
		return FromMetrics(md), err
	case block.Logs:
		ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(protobuf)
		return FromLogs(ld), err
	case block.Traces:
		td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(protobuf)
		return FromTraces(td), err
	default:
		return Batch{}, fmt.Errorf("unmarshal a batch of %v", s)
	}
}

// Marshal returns the OTLP protobuf bytes.
func (b Batch) Marshal() ([]byte, error) {
	switch b.signal {
	case block.Metrics:
		return (&pmetric.ProtoMarshaler{}).MarshalMetrics(b.metrics)
	case block.Logs:
		return (&plog.ProtoMarshaler{}).MarshalLogs(b.logs)
	default:
		return (&ptrace.ProtoMarshaler{}).MarshalTraces(b.traces)
	}
}

// Signal returns the kind of telemetry in the batch.
func (b Batch) Signal() block.Signal { return b.signal }

// Metrics returns the batch as it was wrapped; only valid for its signal.
func (b Batch) Metrics() pmetric.Metrics { return b.metrics }

// Logs returns the batch as it was wrapped; only valid for its signal.
func (b Batch) Logs() plog.Logs { return b.logs }

// Traces returns the batch as it was wrapped; only valid for its signal.
func (b Batch) Traces() ptrace.Traces { return b.traces }

// Len returns the number of blocks.
func (b Batch) Len() int {
	switch b.signal {
	case block.Metrics:
		return b.metrics.ResourceMetrics().Len()
	case block.Logs:
		return b.logs.ResourceLogs().Len()
	default:
		return b.traces.ResourceSpans().Len()
	}
}

// At returns block i.
func (b Batch) At(i int) Block {
	switch b.signal {
	case block.Metrics:
		return Block{signal: b.signal, metrics: b.metrics.ResourceMetrics().At(i)}
	case block.Logs:
		return Block{signal: b.signal, logs: b.logs.ResourceLogs().At(i)}
	default:
		return Block{signal: b.signal, traces: b.traces.ResourceSpans().At(i)}
	}
}

// Items returns the number of data points, log records or spans.
func (b Batch) Items() int {
	switch b.signal {
	case block.Metrics:
		return b.metrics.DataPointCount()
	case block.Logs:
		return b.logs.LogRecordCount()
	default:
		return b.traces.SpanCount()
	}
}

// Size returns the number of protobuf bytes.
func (b Batch) Size() int {
	switch b.signal {
	case block.Metrics:
		return (&pmetric.ProtoMarshaler{}).MetricsSize(b.metrics)
	case block.Logs:
		return (&plog.ProtoMarshaler{}).LogsSize(b.logs)
	default:
		return (&ptrace.ProtoMarshaler{}).TracesSize(b.traces)
	}
}

// Filter removes in place the blocks for which keep answers false; keep sees
// each index of before the call, ascending.
func (b Batch) Filter(keep func(i int) bool) {
	i := -1
	drop := func() bool {
		i++
		return !keep(i)
	}
	switch b.signal {
	case block.Metrics:
		b.metrics.ResourceMetrics().RemoveIf(func(pmetric.ResourceMetrics) bool { return drop() })
	case block.Logs:
		b.logs.ResourceLogs().RemoveIf(func(plog.ResourceLogs) bool { return drop() })
	default:
		b.traces.ResourceSpans().RemoveIf(func(ptrace.ResourceSpans) bool { return drop() })
	}
}

// append adds an empty block.
func (b Batch) append() Block {
	switch b.signal {
	case block.Metrics:
		return Block{signal: b.signal, metrics: b.metrics.ResourceMetrics().AppendEmpty()}
	case block.Logs:
		return Block{signal: b.signal, logs: b.logs.ResourceLogs().AppendEmpty()}
	default:
		return Block{signal: b.signal, traces: b.traces.ResourceSpans().AppendEmpty()}
	}
}

// MoveBlock moves block i of b to the end of dst (b's block is left empty).
func (b Batch) MoveBlock(i int, dst Batch) { b.At(i).moveTo(dst.append()) }
