package ratelimitextension

import (
	"encoding/json"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

func (r Reason) message() string {
	switch r {
	case RequestRate:
		return "too many requests; come again later"
	case ByteRate:
		return "too much data; come again later"
	case Concurrency:
		return "too many requests at the same time; come again later"
	case TooDeep:
		return "too_deep: attribute values or bodies nest deeper than max_nesting allows"
	case Malformed:
		return "malformed: not the JSON encoding of OTLP"
	default:
		return "refused"
	}
}

// kind is what was looked at.
func (r Reason) kind() string {
	if r.final() {
		return "nesting"
	}
	return "rate_limit"
}

// answer is the body of refusals that do not go to an OTLP client.
type answer struct {
	Error          string `json:"error"`  // for people
	Reason         string `json:"reason"` // for programs
	RejectedBy     string `json:"rejected_by"`
	ValidationType string `json:"validation_type"`
}

// final says that the same request will be refused again.
func (r Reason) final() bool { return r == TooDeep || r == Malformed }

// statusOf is a refusal for an OTLP client. It sends again because RetryInfo
// is there: without it ResourceExhausted means never. ErrorInfo carries the reason.
func statusOf(by string, why refusal) *status.Status {
	s := status.New(codes.ResourceExhausted, why.reason.message())
	details := []protoadapt.MessageV1{&errdetails.RetryInfo{RetryDelay: durationpb.New(why.retry)}}
	if why.reason.final() {
		s, details = status.New(codes.InvalidArgument, why.reason.message()), nil
	}
	detailed, err := s.WithDetails(append(details, &errdetails.ErrorInfo{Reason: strings.ToUpper(why.reason.String()), Domain: "ratelimit", Metadata: map[string]string{
		"reason": why.reason.String(), "rejected_by": by,
	}})...)
	if err != nil { // only for OK
		return s
	}
	return detailed
}

// Content types of OTLP/HTTP.
const (
	typeProtobuf = "application/x-protobuf"
	typeJSON     = "application/json"
)

// writeRefusal answers 429, or 400 where it is for good: OTLP clients with the google.rpc.Status that they
// expect, in the encoding of the request, others with a JSON object.
func writeRefusal(w http.ResponseWriter, r *http.Request, by string, why refusal) {
	h, code := w.Header(), http.StatusBadRequest
	if !why.reason.final() {
		code = http.StatusTooManyRequests
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(max(why.retry, time.Second).Seconds())), 10))
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	body, contentType := refusalBody(r, by, why)
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

func refusalBody(r *http.Request, by string, why refusal) (body []byte, contentType string) {
	var err error
	switch t := r.Header.Get("Content-Type"); {
	case isType(t, typeProtobuf):
		// Only OTLP expects anything: Prometheus' remote write looks at the code alone.
		body, err = proto.Marshal(statusOf(by, why).Proto())
		contentType = typeProtobuf
	case isType(t, typeJSON) && isOTLP(r.URL.Path):
		body, err = protojson.Marshal(statusOf(by, why).Proto())
		contentType = typeJSON
	default:
		body, err = json.Marshal(answer{Error: why.reason.message(), Reason: why.reason.String(), RejectedBy: by, ValidationType: why.reason.kind()})
		contentType = typeJSON
	}
	if err != nil { // of values that neither encoding has
		return nil, contentType
	}
	return body, contentType
}

func isType(header, want string) bool {
	if header == want {
		return true
	}
	got, _, err := mime.ParseMediaType(header)
	return err == nil && got == want
}

// isOTLP knows the paths of OTLP/HTTP, also behind a prefix.
func isOTLP(path string) bool {
	for _, end := range []string{"/v1/traces", "/v1/metrics", "/v1/logs", "/v1development/profiles"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}
