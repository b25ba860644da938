package ratelimitextension

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configmiddleware"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	gzipgrpc "google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// deepen nests v so that it stands at levels.
func deepen(v pcommon.Value, levels int) {
	for i := range levels - 1 {
		if i%2 == 0 {
			v = v.SetEmptySlice().AppendEmpty()
		} else {
			v = v.SetEmptyMap().PutEmpty("k")
		}
	}
	v.SetInt(1)
}

func deepLogs(levels int) plogotlp.ExportRequest {
	ld := plog.NewLogs()
	deepen(ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body(), levels)
	return plogotlp.NewExportRequestFromLogs(ld)
}

func deepTraces(levels int) ptraceotlp.ExportRequest {
	td := ptrace.NewTraces()
	deepen(td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().Links().AppendEmpty().Attributes().PutEmpty("k"), levels)
	return ptraceotlp.NewExportRequestFromTraces(td)
}

func deepMetrics(levels int) pmetricotlp.ExportRequest {
	md := pmetric.NewMetrics()
	m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	deepen(m.SetEmptyGauge().DataPoints().AppendEmpty().Exemplars().AppendEmpty().FilteredAttributes().PutEmpty("k"), levels)
	return pmetricotlp.NewExportRequestFromMetrics(md)
}

// shallowest is an extension that bounds nesting at 10 levels, and nothing else.
func shallowest(t *testing.T) *Extension {
	return started(t, func(c *Config) { c.MaxNesting = 10 })
}

type middlewareHost struct {
	component.Host
	extensions map[component.ID]component.Component
}

func (h middlewareHost) GetExtensions() map[component.ID]component.Component { return h.extensions }

var (
	middlewareID = component.MustNewID("ratelimit")
	middlewares  = []configmiddleware.Config{{ID: middlewareID}}
)

type traces struct {
	ptraceotlp.UnimplementedGRPCServer
}

func (*traces) Export(context.Context, ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	return ptraceotlp.NewExportResponse(), nil
}

type metrics struct {
	pmetricotlp.UnimplementedGRPCServer
}

func (*metrics) Export(context.Context, pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	return pmetricotlp.NewExportResponse(), nil
}

// serveCollector is a gRPC server with the services of the otlp receiver. configgrpc
// takes the options of middleware as they are.
func serveCollector(t *testing.T, e *Extension) *grpc.ClientConn {
	t.Helper()
	opts, err := e.GetGRPCServerOptions(t.Context())
	require.NoError(t, err)
	srv := grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(64<<20))...)
	plogotlp.RegisterGRPCServer(srv, &logs{})
	ptraceotlp.RegisterGRPCServer(srv, &traces{})
	pmetricotlp.RegisterGRPCServer(srv, &metrics{})
	srv.RegisterService(&echoes, nil)
	return connect(t, srv)
}

func TestGRPCRequestsNestAsDeepAsAllowed(t *testing.T) {
	e := shallowest(t)
	conn := serveCollector(t, e)
	for name, send := range map[string]func(levels int, opts ...grpc.CallOption) error{
		"logs": func(levels int, opts ...grpc.CallOption) error {
			_, err := plogotlp.NewGRPCClient(conn).Export(t.Context(), deepLogs(levels), opts...)
			return err
		},
		"traces": func(levels int, opts ...grpc.CallOption) error {
			_, err := ptraceotlp.NewGRPCClient(conn).Export(t.Context(), deepTraces(levels), opts...)
			return err
		},
		"metrics": func(levels int, opts ...grpc.CallOption) error {
			_, err := pmetricotlp.NewGRPCClient(conn).Export(t.Context(), deepMetrics(levels), opts...)
			return err
		},
	} {
		for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzipgrpc.Name)}} {
			before := e.RateLimits(0)
			require.NoError(t, send(10, opts...), name)
			err := send(11, opts...)
			require.Equal(t, codes.Internal, status.Code(err), "%s: a code that OTLP clients do not send again for", name)
			require.ErrorContains(t, err, "too_deep", name)
			require.Equal(t, before.Refused["too_deep"]+1, e.RateLimits(0).Refused["too_deep"])
			require.Equal(t, before.Admitted+1, e.RateLimits(0).Admitted)
		}
	}
	require.Equal(t, uint64(6), e.limiter.refused[protocolGRPC][TooDeep].Load())
}

