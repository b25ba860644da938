package ondemandreceiver

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/receiver/ondemandreceiver/internal/metadatatest"
)

// Each request counts once, as what it asked for and what became of it; points
// count when the pipeline accepted them.
func TestTelemetryCountsWhatHappened(t *testing.T) {
	sink := new(consumertest.MetricsSink)
	var trouble error
	next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		if trouble != nil {
			return trouble
		}
		return sink.ConsumeMetrics(ctx, md)
	})
	require.NoError(t, err)
	r := run(t, next, nil, nil)
	ask := func(body string, want int) {
		t.Helper()
		status, content := r.generate(body)
		require.Equal(t, want, status, "%s", content)
	}
	const three = `{"metric_type":"application","custom_data":{"a":1,"b":2,"c":3}}`
	ask(`{"metric_type":"system"}`, http.StatusOK)
	system := sink.DataPointCount()
	require.Positive(t, system)
	ask(three, http.StatusOK)
	ask(three, http.StatusOK)
	ask(`{"metric_type":"disk"}`, http.StatusBadRequest)
	trouble = errors.New("the queue is full")
	ask(three, http.StatusServiceUnavailable)
	trouble = consumererror.NewPermanent(errors.New("bad"))
	ask(three, http.StatusBadRequest)

	point := func(v int, attrs ...attribute.KeyValue) metricdata.DataPoint[int64] {
		return metricdata.DataPoint[int64]{Value: int64(v), Attributes: attribute.NewSet(attrs...)}
	}
	outcome := func(s string) attribute.KeyValue { return attribute.String("outcome", s) }
	kind := func(s string) attribute.KeyValue { return attribute.String("kind", s) }
	ofSystem, ofApplication, unknown := kind("system"), kind("application"), kind("unknown")
	metadatatest.AssertEqualOndemandRequests(t, r.telemetry, []metricdata.DataPoint[int64]{
		point(1, ofSystem, outcome("accepted")), point(2, ofApplication, outcome("accepted")), point(1, unknown, outcome("refused")),
		point(1, ofApplication, outcome("unavailable")), point(1, ofApplication, outcome("refused")),
	}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	metadatatest.AssertEqualOndemandPoints(t, r.telemetry, []metricdata.DataPoint[int64]{
		point(system, ofSystem), point(6, ofApplication),
	}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	require.Equal(t, Requests{Accepted: 3, Refused: 2, Unavailable: 1, Points: uint64(system) + 6}, r.status().Requests, "the status page counts the same")
}
