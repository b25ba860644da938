package digest

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

var reservedPattern = regexp.MustCompile(`(?i)^telemark([^a-z0-9]|$)`)

var reservedCases = []string{
	"", "t", "telemar", "telemark", "telemark.", "telemark.verdict", "TELEMARK_x", "Telemark-", "telemarks", "telemark1",
	"telemarkA", "telemarkz", "telemark\x00", "telemark\n", "telemark{", "telemark`", "telemark[", "telemark@", "telemark/",
	"telemark:", "telemarké", "telemar\u212a", "telemar\u212a.x", "telemark\u212a", "telemark\u017f", "telemark\xff",
	"telemark\xe2\x84", "telemar\xe2\x84.", "telemark\xc5", " telemark.x", "x.telemark.y", "tElEmArK.tolerate", "telemork.",
}

func TestReservedKeysAreThoseOfThePattern(t *testing.T) {
	for _, k := range reservedCases {
		require.Equal(t, reservedPattern.MatchString(k), reserved(k), "%q", k)
		require.Equal(t, reserved(k), reserved(strings.ToValidUTF8(k, "\ufffd")), "%q, repaired", k)
	}
}

func FuzzReservedKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, k string) {
		if reservedPattern.MatchString(k) != reserved(k) {
			t.Fatalf("%q: reserved is %v", k, reserved(k))
		}
	})
}

// attributeMaps lists the maps of a block, one path for each field of type
// KeyValue, those in values too.
func attributeMaps(s block.Signal) []fieldPath {
	var out []fieldPath
	for _, p := range fieldPaths(newBlockMessage(s).ProtoReflect().Descriptor(), nil, map[protoreflect.FullName]int{}) {
		if fd := p[len(p)-1]; fd.Message() != nil && fd.Message().Name() == "KeyValue" {
			out = append(out, p)
		}
	}
	return out
}

func TestReservedAttributeIsStrippedBySignerAndRefusedByVerifierAtAnyDepth(t *testing.T) {
	for _, s := range signals {
		paths := attributeMaps(s)
		require.Greater(t, len(paths), 7)
		for _, path := range paths {
			base, dirty := newBlockMessage(s), newBlockMessage(s)
			sample(base.ProtoReflect(), path)
			sample(dirty.ProtoReflect(), path)
			kv := node(dirty.ProtoReflect(), path).Mutable(path[len(path)-1]).List().AppendMutable().Message()
			kv.Set(kv.Descriptor().Fields().ByName("key"), protoreflect.ValueOfString("Telemark_verdict"))
			for _, tol := range allTolerances {
				p := prepared(t, toBatch(t, s, base).At(0), tol)
				blk := toBatch(t, s, dirty).At(0)
				_, err := blk.Check(expect(tol, p))
				require.ErrorIs(t, err, &reason.Error{Reason: reason.ReservedAttribute}, "%v", path)
				require.ErrorIs(t, blk.Inspect(), &reason.Error{Reason: reason.ReservedAttribute})
				got := prepared(t, blk, tol)
				require.Equal(t, Cleaning{Attributes: 1}, got.Cleaning)
				require.Equal(t, p.Digest, got.Digest)
				require.NoError(t, blk.Inspect())
			}
			blk := toBatch(t, s, dirty).At(0)
			require.Equal(t, 1, blk.StripReserved())
			require.Equal(t, 0, blk.StripReserved())
		}
	}
}

// marker stands where bytes are put into the wire form that proto.Marshal
// refuses to write.
const marker = "MARKER-MARKER"

