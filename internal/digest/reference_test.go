package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/telemark-otel/telemark/internal/block"
)

// The reference knows no message of OTLP but KeyValue, AnyValue and Resource:
// it applies the rules of docs/spec/digest.md to the descriptors. What it and
// the walk over pdata agree on is what the specification says.

// refC returns C of m as a top-level message.
func refC(m protoreflect.Message, keys []string) []byte {
	if kv, ok := m.Interface().(*commonpb.KeyValue); ok {
		out := append(protowire.AppendVarint(nil, uint64(len(kv.GetKey()))), kv.GetKey()...)
		return append(out, refAny(kv.GetValue())...)
	}
	if v, ok := m.Interface().(*commonpb.AnyValue); ok {
		return refAny(v)
	}
	if r, ok := m.Interface().(*resourcepb.Resource); ok {
		m = refResource(r, keys).ProtoReflect()
	}
	var out []byte
	for _, fd := range refFields(m) {
		out = append(out, refField(m, fd, keys)...)
	}
	return out
}

// refFields lists the fields in ascending order of their numbers.
func refFields(m protoreflect.Message) []protoreflect.FieldDescriptor {
	var fds []protoreflect.FieldDescriptor
	for i := range m.Descriptor().Fields().Len() {
		fds = append(fds, m.Descriptor().Fields().Get(i))
	}
	slices.SortFunc(fds, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number() - b.Number()) })
	return fds
}

// refResource leaves out the proof and, unless keys is nil, what is not in keys.
func refResource(r *resourcepb.Resource, keys []string) *resourcepb.Resource {
	r = proto.CloneOf(r)
	r.Attributes = slices.DeleteFunc(r.Attributes, func(kv *commonpb.KeyValue) bool {
		if kv.GetKey() == block.AttrReceipt || kv.GetKey() == block.AttrManifest {
			return true
		}
		return keys != nil && !slices.Contains(keys, kv.GetKey())
	})
	return r
}

func refTag(fd protoreflect.FieldDescriptor) []byte {
	wire := protowire.BytesType
	if !fd.IsPacked() {
		switch fd.Kind() {
		case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
			wire = protowire.Fixed64Type
		case protoreflect.Fixed32Kind:
			wire = protowire.Fixed32Type
		case protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind,
			protoreflect.Sint32Kind, protoreflect.BoolKind, protoreflect.EnumKind:
			wire = protowire.VarintType
		default: // length-delimited
		}
	}
	return protowire.AppendTag(nil, fd.Number(), wire)
}

func refField(m protoreflect.Message, fd protoreflect.FieldDescriptor, keys []string) []byte {
	tag, v := refTag(fd), m.Get(fd)
	var out []byte
	switch {
	case fd.IsPacked():
		if v.List().Len() == 0 {
			return nil
		}
		out = protowire.AppendVarint(tag, uint64(v.List().Len()))
		for i := range v.List().Len() {
			out = append(out, refScalar(fd, v.List().Get(i))...)
		}
	case fd.IsList():
		for i := range v.List().Len() {
			out = append(append(out, tag...), refElement(fd, v.List().Get(i), keys)...)
		}
	case fd.Kind() == protoreflect.MessageKind:
		if !m.Has(fd) {
			return nil
		}
		e := refElement(fd, v, keys)
		empty := len(e) == 1 && e[0] == 0 // nothing but an end mark, or an AnyValue that is not set
		if empty && fd.ContainingOneof() == nil {
			return nil
		}
		out = append(tag, e...)
	case fd.HasPresence():
		if m.Has(fd) {
			out = append(tag, refScalar(fd, v)...)
		}
	default:
		if !refZero(fd, v) {
			out = append(tag, refScalar(fd, v)...)
		}
	}
	return out
}

func refElement(fd protoreflect.FieldDescriptor, v protoreflect.Value, keys []string) []byte {
	if fd.Kind() != protoreflect.MessageKind {
		return refScalar(fd, v)
	}
	out := refC(v.Message(), keys)
	switch v.Message().Interface().(type) {
	case *commonpb.KeyValue, *commonpb.AnyValue:
		return out
	default:
		return append(out, 0)
	}
}

