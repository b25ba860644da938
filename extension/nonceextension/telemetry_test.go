package nonceextension

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadatatest"
)

func TestTelemetryCountsWhatHappened(t *testing.T) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	set := metadatatest.NewSettings(tel)
	cfg := testConfig(t, withStorage)
	e, err := newExtension(set, cfg)
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), hostWith(storageID, newMemoryStorage())))
	t.Cleanup(func() { require.NoError(t, e.Shutdown(context.Background())) })
	url := "http://" + cfg.ServerConfig.NetAddr.Endpoint

	get(t, url+"/nonce?kid="+kid1, &nonceAnswer{})
	get(t, url+"/nonce?kid=bad", &errorAnswer{})
	accept(t, e.Windows(), block(1, "tpmsign:logs"), block(4, "tpmsign:logs"))
	e.sweep(t.Context(), time.Now().Add(time.Hour))

	value := func(v int64, attrs ...attribute.KeyValue) metricdata.DataPoint[int64] {
		return metricdata.DataPoint[int64]{Value: v, Attributes: attribute.NewSet(attrs...)}
	}
	metadatatest.AssertEqualNonceIssued(t, tel, []metricdata.DataPoint[int64]{value(1)}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	metadatatest.AssertEqualNonceRequests(t, tel, []metricdata.DataPoint[int64]{
		value(1, attribute.String("outcome", "ok")), value(1, attribute.String("outcome", "refused")),
	}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	metadatatest.AssertEqualNonceGapsReported(t, tel, []metricdata.DataPoint[int64]{value(2)}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	metadatatest.AssertEqualNonceStreams(t, tel, []metricdata.DataPoint[int64]{value(1)}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	metadatatest.AssertEqualNonceLiveEpochs(t, tel, []metricdata.DataPoint[int64]{value(1)}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	metadatatest.AssertEqualNonceStreamsSilent(t, tel, []metricdata.DataPoint[int64]{value(1)}, metricdatatest.IgnoreTimestamp(), metricdatatest.IgnoreExemplars())
	_, err = tel.GetMetric("otelcol_nonce_window_commit_duration")
	require.NoError(t, err)
}
