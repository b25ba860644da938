package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

const refusedRequests = "otelcol_ratelimit_refused_requests"

// unbatched passes requests on as they come.
const unbatched = `service: {pipelines: {metrics: {processors: []}, logs: {processors: []}, traces: {processors: []}}}`

// limits is a gateway's rate limit on OTLP.
func limits(limit string) string {
	return fmt.Sprintf(`
extensions: {ratelimit: {rules: [], %s}}
receivers: {otlp: {protocols: {grpc: {middlewares: [{id: ratelimit}]}, http: {middlewares: [{id: ratelimit}]}}}}
service: {extensions: [health_check, file_storage, ratelimit]}
`, limit)
}

// overHTTP makes an agent send over OTLP/HTTP, with the exporter as it comes.
func overHTTP(next string) string {
	return fmt.Sprintf(`
exporters:
  otlp_http:
    endpoint: %q
    sending_queue: {storage: file_storage, queue_size: 100000}
    retry_on_failure: {max_elapsed_time: 0}
service: {pipelines: {metrics: {exporters: [otlp_http]}, logs: {exporters: [otlp_http]}, traces: {exporters: [otlp_http]}}}
`, next)
}

// ownGateway makes a gateway of the distribution. $NONCE and $ADMIN in the
// overlay are where its nonce extension is to listen.
func (f *fleet) ownGateway(name, next, overlay string) *harness.Node {
	f.Helper()
	n := f.gateway(name, next, unbatched)
	var err error
	n.Path, err = harness.Bin("otelcol-telemark")
	require.NoError(f, err)
	overlay = strings.NewReplacer("$NONCE", strings.TrimPrefix(n.Nonce, "http://"), "$ADMIN", strings.TrimPrefix(n.Admin, "http://")).Replace(overlay)
	file := filepath.Join(n.Dir, "own.yaml")
	require.NoError(f, os.WriteFile(file, []byte(overlay), 0o600))
	n.Args = append(n.Args, "--config", file)
	return n
}

// TestOverflowIsDeliveredInFull sends faster than gateways take it: over gRPC, from
// the exporter of a stock collector, with a limit on requests, and over HTTP with one on bytes.
func TestOverflowIsDeliveredInFull(t *testing.T) {
	const items, perRequest = 2_000, 20
	f := newFleet(t, nil, "by-grpc", "by-http")
	collector := f.collector("collector", patient)
	byRequests := f.ownGateway("gateway-requests", collector.GRPC, limits("requests: {rate: 40, burst: 10}"))
	byBytes := f.ownGateway("gateway-bytes", collector.GRPC, limits("bytes: {rate: 300000, burst: 100000}"))
	stock := f.gateway("gateway-stock", byRequests.GRPC, unbatched)
	a := f.agent("by-grpc", stock.GRPC, collector.Nonce)
	b := f.agent("by-http", byBytes.HTTP, collector.Nonce, overHTTP(byBytes.HTTP))
	f.start(collector)
	f.start(byRequests, byBytes)
	f.start(stock)
	f.start(a, b)

	f.sendAll(a, "a", 0, items, perRequest)
	f.sendAll(b, "b", items, items, perRequest)
	for _, signal := range signals {
		s := f.awaitArchive(collector, signal, drainTime, span{0, 2 * items})
		require.NoError(t, s.exactly(span{0, 2 * items}), signal)
	}
	f.requireWhole(collector)
	require.Positive(t, f.metric(byRequests, refusedRequests, "protocol", "grpc", "reason", "request_rate"), "nothing overflowed, so the test shows nothing")
	require.Positive(t, f.metric(byBytes, refusedRequests, "protocol", "http", "reason", "byte_rate"), "nothing overflowed, so the test shows nothing")
	for _, sender := range []*harness.Node{stock, b} {
		for _, of := range []string{"metric_points", "log_records", "spans"} {
			require.Zero(t, f.metric(sender, "otelcol_exporter_send_failed_"+of), "%s gave up", sender.Name)
		}
	}

	t.Run("over gRPC the answer says when to come again", func(t *testing.T) {
		f := f.in(t)
		conn := f.dial(byRequests.GRPC)
		s := status.Convert(f.untilRefused(func() error {
			return harness.ExportGRPC(t.Context(), conn, digest.NewBatch(block.Logs))
		}))
		require.Equal(t, codes.ResourceExhausted, s.Code())
		require.Len(t, s.Details(), 2)
		require.Positive(t, s.Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration())
		require.Equal(t, "request_rate", s.Details()[1].(*errdetails.ErrorInfo).GetMetadata()["reason"])
	})
	t.Run("over HTTP too", func(t *testing.T) {
		f := f.in(t)
		var s rpcstatus.Status
		_ = f.untilRefused(func() error {
			resp, err := http.Post(byRequests.HTTP+"/v1/logs", "application/x-protobuf", bytes.NewReader(nil))
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, errors.Join(err, resp.Body.Close()))
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
			require.Equal(t, "1", resp.Header.Get("Retry-After"))
			require.NoError(t, proto.Unmarshal(body, &s))
			return errors.New(resp.Status)
		})
		require.EqualValues(t, codes.ResourceExhausted, s.GetCode())
	})
}