func TestInvalidUTF8IsRepairedBySignerAndRefusedByVerifier(t *testing.T) {
	bad := append(bytes.Repeat([]byte("x"), len(marker)-2), 0xff, 0xfe)
	for _, s := range signals {
		n := 0
		for _, path := range fieldPaths(newBlockMessage(s).ProtoReflect().Descriptor(), nil, map[protoreflect.FullName]int{}) {
			fd := path[len(path)-1]
			if fd.Kind() != protoreflect.StringKind {
				continue
			}
			n++
			m := newBlockMessage(s)
			sample(m.ProtoReflect(), path)
			at := node(m.ProtoReflect(), path)
			if fd.IsList() {
				at.Mutable(fd).List().Set(0, protoreflect.ValueOfString(marker))
			} else {
				at.Set(fd, protoreflect.ValueOfString(marker))
			}
			raw, err := proto.Marshal(m)
			require.NoError(t, err)
			dirty := bytes.ReplaceAll(raw, []byte(marker), bad)
			require.NotEqual(t, raw, dirty)
			for _, tol := range allTolerances {
				p := prepared(t, rawBatch(t, s, raw).At(0), tol)
				blk := rawBatch(t, s, dirty).At(0)
				_, err = blk.Check(expect(tol, p))
				if tol.Has(block.Enrich) && path.String() == "resource.attributes.key" {
					require.ErrorIs(t, err, &reason.Error{Reason: reason.InvalidUTF8}, "added attributes are checked too")
				}
				require.ErrorIs(t, err, &reason.Error{Reason: reason.InvalidUTF8}, "%v", path)
				got := prepared(t, blk, tol)
				require.Equal(t, Cleaning{Strings: 1}, got.Cleaning, "%v", path)
				require.Zero(t, prepared(t, blk, tol).Cleaning)
				require.Equal(t, got.Digest, prepared(t, blk, tol).Digest)
			}
		}
		require.Greater(t, n, 10)
	}
}

func TestRepairKeepsOrderAndDuplicates(t *testing.T) {
	b := NewBatch(block.Logs)
	lr := b.append().logs.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.Attributes().PutStr("a\xff\xfeb", "1")
	lr.Attributes().PutStr("a\xffb", "2")
	lr.Attributes().PutStr("c", strings.Repeat("long ", 5000)+"\xc3")
	p := prepared(t, b.At(0), 0)
	require.Equal(t, Cleaning{Strings: 3}, p.Cleaning)
	var got []string
	for k, v := range lr.Attributes().All() {
		got = append(got, k+"="+v.Str()[len(v.Str())-1:])
	}
	require.Equal(t, []string{"a\ufffdb=1", "a\ufffdb=2", "c=\xbd"}, got)
}

func TestHiddenKeyIsNotLostInCleaning(t *testing.T) {
	m := newBlockMessage(block.Logs)
	sample(m.ProtoReflect(), nil)
	raw, err := proto.Marshal(m)
	require.NoError(t, err)
	// attributes: {key: "telemark.x"}, {key: "\xff", key_strindex: 9}
	kvs := append([]byte{0x0a, 12, 0x0a, 10}, "telemark.x"...)
	kvs = append(kvs, 0x0a, 5, 0x0a, 1, 0xff, 0x18, 9)
	raw = append(protowire.AppendTag(raw, 1, protowire.BytesType), protowire.AppendBytes(nil, kvs)...)
	blk := rawBatch(t, block.Logs, raw).At(0)
	_, err = blk.Prepare(0)
	require.ErrorIs(t, err, &reason.Error{Reason: reason.HiddenField})
}

// nested returns the wire form of a value of depth arrays or maps in each other.
func nested(depth int, inMaps bool) []byte {
	v := []byte{0x10, 1}
	for range depth - 1 {
		e := protowire.AppendBytes([]byte{0x0a}, v)
		tag := byte(0x2a)
		if inMaps {
			kv := append([]byte{0x0a, 1, 'k'}, protowire.AppendBytes([]byte{0x12}, v)...)
			e, tag = protowire.AppendBytes([]byte{0x0a}, kv), 0x32
		}
		v = protowire.AppendBytes([]byte{tag}, e)
	}
	return v
}

