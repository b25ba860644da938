package harness

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// Protocol is a form of OTLP.
type Protocol string

// The forms of OTLP.
const (
	GRPC         Protocol = "grpc"
	HTTPProtobuf Protocol = "http/protobuf"
	HTTPJSON     Protocol = "http/json"
)

// Load describes what one client sends: Items items of one signal in requests
// of PerRequest, with the attribute ItemID counting from First.
type Load struct {
	Endpoint   string // host:port for gRPC, http://host:port for HTTP
	Protocol   Protocol
	Signal     block.Signal
	Service    string // service.name
	Host       string // host.name, left out when empty
	First      int64
	Items      int
	PerRequest int
	Clients    int // concurrent requests, 1 when 0
	Gzip       bool
	Every      time.Duration // between the starts of requests while there are clients left; 0 sends as fast as it is taken
	Sent       *atomic.Int64 // counts acknowledged items, when not nil
}

// Run sends the load, each request until it is acknowledged or ctx ends.
func (l Load) Run(ctx context.Context) error {
	send, closer, err := l.sender()
	if err != nil {
		return err
	}
	defer closer()
	type part struct {
		first int64
		n     int
	}
	parts := make(chan part)
	var wg sync.WaitGroup
	errs := make(chan error, max(1, l.Clients))
	for range max(1, l.Clients) {
		wg.Go(func() {
			for p := range parts {
				batch := Batch(l.Signal, l.Service, l.Host, p.first, p.n)
				if err := retry(ctx, func() error { return send(ctx, batch) }); err != nil {
					errs <- err
					for range parts { // let the feeder end
						continue
					}
					return
				}
				if l.Sent != nil {
					l.Sent.Add(int64(p.n))
				}
			}
		})
	}
	start := time.Now()
	for at := 0; at < l.Items; at += l.PerRequest {
		l.pace(ctx, start, at/l.PerRequest)
		parts <- part{l.First + int64(at), min(l.PerRequest, l.Items-at)}
	}
	close(parts)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// pace waits until it is time for request n. A request that had to wait for a
// client does not put off those after it.
func (l Load) pace(ctx context.Context, start time.Time, n int) {
	if wait := time.Until(start.Add(time.Duration(n) * l.Every)); wait > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// retry does what an SDK's exporter does: it sends again until it is
// acknowledged.
func retry(ctx context.Context, send func() error) error {
	wait := 20 * time.Millisecond
	for {
		err := send()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
			wait = min(2*wait, time.Second)
		}
	}
}

func (l Load) sender() (send func(context.Context, digest.Batch) error, closer func(), err error) {
	switch l.Protocol {
	case GRPC:
		opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
		if l.Gzip {
			opts = append(opts, grpc.WithDefaultCallOptions(grpc.UseCompressor(grpcgzip.Name)))
		}
		conn, err := grpc.NewClient(l.Endpoint, opts...)
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context, b digest.Batch) error { return ExportGRPC(ctx, conn, b) }, func() { _ = conn.Close() }, nil
	case HTTPProtobuf, HTTPJSON:
		client := &http.Client{Timeout: 30 * time.Second}
		return func(ctx context.Context, b digest.Batch) error { return l.post(ctx, client, b) }, client.CloseIdleConnections, nil
	default:
		return nil, nil, fmt.Errorf("protocol %q is not known", l.Protocol)
	}
}

// ExportGRPC sends one batch over conn and demands that all of it is accepted.
func ExportGRPC(ctx context.Context, conn *grpc.ClientConn, b digest.Batch) error {
	var rejected int64
	switch b.Signal() {
	case block.Metrics:
		resp, err := pmetricotlp.NewGRPCClient(conn).Export(ctx, pmetricotlp.NewExportRequestFromMetrics(b.Metrics()))
		if err != nil {
			return err
		}
		rejected = resp.PartialSuccess().RejectedDataPoints()
	case block.Logs:
		resp, err := plogotlp.NewGRPCClient(conn).Export(ctx, plogotlp.NewExportRequestFromLogs(b.Logs()))
		if err != nil {
			return err
		}
		rejected = resp.PartialSuccess().RejectedLogRecords()
	case block.Traces:
		resp, err := ptraceotlp.NewGRPCClient(conn).Export(ctx, ptraceotlp.NewExportRequestFromTraces(b.Traces()))
		if err != nil {
			return err
		}
		rejected = resp.PartialSuccess().RejectedSpans()
	}
	if rejected != 0 {
		return fmt.Errorf("%d items were rejected", rejected)
	}
	return nil
}

