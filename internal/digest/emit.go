package digest

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unicode/utf8"
)

// This file emits the scalar fields of C: tag, then value.

// sov is the length of x as a varint.
func sov(x int) int { return (bits.Len64(uint64(x)|1) + 6) / 7 }

// str emits varint length and bytes.
func (w *walker) str(b []byte, s string) []byte {
	if len(s) >= longSize {
		return w.longStr(b, s)
	}
	if cap(b)-len(b) < longSize+headroom {
		b = w.flush(b)
	}
	if len(s) < 0x80 {
		b = append(b, byte(len(s)))
	} else {
		b = append(b, byte(len(s))|0x80, byte(len(s)>>7))
	}
	b, ok := appendASCII(b, s)
	if !ok {
		w.checkUTF8(s)
	}
	return b
}

func (w *walker) checkUTF8(s string) {
	if !utf8.ValidString(s) {
		w.strings++
	}
}

func (w *walker) longStr(b []byte, s string) []byte {
	w.checkUTF8(s)
	b = binary.AppendUvarint(b, uint64(len(s)))
	for {
		b = w.flush(b)
		if len(s) <= bufSize-headroom {
			return append(b, s...)
		}
		b = append(b, s[:bufSize-headroom]...)
		s = s[bufSize-headroom:]
	}
}

// appendASCII appends s, for which there must be room, and reports whether all
// its bytes are below 0x80. One pass does both.
func appendASCII(b []byte, s string) ([]byte, bool) {
	const high = 0x8080808080808080
	n := len(b)
	b = b[:n+len(s)]
	d := b[n:]
	var acc uint64
	if len(s) >= 8 {
		last := load64(s[len(s)-8:])
		binary.LittleEndian.PutUint64(d[len(s)-8:], last)
		acc = last
		for len(s) > 8 && len(d) > 8 {
			x := load64(s)
			binary.LittleEndian.PutUint64(d, x)
			acc |= x
			s, d = s[8:], d[8:]
		}
		return b, acc&high == 0
	}
	for i := range len(s) {
		d[i] = s[i]
		acc |= uint64(s[i])
	}
	return b, acc < 0x80
}

// load64 compiles to one load.
func load64(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// strField emits a string field with implicit presence.
func (w *walker) strField(b []byte, tag byte, s string) []byte {
	if s == "" {
		return b
	}
	return w.str(append(b, tag), s)
}

// u64Field emits a fixed64 field with implicit presence.
func u64Field(b []byte, tag byte, x uint64) []byte {
	if x == 0 {
		return b
	}
	return appendU64(b, tag, x)
}

func appendU64(b []byte, tag byte, x uint64) []byte {
	return append(b, tag, byte(x), byte(x>>8), byte(x>>16), byte(x>>24),
		byte(x>>32), byte(x>>40), byte(x>>48), byte(x>>56))
}

// u32Field emits a fixed32 field with implicit presence.
func u32Field(b []byte, tag byte, x uint32) []byte {
	if x == 0 {
		return b
	}
	return append(b, tag, byte(x), byte(x>>8), byte(x>>16), byte(x>>24))
}

// varintField emits a varint field with implicit presence.
func varintField(b []byte, tag byte, x uint64) []byte {
	if x == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, tag), x)
}

// zigzagField emits a sint32 field with implicit presence.
func zigzagField(b []byte, tag byte, x int32) []byte {
	return varintField(b, tag, uint64(uint32(x<<1)^uint32(x>>31)))
}

// double emits a double with explicit presence.
func (w *walker) double(b []byte, tag byte, f float64) []byte {
	return appendU64(b, tag, w.bits(f))
}

func (w *walker) bits(f float64) uint64 {
	x := math.Float64bits(f)
	if f != f && x != canonicalNaN {
		w.doubles++
		return canonicalNaN
	}
	return x
}

// doubleField emits a double with implicit presence. Negative zero counts as
// zero, since protobuf implementations that test for x != 0 lose it.
func (w *walker) doubleField(b []byte, tag byte, f float64) []byte {
	if f == 0 {
		if math.Float64bits(f) != 0 {
			w.doubles++
		}
		return b
	}
	return w.double(b, tag, f)
}

// traceID and spanID emit ids; all-zero is absent. pdata writes tag and length
// even then.
func (w *walker) traceID(b []byte, tag byte, id [16]byte) []byte {
	if id == ([16]byte{}) {
		w.fix += 2
		return b
	}
	w.fix++ // the length
	return append(append(b, tag), id[:]...)
}

func (w *walker) spanID(b []byte, tag byte, id [8]byte) []byte {
	if id == ([8]byte{}) {
		w.fix += 2
		return b
	}
	w.fix++
	return append(append(b, tag), id[:]...)
}