func refZero(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch fd.Kind() {
	case protoreflect.DoubleKind:
		return v.Float() == 0
	case protoreflect.BytesKind:
		return len(v.Bytes()) == 0 || !slices.ContainsFunc(v.Bytes(), func(c byte) bool { return c != 0 })
	default:
		return v.Equal(fd.Default())
	}
}

func refDouble(f float64) uint64 {
	if math.IsNaN(f) {
		return 0x7ff8000000000000
	}
	return math.Float64bits(f)
}

func refScalar(fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch fd.Kind() {
	case protoreflect.DoubleKind:
		return binary.LittleEndian.AppendUint64(nil, refDouble(v.Float()))
	case protoreflect.Fixed64Kind:
		return binary.LittleEndian.AppendUint64(nil, v.Uint())
	case protoreflect.Sfixed64Kind:
		return binary.LittleEndian.AppendUint64(nil, uint64(v.Int()))
	case protoreflect.Fixed32Kind:
		return binary.LittleEndian.AppendUint32(nil, uint32(v.Uint()))
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return protowire.AppendVarint(nil, v.Uint())
	case protoreflect.Sint32Kind:
		return protowire.AppendVarint(nil, protowire.EncodeZigZag(v.Int()))
	case protoreflect.EnumKind:
		return protowire.AppendVarint(nil, uint64(int64(v.Enum())))
	case protoreflect.BoolKind:
		return protowire.AppendVarint(nil, protowire.EncodeBool(v.Bool()))
	case protoreflect.StringKind:
		return protowire.AppendString(nil, v.String())
	case protoreflect.BytesKind: // an id: its length says itself
		return v.Bytes()
	default:
		panic(fd.FullName())
	}
}

func refAny(v *commonpb.AnyValue) []byte {
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return protowire.AppendString([]byte{0x0a}, x.StringValue)
	case *commonpb.AnyValue_BoolValue:
		return protowire.AppendVarint([]byte{0x10}, protowire.EncodeBool(x.BoolValue))
	case *commonpb.AnyValue_IntValue:
		return protowire.AppendVarint([]byte{0x18}, uint64(x.IntValue))
	case *commonpb.AnyValue_DoubleValue:
		return binary.LittleEndian.AppendUint64([]byte{0x21}, refDouble(x.DoubleValue))
	case *commonpb.AnyValue_ArrayValue:
		out := []byte{0x2a}
		for _, e := range x.ArrayValue.GetValues() {
			out = append(append(out, 0x0a), refAny(e)...)
		}
		return append(out, 0)
	case *commonpb.AnyValue_KvlistValue:
		out := []byte{0x32}
		for _, e := range x.KvlistValue.GetValues() {
			out = append(append(out, 0x0a), refC(e.ProtoReflect(), nil)...)
		}
		return append(out, 0)
	case *commonpb.AnyValue_BytesValue:
		return protowire.AppendBytes([]byte{0x3a}, x.BytesValue)
	default:
		return []byte{0}
	}
}

