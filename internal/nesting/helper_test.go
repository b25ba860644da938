package nesting

import (
	"reflect"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/pprofile/pprofileotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/protobuf/encoding/protowire"
)

// request is an export request of pdata.
type request interface {
	UnmarshalProto([]byte) error
	UnmarshalJSON([]byte) error
	MarshalProto() ([]byte, error)
	MarshalJSON() ([]byte, error)
}

var requests = map[Signal]func() request{
	Logs:     func() request { return plogotlp.NewExportRequest() },
	Traces:   func() request { return ptraceotlp.NewExportRequest() },
	Metrics:  func() request { return pmetricotlp.NewExportRequest() },
	Profiles: func() request { return pprofileotlp.NewExportRequest() },
}

var roots = map[Signal]message{Logs: mLogsRequest, Traces: mTraceRequest, Metrics: mMetricsRequest, Profiles: mProfilesRequest}

// depthOf is how deep values nest in what pdata has decoded, in the memory of
// it: without empty values, of which it has one wherever none was sent, and with
// them.
func depthOf(r request) (filled, all int) {
	return walk(reflect.ValueOf(r), 0, 0), walk(reflect.ValueOf(r), 0, 1)
}

func walk(v reflect.Value, depth, empty int) (deepest int) {
	deepest = depth
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			deepest = walk(v.Elem(), depth, empty)
		}
	case reflect.Struct:
		if v.Type().Name() == "AnyValue" {
			if v.FieldByName("Value").IsNil() {
				return depth + empty
			}
			depth++
		}
		for _, field := range v.Fields() {
			deepest = max(deepest, walk(field, depth, empty))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			for i := range v.Len() {
				deepest = max(deepest, walk(v.Index(i), depth, empty))
			}
		}
	default:
	}
	return deepest
}

// paths returns every way from a request to a value, as fields.
func paths(from message) (out [][]field) {
	for _, f := range schema[from] {
		switch {
		case f.holds != object:
		case f.message == mAnyValue:
			out = append(out, []field{f})
		default:
			for _, rest := range paths(f.message) {
				out = append(out, append([]field{f}, rest...))
			}
		}
	}
	return out
}

func name(path []field) string {
	var names []string
	for _, f := range path {
		names = append(names, f.camel)
	}
	return strings.Join(names, ".")
}

// wrap puts inside into the fields of a path.
func wrap(path []field, inside []byte) []byte {
	for _, f := range slices.Backward(path) {
		inside = protowire.AppendBytes(protowire.AppendTag(nil, protowire.Number(f.number), protowire.BytesType), inside)
	}
	return inside
}

// wrapJSON does so in JSON, in one of its two spellings.
func wrapJSON(path []field, inside string, snake bool) string {
	for _, f := range slices.Backward(path) {
		name := f.camel
		if snake && f.snake != "" {
			name = f.snake
		}
		if f.list {
			inside = "[" + inside + "]"
		}
		inside = `{"` + name + `":` + inside + `}`
	}
	return inside
}

var (
	inArray = []field{{number: 5, camel: "arrayValue", snake: "array_value"}, {number: 1, camel: "values", list: true}}
	inMap   = []field{{number: 6, camel: "kvlistValue", snake: "kvlist_value"}, {number: 1, camel: "values", list: true}, {number: 2, camel: "value"}}
)

// nested is the bytes of a value that stands at levels.
func nested(levels int, in []field) []byte {
	var b []byte
	for range levels - 1 {
		b = wrap(in, b)
	}
	return b
}

func nestedJSON(levels int, in []field, snake bool) string {
	s := `{"intValue":1}`
	for range levels - 1 {
		s = wrapJSON(in, s, snake)
	}
	return s
}

// decode gives b to pdata.
func decode(signal Signal, b []byte, isJSON bool) (r request, err error) {
	r = requests[signal]()
	if isJSON {
		err = r.UnmarshalJSON(b)
	} else {
		err = r.UnmarshalProto(b)
	}
	return r, err
}
