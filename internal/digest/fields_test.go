package digest

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

type fieldPath []protoreflect.FieldDescriptor

func (p fieldPath) String() string {
	var s []string
	for _, fd := range p {
		s = append(s, string(fd.Name()))
	}
	return strings.Join(s, ".")
}

// fieldPaths lists every field of every message that can be reached, each
// message type at most twice on one path.
func fieldPaths(md protoreflect.MessageDescriptor, prefix fieldPath, seen map[protoreflect.FullName]int) []fieldPath {
	if seen[md.FullName()] == 2 {
		return nil
	}
	seen[md.FullName()]++
	defer func() { seen[md.FullName()]-- }()
	var out []fieldPath
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		p := append(slices.Clip(prefix), fd)
		out = append(out, p)
		if fd.Message() != nil {
			out = append(out, fieldPaths(fd.Message(), p, seen)...)
		}
	}
	return out
}

func hiddenInPdata(fd protoreflect.FieldDescriptor) bool {
	return fd.Name() == "key_strindex" || fd.Name() == "string_value_strindex"
}

// sample fills every field of m that pdata shows; of the members of a oneof the
// one that lies on the path.
func sample(m protoreflect.Message, path fieldPath) {
	fds := m.Descriptor().Fields()
	for i := range fds.Len() {
		fd := fds.Get(i)
		onPath := len(path) > 0 && path[0] == fd
		if hiddenInPdata(fd) {
			continue
		}
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() && !onPath {
			elsewhere := len(path) > 0 && path[0].ContainingOneof() == one && !hiddenInPdata(path[0])
			if elsewhere || one.Fields().Get(0) != fd {
				continue
			}
		}
		var rest fieldPath
		if onPath {
			rest = path[1:]
		}
		switch {
		case fd.IsList():
			appendSample(m.Mutable(fd).List(), fd, rest)
		case fd.Message() != nil:
			sample(m.Mutable(fd).Message(), rest)
		default:
			m.Set(fd, sampleScalar(fd, 1))
		}
	}
}

func appendSample(l protoreflect.List, fd protoreflect.FieldDescriptor, rest fieldPath) {
	if fd.Message() == nil {
		l.Append(sampleScalar(fd, 1))
		return
	}
	e := l.NewElement()
	sample(e.Message(), rest)
	l.Append(e)
}

func sampleScalar(fd protoreflect.FieldDescriptor, n int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.Fixed64Kind, protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.Sfixed64Kind, protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Fixed32Kind, protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Sint32Kind, protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(strings.Repeat("v", n))
	case protoreflect.BytesKind:
		id := make([]byte, 16)
		if strings.HasSuffix(string(fd.Name()), "span_id") {
			id = id[:8]
		}
		id[n%len(id)] = byte(n)
		return protoreflect.ValueOfBytes(id)
	default:
		panic(fd.FullName())
	}
}

// node returns the message that holds the last field of the path.
func node(m protoreflect.Message, path fieldPath) protoreflect.Message {
	for _, fd := range path[:len(path)-1] {
		if fd.IsList() {
			m = m.Mutable(fd).List().Get(0).Message()
		} else {
			m = m.Mutable(fd).Message()
		}
	}
	return m
}

