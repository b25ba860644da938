package ratelimitextension

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers what shallowCodec stands before
	"google.golang.org/grpc/mem"

	"github.com/telemark-otel/telemark/internal/nesting"
)

const codecName = "proto"

// shallowCodec looks at OTLP requests before they are decoded: whoever decodes
// one that nests millions of levels deep uses up the stack, and the process ends.
type shallowCodec struct {
	encoding.CodecV2
	ext *Extension
}

// errTooDeep becomes Internal on the way, as all that codecs return does: OTLP
// clients do not send again then. A better status would need an interceptor, and
// those run after the decoding.
var errTooDeep = errors.New(TooDeep.message())

// Unmarshal joins the pieces of a message once; a codec that needs them in one
// takes what it is given.
func (c *shallowCodec) Unmarshal(data mem.BufferSlice, v any) error {
	signal, ok := requestOf(v)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	if !nesting.Proto(whole.ReadOnlyData(), signal, c.ext.limiter.maxNesting) {
		c.ext.limiter.count(protocolGRPC, TooDeep)
		return errTooDeep
	}
	return c.CodecV2.Unmarshal(mem.BufferSlice{whole}, v)
}

// requestOf knows the requests of OTLP, by whomever they are decoded.
func requestOf(v any) (nesting.Signal, bool) {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer {
		return nesting.Any, false
	}
	switch t.Elem().Name() {
	case "ExportLogsServiceRequest":
		return nesting.Logs, true
	case "ExportTraceServiceRequest":
		return nesting.Traces, true
	case "ExportMetricsServiceRequest":
		return nesting.Metrics, true
	case "ExportProfilesServiceRequest":
		return nesting.Profiles, true
	default:
		return nesting.Any, false
	}
}

// shallow reads the body of a request that may be OTLP, looks how deep it nests
// and leaves it to be read again. confighttp has decompressed and bounded it.
func (h *handler) shallow(r *http.Request) (Reason, bool) {
	levels := h.limiter.maxNesting
	if levels == 0 || r.Body == nil || r.Body == http.NoBody {
		return Admitted, true
	}
	contentType := r.Header.Get("Content-Type")
	isJSON := isType(contentType, typeJSON)
	if !isJSON && !isType(contentType, typeProtobuf) {
		return Admitted, true
	}
	body, err := readAll(r)
	r.Body = &readBody{Reader: io.MultiReader(bytes.NewReader(body), failing{err}), Closer: r.Body}
	if err != nil {
		return Admitted, true // the server says what is wrong with it
	}
	if isJSON {
		switch nesting.JSON(body, levels) {
		case nesting.Fits:
			return Admitted, true
		case nesting.TooDeep:
			return TooDeep, false
		default:
			return Malformed, false
		}
	}
	if !nesting.Proto(body, signalOf(r.URL.Path), levels) {
		return TooDeep, false
	}
	return Admitted, true
}

// readAll reads a body. A length that a request declares is not memory that it
// has earned.
func readAll(r *http.Request) ([]byte, error) {
	const most = 1 << 20
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), most)) + bytes.MinRead)
	_, err := b.ReadFrom(r.Body)
	return b.Bytes(), err
}

// readBody is a body that was read, with the error that its reading ended with.
type readBody struct {
	io.Reader
	io.Closer
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}

// signalOf tells it by the end of a path; servers may have others for OTLP.
func signalOf(path string) nesting.Signal {
	switch path[strings.LastIndexByte(path, '/')+1:] {
	case "logs":
		return nesting.Logs
	case "traces":
		return nesting.Traces
	case "metrics":
		return nesting.Metrics
	case "profiles":
		return nesting.Profiles
	default:
		return nesting.Any
	}
}
