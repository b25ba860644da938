package receipt

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/fxamacker/cbor/v2"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// encMode writes RFC 8949 §4.2.1 core deterministic encoding.
var encMode = must(cbor.CoreDetEncOptions().EncMode())

// strict reads definite-length CBOR without tags, simple values, NaN or
// infinities, in small containers. What it accepts need not be deterministic
// yet: that shows when it is encoded again.
var strict = must(decOptions().DecMode())

// loose reads what is well-formed, to tell a receipt in another encoding from
// something that is no receipt, and to find the profile of one that strict
// refused. It runs on refusals only.
var loose = must(func() cbor.DecOptions {
	o := decOptions()
	o.DupMapKey = cbor.DupMapKeyQuiet
	o.IndefLength = cbor.IndefLengthAllowed
	o.TagsMd = cbor.TagsAllowed
	o.ExtraReturnErrors = cbor.ExtraDecErrorNone
	o.SimpleValues = nil
	o.MaxNestedLevels = 16
	return o
}().DecMode())

func decOptions() cbor.DecOptions {
	// All of them: false, true, null and undefined, and those that nobody has
	// assigned, which the library would read as integers.
	simple := []func(*cbor.SimpleValueRegistry) error{}
	for v := range math.MaxUint8 + 1 {
		if v < 24 || v > 31 { // between them are none
			simple = append(simple, cbor.WithRejectedSimpleValue(cbor.SimpleValue(v)))
		}
	}
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
		SimpleValues:      must(cbor.NewSimpleValueRegistryFromDefaults(simple...)),
		MaxNestedLevels:   4,
		MaxArrayElements:  MaxKeys,
		MaxMapPairs:       16,
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// refuseCBOR gives an error of the strict decoder its reason: labels that do
// not belong, encodings that deterministic CBOR rules out (a label twice is not
// ascending), and everything else.
func refuseCBOR(what string, err error) error {
	r := reason.ReceiptMalformed
	if _, ok := errors.AsType[*cbor.UnknownFieldError](err); ok {
		r = reason.ReceiptLabels
	} else if _, ok := errors.AsType[*cbor.IndefiniteLengthError](err); ok {
		r = reason.ReceiptNotDeterministic
	} else if _, ok := errors.AsType[*cbor.DupMapKeyError](err); ok {
		r = reason.ReceiptNotDeterministic
	}
	return &reason.Error{Reason: r, Detail: what, Err: err}
}

// profileOf looks for the profile claim in protected header bytes.
func profileOf(b []byte) (string, bool) {
	var h struct {
		Claims struct {
			Profile *string `cbor:"265,keyasint"`
		} `cbor:"15,keyasint"`
	}
	if err := loose.Unmarshal(b, &h); err != nil || h.Claims.Profile == nil {
		return "", false
	}
	return *h.Claims.Profile, true
}

// reframe says why bytes are not framed as a receipt: they are one in another
// encoding than the deterministic one, or none.
func reframe(b []byte) error {
	var (
		elements []cbor.RawMessage
		sig      cbor.ByteString
	)
	number, content, ok := cutHead(b, majorTag)
	if !ok || number != tagSign1 || len(content) == 0 || content[0]>>5 != majorArray {
		return reason.New(reason.ReceiptMalformed, "not a tagged COSE_Sign1")
	}
	if err := loose.Unmarshal(content, &elements); err != nil {
		return reason.Wrap(reason.ReceiptMalformed, err)
	}
	if len(elements) != 4 ||
		elements[0][0]>>5 != majorBytes || elements[1][0]>>5 != majorMap || elements[2][0] != null ||
		loose.Unmarshal(elements[3], &sig) != nil || !fits(elements[0], len(sig)) {
		return reason.New(reason.ReceiptMalformed, "not a COSE_Sign1 with a detached payload and a signature of an algorithm's length")
	}
	return reason.New(reason.ReceiptNotDeterministic, "envelope")
}

// fits is possible for a protected header that is a byte string, or not.
func fits(header cbor.RawMessage, n int) bool {
	var protected cbor.ByteString
	_ = loose.Unmarshal(header, &protected) // what is none has no profile
	return possible([]byte(protected), n)
}

// possible says whether a signature may have n bytes: 64 in the first profile,
// whatever else stands in the header, and the length of one of its algorithms in
// the other.
func possible(protected []byte, n int) bool {
	if n == ES256.SignatureSize() {
		return true
	}
	if !anySize(n) {
		return false
	}
	p, ok := profileOf(protected)
	return ok && p == ProfileAgile
}

// Major types and other initial bytes of RFC 8949 §3.
const (
	majorUint  = 0
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6

	null     = 0xf6
	tagSign1 = 18
)

// appendHead appends the shortest head of a data item:
//
//	major | n                      n < 24
//	major | 24..27 | n in 1, 2, 4 or 8 bytes
func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major<<5|byte(n))
	case n <= math.MaxUint8:
		return append(b, major<<5|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major<<5|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major<<5|26), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, major<<5|27), n)
	}
}

func headSize(n uint64) int {
	switch {
	case n < 24:
		return 1
	case n <= math.MaxUint8:
		return 2
	case n <= math.MaxUint16:
		return 3
	case n <= math.MaxUint32:
		return 5
	default:
		return 9
	}
}

func appendBytes(b, content []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(content))), content...)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

// cutHead cuts the head of a data item off the front of b, in any
// definite-length form.
func cutHead(b []byte, major byte) (n uint64, rest []byte, ok bool) {
	if len(b) == 0 || b[0]>>5 != major || b[0]&31 > 27 {
		return 0, nil, false
	}
	n, b = uint64(b[0]&31), b[1:]
	if n < 24 {
		return n, b, true
	}
	width := 1 << (n - 24)
	if len(b) < width {
		return 0, nil, false
	}
	n = 0
	for _, c := range b[:width] {
		n = n<<8 | uint64(c)
	}
	return n, b[width:], true
}

// cutBytes cuts a byte string off the front of b, in any definite-length form.
func cutBytes(b []byte) (content, rest []byte, ok bool) {
	n, b, ok := cutHead(b, majorBytes)
	if !ok || n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

var errBytes = errors.New("not a byte string of the length wanted")

// alias is a byte string that stays where it was read.
type alias []byte

// UnmarshalCBOR implements cbor.Unmarshaler.
func (a *alias) UnmarshalCBOR(b []byte) error {
	content, _, ok := cutBytes(b)
	if !ok {
		return errBytes
	}
	*a = content
	return nil
}

// hash is a byte string of 32 bytes.
type hash block.Digest

// UnmarshalCBOR implements cbor.Unmarshaler.
func (h *hash) UnmarshalCBOR(b []byte) error {
	content, _, ok := cutBytes(b)
	if !ok || len(content) != len(h) {
		return errBytes
	}
	*h = hash(content)
	return nil
}