// A message in many pieces is joined for both, and what is no request of OTLP is
// left alone.
func TestGRPCMessagesOfOtherKindsPass(t *testing.T) {
	conn := serveCollector(t, shallowest(t))
	ld := plog.NewLogs()
	large := make([]byte, 3<<20)
	_, _ = rand.Read(large)
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetEmptyBytes().FromRaw(large)
	_, err := plogotlp.NewGRPCClient(conn).Export(t.Context(), plogotlp.NewExportRequestFromLogs(ld))
	require.NoError(t, err)

	stream, err := conn.NewStream(t.Context(), &echoes.Streams[0], "/test.Echo/Echo")
	require.NoError(t, err)
	for range 3 {
		m := &healthpb.HealthCheckRequest{Service: "x"}
		require.NoError(t, stream.SendMsg(m))
		var got healthpb.HealthCheckRequest
		require.NoError(t, stream.RecvMsg(&got))
		require.True(t, proto.Equal(m, &got))
	}
}

func TestNoBoundOnNesting(t *testing.T) {
	e := started(t, func(c *Config) { c.MaxNesting = 0 })
	_, err := plogotlp.NewGRPCClient(serveCollector(t, e)).Export(t.Context(), deepLogs(2000))
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, postTo(t, serveHTTP(t, e, 1<<20), "/v1/logs", typeProtobuf, "", bytesOf(t, deepLogs(2000))).StatusCode)
}

// decoding is a handler that decodes logs as a receiver does.
var decoding = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	request := plogotlp.NewExportRequest()
	if isType(r.Header.Get("Content-Type"), typeJSON) {
		err = request.UnmarshalJSON(body)
	} else {
		err = request.UnmarshalProto(body)
	}
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	w.WriteHeader(http.StatusNoContent)
})

// serveHTTP is an HTTP server as receivers have one, and returns its URL.
func serveHTTP(t *testing.T, e *Extension, most int64) string {
	t.Helper()
	cfg := confighttp.NewDefaultServerConfig()
	cfg.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Middlewares = middlewares
	cfg.MaxRequestBodySize = most
	host := middlewareHost{componenttest.NewNopHost(), map[component.ID]component.Component{middlewareID: e}}
	srv, err := cfg.ToServer(t.Context(), host.GetExtensions(), componenttest.NewNopTelemetrySettings(), decoding)
	require.NoError(t, err)
	ln, err := cfg.ToListener(t.Context())
	require.NoError(t, err)
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return "http://" + ln.Addr().String()
}

type answered struct {
	*http.Response
	body []byte
}

