package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/test/harness"
)

// shallow bounds nesting as the shipped configurations do, with their limits on
// the size of requests.
func shallow(extensions string) string {
	return fmt.Sprintf(`
extensions: {ratelimit: {rules: [], max_nesting: 16384}}
receivers: {otlp: {protocols: {grpc: {middlewares: [{id: ratelimit}]}, http: {max_request_body_size: 67108864, middlewares: [{id: ratelimit}]}}}}
service: {extensions: [health_check, file_storage, ratelimit%s]}
`, extensions)
}

// deepRequest is a request for logs whose body nests so many levels of arrays,
// built from the inside.
func deepRequest(levels int) []byte {
	var back []byte // in reverse
	size := 0
	open := func(tag byte) {
		head := binary.AppendUvarint([]byte{tag}, uint64(size))
		size += len(head)
		slices.Reverse(head)
		back = append(back, head...)
	}
	for range levels {
		open(0x0a) // ArrayValue.values
		open(0x2a) // AnyValue.array_value
	}
	open(0x2a) // LogRecord.body
	open(0x12) // ScopeLogs.log_records
	open(0x12) // ResourceLogs.scope_logs
	open(0x0a)
	slices.Reverse(back)
	return back
}

const deepHead = `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{`

// bytesCodec sends what it is given.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (bytesCodec) Name() string                         { return "proto" }

// sendDeep sends n what would end it, in every way that it takes data.
func (f *fleet) sendDeep(n *harness.Node, levels int) {
	f.Helper()
	request := deepRequest(levels)
	err := f.dial(n.GRPC).Invoke(f.Context(), "/opentelemetry.proto.collector.logs.v1.LogsService/Export", request, new([]byte),
		grpc.ForceCodecV2(bytesCodec{}), grpc.MaxCallSendMsgSize(64<<20))
	require.Equal(f, codes.Internal, status.Code(err), "for good: %v", err)
	require.ErrorContains(f, err, "too_deep")
	for name, tc := range map[string]struct {
		contentType, reason string
		body                []byte
	}{
		"protobuf": {"application/x-protobuf", "too_deep", request},
		"JSON":     {"application/json", "too_deep", []byte(deepHead + strings.Repeat(`"arrayValue":{"values":[{`, levels))},
		"commas":   {"application/json", "malformed", []byte(deepHead + `"arrayValue":` + strings.Repeat(`,"values":,,"arrayValue":`, levels))},
	} {
		r, err := http.NewRequestWithContext(f.Context(), http.MethodPost, n.HTTP+"/v1/logs", bytes.NewReader(tc.body))
		require.NoError(f, err)
		r.Header.Set("Content-Type", tc.contentType)
		resp, err := http.DefaultClient.Do(r)
		require.NoError(f, err, name)
		answer, err := io.ReadAll(resp.Body)
		require.NoError(f, err)
		require.NoError(f, resp.Body.Close())
		require.Equal(f, http.StatusBadRequest, resp.StatusCode, "%s: %s", name, answer)
		require.Contains(f, string(answer), tc.reason, name)
	}
}

// TestDeepNestingEndsNobody sends each role requests of millions of levels, of
// which one would use up the stack, while data of somebody else passes through.
func TestDeepNestingEndsNobody(t *testing.T) {
	const items, perRequest, times, levels = 4_000, 50, 3, 2_000_000
	f := newFleet(t, nil, "edge-a")
	collector := f.collector("collector", patient, shallow(", nonce"))
	gateway := f.ownGateway("gateway", collector.GRPC, shallow(""))
	agent := f.agent("edge-a", gateway.GRPC, collector.Nonce, shallow(", tpm"))
	stock := f.gateway("stock", gateway.GRPC, unbatched)
	f.begin()

	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range int64(items / perRequest) {
			for _, signal := range signals {
				load := harness.Load{
					Endpoint: agent.GRPC, Protocol: harness.GRPC, Signal: signal, Service: "honest",
					First: i * perRequest, Items: perRequest, PerRequest: perRequest, Clients: 1,
				}
				if err := load.Run(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	for range times {
		for _, n := range []*harness.Node{agent, gateway, collector} {
			f.sendDeep(n, levels)
		}
	}
	<-sent
	for _, signal := range signals {
		s := f.awaitArchive(collector, signal, drainTime, span{0, items})
		require.NoError(t, s.exactly(span{0, items}), signal)
	}
	f.requireWhole(collector)
	for _, n := range []*harness.Node{agent, gateway, collector} {
		require.Equal(t, times, f.metric(n, refusedRequests, "protocol", "grpc", "reason", "too_deep"), n.Name)
		require.Equal(t, 2*times, f.metric(n, refusedRequests, "protocol", "http", "reason", "too_deep"), n.Name)
		require.Equal(t, times, f.metric(n, refusedRequests, "protocol", "http", "reason", "malformed"), n.Name)
	}
	require.Equal(t, items, f.metric(collector, received[block.Logs]), "and nothing of what was refused")

	t.Run("an exporter gives up what is refused, and nothing else", func(t *testing.T) {
		f := f.in(t)
		resp, err := http.Post(stock.HTTP+"/v1/logs", "application/x-protobuf", bytes.NewReader(deepRequest(16_385)))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, "it has no bound")
		f.awaitMetric(soon, stock, 1, "otelcol_exporter_send_failed_log_records")
		require.NoError(t, harness.ExportGRPC(t.Context(), f.dial(stock.GRPC), harness.Batch(block.Logs, "behind", "", 0, 10)))
		f.awaitMetric(soon, stock, 10, "otelcol_exporter_sent_log_records")
		require.Equal(t, 1, f.metric(stock, "otelcol_exporter_send_failed_log_records"))
		require.Equal(t, times+1, f.metric(gateway, refusedRequests, "protocol", "grpc", "reason", "too_deep"))
	})
}