func (l Load) post(ctx context.Context, client *http.Client, b digest.Batch) error {
	body, contentType, err := encodeHTTP(b, l.Protocol)
	if err != nil {
		return err
	}
	if l.Gzip {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		if _, err := w.Write(body); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		body = buf.Bytes()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.Endpoint+"/v1/"+b.Signal().String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	if l.Gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return nil
}

func encodeHTTP(b digest.Batch, p Protocol) (body []byte, contentType string, err error) {
	type request interface {
		MarshalProto() ([]byte, error)
		MarshalJSON() ([]byte, error)
	}
	var req request
	switch b.Signal() {
	case block.Metrics:
		req = pmetricotlp.NewExportRequestFromMetrics(b.Metrics())
	case block.Logs:
		req = plogotlp.NewExportRequestFromLogs(b.Logs())
	case block.Traces:
		req = ptraceotlp.NewExportRequestFromTraces(b.Traces())
	}
	if p == HTTPJSON {
		body, err = req.MarshalJSON()
		return body, "application/json", err
	}
	body, err = req.MarshalProto()
	return body, "application/x-protobuf", err
}

// Batch makes a request of n items as an application would send it: one
// resource, one scope, items numbered from first.
func Batch(s block.Signal, service, host string, first int64, n int) digest.Batch {
	now := pcommon.NewTimestampFromTime(time.Now())
	resource := func(attrs pcommon.Map) {
		attrs.PutStr("service.name", service)
		attrs.PutStr("service.version", "1.4.2")
		attrs.PutStr("deployment.environment.name", "test")
		if host != "" {
			attrs.PutStr("host.name", host)
		}
	}
	switch s {
	case block.Metrics:
		md := pmetric.NewMetrics()
		rm := md.ResourceMetrics().AppendEmpty()
		resource(rm.Resource().Attributes())
		sm := rm.ScopeMetrics().AppendEmpty()
		sm.Scope().SetName("load")
		fillMetrics(sm.Metrics(), now, first, n)
		return digest.FromMetrics(md)
	case block.Logs:
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		resource(rl.Resource().Attributes())
		sl := rl.ScopeLogs().AppendEmpty()
		sl.Scope().SetName("load")
		for i := range n {
			fillLog(sl.LogRecords().AppendEmpty(), now, first+int64(i))
		}
		return digest.FromLogs(ld)
	default:
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		resource(rs.Resource().Attributes())
		ss := rs.ScopeSpans().AppendEmpty()
		ss.Scope().SetName("load")
		for i := range n {
			fillSpan(ss.Spans().AppendEmpty(), now, first+int64(i))
		}
		return digest.FromTraces(td)
	}
}

// fillMetrics spreads n points over metrics of ten points each.
func fillMetrics(ms pmetric.MetricSlice, now pcommon.Timestamp, first int64, n int) {
	var points pmetric.NumberDataPointSlice
	for i := range n {
		if i%10 == 0 {
			m := ms.AppendEmpty()
			m.SetName(fmt.Sprintf("app.queue.depth.%d", i/10%7))
			m.SetDescription("Entries that wait")
			m.SetUnit("{entry}")
			sum := m.SetEmptySum()
			sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			points = sum.DataPoints()
		}
		p := points.AppendEmpty()
		p.SetStartTimestamp(now - 60e9)
		p.SetTimestamp(now)
		p.SetDoubleValue(float64(i) * 1.25)
		p.Attributes().PutInt(ItemID, first+int64(i))
		p.Attributes().PutStr("queue", "orders")
		p.Attributes().PutStr("state", [...]string{"new", "paid", "sent"}[i%3])
	}
}

func fillLog(lr plog.LogRecord, now pcommon.Timestamp, id int64) {
	lr.SetTimestamp(now)
	lr.SetObservedTimestamp(now)
	lr.SetSeverityNumber(plog.SeverityNumberInfo)
	lr.SetSeverityText("INFO")
	lr.Body().SetStr(fmt.Sprintf("order %d was paid: method=card amount=%d.%02d currency=EUR", id, id%900, id%100))
	lr.Attributes().PutInt(ItemID, id)
	lr.Attributes().PutStr("http.request.method", "POST")
	lr.Attributes().PutStr("url.path", "/orders/pay")
	lr.Attributes().PutInt("http.response.status_code", 200)
	lr.SetTraceID(traceID(id))
	lr.SetSpanID(spanID(id))
}

func fillSpan(sp ptrace.Span, now pcommon.Timestamp, id int64) {
	sp.SetTraceID(traceID(id))
	sp.SetSpanID(spanID(id))
	sp.SetName("POST /orders/pay")
	sp.SetKind(ptrace.SpanKindServer)
	sp.SetStartTimestamp(now - 25e6)
	sp.SetEndTimestamp(now)
	sp.Attributes().PutInt(ItemID, id)
	sp.Attributes().PutStr("http.request.method", "POST")
	sp.Attributes().PutStr("url.path", "/orders/pay")
	sp.Attributes().PutStr("server.address", "shop.example.org")
	sp.Attributes().PutInt("http.response.status_code", 200)
	sp.Status().SetCode(ptrace.StatusCodeOk)
}

func traceID(id int64) (t pcommon.TraceID) {
	binary.BigEndian.PutUint64(t[:], runID)
	binary.BigEndian.PutUint64(t[8:], uint64(id)+1)
	return t
}

func spanID(id int64) (s pcommon.SpanID) {
	binary.BigEndian.PutUint64(s[:], uint64(id)+1)
	return s
}

var runID = func() uint64 {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err)
	}
	return binary.BigEndian.Uint64(b[:]) | 1
}()