func TestValueNestedTooDeepIsRefusedInBoundedTime(t *testing.T) {
	for _, inMaps := range []bool{false, true} {
		for _, depth := range []int{MaxDepth, MaxDepth + 1, 10_000} {
			record := protowire.AppendBytes([]byte{0x2a}, nested(depth, inMaps))
			scope := protowire.AppendBytes([]byte{0x12}, record)
			blk := rawBatch(t, block.Logs, protowire.AppendBytes([]byte{0x12}, scope)).At(0)
			p, err := blk.Prepare(0)
			if depth <= MaxDepth {
				require.NoError(t, err)
				_, err = blk.Check(expect(0, p))
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, &reason.Error{Reason: reason.TooDeep})
			_, err = blk.Check(Expected{})
			require.ErrorIs(t, err, &reason.Error{Reason: reason.TooDeep})
			require.ErrorIs(t, blk.Inspect(), &reason.Error{Reason: reason.TooDeep})
			require.Equal(t, 1, blk.StripReserved())
			require.NoError(t, blk.Inspect())
		}
	}
}

// Strings and integers under short keys take a way of their own through the walk.
func TestNoKindOfValueStandsBelowMaxDepth(t *testing.T) {
	kinds := map[string]func(pcommon.Value){
		"not set":      func(pcommon.Value) {},
		"string":       func(v pcommon.Value) { v.SetStr("s") },
		"empty string": func(v pcommon.Value) { v.SetStr("") },
		"bool":         func(v pcommon.Value) { v.SetBool(true) },
		"int":          func(v pcommon.Value) { v.SetInt(1) },
		"double":       func(v pcommon.Value) { v.SetDouble(1) },
		"bytes":        func(v pcommon.Value) { v.SetEmptyBytes() },
		"array":        func(v pcommon.Value) { v.SetEmptySlice() },
		"map":          func(v pcommon.Value) { v.SetEmptyMap() },
	}
	below := map[string]func(pcommon.Value) pcommon.Value{
		"array":   func(v pcommon.Value) pcommon.Value { return v.SetEmptySlice().AppendEmpty() },
		"map":     func(v pcommon.Value) pcommon.Value { return v.SetEmptyMap().PutEmpty("k") },
		"no key":  func(v pcommon.Value) pcommon.Value { return v.SetEmptyMap().PutEmpty("") },
		"longest": func(v pcommon.Value) pcommon.Value { return v.SetEmptyMap().PutEmpty(strings.Repeat("k", 200)) },
	}
	for what, down := range below {
		for kind, set := range kinds {
			t.Run(kind+" in "+what, func(t *testing.T) {
				b := NewBatch(block.Logs)
				lr := b.append().logs.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
				v := lr.Attributes().PutEmpty("a")
				for range MaxDepth - 1 {
					v = down(v)
				}
				set(v)
				prepared(t, b.At(0), 0)

				set(down(v))
				_, err := b.At(0).Prepare(0)
				require.ErrorIs(t, err, &reason.Error{Reason: reason.TooDeep})
				_, err = b.At(0).Check(Expected{})
				require.ErrorIs(t, err, &reason.Error{Reason: reason.TooDeep})
			})
		}
	}
}

func TestReservedAttributeMayNestTooDeep(t *testing.T) {
	b := NewBatch(block.Logs)
	lr := b.append().logs.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	clean := prepared(t, b.At(0), 0)
	v := lr.Attributes().PutEmpty("telemark.x")
	for range 100 {
		v = v.SetEmptySlice().AppendEmpty()
	}
	p := prepared(t, b.At(0), 0)
	require.Equal(t, 1, p.Cleaning.Attributes)
	require.Equal(t, clean.Digest, p.Digest)
}

