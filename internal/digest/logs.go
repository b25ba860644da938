package digest

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// walkLogs walks a ResourceLogs.
//
//	1 resource · 2 scope_logs · 3 schema_url
func (w *walker) walkLogs(rl plog.ResourceLogs) {
	b := w.buf[:0]
	if !w.split {
		b = w.begin(b, domainBlock, nil)
	}
	b, n := w.resource(b, rl.Resource())
	w.size = 1 + sov(n) + n
	scopes := rl.ScopeLogs()
	for i := range scopes.Len() {
		b, n = w.scopeLogs(b, scopes.At(i))
		w.size += 1 + sov(n) + n
	}
	b, n = w.schemaURL(b, rl.SchemaUrl())
	w.size += n
	w.finish(b)
}

// scopeLogs emits an element of scope_logs with its tag.
//
//	1 scope · 2 log_records · 3 schema_url
func (w *walker) scopeLogs(b []byte, sl plog.ScopeLogs) ([]byte, int) {
	w.foundScope(sl.Scope())
	records := sl.LogRecords()
	if records.Len() == 0 {
		w.empty++
	}
	if !w.split {
		b = append(w.room(b), 0x12)
	}
	b, n := w.scope(b, sl.Scope())
	size := 1 + sov(n) + n
	w.sizes = 0
	for i := range records.Len() {
		b = w.closeItem(w.logRecord(w.openItem(b, 0x12), records.At(i)))
	}
	size += w.sizes
	b, n = w.schemaURL(b, sl.SchemaUrl())
	size += n
	if !w.split {
		b = append(w.room(b), 0)
	}
	return b, size
}

// logRecord emits a LogRecord.
//
//	1 time · 2 severity_number · 3 severity_text · 5 body · 6 attributes
//	7 dropped_attributes_count · 8 flags · 9 trace_id · 10 span_id
//	11 observed_time · 12 event_name
func (w *walker) logRecord(b []byte, lr plog.LogRecord) []byte {
	b = u64Field(b, 0x09, uint64(lr.Timestamp()))
	b = varintField(b, 0x10, uint64(int64(lr.SeverityNumber())))
	b = w.strField(b, 0x1a, lr.SeverityText())
	if body := lr.Body(); body.Type() != pcommon.ValueTypeEmpty {
		b = append(b, 0x2a)
		p, f := w.pos(b), w.fix
		b = w.value(b, body, 1)
		w.fix += sov(w.pos(b) - p + w.fix - f)
	} else {
		w.fix += 2
	}
	b = w.attrs(b, 0x32, lr.Attributes(), 1)
	b = varintField(w.room(b), 0x38, uint64(lr.DroppedAttributesCount()))
	b = u32Field(b, 0x45, uint32(lr.Flags()))
	b = w.traceID(b, 0x4a, lr.TraceID())
	b = w.spanID(b, 0x52, lr.SpanID())
	b = u64Field(b, 0x59, uint64(lr.ObservedTimestamp()))
	return w.strField(b, 0x62, lr.EventName())
}
