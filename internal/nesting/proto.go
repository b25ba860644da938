package nesting

import "math"

// widest is a field number above all that lead to a value, but for one.
const widest = 16

// deprecated is the number of the scopes in earlier versions; it has the row's
// place 0.
const deprecated = 1000

// ways is which message stands in which field, of those that may contain a
// value. What contains none is passed over by its length.
var ways = func() (out [messages][widest]message) {
	leads := [messages]bool{mAnyValue: true}
	for more := true; more; {
		more = false
		for m, fields := range schema {
			for _, f := range fields {
				if f.holds == object && leads[f.message] && !leads[m] {
					leads[m], more = true, true
				}
			}
		}
	}
	for m, fields := range schema {
		if message(m) == mNone {
			continue // of JSON
		}
		for _, f := range fields {
			if f.holds == object && leads[f.message] {
				if f.number == deprecated {
					out[m][0] = f.message
				} else {
					out[m][f.number] = f.message
				}
			}
		}
	}
	return out
}()

// What stands around a value, at most, and what a level of it takes:
//
//	request | resource | scope | metric | data | point | exemplar | attribute
//	value | map | attribute
const (
	protoAround = 8
	protoLevel  = 3
)

// Proto says whether no value of a request in protobuf encoding nests deeper
// than levels, 1 to [MaxLevels]: a value stands at 1, what is in its array or map
// one deeper. Where pdata stops with an error, it stops too, and says yes.
//
// It takes no memory but its stack for what honest senders nest, and a few bytes
// for each level beyond.
func Proto(b []byte, of Signal, levels int) bool {
	switch of {
	case Logs:
		return proto(b, mLogsRequest, levels)
	case Traces:
		return proto(b, mTraceRequest, levels)
	case Metrics:
		return proto(b, mMetricsRequest, levels)
	case Profiles:
		return proto(b, mProfilesRequest, levels)
	default:
		return proto(b, mLogsRequest, levels) && proto(b, mTraceRequest, levels) && proto(b, mMetricsRequest, levels) && proto(b, mProfilesRequest, levels)
	}
}

func proto(b []byte, m message, levels int) bool {
	if len(b) > math.MaxUint32 {
		return false
	}
	var (
		ends  [protoAround + protoLevel*fewLevels]uint32
		kinds [len(ends)]message
	)
	fits, room := scan(b, m, levels, ends[:], kinds[:])
	if !room {
		n := protoAround + protoLevel*levels
		fits, _ = scan(b, m, levels, make([]uint32, n), make([]message, n))
	}
	return fits
}

// scan notes in ends and kinds the messages that are around. Without room for
// them it cannot say whether b fits.
func scan(b []byte, m message, levels int, ends []uint32, kinds []message) (fits, room bool) {
	kinds = kinds[:len(ends)]
	var (
		open  int // how many are around
		depth int // how many of them, and m, are values

		inner      message
		at, length int // of what stands in a field
	)
	in, pos := b, 0 // b up to the end of m
	for {
		for pos == len(in) {
			if open == 0 {
				return true, true
			}
			if m == mAnyValue {
				depth--
			}
			open--
			m, in = kinds[open], b[:ends[open]] //nolint:gosec // open was above 0, and below their length
		}
		// A byte for the tag and one for the length, as nearly all have; the rest
		// is read as slowly as it likes.
		if c := in[pos]; c < widest<<3 && c&7 == wireLen && c >= 1<<3 && pos+1 < len(in) && in[pos+1] < 0x80 {
			inner, at, length = ways[m][c>>3], pos+2, int(in[pos+1])
			if length > len(in)-at {
				return true, true
			}
		} else {
			number, wire, from, ok := tag(in, pos)
			if !ok {
				return true, true
			}
			switch {
			case uint32(number) < widest:
				inner = ways[m][number]
			case number == deprecated:
				inner = ways[m][0]
			default:
				inner = mNone
			}
			if wire != wireLen {
				if inner != mNone {
					return true, true
				}
				if pos, ok = skip(in, from, wire); !ok {
					return true, true
				}
				continue
			}
			if length, at, ok = size(in, from); !ok {
				return true, true
			}
		}
		pos = at
		if inner == mNone {
			pos += length
			continue
		}
		if inner == mAnyValue {
			if depth++; depth > levels {
				return false, true
			}
		}
		if open >= len(ends) {
			return false, false
		}
		kinds[open], ends[open] = m, uint32(len(in))
		open++
		m, in = inner, in[:at+length]
	}
}

// The wire types.
const (
	wireVarint = 0
	wire64     = 1
	wireLen    = 2
	wireStart  = 3
	wireEnd    = 4
	wire32     = 5
)

// What follows reads what pdata reads, and fails where it fails: field numbers
// wrap around at 32 bits, and of a group no more is passed over than its first
// field, so that the others count as fields of the message around it.

func varint(b []byte, pos int) (v uint64, at int, ok bool) {
	if pos < len(b) && b[pos] < 0x80 {
		return uint64(b[pos]), pos + 1, true
	}
	return longVarint(b, pos)
}

func longVarint(b []byte, pos int) (v uint64, at int, ok bool) {
	for shift := uint(0); shift < 64; shift += 7 {
		if pos >= len(b) {
			return 0, 0, false
		}
		c := b[pos]
		pos++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, pos, true
		}
	}
	return 0, 0, false
}

func tag(b []byte, pos int) (number int32, wire uint8, at int, ok bool) {
	v, at, ok := varint(b, pos)
	number = int32(v >> 3)
	return number, uint8(v & 7), at, ok && number > 0
}

// size reads a length, and makes sure that so much is there.
func size(b []byte, pos int) (length, at int, ok bool) {
	v, at, ok := varint(b, pos)
	if !ok || v > uint64(len(b)-at) {
		return 0, 0, false
	}
	return int(v), at, true
}

func skip(b []byte, pos int, wire uint8) (at int, ok bool) {
	for groups := 0; pos < len(b); {
		switch wire {
		case wireVarint:
			_, pos, ok = varint(b, pos)
			return pos, ok
		case wire64:
			return pos + 8, pos+8 <= len(b)
		case wireLen:
			length, at, ok := size(b, pos)
			return at + length, ok
		case wire32:
			return pos + 4, pos+4 <= len(b)
		case wireStart:
			groups++
		case wireEnd:
			if groups == 0 {
				return 0, false
			}
			groups--
		default:
			return 0, false
		}
		if groups == 0 {
			return pos, true
		}
		if _, wire, pos, ok = tag(b, pos); !ok {
			return 0, false
		}
	}
	return 0, false
}
