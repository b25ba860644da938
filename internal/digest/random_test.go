package digest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/telemark-otel/telemark/internal/block"
)

// generator makes random blocks that a signer accepts as they are.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 0x7e1e3a4c))} }

func (g generator) block(s block.Signal) proto.Message {
	for {
		m := newBlockMessage(s)
		g.fill(m.ProtoReflect(), 0)
		b := toBatchNoFail(s, m)
		if b.Items() > 0 && g.clean(b) {
			return toMessagesNoFail(b)
		}
	}
}

// clean removes the empty containers that random lists leave.
func (g generator) clean(b Batch) bool {
	var c Cleaning
	b.At(0).strip(&c, true)
	b.At(0).canonicalDoubles()
	return b.Items() > 0
}

func toBatchNoFail(s block.Signal, m proto.Message) Batch { return toBatch(&panicTB{}, s, m) }
func toMessagesNoFail(b Batch) proto.Message              { return toMessages(&panicTB{}, b)[0] }

// panicTB lets the helpers be used where there is no test.
type panicTB struct{ testing.TB }

func (*panicTB) Helper()                   {}
func (*panicTB) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (*panicTB) FailNow()                  { panic("failed") }

func (g generator) fill(m protoreflect.Message, depth int) {
	if v, ok := m.Interface().(*commonpb.AnyValue); ok {
		g.any(v, depth)
		return
	}
	for _, fd := range refFields(m) {
		name := string(fd.Name())
		switch {
		case name == "key_strindex":
		case fd.ContainingOneof() != nil && !fd.HasOptionalKeyword():
			members := fd.ContainingOneof().Fields()
			if fd.Index() == members.Get(0).Index() && g.IntN(8) > 0 {
				pick := members.Get(g.IntN(members.Len()))
				g.set(m, pick, depth)
			}
		case fd.IsList():
			n := g.IntN(3)
			if name == "data_points" || name == "scope_metrics" || name == "metrics" || name == "scope_logs" ||
				name == "log_records" || name == "scope_spans" || name == "spans" {
				n++
			}
			l := m.Mutable(fd).List()
			for range n {
				if fd.Kind() == protoreflect.MessageKind {
					e := l.NewElement()
					g.fill(e.Message(), depth+1)
					l.Append(e)
				} else {
					l.Append(g.scalar(fd))
				}
			}
		case g.IntN(3) > 0:
			g.set(m, fd, depth)
		}
	}
}

func (g generator) set(m protoreflect.Message, fd protoreflect.FieldDescriptor, depth int) {
	if fd.Kind() == protoreflect.MessageKind {
		g.fill(m.Mutable(fd).Message(), depth+1)
		return
	}
	m.Set(fd, g.scalar(fd))
}

func (g generator) any(v *commonpb.AnyValue, depth int) {
	n := 8
	if depth > 9 {
		n = 6
	}
	switch g.IntN(n) {
	case 0:
	case 1:
		v.Value = &commonpb.AnyValue_StringValue{StringValue: g.string()}
	case 2:
		v.Value = &commonpb.AnyValue_BoolValue{BoolValue: g.IntN(2) == 0}
	case 3:
		v.Value = &commonpb.AnyValue_IntValue{IntValue: int64(g.number())}
	case 4:
		v.Value = &commonpb.AnyValue_DoubleValue{DoubleValue: g.double()}
	case 5:
		v.Value = &commonpb.AnyValue_BytesValue{BytesValue: []byte(g.string())}
	case 6:
		a := &commonpb.ArrayValue{}
		g.fill(a.ProtoReflect(), depth+1)
		v.Value = &commonpb.AnyValue_ArrayValue{ArrayValue: a}
	case 7:
		l := &commonpb.KeyValueList{}
		g.fill(l.ProtoReflect(), depth+1)
		v.Value = &commonpb.AnyValue_KvlistValue{KvlistValue: l}
	}
}

func (g generator) string() string {
	switch g.IntN(12) {
	case 0:
		return ""
	case 1:
		return "grüße, 世界"
	case 2: // around the lengths where varints and the buffer's special cases change
		edges := []int{6, 7, 8, 9, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 1023, 1024, 1025, 7000, 8191, 8192, 8193, 20000}
		return string(slices.Repeat([]byte{'x'}, edges[g.IntN(len(edges))]))
	default:
		return fmt.Sprintf("k%d.%x", g.IntN(5), g.Uint32()>>g.IntN(32))
	}
}

func (g generator) number() uint64 {
	switch g.IntN(4) {
	case 0:
		return 0
	case 1:
		return math.MaxUint64
	default:
		return g.Uint64() >> g.IntN(64)
	}
}

func (g generator) double() float64 {
	odd := []float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64, math.MaxFloat64, 1e21, 0.1}
	if i := g.IntN(2 * len(odd)); i < len(odd) {
		if math.IsNaN(odd[i]) {
			return math.Float64frombits(canonicalNaN)
		}
		return odd[i]
	}
	return g.NormFloat64() * 1e6
}

func (g generator) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(g.double())
	case protoreflect.Fixed64Kind, protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(g.number())
	case protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(g.number()))
	case protoreflect.Fixed32Kind, protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(g.number()))
	case protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(int32(g.number()))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(g.IntN(6)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.IntN(2) == 0)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(g.string())
	case protoreflect.BytesKind:
		id := make([]byte, 16)
		if fd.Name() != "trace_id" {
			id = id[:8]
		}
		if g.IntN(4) > 0 {
			id[g.IntN(len(id))] = byte(g.Uint32())
		}
		return protoreflect.ValueOfBytes(id)
	default:
		panic(fd.FullName())
	}
}

var allTolerances = []block.Tolerance{0, block.Split, block.Enrich, block.Split | block.Enrich}

func prepared(tb testing.TB, b Block, tol block.Tolerance) Prepared {
	tb.Helper()
	p, err := b.Prepare(tol)
	require.NoError(tb, err)
	return p
}

func expect(tol block.Tolerance, p Prepared) Expected {
	return Expected{Tolerances: tol, Digest: p.Digest, Keys: p.Keys, Manifest: p.Manifest}
}

func TestWalkAgreesWithTheSpecification(t *testing.T) {
	for _, s := range signals {
		for seed := range uint64(400) {
			m := newGenerator(seed).block(s)
			blk := toBatch(t, s, m).At(0)
			p := prepared(t, blk, 0)
			require.Zero(t, p.Cleaning, "seed %d", seed)
			require.Equal(t, refDigest(s, m, nil), p.Digest, "%v, seed %d", s, seed)

			p = prepared(t, blk, block.Split)
			manifest, d := refManifest(s, m, nil)
			require.Equal(t, manifest, p.Manifest, "%v, seed %d", s, seed)
			require.Equal(t, d, p.Digest, "%v, seed %d", s, seed)
		}
	}
}
