package digest

import (
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// walkTraces walks a ResourceSpans.
//
//	1 resource · 2 scope_spans · 3 schema_url
func (w *walker) walkTraces(rs ptrace.ResourceSpans) {
	b := w.buf[:0]
	if !w.split {
		b = w.begin(b, domainBlock, nil)
	}
	b, n := w.resource(b, rs.Resource())
	w.size = 1 + sov(n) + n
	scopes := rs.ScopeSpans()
	for i := range scopes.Len() {
		b, n = w.scopeSpans(b, scopes.At(i))
		w.size += 1 + sov(n) + n
	}
	b, n = w.schemaURL(b, rs.SchemaUrl())
	w.size += n
	w.finish(b)
}

// scopeSpans emits an element of scope_spans with its tag.
//
//	1 scope · 2 spans · 3 schema_url
func (w *walker) scopeSpans(b []byte, ss ptrace.ScopeSpans) ([]byte, int) {
	w.foundScope(ss.Scope())
	spans := ss.Spans()
	if spans.Len() == 0 {
		w.empty++
	}
	if !w.split {
		b = append(w.room(b), 0x12)
	}
	b, n := w.scope(b, ss.Scope())
	size := 1 + sov(n) + n
	w.sizes = 0
	for i := range spans.Len() {
		b = w.closeItem(w.span(w.openItem(b, 0x12), spans.At(i)))
	}
	size += w.sizes
	b, n = w.schemaURL(b, ss.SchemaUrl())
	size += n
	if !w.split {
		b = append(w.room(b), 0)
	}
	return b, size
}

// span emits a Span.
//
//	1 trace_id · 2 span_id · 3 trace_state · 4 parent_span_id · 5 name · 6 kind
//	7 start_time · 8 end_time · 9 attributes · 10 dropped_attributes_count
//	11 events · 12 dropped_events_count · 13 links · 14 dropped_links_count
//	15 status · 16 flags
func (w *walker) span(b []byte, s ptrace.Span) []byte {
	b = w.traceID(b, 0x0a, s.TraceID())
	b = w.spanID(b, 0x12, s.SpanID())
	b = w.strField(b, 0x1a, s.TraceState().AsRaw())
	b = w.spanID(b, 0x22, s.ParentSpanID())
	b = w.strField(b, 0x2a, s.Name())
	b = varintField(b, 0x30, uint64(int64(s.Kind())))
	b = u64Field(b, 0x39, uint64(s.StartTimestamp()))
	b = u64Field(b, 0x41, uint64(s.EndTimestamp()))
	b = w.attrs(b, 0x4a, s.Attributes(), 1)
	b = varintField(b, 0x50, uint64(s.DroppedAttributesCount()))
	events := s.Events()
	for i := range events.Len() {
		b = w.event(append(w.room(b), 0x5a), events.At(i))
	}
	b = varintField(b, 0x60, uint64(s.DroppedEventsCount()))
	links := s.Links()
	for i := range links.Len() {
		b = w.link(append(w.room(b), 0x6a), links.At(i))
	}
	b = varintField(w.room(b), 0x70, uint64(s.DroppedLinksCount()))
	b = w.status(b, s.Status())
	if f := s.Flags(); f != 0 {
		b = append(b, 0x85, 0x01, byte(f), byte(f>>8), byte(f>>16), byte(f>>24))
	}
	return b
}

// status emits the field status of a span.
//
//	2 message · 3 code
func (w *walker) status(b []byte, s ptrace.Status) []byte {
	code, message := s.Code(), s.Message()
	if code == 0 && message == "" {
		w.fix += 2
		return b
	}
	b = append(b, 0x7a)
	p, f := w.pos(b), w.fix
	b = w.strField(b, 0x12, message)
	b = varintField(b, 0x18, uint64(int64(code)))
	return w.endNested(b, p, f)
}

// event emits an element of events, after its tag.
//
//	1 time · 2 name · 3 attributes · 4 dropped_attributes_count
func (w *walker) event(b []byte, e ptrace.SpanEvent) []byte {
	p, f := w.pos(b), w.fix
	b = u64Field(b, 0x09, uint64(e.Timestamp()))
	b = w.strField(b, 0x12, e.Name())
	b = w.attrs(b, 0x1a, e.Attributes(), 1)
	b = varintField(b, 0x20, uint64(e.DroppedAttributesCount()))
	return w.endNested(b, p, f)
}

// link emits an element of links, after its tag.
//
//	1 trace_id · 2 span_id · 3 trace_state · 4 attributes
//	5 dropped_attributes_count · 6 flags
func (w *walker) link(b []byte, l ptrace.SpanLink) []byte {
	p, f := w.pos(b), w.fix
	b = w.traceID(b, 0x0a, l.TraceID())
	b = w.spanID(b, 0x12, l.SpanID())
	b = w.strField(b, 0x1a, l.TraceState().AsRaw())
	b = w.attrs(b, 0x22, l.Attributes(), 1)
	b = varintField(b, 0x28, uint64(l.DroppedAttributesCount()))
	b = u32Field(b, 0x35, l.Flags())
	return w.endNested(b, p, f)
}
