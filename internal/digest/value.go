package digest

import (
	"encoding/binary"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/xpdata/entity"

	"github.com/telemark-otel/telemark/internal/block"
)

// attrs emits a repeated KeyValue field:
//
//	(tag, varint keylen, key, AnyValue)*
//
// against protobuf's (tag, len, [0a keylen key], 12, len, AnyValue)*.
func (w *walker) attrs(b []byte, tag byte, m pcommon.Map, depth int) []byte {
	for k, v := range m.All() {
		if reserved(k) {
			w.foundReserved(k)
			continue
		}
		b = w.keyValue(b, tag, k, v, depth)
	}
	return b
}

// A KeyValue whose lengths are single bytes, in C and in protobuf:
//
//	0a klen key | 12 vlen AnyValue      at most 7f bytes
//
// shortKV bounds the sum of key and AnyValue, shortStr that of key and string
// (the AnyValue has its tag and length too), maxShortKey the key of any integer.
const (
	shortKV     = 0x7f - 4
	shortStr    = shortKV - 2
	maxShortKey = shortKV - 1 - binary.MaxVarintLen64
)

func (w *walker) keyValue(b []byte, tag byte, k string, v pcommon.Value, depth int) []byte {
	if k != "" && len(k) <= maxShortKey && depth <= MaxDepth {
		if s := v.Str(); s != "" {
			if len(k)+len(s) <= shortStr {
				return w.shortString(b, tag, k, s)
			}
		} else if v.Type() == pcommon.ValueTypeInt {
			return w.shortInt(b, tag, k, v.Int())
		}
	}
	b = w.str(append(b, tag), k)
	p, f := w.flushed+len(b), w.fix
	b = w.value(b, v, depth)
	l := w.flushed + len(b) - p + w.fix - f
	return w.fixKeyValue(b, len(k), l)
}

// fixKeyValue adds what a KeyValue with a key of n bytes and a value of l bytes
// has in protobuf and not in C.
func (w *walker) fixKeyValue(b []byte, n, l int) []byte {
	fix := 2
	key := 1 + sov(n) + n
	if n == 0 {
		key, fix = 0, 0 // C has a length of zero, protobuf nothing
	}
	s := sov(l)
	w.fix += fix + s + sov(key+1+s+l)
	return b
}

// shortString and shortInt emit the most frequent kinds of attribute.
func (w *walker) shortString(b []byte, tag byte, k, s string) []byte {
	if cap(b)-len(b) < shortKV+4+headroom {
		b = w.flush(b)
	}
	w.fix += 4
	b, okKey := appendASCII(append(b, tag, byte(len(k))), k)
	b, okValue := appendASCII(append(b, 0x0a, byte(len(s))), s)
	if !okKey || !okValue {
		w.checkUTF8(k)
		w.checkUTF8(s)
	}
	return b
}

func (w *walker) shortInt(b []byte, tag byte, k string, x int64) []byte {
	if cap(b)-len(b) < shortKV+4+headroom {
		b = w.flush(b)
	}
	w.fix += 4
	b, ok := appendASCII(append(b, tag, byte(len(k))), k)
	if !ok {
		w.checkUTF8(k)
	}
	return binary.AppendUvarint(append(b, 0x18), uint64(x))
}

func (w *walker) foundReserved(k string) {
	if w.reserved == 0 {
		w.key = k
	}
	w.reserved++
}

// value emits an AnyValue. It has no end mark, since every alternative knows
// its own end.
func (w *walker) value(b []byte, v pcommon.Value, depth int) []byte {
	if depth > MaxDepth {
		w.deep++
		return b
	}
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return w.str(append(b, 0x0a), v.Str())
	case pcommon.ValueTypeInt:
		return binary.AppendUvarint(append(b, 0x18), uint64(v.Int()))
	case pcommon.ValueTypeBool:
		if v.Bool() {
			return append(b, 0x10, 1)
		}
		return append(b, 0x10, 0)
	case pcommon.ValueTypeDouble:
		return w.double(b, 0x21, v.Double())
	case pcommon.ValueTypeBytes:
		return w.bytes(append(b, 0x3a), v.Bytes())
	case pcommon.ValueTypeSlice:
		return w.array(append(b, 0x2a), v.Slice(), depth+1)
	case pcommon.ValueTypeMap:
		b = append(b, 0x32)
		p, f := w.pos(b), w.fix
		b = w.attrs(b, 0x0a, v.Map(), depth+1)
		return w.endNested(b, p, f)
	default:
		w.fix-- // protobuf needs nothing here
		return append(b, 0)
	}
}

func (w *walker) array(b []byte, s pcommon.Slice, depth int) []byte {
	p, f := w.pos(b), w.fix
	for i := range s.Len() {
		b = append(w.room(b), 0x0a)
		p, f := w.pos(b), w.fix
		b = w.value(b, s.At(i), depth)
		w.fix += sov(w.pos(b) - p + w.fix - f)
	}
	return w.endNested(b, p, f)
}

// endNested ends a nested message whose content began at p with fix f:
// 00 here, a length in protobuf.
func (w *walker) endNested(b []byte, p, f int) []byte {
	w.fix += sov(w.pos(b)-p+w.fix-f) - 1
	return append(w.room(b), 0)
}

func (w *walker) bytes(b []byte, s pcommon.ByteSlice) []byte {
	n := s.Len()
	b = binary.AppendUvarint(w.room(b), uint64(n))
	for i := range n {
		if len(b) >= bufSize-headroom {
			b = w.flush(b)
		}
		b = append(b, s.At(i))
	}
	return w.room(b)
}