func TestUsersDataDoNotSpeakInTheSignersName(t *testing.T) {
	for _, s := range signals {
		b := typicalBatch(s, 2)
		p := prepared(t, b.At(0), 0)
		other := typicalBatch(s, 1)
		switch s {
		case block.Metrics:
			other.At(0).metrics.ScopeMetrics().At(0).Scope().SetName(HeartbeatScope)
		case block.Logs:
			other.At(0).logs.ScopeLogs().At(0).Scope().SetName(HeartbeatScope)
		default:
			other.At(0).traces.ScopeSpans().At(0).Scope().SetName(HeartbeatScope)
		}
		hb, err := other.At(0).PrepareHeartbeat(0)
		require.NoError(t, err)
		require.Equal(t, 1, hb.Items)
		require.Zero(t, hb.Cleaning)
		_, err = other.At(0).Check(expect(0, hb))
		require.NoError(t, err)

		other.At(0).appendScopesTo(b.At(0))
		b.At(0).Attach(Proof{Receipt: []byte("earlier"), Manifest: []byte{1}})
		got := prepared(t, b.At(0), 0)
		require.Equal(t, Cleaning{Scopes: 1, Receipts: 2}, got.Cleaning)
		require.Equal(t, p.Digest, got.Digest)
	}
}

func TestCoalesceMergesEqualResourcesOnly(t *testing.T) {
	for _, s := range signals {
		b := NewBatch(s)
		for i := range 6 {
			one := typicalBatch(s, i+1)
			switch i {
			case 2:
				one.At(0).Attributes().PutStr("host.name", "other")
			case 4:
				one.At(0).setSchemaURL("https://example.net/1")
			case 5:
				one.At(0).Attach(Proof{Receipt: []byte("signed before")})
			}
			one.MoveBlock(0, b)
		}
		require.Equal(t, 2, b.Coalesce())
		require.Equal(t, 4, b.Len())
		require.Equal(t, 21, b.Items())
		require.Equal(t, 1+2+4, b.At(0).Items())
		for i := range b.Len() {
			prepared(t, b.At(i), 0)
		}
		require.Equal(t, 1, b.Coalesce(), "Prepare has stripped the proof that stood in the way")
	}
}

func TestCoalesceKeepsHiddenFieldsApart(t *testing.T) {
	one := []byte{0x0a, 5, 0x0a, 3, 0x0a, 1, 'k', 0x12, 2, 0x12, 0}
	hidden := []byte{0x0a, 7, 0x0a, 5, 0x0a, 1, 'k', 0x18, 9, 0x12, 2, 0x12, 0}
	b := rawBatch(t, block.Logs, one, hidden, hidden, one)
	require.Equal(t, 1, b.Coalesce())
	require.Equal(t, 2, b.At(0).Items())
	_, err := b.At(1).Prepare(0)
	require.Equal(t, reason.HiddenField, reason.Of(err))
}

func TestSplitLargeKeepsAllItemsAndHeaders(t *testing.T) {
	for _, s := range signals {
		for seed := range uint64(50) {
			b := toBatch(t, s, newGenerator(seed).block(s))
			typicalBatch(s, 25).MoveBlock(0, b)
			before, n := b.Items(), b.Len()
			added := b.SplitLarge(4)
			require.Equal(t, n+added, b.Len())
			require.Equal(t, before, b.Items())
			for i := range b.Len() {
				require.LessOrEqual(t, b.At(i).Items(), 4)
				require.Zero(t, prepared(t, b.At(i), 0).Cleaning)
			}
			require.Zero(t, b.SplitLarge(0))
			require.Zero(t, b.SplitLarge(4))
		}
	}
}

