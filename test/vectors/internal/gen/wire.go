package main

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Protobuf on the wire, for what no encoder writes.

// Wire types.
const (
	wireVarint = 0
	wireEight  = 1
	wireLen    = 2
	wireGroup  = 3
	wireEnd    = 4
	wireFour   = 5
)

// field is one field as it stands on the wire. body is without tag and length.
type field struct {
	num, wire int
	body      []byte
}

func tag(num, wire int) []byte {
	return binary.AppendUvarint(nil, uint64(num)<<3|uint64(wire))
}

func (f field) encode() []byte {
	b := tag(f.num, f.wire)
	if f.wire == wireLen {
		b = binary.AppendUvarint(b, uint64(len(f.body)))
	}
	return append(b, f.body...)
}

func lenField(num int, body []byte) []byte { return field{num, wireLen, body}.encode() }

func varintField(num int, x uint64) []byte {
	return field{num, wireVarint, binary.AppendUvarint(nil, x)}.encode()
}

func fixed64Field(num int, x uint64) []byte {
	return field{num, wireEight, binary.LittleEndian.AppendUint64(nil, x)}.encode()
}

func fixed64s(xs ...uint64) []byte {
	var b []byte
	for _, x := range xs {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

// fields takes a message apart. It is for what our own encoder wrote.
func fields(b []byte) []field {
	var out []field
	for len(b) > 0 {
		t, n := binary.Uvarint(b)
		b = b[n:]
		f := field{num: int(t >> 3), wire: int(t & 7)}
		size := 0
		switch f.wire {
		case wireVarint:
			_, size = binary.Uvarint(b)
		case wireEight:
			size = 8
		case wireFour:
			size = 4
		case wireLen:
			l, n := binary.Uvarint(b)
			b = b[n:]
			size = int(l)
		default:
			panic(fmt.Sprintf("wire type %d", f.wire))
		}
		f.body, b = b[:size:size], b[size:]
		out = append(out, f)
	}
	return out
}

func message(fs []field) []byte {
	var b []byte
	for _, f := range fs {
		b = append(b, f.encode()...)
	}
	return b
}

// edit changes the message at the end of path: field numbers, of which the
// first occurrence is taken.
func edit(b []byte, change func([]byte) []byte, path ...int) []byte {
	if len(path) == 0 {
		return change(b)
	}
	fs := fields(b)
	i := slices.IndexFunc(fs, func(f field) bool { return f.num == path[0] })
	if i < 0 {
		panic(fmt.Sprintf("there is no field %d", path[0]))
	}
	fs[i].body = edit(fs[i].body, change, path[1:]...)
	return message(fs)
}

// plus appends bytes to the message at the end of path.
func plus(b, more []byte, path ...int) []byte {
	return edit(b, func(b []byte) []byte { return slices.Concat(b, more) }, path...)
}

// without removes all occurrences of a field from the message at the end of path.
func without(b []byte, num int, path ...int) []byte {
	return edit(b, func(b []byte) []byte {
		return message(slices.DeleteFunc(fields(b), func(f field) bool { return f.num == num }))
	}, path...)
}

// scatter writes a message so that it looks different and means the same:
// fields of different numbers change places, and varints and lengths get longer
// than they need be. nested says which fields hold messages.
func scatter(b []byte, nested func(path []int) bool, path ...int) []byte {
	fs := fields(b)
	slices.SortStableFunc(fs, func(a, b field) int { return b.num*7%11 - a.num*7%11 })
	var out []byte
	for _, f := range fs {
		at := append(slices.Clone(path), f.num)
		switch f.wire {
		case wireLen:
			if nested(at) {
				f.body = scatter(f.body, nested, at...)
			}
			out = append(out, tag(f.num, f.wire)...)
			out = append(append(out, longVarint(uint64(len(f.body)))...), f.body...)
		case wireVarint:
			x, _ := binary.Uvarint(f.body)
			out = append(append(out, tag(f.num, f.wire)...), longVarint(x)...)
		default:
			out = append(out, f.encode()...)
		}
	}
	return out
}

// longVarint is a varint with one byte more than needed, up to ten.
func longVarint(x uint64) []byte {
	b := binary.AppendUvarint(nil, x)
	if len(b) < 10 {
		b[len(b)-1] |= 0x80
		b = append(b, 0)
	}
	return b
}

// request is an Export request of these blocks: each is field 1.
func request(blocks ...[]byte) []byte {
	var b []byte
	for _, block := range blocks {
		b = append(b, lenField(1, block)...)
	}
	return b
}

// Field numbers of the path from a block to its parts.
const (
	toResource  = 1
	toScopes    = 2
	toScope     = 1 // in an element of toScopes
	toItems     = 2 // in an element of toScopes; metrics for the metrics
	keyValueKey = 1
	keyValueAny = 2
)