// mutations of one field. Each returns false when it does not apply.
var mutations = map[string]func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool{
	"other value": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		if fd.IsList() || fd.Message() != nil {
			return false
		}
		m.Set(fd, sampleScalar(fd, 2))
		return true
	},
	"negative": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		switch fd.Kind() {
		case protoreflect.EnumKind, protoreflect.DoubleKind, protoreflect.Sfixed64Kind, protoreflect.Int64Kind, protoreflect.Sint32Kind:
			if fd.IsList() {
				return false
			}
			m.Set(fd, sampleScalar(fd, -1))
			return true
		default:
			return false
		}
	},
	"cleared": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		if !m.Has(fd) {
			return false
		}
		m.Clear(fd)
		return true
	},
	"zero, but present": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		if !fd.HasPresence() || fd.Message() != nil || hiddenInPdata(fd) {
			return false
		}
		m.Set(fd, fd.Default())
		return true
	},
	"one more": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		if !fd.IsList() {
			return false
		}
		appendSample(m.Mutable(fd).List(), fd, nil)
		return true
	},
	"one more, empty": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		if !fd.IsList() || fd.Message() == nil {
			return false
		}
		m.Mutable(fd).List().AppendMutable()
		return true
	},
	"first element": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		if !fd.IsList() || fd.Message() != nil {
			return false
		}
		m.Mutable(fd).List().Set(0, sampleScalar(fd, 2))
		return true
	},
	"other member": func(m protoreflect.Message, fd protoreflect.FieldDescriptor) bool {
		one := fd.ContainingOneof()
		if one == nil || one.IsSynthetic() {
			return false
		}
		i := 0
		for one.Fields().Get(i) != fd {
			i++
		}
		to := one.Fields().Get((i + 1) % one.Fields().Len())
		if to.Message() != nil {
			m.Set(to, m.NewField(to))
		} else {
			m.Set(to, to.Default())
		}
		return true
	},
}

// uncovered reports whether split digests leave the path out.
func uncovered(p fieldPath) bool {
	for i, fd := range p {
		if fd.Name() == "metadata" || (fd.Name() == "schema_url" && i < 2) {
			return true
		}
	}
	return false
}

// addsToResource reports whether the mutation adds resource attributes.
func addsToResource(name string, p fieldPath) bool {
	return len(p) == 2 && p[0].Name() == "resource" && p[1].Name() == "attributes" && strings.HasPrefix(name, "one more")
}

func TestAnyFieldChangedOnTheWayIsRefused(t *testing.T) {
	tried := map[string]bool{}
	for _, s := range signals {
		md := newBlockMessage(s).ProtoReflect().Descriptor()
		for _, path := range fieldPaths(md, nil, map[protoreflect.FullName]int{}) {
			for name, mutate := range mutations {
				base := newBlockMessage(s)
				sample(base.ProtoReflect(), path)
				mutant := proto.Clone(base)
				fd := path[len(path)-1]
				if !mutate(node(mutant.ProtoReflect(), path), fd) {
					continue
				}
				tried[string(fd.FullName())] = true
				for _, tol := range []block.Tolerance{0, block.Split, block.Enrich, block.Split | block.Enrich} {
					p := prepared(t, toBatch(t, s, base).At(0), tol)
					require.Zero(t, p.Cleaning)
					_, err := toBatch(t, s, base).At(0).Check(expect(tol, p))
					require.NoError(t, err)

					blk := toBatch(t, s, mutant).At(0)
					_, err = blk.Check(expect(tol, p))
					switch {
					case tol.Has(block.Split) && name != "one more" && name != "one more, empty" && uncovered(path) && !hiddenInPdata(fd) && err == nil:
						blk.StripUncovered()
						again, err := blk.Prepare(0)
						require.NoError(t, err)
						clean := toBatch(t, s, base).At(0)
						clean.StripUncovered()
						require.Equal(t, prepared(t, clean, 0).Digest, again.Digest, "what is not covered must be stripped: %v", path)
					case tol.Has(block.Split) && (fd.Name() == "metadata" || uncovered(path)) && err == nil:
					case tol.Has(block.Split) && repeatsSigned(name, path) && err == nil:
						// The same item, metric or scope twice: every item is one
						// that was signed. The claim on items sorts that out.
					case tol.Has(block.Split) && dropsItems(name, path) && err == nil:
						// A fragment.
					case tol.Has(block.Enrich) && addsToResource(name, path) && err == nil:
						// What a gateway added; the verifier strips it.
					default:
						require.Error(t, err, "%v %v: %s of %v passes", s, tol, name, path)
						require.NotEmpty(t, reason.Of(err))
					}
					if hiddenInPdata(fd) && name == "other value" {
						require.ErrorIs(t, err, &reason.Error{Reason: reason.HiddenField}, "hidden %v", path)
					}
				}
			}
		}
	}
	for _, s := range signals {
		every := map[protoreflect.FullName]bool{}
		for _, path := range fieldPaths(newBlockMessage(s).ProtoReflect().Descriptor(), nil, map[protoreflect.FullName]int{}) {
			fd := path[len(path)-1]
			every[fd.FullName()] = true
			require.True(t, tried[string(fd.FullName())], "%s was not mutated", fd.FullName())
		}
		require.Greater(t, len(every), 35)
	}
	t.Logf("%d fields", len(tried))
}