// resource emits Resource and returns its protobuf size.
//
//	1 attributes · 2 dropped_attributes_count · 3 entity_refs
//
// The two attributes of the proof are sized, but not emitted; so are, with
// Enrich, those that were not signed. In the plain digest an empty resource is
// absent, so its tag waits for the first content.
func (w *walker) resource(b []byte, r pcommon.Resource) ([]byte, int) {
	var tag resourceTag
	if w.split {
		b = w.begin(b, domainResource, nil)
		tag.done = true
	}
	start, inTag := w.pos(b), 0
	w.fix = 0
	open := func(b []byte) []byte {
		if tag.done {
			return b
		}
		tag.done = true
		inTag = 1
		return append(b, 0x0a)
	}
	for k, v := range r.Attributes().All() {
		switch signed, known := w.resourceKey(k, v); {
		case !known:
		case signed:
			b = w.keyValue(open(b), 0x0a, k, v, 1)
		default:
			b = w.silence(b)
			b = w.keyValue(b, 0x0a, k, v, 1)
			b = w.speak(b)
		}
	}
	if n := r.DroppedAttributesCount(); n != 0 {
		b = varintField(open(b), 0x10, uint64(n))
	}
	refs := entity.ResourceEntityRefs(r)
	for i := range refs.Len() {
		b = w.entityRef(append(open(b), 0x1a), refs.At(i))
	}
	size := w.pos(b) - start - inTag + w.fix
	switch {
	case w.split:
		w.parents[0] = w.end(b)
		b = b[:0]
	case inTag == 1:
		b = append(b, 0)
	}
	return b, size
}

type resourceTag struct{ done bool }

// resourceKey sorts a resource attribute: not to be walked at all (the proof
// and reserved keys), or to be walked and signed or not.
func (w *walker) resourceKey(k string, v pcommon.Value) (signed, known bool) {
	if reserved(k) {
		if !proofKey(k) {
			w.foundReserved(k)
			return false, false
		}
		w.foundProof(k, v)
		return false, false
	}
	if w.proof.receipt+w.proof.manifest > 0 {
		w.behind = true
		if w.cut {
			return false, true
		}
	}
	if !w.enriched {
		return true, true
	}
	if w.nextKey < len(w.keys) && w.keys[w.nextKey] == k {
		w.nextKey++
		return true, true
	}
	if w.isSigned(k) {
		w.reorder = true
	} else {
		w.added = append(w.added, k)
	}
	return false, true
}

func (w *walker) isSigned(k string) bool {
	if w.keySet != nil {
		_, ok := w.keySet[k]
		return ok
	}
	return slices.Contains(w.keys, k)
}

func (w *walker) foundProof(k string, v pcommon.Value) {
	if w.signing {
		w.receipts++
		return
	}
	if k == block.AttrReceipt {
		w.proof.receipt++
	} else {
		w.proof.manifest++
	}
	if v.Type() != pcommon.ValueTypeBytes {
		w.proof.wrongType = true
		return
	}
	n := v.Bytes().Len()
	l := 1 + sov(n) + n           // AnyValue
	l += 1 + sov(l)               // its tag and length
	l += 1 + sov(len(k)) + len(k) // the key
	w.fix += 1 + sov(l) + l       // the KeyValue
}

// entityRef emits one element of entity_refs, after its tag.
//
//	1 schema_url · 2 type · 3 id_keys · 4 description_keys
func (w *walker) entityRef(b []byte, e entity.EntityRef) []byte {
	p, f := w.pos(b), w.fix
	b = w.strField(b, 0x0a, e.SchemaUrl())
	b = w.strField(b, 0x12, e.Type())
	ids, descs := e.IdKeys(), e.DescriptionKeys()
	for i := range ids.Len() {
		b = w.str(append(b, 0x1a), ids.At(i))
	}
	for i := range descs.Len() {
		b = w.str(append(b, 0x22), descs.At(i))
	}
	return w.endNested(b, p, f)
}

// scope emits InstrumentationScope and returns its protobuf size.
//
//	1 name · 2 version · 3 attributes · 4 dropped_attributes_count
func (w *walker) scope(b []byte, s pcommon.InstrumentationScope) ([]byte, int) {
	name, version, attrs, dropped := s.Name(), s.Version(), s.Attributes(), s.DroppedAttributesCount()
	empty := name == "" && version == "" && attrs.Len() == 0 && dropped == 0
	if w.split {
		b = w.begin(b, domainScope, w.parents[0][:])
	} else {
		if empty {
			return b, 0
		}
		b = append(w.room(b), 0x0a)
	}
	p := w.pos(b)
	w.fix = 0
	b = w.strField(b, 0x0a, name)
	b = w.strField(b, 0x12, version)
	b = w.attrs(b, 0x1a, attrs, 1)
	b = varintField(b, 0x20, uint64(dropped))
	size := w.pos(b) - p + w.fix
	if !w.split {
		return append(w.room(b), 0), size
	}
	w.parents[1] = w.end(b)
	w.setParent(w.parents[1])
	return b[:0], size
}

// foundScope notes users' data in the scope that is the signer's own.
func (w *walker) foundScope(s pcommon.InstrumentationScope) {
	if w.signing && !w.heartbeat && s.Name() == HeartbeatScope {
		w.scopes++
	}
}

// schemaURL emits the field schema_url of a resource or scope (3 in both) and
// returns its size with tag and length. A split digest leaves it out, but it is
// checked and sized all the same.
func (w *walker) schemaURL(b []byte, s string) ([]byte, int) {
	if s == "" {
		return b, 0
	}
	if w.split {
		b = w.silence(b)
	}
	b = w.str(append(b, 0x1a), s)
	if w.split {
		b = w.speak(b)
	}
	return b, 1 + sov(len(s)) + len(s)
}
