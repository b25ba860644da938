package otlpfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/telemark-otel/telemark/internal/block"
)

// pdata passes over what it does not know, keeps the last of what stands there
// twice and merges messages. In a pipeline that is gone from what goes on. A file
// stays as it is, and whoever reads it with something else must not see what no
// digest covers (docs/spec/digest.md §2.2 and §8).

var (
	errUncovered = errors.New("it holds what no digest covers")
	errNesting   = errors.New("it nests too deep")
)

// maxNesting bounds messages in messages, as encoding/json does.
const maxNesting = 10_000

// request describes a request of the signal: its field 1 are the blocks.
func request(s block.Signal) protoreflect.MessageDescriptor {
	switch s {
	case block.Metrics:
		return (*metricspb.MetricsData)(nil).ProtoReflect().Descriptor()
	case block.Logs:
		return (*logspb.LogsData)(nil).ProtoReflect().Descriptor()
	default:
		return (*tracepb.TracesData)(nil).ProtoReflect().Descriptor()
	}
}

// once notes the fields of one message and refuses a second one where there can
// be one only. They are bits, by their index: OTLP has no message of 64 fields.
type once struct{ fields, oneofs uint64 }

func (o *once) note(fd protoreflect.FieldDescriptor) error {
	bit := uint64(1) << fd.Index()
	if o.fields&bit != 0 {
		return fmt.Errorf("%w: %s twice", errUncovered, fd.FullName())
	}
	o.fields |= bit
	if of := fd.ContainingOneof(); of != nil && !of.IsSynthetic() {
		bit = 1 << of.Index()
		if o.oneofs&bit != 0 {
			return fmt.Errorf("%w: several of %s", errUncovered, of.FullName())
		}
		o.oneofs |= bit
	}
	return nil
}

// strictProto goes through the fields of a message.
func strictProto(b []byte, md protoreflect.MessageDescriptor, depth int) error {
	if depth > maxNesting {
		return errNesting
	}
	var seen once
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		fd := md.Fields().ByNumber(number)
		if fd == nil {
			return fmt.Errorf("%w: field %d of %s", errUncovered, number, md.Name())
		}
		if wire != wireType(fd) {
			return fmt.Errorf("%w: %s of wire type %d", errUncovered, fd.FullName(), wire)
		}
		if !fd.IsList() || fd.IsPacked() {
			if err := seen.note(fd); err != nil {
				return err
			}
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, wire, b); n < 0 {
			return protowire.ParseError(n)
		}
		switch {
		case fd.Kind() == protoreflect.MessageKind:
			content, _ := protowire.ConsumeBytes(b)
			if err := strictProto(content, fd.Message(), depth+1); err != nil {
				return err
			}
		case wire == protowire.VarintType:
			if v, _ := protowire.ConsumeVarint(b); !fits(fd.Kind(), v) {
				return fmt.Errorf("%w: %s of more than 32 bits", errUncovered, fd.FullName())
			}
		}
		b = b[n:]
	}
	return nil
}

// wireType is that of the .proto; packed lists have that of bytes.
func wireType(fd protoreflect.FieldDescriptor) protowire.Type {
	if fd.IsPacked() {
		return protowire.BytesType
	}
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.StringKind, protoreflect.BytesKind:
		return protowire.BytesType
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	default:
		return protowire.VarintType
	}
}

func fits(k protoreflect.Kind, v uint64) bool {
	switch k {
	case protoreflect.Uint32Kind, protoreflect.Sint32Kind:
		return v <= math.MaxUint32
	case protoreflect.EnumKind, protoreflect.Int32Kind:
		return int64(v) == int64(int32(v))
	default:
		return true
	}
}

// strictJSON goes through the members of a document that is valid JSON, which
// bounds its nesting.
func strictJSON(valid []byte, md protoreflect.MessageDescriptor) error {
	j := jsonWalk{valid}
	if j.next() != '{' {
		return ErrNotOTLP
	}
	return j.object(md)
}

// jsonWalk is what is left of a valid document.
type jsonWalk struct{ rest []byte }

// next returns the first byte of what comes next.
func (j *jsonWalk) next() byte {
	j.rest = bytes.TrimLeft(j.rest, " \t\r\n")
	return j.rest[0]
}

// skip passes a comma or colon, if there is one, and reports whether no end follows.
func (j *jsonWalk) skip() bool {
	if c := j.next(); c == ',' || c == ':' {
		j.rest = j.rest[1:]
		j.next()
	}
	return j.rest[0] != '}' && j.rest[0] != ']'
}

// scalar cuts a string, number, true, false or null.
func (j *jsonWalk) scalar() (raw []byte) {
	n := 1
	if j.next() == '"' {
		for j.rest[n] != '"' {
			if j.rest[n] == '\\' {
				n++
			}
			n++
		}
		n++
	} else {
		n = bytes.IndexAny(j.rest, ",]} \t\r\n") // a scalar stands in an object
	}
	raw, j.rest = j.rest[:n], j.rest[n:]
	return raw
}

func (j *jsonWalk) object(md protoreflect.MessageDescriptor) error {
	var seen once
	for j.rest = j.rest[1:]; j.skip(); {
		name, err := unquote(j.scalar())
		if err != nil {
			return err
		}
		fd := md.Fields().ByJSONName(name)
		if fd == nil {
			fd = md.Fields().ByTextName(name) // decoders take both
		}
		if fd == nil {
			return fmt.Errorf("%w: member %.64q of %s", errUncovered, name, md.Name())
		}
		if err := seen.note(fd); err != nil {
			return err
		}
		j.skip()
		if err := j.member(fd); err != nil {
			return err
		}
	}
	j.rest = j.rest[1:]
	return nil
}

func unquote(raw []byte) (s string, err error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	return s, json.Unmarshal(raw, &s)
}

func (j *jsonWalk) member(fd protoreflect.FieldDescriptor) error {
	if !fd.IsList() || j.next() != '[' {
		return j.value(fd, fd.IsList())
	}
	for j.rest = j.rest[1:]; j.skip(); {
		if err := j.value(fd, false); err != nil {
			return err
		}
	}
	j.rest = j.rest[1:]
	return nil
}

// value looks at one value, which must be null where a list belongs. Whether a
// scalar can be one of its field is the decoder's to judge.
func (j *jsonWalk) value(fd protoreflect.FieldDescriptor, list bool) error {
	message := fd.Kind() == protoreflect.MessageKind
	switch c := j.next(); {
	case c == '{' && message && !list:
		return j.object(fd.Message())
	case c != '{' && c != '[' && (string(j.scalar()) == "null" || !message && !list):
		return nil
	default:
		return fmt.Errorf("%w: %s is something else", errUncovered, fd.FullName())
	}
}