func container(name protoreflect.Name) bool {
	switch name {
	case "scope_metrics", "metrics", "data_points", "scope_logs", "log_records", "scope_spans", "spans":
		return true
	}
	return false
}

func repeatsSigned(mutation string, p fieldPath) bool {
	return mutation == "one more" && container(p[len(p)-1].Name())
}

func dropsItems(mutation string, p fieldPath) bool {
	return mutation == "cleared" && container(p[len(p)-1].Name())
}

func TestExplicitZeroIsNotAbsent(t *testing.T) {
	for _, s := range signals {
		md := newBlockMessage(s).ProtoReflect().Descriptor()
		n := 0
		for _, path := range fieldPaths(md, nil, map[protoreflect.FullName]int{}) {
			fd := path[len(path)-1]
			if !fd.HasPresence() || fd.Message() != nil || hiddenInPdata(fd) {
				continue
			}
			n++
			zero, absent := newBlockMessage(s), newBlockMessage(s)
			sample(zero.ProtoReflect(), path)
			sample(absent.ProtoReflect(), path)
			node(zero.ProtoReflect(), path).Set(fd, fd.Default())
			node(absent.ProtoReflect(), path).Clear(fd)
			require.NotEqual(t, prepared(t, toBatch(t, s, zero).At(0), 0).Digest,
				prepared(t, toBatch(t, s, absent).At(0), 0).Digest, "%v", path)
		}
		require.Positive(t, n)
	}
}

// strindexValue and the like are what the pdata API does not show.
func TestHiddenFieldIsRefused(t *testing.T) {
	for _, s := range signals {
		base := newBlockMessage(s)
		sample(base.ProtoReflect(), nil)
		raw, err := proto.Marshal(base)
		require.NoError(t, err)
		scopes := base.ProtoReflect().Get(base.ProtoReflect().Descriptor().Fields().ByNumber(2)).List()
		scope, err := proto.Marshal(scopes.Get(0).Message().Interface())
		require.NoError(t, err)
		old := protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), scope)

		cases := map[string][]byte{
			"deprecated scopes":        append(slices.Clip(raw), old...),
			"deprecated, empty scopes": append(slices.Clip(raw), protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), nil)...),
			"index of zero":            withResourceAttr(raw, &commonpb.KeyValue{Key: "k", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValueStrindex{}}}),
			"key by index":             withResourceAttr(raw, &commonpb.KeyValue{KeyStrindex: 7}),
			"negative index":           withResourceAttr(raw, &commonpb.KeyValue{Key: "k", KeyStrindex: -7}),
		}
		for name, raw := range cases {
			for _, tol := range allTolerances {
				blk := rawBatch(t, s, raw).At(0)
				_, err := blk.Prepare(tol)
				require.ErrorIs(t, err, &reason.Error{Reason: reason.HiddenField}, "%v %s", s, name)
				want := Expected{Tolerances: tol, Keys: []string{}}
				if tol.Has(block.Split) {
					want.Manifest = make([]byte, 32)
					w := newWalker(options{signal: s})
					want.Digest = w.manifestDigest(want.Manifest)
					w.release()
				}
				_, err = blk.Check(want)
				require.ErrorIs(t, err, &reason.Error{Reason: reason.HiddenField}, "%v %s", s, name)
				require.ErrorIs(t, blk.Inspect(), &reason.Error{Reason: reason.HiddenField})
			}
		}
	}
}

// withResourceAttr appends an attribute to the resource; protobuf merges the
// two halves of a singular message.
func withResourceAttr(raw []byte, kv *commonpb.KeyValue) []byte {
	b, err := proto.Marshal(kv)
	if err != nil {
		panic(err)
	}
	res := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b)
	return protowire.AppendBytes(protowire.AppendTag(slices.Clip(raw), 1, protowire.BytesType), res)
}