func refHash(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// refDigest returns the whole-block digest.
func refDigest(s block.Signal, m proto.Message, keys []string) block.Digest {
	return block.Digest(refHash([]byte("telemark-block-v1\x00"), []byte{byte(s)}, refC(m.ProtoReflect(), keys)))
}

// refManifest returns the item digests of a block, and the digest over them.
func refManifest(s block.Signal, m proto.Message, keys []string) (manifest []byte, d block.Digest) {
	sig := []byte{byte(s)}
	n := uint64(0)
	item := func(parent []byte, it proto.Message) {
		n++
		manifest = append(manifest, refHash([]byte("telemark-item-v1\x00"), sig, parent, refC(it.ProtoReflect(), nil))...)
	}
	resource := func(r *resourcepb.Resource) []byte {
		return refHash([]byte("telemark-resource-v1\x00"), sig, refC(r.ProtoReflect(), keys))
	}
	scope := func(r []byte, s *commonpb.InstrumentationScope) []byte {
		return refHash([]byte("telemark-scope-v1\x00"), r, refC(s.ProtoReflect(), nil))
	}
	switch b := m.(type) {
	case *metricspb.ResourceMetrics:
		r := resource(b.GetResource())
		for _, sm := range b.GetScopeMetrics() {
			sc := scope(r, sm.GetScope())
			for _, metric := range sm.GetMetrics() {
				head, points := refSplitMetric(metric)
				h := refHash([]byte("telemark-metric-v1\x00"), sc, refC(head.ProtoReflect(), nil))
				for _, p := range points {
					item(h, p)
				}
			}
		}
	case *logspb.ResourceLogs:
		r := resource(b.GetResource())
		for _, sl := range b.GetScopeLogs() {
			sc := scope(r, sl.GetScope())
			for _, lr := range sl.GetLogRecords() {
				item(sc, lr)
			}
		}
	case *tracepb.ResourceSpans:
		r := resource(b.GetResource())
		for _, ss := range b.GetScopeSpans() {
			sc := scope(r, ss.GetScope())
			for _, s := range ss.GetSpans() {
				item(sc, s)
			}
		}
	}
	count := binary.BigEndian.AppendUint64(nil, n)
	return manifest, block.Digest(refHash([]byte("telemark-items-v1\x00"), sig, count, manifest))
}

func refSplitMetric(m *metricspb.Metric) (head *metricspb.Metric, points []proto.Message) {
	head = proto.CloneOf(m)
	head.Metadata = nil
	switch d := head.GetData().(type) {
	case *metricspb.Metric_Gauge:
		points = messages(d.Gauge.DataPoints)
		d.Gauge.DataPoints = nil
	case *metricspb.Metric_Sum:
		points = messages(d.Sum.DataPoints)
		d.Sum.DataPoints = nil
	case *metricspb.Metric_Histogram:
		points = messages(d.Histogram.DataPoints)
		d.Histogram.DataPoints = nil
	case *metricspb.Metric_ExponentialHistogram:
		points = messages(d.ExponentialHistogram.DataPoints)
		d.ExponentialHistogram.DataPoints = nil
	case *metricspb.Metric_Summary:
		points = messages(d.Summary.DataPoints)
		d.Summary.DataPoints = nil
	}
	return head, points
}

func messages[M proto.Message](list []M) (out []proto.Message) {
	for _, m := range list {
		out = append(out, m)
	}
	return out
}

// newBlockMessage returns an empty ResourceMetrics, ResourceLogs or ResourceSpans.
func newBlockMessage(s block.Signal) proto.Message {
	switch s {
	case block.Metrics:
		return &metricspb.ResourceMetrics{}
	case block.Logs:
		return &logspb.ResourceLogs{}
	default:
		return &tracepb.ResourceSpans{}
	}
}

// toBatch decodes one block as a receiver does. All requests have the block
// list as field 1.
func toBatch(tb testing.TB, s block.Signal, m proto.Message) Batch {
	tb.Helper()
	raw, err := proto.Marshal(m)
	require.NoError(tb, err)
	return rawBatch(tb, s, raw)
}

func rawBatch(tb testing.TB, s block.Signal, blocks ...[]byte) Batch {
	tb.Helper()
	var req []byte
	for _, b := range blocks {
		req = protowire.AppendBytes(protowire.AppendTag(req, 1, protowire.BytesType), b)
	}
	b, err := UnmarshalBatch(s, req)
	require.NoError(tb, err)
	return b
}

// toMessages is the inverse of toBatch.
func toMessages(tb testing.TB, b Batch) []proto.Message {
	tb.Helper()
	raw, err := b.Marshal()
	require.NoError(tb, err)
	var out []proto.Message
	for len(raw) > 0 {
		_, _, n := protowire.ConsumeTag(raw)
		require.Positive(tb, n)
		v, k := protowire.ConsumeBytes(raw[n:])
		require.Positive(tb, k)
		raw = raw[n+k:]
		m := newBlockMessage(b.Signal())
		require.NoError(tb, proto.Unmarshal(v, m))
		out = append(out, m)
	}
	return out
}