// untilRefused repeats what a rate limit has to refuse soon.
func (f *fleet) untilRefused(do func() error) error {
	f.Helper()
	for range 1000 {
		if err := do(); err != nil {
			return err
		}
	}
	f.Fatal("nothing is refused")
	return nil
}

// page gets JSON and returns how it was answered.
func (f *fleet) page(url string, out any) *http.Response {
	f.Helper()
	resp, err := getPage(f.Context(), url, out)
	require.NoError(f, err)
	return resp
}

func getPage(ctx context.Context, url string, out any) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	return resp, errors.Join(json.NewDecoder(resp.Body).Decode(out), resp.Body.Close())
}

type gatewayStatus struct {
	Status     string
	Upstream   struct{ State string }
	KeptServed int            `json:"nonces_from_kept"`
	Limited    map[string]int `json:"rate_limited"`
}

type refusalPage struct {
	Reason         string
	RejectedBy     string `json:"rejected_by"`
	ValidationType string `json:"validation_type"`
}

const relays = `
extensions:
  ratelimit: {}
  nonce: {endpoint: "$NONCE", middlewares: [{id: ratelimit}], admin: {endpoint: "$ADMIN"}, upstream: {endpoint: %q, timeout: 2s}}
service: {extensions: [health_check, file_storage, ratelimit, nonce]}
`

// TestGatewayBridgesAnOutageOfTheNonceServer takes the collector away, and
// restarts an agent meanwhile: it gets the nonce that the gateway has kept, signs, and all
// arrives when the collector is back.
func TestGatewayBridgesAnOutageOfTheNonceServer(t *testing.T) {
	const items = 200
	f := newFleet(t, nil, "edge-a")
	collector := f.collector("collector", patient)
	gateway := f.ownGateway("gateway", collector.GRPC, fmt.Sprintf(relays, collector.Nonce))
	agent := f.agent("edge-a", gateway.GRPC, gateway.Nonce)
	f.begin()
	f.sendAll(agent, "before", 0, items, 10)
	f.awaitArchive(collector, block.Logs, drainTime, span{0, items})
	ours, stranger := gateway.Nonce+"/nonce?kid="+f.kid("edge-a"), gateway.Nonce+"/nonce?kid=000b"+strings.Repeat("00", 32)
	require.Empty(t, f.page(ours, &struct{}{}).Header.Get("Age"))

	f.stop(collector)
	resp := f.page(ours, &struct{}{})
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.NotEmpty(t, resp.Header.Get("Age"), "one that was kept")
	var refused refusalPage
	require.Equal(t, http.StatusBadGateway, f.page(stranger, &refused).StatusCode)
	require.Equal(t, refusalPage{"upstream_unavailable", "gateway", "nonce"}, refused)
	require.Equal(t, http.StatusServiceUnavailable, f.page(gateway.Nonce+"/health", &struct{}{}).StatusCode)

	f.stop(agent)
	f.start(agent)
	before := f.metric(gateway, received[block.Logs])
	f.sendAll(agent, "during", items, items, 10)
	f.awaitMetric(soon, gateway, before+items, received[block.Logs])
	var s gatewayStatus
	f.page(gateway.Nonce+"/gateway/status", &s)
	require.Equal(t, "unreachable", s.Upstream.State)
	require.GreaterOrEqual(t, s.KeptServed, 2, "the agent got one")

	f.start(collector)
	f.eventually(drainTime, func() error {
		var s gatewayStatus
		if _, err := getPage(t.Context(), gateway.Nonce+"/gateway/status", &s); err != nil || s.Upstream.State != "reachable" {
			return fmt.Errorf("the gateway says %+v: %w", s, err)
		}
		return nil
	})
	require.Equal(t, http.StatusOK, f.page(gateway.Nonce+"/health", &struct{}{}).StatusCode)
	for _, signal := range signals {
		f.eventually(drainTime, func() error { return f.archive(collector, signal).exactly(span{0, 2 * items}) })
	}
	f.requireWhole(collector)
	t.Run("nonces are limited by key", func(t *testing.T) { f.in(t).limitsNonces(gateway, stranger) })
}

