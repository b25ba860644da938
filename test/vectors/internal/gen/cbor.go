package main

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/fxamacker/cbor/v2"
)

// CBOR in pieces, so that receipts can be put together that no encoder writes.

var deterministic = must(cbor.CoreDetEncOptions().EncMode())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// enc is the deterministic encoding of v; raw bytes are taken as they are.
func enc(v any) []byte {
	if raw, ok := v.(cbor.RawMessage); ok {
		return raw
	}
	return must(deterministic.Marshal(v))
}

func raw(b ...byte) cbor.RawMessage { return b }

// Major types.
const (
	majorUint  = 0
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
)

// head is the head of a data item in so many bytes of argument: 0 (in the
// initial byte), 1, 2, 4 or 8.
func head(major byte, n uint64, width int) cbor.RawMessage {
	switch width {
	case 0:
		return raw(major<<5 | byte(n))
	case 1:
		return raw(major<<5|24, byte(n))
	case 2:
		return binary.BigEndian.AppendUint16(raw(major<<5|25), uint16(n))
	case 4:
		return binary.BigEndian.AppendUint32(raw(major<<5|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(raw(major<<5|27), n)
	}
}

func shortest(major byte, n uint64) cbor.RawMessage {
	switch {
	case n < 24:
		return head(major, n, 0)
	case n <= math.MaxUint8:
		return head(major, n, 1)
	case n <= math.MaxUint16:
		return head(major, n, 2)
	default:
		return head(major, n, 4)
	}
}

// pair is one entry of a map, in encoded form.
type pair struct{ key, value []byte }

// cmap is a map in the order in which it is to be written.
type cmap []pair

func (m cmap) index(key any) int {
	k := enc(key)
	return slices.IndexFunc(m, func(p pair) bool { return slices.Equal(p.key, k) })
}

// put sets the value of a key where it stands, or adds it at its place in
// deterministic order.
func (m *cmap) put(key, value any) {
	if i := m.index(key); i >= 0 {
		(*m)[i].value = enc(value)
		return
	}
	k := enc(key)
	i, _ := slices.BinarySearchFunc(*m, k, func(p pair, k []byte) int { return slices.Compare(p.key, k) })
	*m = slices.Insert(*m, i, pair{k, enc(value)})
}

// again adds an entry at the end, wherever it belongs.
func (m *cmap) again(key, value any) { *m = append(*m, pair{enc(key), enc(value)}) }

func (m *cmap) drop(key any) {
	i := m.index(key)
	*m = slices.Delete(*m, i, i+1)
}

// swap exchanges the places of two keys.
func (m cmap) swap(a, b any) {
	i, j := m.index(a), m.index(b)
	m[i], m[j] = m[j], m[i]
}

func (m cmap) get(key any) []byte { return m[m.index(key)].value }

func (m cmap) encode() cbor.RawMessage {
	return append(shortest(majorMap, uint64(len(m))), m.body()...)
}

// indefinite is the map with an indefinite length.
func (m cmap) indefinite() cbor.RawMessage {
	return append(append(raw(0xbf), m.body()...), 0xff)
}

func (m cmap) body() []byte {
	var b []byte
	for _, p := range m {
		b = append(append(b, p.key...), p.value...)
	}
	return b
}

// parseMap takes a map apart that our encoder wrote.
func parseMap(b []byte) cmap {
	n, b := argument(b)
	m := make(cmap, 0, n)
	for range n {
		var p pair
		p.key, b = cut(b)
		p.value, b = cut(b)
		m = append(m, p)
	}
	return m
}

func argument(b []byte) (n uint64, rest []byte) {
	switch info := b[0] & 31; info {
	case 24:
		return uint64(b[1]), b[2:]
	case 25:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:]
	case 26:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:]
	case 27:
		return binary.BigEndian.Uint64(b[1:]), b[9:]
	default:
		return uint64(info), b[1:]
	}
}

// cut cuts the first data item off.
func cut(b []byte) (item, rest []byte) {
	var r cbor.RawMessage
	rest, err := cbor.UnmarshalFirst(b, &r)
	if err != nil {
		panic(err)
	}
	return b[: len(b)-len(rest) : len(b)-len(rest)], rest
}

func array(elements ...any) cbor.RawMessage {
	b := shortest(majorArray, uint64(len(elements)))
	for _, e := range elements {
		b = append(b, enc(e)...)
	}
	return b
}

// bstr is a byte string.
func bstr(b []byte) cbor.RawMessage {
	return append(shortest(majorBytes, uint64(len(b))), b...)
}
