package main

import (
	"bytes"
	"slices"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// Paths and fields of a LogRecord.
var (
	toRecord    = []int{toScopes, toItems}
	toAttribute = []int{toScopes, toItems, 6}
)

// hidden are blocks that carry what not every decoder shows. Where the
// Collector's decoder drops it, the block is the honest one behind it.
func hidden(b *book) {
	unknown(b)
	strindex(b)
	twice(b)
	numbers(b)
	ids(b)
	unreadable(b)
}

// tamper adds vectors in which bytes were put into an honest block.
type tamper struct {
	*book
	signal    block.Signal
	tolerance block.Tolerance
}

// everywhere: the decoder shows it or keeps it.
func (t tamper) everywhere(name, about string, change func([]byte) []byte) {
	t.attack(name, about, t.signal, t.tolerance, reason.HiddenField, func(s *scene) []byte { return change(s.honest.bytes()) })
}

// dropped: the decoder drops it, and the honest block is left.
func (t tamper) dropped(name, about string, change func([]byte) []byte) {
	t.attackSent(name, about, t.signal, t.tolerance, func(s *scene) sent {
		x := refused(change(s.honest.bytes()), reason.HiddenField)
		x.decoded = new(s.honest.verified())
		return x
	})
}

// decodedAs: the decoder makes something else of it.
func (t tamper) decodedAs(name, about string, why reason.Reason, change func([]byte) []byte) {
	t.attackSent(name, about, t.signal, t.tolerance, func(s *scene) sent {
		x := refused(change(s.honest.bytes()), reason.HiddenField)
		x.decoded = &vector.Block{Verdict: string(why)}
		return x
	})
}

// gone: the decoder refuses the request.
func (t tamper) gone(name, about string, why reason.Reason, change func([]byte) []byte) {
	t.attackSent(name, about, t.signal, t.tolerance, func(s *scene) sent {
		x := refused(change(s.honest.bytes()), why)
		x.gone = true
		return x
	})
}

func adding(more []byte, path ...int) func([]byte) []byte {
	return func(b []byte) []byte { return plus(b, more, path...) }
}

func unknown(b *book) {
	logs := tamper{b, block.Logs, 0}
	logs.dropped("hidden-in-block", "An unknown field in the block.", adding(varintField(99, 1)))
	logs.dropped("hidden-in-resource", "An unknown field in the resource.", adding(lenField(4, []byte("x")), toResource))
	logs.dropped("hidden-in-scope", "An unknown field in a scope.", adding(lenField(5, []byte("x")), toScopes, toScope))
	logs.dropped("hidden-in-record", "Field 4 of a log record, which old versions had.", adding(lenField(4, []byte("name")), toRecord...))
	logs.dropped("hidden-in-attribute", "An unknown field in an attribute.", adding(varintField(4, 1), toAttribute...))
	logs.dropped("hidden-in-value", "An unknown field in a value.", adding(varintField(9, 1), append(slices.Clone(toAttribute), keyValueAny)...))
	logs.dropped("hidden-group-empty", "A group, wire types 3 and 4, with nothing in it.", func(w []byte) []byte {
		return edit(w, func(m []byte) []byte { return slices.Concat(tag(20, wireGroup), tag(20, wireEnd), m) }, toRecord...)
	})
	logs.gone("hidden-group", "A group with a field in it.", reason.HiddenField,
		adding(slices.Concat(tag(20, wireGroup), varintField(1, 7), tag(20, wireEnd)), toRecord...))
	tamper{b, block.Traces, 0}.dropped("hidden-in-status", "Field 1 of a span's status, which old versions had.", func(w []byte) []byte {
		return plus(w, lenField(15, varintField(1, 2)), toRecord...)
	})
	tamper{b, block.Metrics, block.Split}.dropped("hidden-in-metric-split", "An unknown field in a metric, splitting is tolerated.", adding(varintField(4, 1), toRecord...))
	for _, signal := range signals {
		tamper{b, signal, 0}.dropped("hidden-1000-"+signal.String(), "Field 1000, where old versions had the scopes, holds another scope.", func(w []byte) []byte {
			return plus(w, lenField(1000, fields(w)[slices.IndexFunc(fields(w), func(f field) bool { return f.num == toScopes })].body))
		})
	}
}

func strindex(b *book) {
	logs := tamper{b, block.Logs, 0}
	toValue := append(slices.Clone(toAttribute), keyValueAny)
	logs.everywhere("hidden-key-index", "An attribute has a key and an index into a table of strings.", adding(varintField(3, 5), toAttribute...))
	logs.everywhere("hidden-key-index-alone", "An attribute has an index instead of a key.", func(w []byte) []byte {
		return plus(without(w, keyValueKey, toAttribute...), varintField(3, 5), toAttribute...)
	})
	logs.everywhere("hidden-key-index-in-resource", "A resource attribute has a key and an index.", adding(varintField(3, 1), toResource, 1))
	logs.everywhere("hidden-value-index", "A value is an index into a table of strings.", func(w []byte) []byte {
		return edit(w, func([]byte) []byte { return varintField(8, 5) }, toValue...)
	})
	logs.everywhere("hidden-value-index-zero", "A value is the index 0.", func(w []byte) []byte {
		return edit(w, func([]byte) []byte { return varintField(8, 0) }, toValue...)
	})
	logs.everywhere("hidden-value-index-in-array", "An index in an array, in an attribute that was added.", adding(
		lenField(6, slices.Concat(lenField(keyValueKey, []byte("x")), lenField(keyValueAny, lenField(5, lenField(1, varintField(8, 1)))))), toRecord...))
	tamper{b, block.Metrics, block.Split}.everywhere("hidden-key-index-in-metadata", "An index in the metadata of a metric, which split does not cover.",
		adding(varintField(3, 5), toScopes, toItems, 12))
	tamper{b, block.Logs, block.Enrich}.everywhere("hidden-key-index-in-added", "An index in a resource attribute that enrich lets through.", adding(
		lenField(1, slices.Concat(lenField(keyValueKey, []byte("zone")), varintField(3, 5))), toResource))

	a := newAgent("edge-a")
	s := a.one(sample(block.Logs, "edge-a"), 0)
	b.add("ok-key-index-zero", "key_strindex is there and 0: it says nothing, and decoders cannot tell it from absent.", block.Logs, a).
		step(arrival, sent{bytes: plus(s.bytes(), varintField(3, 0), toAttribute...), want: s.verified()})
}

// twice are fields that stand there more than once. The Collector's decoder
// takes the last one, except that it merges resources.
func twice(b *book) {
	logs := tamper{b, block.Logs, 0}
	front := func(first []byte, path ...int) func([]byte) []byte {
		return func(w []byte) []byte {
			return edit(w, func(m []byte) []byte { return slices.Concat(first, m) }, path...)
		}
	}
	logs.dropped("hidden-text-twice", "severity_text is there twice, the signed one is the last.", front(lenField(3, []byte("FATAL")), toRecord...))
	logs.dropped("hidden-value-twice", "A value is a number and then, what was signed, a text.", front(varintField(3, 7), append(slices.Clone(toAttribute), keyValueAny)...))
	logs.dropped("hidden-same-value-twice", "A value is a text and then, what was signed, another text.", front(lenField(1, []byte("/x")), append(slices.Clone(toAttribute), keyValueAny)...))
	logs.dropped("hidden-resource-twice", "A second resource, with nothing in it.", adding(lenField(toResource, nil)))
	logs.decodedAs("hidden-resource-merged", "A second resource, with an attribute.", reason.ResourceEnriched, adding(
		lenField(toResource, lenField(1, slices.Concat(lenField(keyValueKey, []byte("zone")), lenField(keyValueAny, lenField(1, []byte("1"))))))))

	packed := func(name, about string, change func(counts []byte) []byte) {
		b.attackSent(name, about, block.Metrics, 0, func(s *scene) sent {
			a := s.before.fork()
			x := a.one(onlyMetric("histogram"), 0)
			s.honest = x
			path := []int{toScopes, toItems, 9, 1}
			bad := refused(edit(x.bytes(), func(point []byte) []byte {
				fs := fields(point)
				i := slices.IndexFunc(fs, func(f field) bool { return f.num == 6 })
				return slices.Concat(message(fs[:i]), change(fs[i].body), message(fs[i+1:]))
			}, path...), reason.HiddenField)
			bad.decoded = new(x.verified())
			return bad
		})
	}
	packed("hidden-packed-in-pieces", "bucket_counts in two pieces; the signed counts are the last one.", func(counts []byte) []byte {
		return slices.Concat(lenField(6, fixed64s(9, 9)), lenField(6, counts))
	})
	packed("hidden-not-packed", "bucket_counts not packed, the counts are those signed.", func(counts []byte) []byte {
		var out []byte
		for c := range slices.Chunk(counts, 8) {
			out = append(out, field{6, wireEight, c}.encode()...)
		}
		return out
	})
	tamper{b, block.Metrics, 0}.dropped("hidden-two-kinds", "A metric is a gauge and then, what was signed, a sum.", func(w []byte) []byte {
		return edit(w, func(m []byte) []byte {
			return slices.Concat(lenField(5, lenField(1, field{6, wireEight, fixed64s(1)}.encode())), m)
		}, toRecord...)
	})
}

// numbers are numbers that are no numbers of their type.
func numbers(b *book) {
	logs := tamper{b, block.Logs, 0}
	logs.dropped("hidden-uint32-too-large", "dropped_attributes_count is 2^32, of which decoders keep 0.", adding(varintField(7, 1<<32), toRecord...))
	logs.dropped("hidden-enum-too-large", "severity_number is 2^32 more than it was, of which decoders keep the rest.", func(w []byte) []byte {
		return plus(without(w, 2, toRecord...), varintField(2, 1<<32+9), toRecord...)
	})
	logs.gone("hidden-wire-type", "flags are a varint instead of four bytes.", reason.HiddenField, adding(varintField(8, 1), toRecord...))
	long := append(bytes.Repeat([]byte{0x80}, 10), 0)
	logs.gone("hidden-varint-of-11-bytes", "dropped_attributes_count is a varint of 11 bytes.", reason.HiddenField,
		adding(append(tag(7, wireVarint), long...), toRecord...))
	tamper{b, block.Metrics, 0}.gone("hidden-packed-wire-type", "An exponential histogram's point has bucket counts of eight bytes each.", reason.HiddenField,
		adding(lenField(10, lenField(1, lenField(8, fixed64Field(2, 1)))), toRecord...))
}

// ids are ids of other lengths, which the Collector's decoder refuses.
func ids(b *book) {
	id := func(name, about string, signal block.Signal, num, length int, path ...int) {
		tamper{b, signal, 0}.gone(name, about, reason.InvalidID, func(w []byte) []byte {
			return plus(without(w, num, path...), lenField(num, bytes.Repeat([]byte{7}, length)), path...)
		})
	}
	id("id-trace-of-15-bytes", "A span's trace_id has 15 bytes.", block.Traces, 1, 15, toRecord...)
	id("id-span-of-9-bytes", "A log record's span_id has 9 bytes.", block.Logs, 10, 9, toRecord...)
	id("id-parent-of-16-bytes", "A span's parent_span_id has 16 bytes.", block.Traces, 4, 16, toRecord...)
	id("id-link-of-1-byte", "A link's span_id has one byte.", block.Traces, 2, 1, toScopes, toItems, 13)

	a := newAgent("edge-a")
	s := a.one(sample(block.Logs, "edge-a"), 0)
	b.add("ok-ids-of-zeros", "trace_id is 16 zero bytes and span_id is empty: both are absent.", block.Logs, a).
		step(arrival, sent{
			bytes: plus(without(without(s.bytes(), 9, toRecord...), 10, toRecord...), slices.Concat(lenField(9, make([]byte, 16)), lenField(10, nil)), toRecord...),
			want:  s.verified(),
		})
}

// unreadable are requests that are no OTLP. Nothing of them is accepted.
func unreadable(b *book) {
	for _, signal := range signals {
		s := newScene(signal, 0)
		whole := request(s.honest.bytes())
		b.add("unreadable-truncated-"+signal.String(), "The request ends in the middle of a block: decoders refuse it as a whole. Sent again whole, it is accepted.", signal, s.a).
			unreadable(arrival, whole[:len(whole)/2]).
			step(arrival, good(s.honest))
	}
	s := newScene(block.Logs, 0)
	b.add("unreadable-text", "The request is text.", block.Logs, s.a).unreadable(arrival, []byte(`{"resourceLogs":[]}`))
	b.add("unreadable-length", "A block says that it is longer than the request.", block.Logs, s.a).
		unreadable(arrival, append([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07}, s.honest.bytes()...))
}
