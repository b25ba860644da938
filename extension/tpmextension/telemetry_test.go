package tpmextension

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/extension/tpmextension/internal/metadata"
	"github.com/telemark-otel/telemark/extension/tpmextension/internal/metadatatest"
)

func TestInternalTelemetry(t *testing.T) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	nonces := newNonceStub(t)
	soft := newSoftware(t)
	soft.start(t)
	host := &testHost{}
	set := extension.Settings{ID: component.NewID(metadata.Type), TelemetrySettings: tel.NewTelemetrySettings()}
	ext := newExtension(testConfig(soft.device(), t.TempDir(), noncesFrom(nonces)), set)
	require.NoError(t, ext.Start(t.Context(), host))
	a := &agent{tpmExtension: ext, host: host}
	a.sign(t, leaves("s", 5))

	loose := metricdatatest.IgnoreTimestamp()
	value := metricdatatest.IgnoreValue()
	metadatatest.AssertEqualTPMGroups(t, tel, []metricdata.DataPoint[int64]{{Value: 1}}, loose)
	metadatatest.AssertEqualTPMUp(t, tel, []metricdata.DataPoint[int64]{{Value: 1}}, loose)
	metadatatest.AssertEqualTPMWaiting(t, tel, []metricdata.DataPoint[int64]{{Value: 0}}, loose)
	metadatatest.AssertEqualTPMEpoch(t, tel, []metricdata.DataPoint[int64]{{Value: 1}}, loose, value)
	metadatatest.AssertEqualTPMNonceAge(t, tel, []metricdata.DataPoint[float64]{{Value: 1}}, loose, value)
	metadatatest.AssertEqualTPMSigningDuration(t, tel, []metricdata.HistogramDataPoint[float64]{{}}, loose, value)

	soft.kill()
	a.submit(t, leaves("s", 3))
	require.Error(t, host.waitFor(t, componentstatus.StatusRecoverableError))
	metadatatest.AssertEqualTPMUp(t, tel, []metricdata.DataPoint[int64]{{Value: 0}}, loose)
	metadatatest.AssertEqualTPMWaiting(t, tel, []metricdata.DataPoint[int64]{{Value: 3}}, loose)
	got, err := tel.GetMetric("otelcol_tpm_errors")
	require.NoError(t, err)
	points := got.Data.(metricdata.Sum[int64]).DataPoints
	require.Len(t, points, 1)
	class, ok := points[0].Attributes.Value("class")
	require.True(t, ok)
	require.Equal(t, "gone", class.AsString())
	require.Equal(t, 1, points[0].Attributes.Len(), "nothing tells machines apart")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, ext.Shutdown(ctx), context.DeadlineExceeded, "a group was given up")
}
