// Package load sends OTLP over HTTP (protobuf) at a rate, as applications do, and
// measures how it is taken. It retries as OTLP clients are told to: what is
// answered 429, 502, 503 or 504, and what gets no answer.
package load

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"golang.org/x/time/rate"
)

// Signal is what is sent.
type Signal string

// The signals.
const (
	Metrics Signal = "metrics"
	Logs    Signal = "logs"
	Traces  Signal = "traces"
)

// Options of Run.
type Options struct {
	Endpoint   string // base URL, such as http://localhost:4318
	Signal     Signal
	Rate       float64 // items a second; 0: as fast as they are taken
	PerRequest int
	Workers    int // requests at a time
	Duration   time.Duration
	Service    string
	Gzip       bool
	Client     *http.Client
}

// Report is what came of it.
type Report struct {
	Signal   Signal        `json:"signal"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	Accepted int64         `json:"accepted_items"`
	Refused  int64         `json:"refused_items"` // for good, 4xx and partial successes
	Lost     int64         `json:"lost_items"`    // not accepted when the time was over
	Requests int64         `json:"requests"`
	Retries  int64         `json:"retries"`
	P50      time.Duration `json:"p50_ns"` // of accepted requests, retries included
	P99      time.Duration `json:"p99_ns"`
	Max      time.Duration `json:"max_ns"`
	// LastError is the last thing that was not accepted, "" when all was.
	LastError string `json:"last_error,omitempty"`
}

// PerSecond is how many items were accepted in a second.
func (r *Report) PerSecond() float64 { return float64(r.Accepted) / r.Elapsed.Seconds() }

const (
	// grace is how long requests may go on after the time is over.
	grace = 10 * time.Second
	// maxSamples bounds the times that are kept for percentiles.
	maxSamples = 1 << 20
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
)

type run struct {
	o     Options
	pace  *rate.Limiter
	begun time.Time

	mu     sync.Mutex
	report Report
	times  []time.Duration
	next   int64 // number of the next item
}

// Run sends until the time is over or ctx ends. tell is given the report so far
// once a second.
func Run(ctx context.Context, o Options, tell func(Report)) *Report {
	r := &run{o: o, begun: time.Now(), report: Report{Signal: o.Signal}}
	limit := rate.Inf
	if o.Rate > 0 {
		limit = rate.Limit(o.Rate)
	}
	r.pace = rate.NewLimiter(limit, o.PerRequest)
	sending, stop := context.WithTimeout(ctx, o.Duration)
	defer stop()
	hard, kill := context.WithTimeout(ctx, o.Duration+grace)
	defer kill()
	var workers sync.WaitGroup
	for range o.Workers {
		workers.Go(func() {
			for r.pace.WaitN(sending, o.PerRequest) == nil && sending.Err() == nil {
				r.request(hard, sending)
			}
			<-sending.Done() // the time until then is part of the rate, too
		})
	}
	done := make(chan struct{})
	go func() {
		workers.Wait()
		close(done)
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return r.result()
		case <-ticker.C:
			tell(*r.result())
		}
	}
}

func (r *run) result() *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.report
	out.Elapsed = time.Since(r.begun)
	if n := len(r.times); n > 0 {
		sorted := slices.Sorted(slices.Values(r.times))
		out.P50, out.P99, out.Max = sorted[n/2], sorted[n*99/100], sorted[n-1]
	}
	return &out
}

// request sends one request until it is taken, refused for good, or the time is
// over.
func (r *run) request(ctx, sending context.Context) {
	r.mu.Lock()
	first := r.next
	r.next += int64(r.o.PerRequest)
	r.report.Requests++
	r.mu.Unlock()
	items := int64(r.o.PerRequest)
	body, err := r.body(first)
	if err != nil {
		r.lost(items, err)
		return
	}
	begun, pause := time.Now(), firstPause
	for {
		refused, after, err := r.post(ctx, body)
		switch {
		case err == nil:
			r.taken(items-refused, refused, time.Since(begun))
			return
		case after < 0:
			r.refused(items, err)
			return
		}
		if after == 0 {
			after = pause
		}
		pause = min(2*pause, longPause)
		r.mu.Lock()
		r.report.Retries++
		r.report.LastError = err.Error()
		r.mu.Unlock()
		select {
		case <-sending.Done():
			r.lost(items, err)
			return
		case <-time.After(after):
		}
	}
}

func (r *run) taken(accepted, refused int64, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Accepted += accepted
	r.report.Refused += refused
	if len(r.times) < maxSamples {
		r.times = append(r.times, took)
	}
}

func (r *run) refused(items int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Refused += items
	r.report.LastError = err.Error()
}

func (r *run) lost(items int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Lost += items
	r.report.LastError = err.Error()
}

var errAnswer = errors.New("not accepted")

// post makes one attempt. after is how long to wait before the next; 0 leaves it
// to the caller, and below 0 there is none.
func (r *run) post(ctx context.Context, body []byte) (refused int64, after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.o.Endpoint+"/v1/"+string(r.o.Signal), bytes.NewReader(body))
	if err != nil {
		return 0, -1, err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if r.o.Gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := r.o.Client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, 0, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		refused, err = partial(r.o.Signal, content)
		return refused, -1, err
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return 0, time.Duration(max(seconds, 0)) * time.Second, fmt.Errorf("%w: %s", errAnswer, resp.Status)
	default:
		return 0, -1, fmt.Errorf("%w: %s: %.200q", errAnswer, resp.Status, content)
	}
}

// partial returns how many items an answer with 200 has refused.
func partial(s Signal, content []byte) (int64, error) {
	switch s {
	case Metrics:
		a := pmetricotlp.NewExportResponse()
		err := a.UnmarshalProto(content)
		return a.PartialSuccess().RejectedDataPoints(), err
	case Logs:
		a := plogotlp.NewExportResponse()
		err := a.UnmarshalProto(content)
		return a.PartialSuccess().RejectedLogRecords(), err
	default:
		a := ptraceotlp.NewExportResponse()
		err := a.UnmarshalProto(content)
		return a.PartialSuccess().RejectedSpans(), err
	}
}

func (r *run) body(first int64) ([]byte, error) {
	b, err := encode(r.o.Signal, r.o.Service, first, r.o.PerRequest, time.Now())
	if err != nil || !r.o.Gzip {
		return b, err
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	err = z.Close()
	return out.Bytes(), err
}

// encode makes a request of n items of usual size, counting from first.
func encode(s Signal, service string, first int64, n int, now time.Time) ([]byte, error) {
	at := pcommon.NewTimestampFromTime(now)
	describe := func(r pcommon.Resource) { r.Attributes().PutStr("service.name", service) }
	item := func(m pcommon.Map, i int) {
		m.PutInt("load.item", first+int64(i))
		m.PutStr("http.request.method", "GET")
		m.PutInt("http.response.status_code", 200)
	}
	switch s {
	case Metrics:
		d := pmetric.NewMetrics()
		rm := d.ResourceMetrics().AppendEmpty()
		describe(rm.Resource())
		m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		m.SetName("load.value")
		g := m.SetEmptyGauge()
		for i := range n {
			p := g.DataPoints().AppendEmpty()
			p.SetTimestamp(at)
			p.SetDoubleValue(float64(first) + float64(i))
			item(p.Attributes(), i)
		}
		return pmetricotlp.NewExportRequestFromMetrics(d).MarshalProto()
	case Logs:
		d := plog.NewLogs()
		rl := d.ResourceLogs().AppendEmpty()
		describe(rl.Resource())
		records := rl.ScopeLogs().AppendEmpty().LogRecords()
		for i := range n {
			l := records.AppendEmpty()
			l.SetTimestamp(at)
			l.SetSeverityNumber(plog.SeverityNumberInfo)
			l.Body().SetStr("request served by the load tool of telemark")
			item(l.Attributes(), i)
		}
		return plogotlp.NewExportRequestFromLogs(d).MarshalProto()
	case Traces:
		d := ptrace.NewTraces()
		rs := d.ResourceSpans().AppendEmpty()
		describe(rs.Resource())
		spans := rs.ScopeSpans().AppendEmpty().Spans()
		for i := range n {
			sp := spans.AppendEmpty()
			sp.SetName("GET /load")
			sp.SetTraceID(pcommon.TraceID(number(first+int64(i), 16)))
			sp.SetSpanID(pcommon.SpanID(number(first+int64(i), 8)))
			sp.SetStartTimestamp(at)
			sp.SetEndTimestamp(at + 1_000_000)
			item(sp.Attributes(), i)
		}
		return ptraceotlp.NewExportRequestFromTraces(d).MarshalProto()
	default:
		return nil, fmt.Errorf("signal %.32q: want metrics, logs or traces", s)
	}
}

// number is n+1 in the last of so many bytes: an ID of zeros is none.
func number(n int64, size int) []byte {
	b := make([]byte, size)
	for i, v := size-1, uint64(n)+1; v > 0 && i >= 0; i, v = i-1, v>>8 {
		b[i] = byte(v)
	}
	return b
}
