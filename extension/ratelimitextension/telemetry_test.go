package ratelimitextension

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/extension/ratelimitextension/internal/metadatatest"
)

// No metric has a key among its labels.
func TestTelemetryCountsWhatHappened(t *testing.T) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	cfg := createDefaultConfig().(*Config)
	cfg.Requests = RateConfig{Rate: 1, Per: time.Hour}
	e, err := newExtension(metadatatest.NewSettings(tel), cfg)
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, e.Shutdown(context.Background())) })
	point := func(v int64, attrs ...attribute.KeyValue) metricdata.DataPoint[int64] {
		return metricdata.DataPoint[int64]{Value: v, Attributes: attribute.NewSet(attrs...)}
	}
	requireInFlight := func(n int64) {
		t.Helper()
		metadatatest.AssertEqualRatelimitInFlightRequests(t, tel, []metricdata.DataPoint[int64]{point(n)}, metricdatatest.IgnoreTimestamp())
	}
	busy := wrap(t, e, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requireInFlight(1) }))
	require.Equal(t, http.StatusOK, send(busy, "192.0.2.1", "/").Code)
	requireInFlight(0)
	h := wrap(t, e, reading)
	send(h, "192.0.2.2", "/")
	require.Equal(t, http.StatusTooManyRequests, send(h, "192.0.2.1", "/").Code)
	for i, body := range []string{`{"a":` + strings.Repeat("[", 300_000), `{,`} {
		require.Equal(t, http.StatusBadRequest, send(h, fmt.Sprintf("192.0.2.%d", 10+i), "/", func(r *http.Request) {
			r.Header.Set("Content-Type", "application/json")
			r.Body = io.NopCloser(strings.NewReader(body))
		}).Code)
	}
	conn := serve(t, &logs{}, e)
	require.NoError(t, export(t.Context(), conn, 10))
	requireExhausted(t, export(t.Context(), conn, 10), "request_rate")

	http, grpc := attribute.String("protocol", "http"), attribute.String("protocol", "grpc")
	reason := func(r Reason) attribute.KeyValue { return attribute.Stringer("reason", r) }
	metadatatest.AssertEqualRatelimitAdmittedRequests(t, tel, []metricdata.DataPoint[int64]{point(2, http), point(1, grpc)}, metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualRatelimitRefusedRequests(t, tel, []metricdata.DataPoint[int64]{
		point(1, http, reason(RequestRate)), point(0, http, reason(ByteRate)), point(0, http, reason(Concurrency)), point(1, http, reason(TooDeep)), point(1, http, reason(Malformed)),
		point(1, grpc, reason(RequestRate)), point(0, grpc, reason(ByteRate)), point(0, grpc, reason(Concurrency)), point(0, grpc, reason(TooDeep)), point(0, grpc, reason(Malformed)),
	}, metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualRatelimitBuckets(t, tel, []metricdata.DataPoint[int64]{point(5)}, metricdatatest.IgnoreTimestamp())
	requireInFlight(0)
}