// limitsNonces asks for one key until the gateway refuses, and looks who is told.
func (f *fleet) limitsNonces(gateway *harness.Node, url string) {
	f.Helper()
	_ = f.untilRefused(func() error {
		var refused refusalPage
		resp := f.page(url, &refused)
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		require.Equal(f, http.StatusTooManyRequests, resp.StatusCode)
		require.NotEmpty(f, resp.Header.Get("Retry-After"))
		require.Equal(f, refusalPage{"request_rate", "gateway", "rate_limit"}, refused)
		return errors.New(resp.Status)
	})
	require.Equal(f, http.StatusOK, f.page(gateway.Nonce+"/nonce?kid=000b"+strings.Repeat("01", 32), &struct{}{}).StatusCode, "another key")
	var all, public struct{ Limits json.RawMessage }
	f.page(gateway.Nonce+"/gateway/rate-limits", &public)
	require.Contains(f, string(public.Limits), `"requests":"100/m"`)
	require.NotContains(f, string(public.Limits), "000b", "keys are not for everybody")
	f.page(gateway.Admin+"/gateway/rate-limits", &all)
	require.Contains(f, string(all.Limits), "000b"+strings.Repeat("00", 32))
	var s gatewayStatus
	f.page(gateway.Nonce+"/gateway/status", &s)
	require.Positive(f, s.Limited["request_rate"])
}

const checks = `
processors: {tpmverify: {mode: check, unsigned: pass, keys: {file: %q}}}
service: {pipelines: {metrics: {processors: [tpmverify]}, logs: {processors: [tpmverify]}, traces: {processors: [tpmverify]}}}
`

// TestBadBlocksAreRefusedAtTheEdge has a gateway that looks at receipts, behind
// one that changes what passes through it, and doubles the rest.
func TestBadBlocksAreRefusedAtTheEdge(t *testing.T) {
	const items, perRequest = 500, 50
	f := newFleet(t, nil, "edge-a")
	collector := f.collector("collector", patient)
	gateway := f.ownGateway("gateway", collector.GRPC, fmt.Sprintf(checks, f.keys))
	h := f.hostile(gateway)
	agent := f.agent("edge-a", h.Addr, collector.Nonce, inOrder)
	f.begin()
	h.Set(func(request digest.Batch) []digest.Batch {
		bad := harness.Clone(request)
		for i := range bad.Len() {
			if b := bad.At(i); strings.HasPrefix(harness.ServiceOf(b), "good") {
				b.Attributes().PutStr("service.version", "6.6.6")
			}
		}
		return []digest.Batch{bad, request, request}
	})
	f.sendAll(agent, "good", 0, items, perRequest)

	const requests = items / perRequest
	for _, signal := range signals {
		s := f.awaitArchive(collector, signal, drainTime, span{0, items})
		require.NoError(t, s.exactly(span{0, items}), signal)
		f.inspect(collector, signal, "--complete") // with the receipts of the agent
	}
	f.awaitMetric(soon, collector, len(signals)*requests, duplicateBlocks)
	refused := f.metric(gateway, refusedBlocks, "reason", string(reason.DigestMismatch))
	require.Equal(t, len(signals)*requests, refused, "each of the changed blocks, at the edge")
	require.Equal(t, refused, f.metric(gateway, refusedBlocks), "and nothing else")
	require.Zero(t, f.metric(gateway, duplicateBlocks), "the gateway claims nothing")
	require.Zero(t, f.metric(collector, refusedBlocks, "reason", string(reason.DigestMismatch)))
	f.requireWhole(collector)
}