func TestFilterAndMove(t *testing.T) {
	for _, s := range signals {
		b := NewBatch(s)
		for i := range 5 {
			one := typicalBatch(s, i+1)
			one.At(0).CopyTo(b)
		}
		var seen []int
		b.Filter(func(i int) bool {
			seen = append(seen, i)
			return i%2 == 0
		})
		require.Equal(t, []int{0, 1, 2, 3, 4}, seen)
		require.Equal(t, 1+3+5, b.Items())
		b.At(2).FilterItems(func(i int) bool { return i == 3 })
		require.Equal(t, 1, b.At(2).Items())
		b.At(2).FilterItems(func(int) bool { return false })
		require.Zero(t, b.At(2).Items())
		dst := NewBatch(s)
		b.MoveBlock(1, dst)
		require.Equal(t, 3, dst.Items())
		require.Equal(t, 1, b.Items())
		raw, err := dst.Marshal()
		require.NoError(t, err)
		require.Len(t, raw, dst.Size())
		require.Equal(t, s, dst.At(0).Signal())
	}
	_, err := UnmarshalBatch(block.Logs, []byte{0x0a, 5})
	require.Error(t, err)
	_, err = UnmarshalBatch('X', nil)
	require.Error(t, err)
}

func TestDetailsAreBounded(t *testing.T) {
	b := NewBatch(block.Logs)
	lr := b.append().logs.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.Attributes().PutStr("telemark."+strings.Repeat("\n", 1_000_000), "")
	_, err := b.At(0).Check(Expected{})
	require.Equal(t, reason.ReservedAttribute, reason.Of(err))
	require.Less(t, len(err.Error()), 300)
}

func (b Block) setSchemaURL(u string) {
	switch b.signal {
	case block.Metrics:
		b.metrics.SetSchemaUrl(u)
	case block.Logs:
		b.logs.SetSchemaUrl(u)
	default:
		b.traces.SetSchemaUrl(u)
	}
}

// TestNoLengthIsTakenForAHiddenField walks over the lengths at which one more byte
// is needed to say them: a size that is computed wrong would refuse honest data.
func TestNoLengthIsTakenForAHiddenField(t *testing.T) {
	values := map[string]func(pcommon.Value){
		"empty":  func(pcommon.Value) {},
		"bool":   func(v pcommon.Value) { v.SetBool(true) },
		"double": func(v pcommon.Value) { v.SetDouble(1.5) },
	}
	lengths := []int{16_300, 16_370, 16_383, 16_384}
	for n := range 140 {
		lengths = append(lengths, n)
	}
	for _, n := range lengths {
		values[fmt.Sprint("string of ", n)] = func(v pcommon.Value) { v.SetStr(strings.Repeat("v", n)) }
		values[fmt.Sprint("bytes of ", n)] = func(v pcommon.Value) { v.SetEmptyBytes().FromRaw(make([]byte, n)) }
		values[fmt.Sprint("list with a string of ", n)] = func(v pcommon.Value) {
			v.SetEmptySlice().AppendEmpty().SetStr(strings.Repeat("v", n))
		}
		values[fmt.Sprint("map with a string of ", n)] = func(v pcommon.Value) { v.SetEmptyMap().PutStr("k", strings.Repeat("v", n)) }
	}
	for n := range 64 {
		values[fmt.Sprint("integer of bits ", n)] = func(v pcommon.Value) { v.SetInt(1<<n - 1) }
	}
	values["negative integer"] = func(v pcommon.Value) { v.SetInt(-1) }

	keys := []int{16_383, 16_384}
	for n := range 140 {
		keys = append(keys, n)
	}
	for name, set := range values {
		for _, k := range keys {
			key := strings.Repeat("k", k)
			ld := plog.NewLogs()
			rl := ld.ResourceLogs().AppendEmpty()
			sl := rl.ScopeLogs().AppendEmpty()
			lr := sl.LogRecords().AppendEmpty()
			for _, attrs := range []pcommon.Map{rl.Resource().Attributes(), sl.Scope().Attributes(), lr.Attributes(), lr.Body().SetEmptyMap()} {
				set(attrs.PutEmpty(key))
			}
			if _, err := FromLogs(ld).At(0).Prepare(0); err != nil {
				require.NoError(t, err, "key of %d bytes, %s", k, name)
			}
		}
	}
}