func postTo(t *testing.T, url, path, contentType, encoding string, body []byte) answered {
	t.Helper()
	if encoding == "gzip" {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(body)
		require.NoError(t, errors.Join(err, w.Close()))
		body = b.Bytes()
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, bytes.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", contentType)
	if encoding != "" {
		r.Header.Set("Content-Encoding", encoding)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return answered{resp, got}
}

func bytesOf(t *testing.T, r interface{ MarshalProto() ([]byte, error) }) []byte {
	t.Helper()
	b, err := r.MarshalProto()
	require.NoError(t, err)
	return b
}

func jsonOf(t *testing.T, r interface{ MarshalJSON() ([]byte, error) }) []byte {
	t.Helper()
	b, err := r.MarshalJSON()
	require.NoError(t, err)
	return b
}

func requireFinal(t *testing.T, a answered, s *spb.Status, reason string) {
	t.Helper()
	require.Equal(t, http.StatusBadRequest, a.StatusCode, "OTLP clients do not send again")
	require.Empty(t, a.Header.Get("Retry-After"))
	require.EqualValues(t, codes.InvalidArgument, s.GetCode())
	require.Contains(t, s.GetMessage(), reason)
	require.Len(t, s.GetDetails(), 1)
	var info errdetails.ErrorInfo
	require.NoError(t, s.GetDetails()[0].UnmarshalTo(&info))
	require.Equal(t, reason, info.GetMetadata()["reason"])
}

func TestHTTPRequestsNestAsDeepAsAllowed(t *testing.T) {
	e := shallowest(t)
	url := serveHTTP(t, e, 1<<20)
	for _, encoding := range []string{"", "gzip"} {
		for _, path := range []string{"/v1/logs", "/somewhere"} {
			require.Equal(t, http.StatusNoContent, postTo(t, url, path, typeProtobuf, encoding, bytesOf(t, deepLogs(10))).StatusCode)
			require.Equal(t, http.StatusNoContent, postTo(t, url, path, typeJSON+"; charset=utf-8", encoding, jsonOf(t, deepLogs(10))).StatusCode)
			before := e.limiter.refused[protocolHTTP][TooDeep].Load()

			var s spb.Status
			a := postTo(t, url, path, typeProtobuf, encoding, bytesOf(t, deepLogs(11)))
			require.NoError(t, proto.Unmarshal(a.body, &s))
			requireFinal(t, a, &s, "too_deep")
			a = postTo(t, url, "/v1/logs", typeJSON, encoding, jsonOf(t, deepLogs(11)))
			require.NoError(t, protojson.Unmarshal(a.body, &s))
			requireFinal(t, a, &s, "too_deep")
			require.Equal(t, before+2, e.limiter.refused[protocolHTTP][TooDeep].Load())
		}
	}
	for path, body := range map[string][]byte{"/v1/traces": bytesOf(t, deepTraces(11)), "/v1/metrics": bytesOf(t, deepMetrics(11)), "/metrics": bytesOf(t, deepMetrics(11)), "/x": bytesOf(t, deepMetrics(11))} {
		require.Equal(t, http.StatusBadRequest, postTo(t, url, path, typeProtobuf, "", body).StatusCode, path)
	}
	var s spb.Status
	a := postTo(t, url, "/v1/logs", typeJSON, "", []byte(`{"resourceLogs":,,"scopeLogs":`))
	require.NoError(t, protojson.Unmarshal(a.body, &s))
	requireFinal(t, a, &s, "malformed")
	a = postTo(t, url, "/other", typeJSON, "", []byte(`{"a":`+strings.Repeat("[", 1000)))
	require.JSONEq(t, `{"error":"too_deep: attribute values or bodies nest deeper than max_nesting allows","reason":"too_deep","rejected_by":"gateway","validation_type":"nesting"}`, string(a.body))
}

// The bound on bodies holds as before, compressed or not, and it is the server
// who says so; what has another type is not read.
func TestHTTPBodiesStayWithinTheBoundOfTheServer(t *testing.T) {
	url := serveHTTP(t, shallowest(t), 1000)
	for _, encoding := range []string{"", "gzip"} {
		require.Equal(t, http.StatusRequestEntityTooLarge, postTo(t, url, "/v1/logs", typeProtobuf, encoding, make([]byte, 1001)).StatusCode, encoding)
		require.Equal(t, http.StatusUnprocessableEntity, postTo(t, url, "/v1/logs", typeProtobuf, encoding, bytes.Repeat([]byte{0xff}, 1000)).StatusCode, encoding)
	}
	h := wrap(t, shallowest(t), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, ok := r.Body.(*readBody)
		require.False(t, ok)
	}))
	send(h, "192.0.2.1", "/v1/logs", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
}
