package digest

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// Block is one ResourceMetrics, ResourceLogs or ResourceSpans.
type Block struct {
	signal  block.Signal
	metrics pmetric.ResourceMetrics
	logs    plog.ResourceLogs
	traces  ptrace.ResourceSpans
}

// Signal returns the kind of telemetry in the block.
func (b Block) Signal() block.Signal { return b.signal }

// Metrics returns the block itself; only valid for its signal.
func (b Block) Metrics() pmetric.ResourceMetrics { return b.metrics }

// Logs returns the block itself; only valid for its signal.
func (b Block) Logs() plog.ResourceLogs { return b.logs }

// Traces returns the block itself; only valid for its signal.
func (b Block) Traces() ptrace.ResourceSpans { return b.traces }

// Attributes returns the attributes of the resource.
func (b Block) Attributes() pcommon.Map { return b.resource().Attributes() }

func (b Block) resource() pcommon.Resource {
	switch b.signal {
	case block.Metrics:
		return b.metrics.Resource()
	case block.Logs:
		return b.logs.Resource()
	default:
		return b.traces.Resource()
	}
}

func (b Block) schemaURL() string {
	switch b.signal {
	case block.Metrics:
		return b.metrics.SchemaUrl()
	case block.Logs:
		return b.logs.SchemaUrl()
	default:
		return b.traces.SchemaUrl()
	}
}

func (b Block) walk(w *walker) {
	switch b.signal {
	case block.Metrics:
		w.walkMetrics(b.metrics)
	case block.Logs:
		w.walkLogs(b.logs)
	default:
		w.walkTraces(b.traces)
	}
}

func (b Block) protoSize() int {
	switch b.signal {
	case block.Metrics:
		return (&pmetric.ProtoMarshaler{}).ResourceMetricsSize(b.metrics)
	case block.Logs:
		return (&plog.ProtoMarshaler{}).ResourceLogsSize(b.logs)
	default:
		return (&ptrace.ProtoMarshaler{}).ResourceSpansSize(b.traces)
	}
}

func (b Block) moveTo(dst Block) {
	switch b.signal {
	case block.Metrics:
		b.metrics.MoveTo(dst.metrics)
	case block.Logs:
		b.logs.MoveTo(dst.logs)
	default:
		b.traces.MoveTo(dst.traces)
	}
}

// CopyTo appends a copy of the block to dst.
func (b Block) CopyTo(dst Batch) {
	to := dst.append()
	switch b.signal {
	case block.Metrics:
		b.metrics.CopyTo(to.metrics)
	case block.Logs:
		b.logs.CopyTo(to.logs)
	default:
		b.traces.CopyTo(to.traces)
	}
}

// Items returns the number of data points, log records or spans.
func (b Block) Items() int {
	n := 0
	switch b.signal {
	case block.Metrics:
		for _, sm := range b.metrics.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				n += pointCount(m)
			}
		}
	case block.Logs:
		for _, sl := range b.logs.ScopeLogs().All() {
			n += sl.LogRecords().Len()
		}
	default:
		for _, ss := range b.traces.ScopeSpans().All() {
			n += ss.Spans().Len()
		}
	}
	return n
}

func pointCount(m pmetric.Metric) int {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		return m.Summary().DataPoints().Len()
	default:
		return 0
	}
}

// Proof is what a resource carries of a signer: copies of the raw bytes.
type Proof struct {
	Receipt  []byte // nil when there is none
	Manifest []byte // nil when there is none
}

// Proof reads receipt and manifest without removing them. It refuses
// (receipt_not_unique, receipt_wrong_type, in this order) what is there twice
// or not as bytes.
func (b Block) Proof() (Proof, error) {
	var receipt, manifest, wrong pcommon.Value
	for k, v := range b.Attributes().All() {
		var to *pcommon.Value
		switch k {
		case block.AttrReceipt:
			to = &receipt
		case block.AttrManifest:
			to = &manifest
		default:
			continue
		}
		if *to != (pcommon.Value{}) {
			return Proof{}, reason.New(reason.ReceiptNotUnique, "%s stands in the resource twice", k)
		}
		if *to = v; v.Type() != pcommon.ValueTypeBytes {
			wrong = v
		}
	}
	if wrong != (pcommon.Value{}) {
		return Proof{}, reason.New(reason.ReceiptWrongType, "receipt or manifest is of type %s", wrong.Type())
	}
	return Proof{Receipt: rawBytes(receipt), Manifest: rawBytes(manifest)}, nil
}

// rawBytes copies what v holds: nil when there is no v, and not nil when it is empty.
func rawBytes(v pcommon.Value) []byte {
	if v == (pcommon.Value{}) {
		return nil
	}
	if raw := v.Bytes().AsRaw(); raw != nil {
		return raw
	}
	return []byte{}
}

// Attach puts the proof at the end of the resource's attributes, which must
// hold none.
func (b Block) Attach(p Proof) {
	attrs := b.Attributes()
	if p.Manifest != nil {
		attrs.PutEmptyBytes(block.AttrManifest).FromRaw(p.Manifest)
	}
	if p.Receipt != nil {
		attrs.PutEmptyBytes(block.AttrReceipt).FromRaw(p.Receipt)
	}
}

// StripProof removes every receipt and manifest attribute of the resource.
func (b Block) StripProof() {
	b.Attributes().RemoveIf(func(k string, _ pcommon.Value) bool { return proofKey(k) })
}
