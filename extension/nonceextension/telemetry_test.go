package nonceextension

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadata"
	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadatatest"
	"github.com/telemark-otel/telemark/internal/replay"
)

// metered gives an extension that is not started yet instruments that can be read.
func metered(t *testing.T, e *Extension) *componenttest.Telemetry {
	t.Helper()
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	var err error
	e.telemetry, err = metadata.NewTelemetryBuilder(tel.NewTelemetrySettings())
	require.NoError(t, err)
	return tel
}

// point is a data point with one attribute, if any.
func point(value int64, kv ...string) metricdata.DataPoint[int64] {
	p := metricdata.DataPoint[int64]{Value: value}
	if len(kv) == 2 {
		p.Attributes = attribute.NewSet(attribute.String(kv[0], kv[1]))
	}
	return p
}

func points(p ...metricdata.DataPoint[int64]) []metricdata.DataPoint[int64] { return p }

func TestTelemetryCountsWhatHappened(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	e.sweeper.stop() // time passes as it does here
	get(t, e.url+"/nonce?kid="+kid1, &nonceAnswer{})
	get(t, e.url+"/nonce?kid=bad", &errorAnswer{})
	loose := metricdatatest.IgnoreTimestamp()
	metadatatest.AssertEqualNonceIssued(t, e.tel, points(point(1)), loose)
	metadatatest.AssertEqualNonceRequests(t, e.tel, points(point(1, "outcome", "ok"), point(1, "outcome", "refused")), loose)

	accept(t, e.Windows(), block(1, "tpmsign:logs"), block(4, "tpmsign:logs"))
	e.sweep(t.Context(), time.Now().Add(time.Hour))
	metadatatest.AssertEqualNonceGapsReported(t, e.tel, points(point(2)), loose)
	metadatatest.AssertEqualNonceStreams(t, e.tel, points(point(1)), loose)
	metadatatest.AssertEqualNonceLiveEpochs(t, e.tel, points(point(1)), loose)
	metadatatest.AssertEqualNonceStreamsSilent(t, e.tel, points(point(1)), loose)

	// Of what was missing one block comes after all. Another arrives with two of its
	// five items. The machine starts for the fourth time, having sent nothing twice.
	part := block(5, "tpmsign:logs")
	part.Total, part.Candidates = 5, [][]uint32{{0}, {3}}
	later := block(1, "tpmsign:logs")
	later.Epoch = 4
	accept(t, e.Windows(), block(3, "tpmsign:logs"), part, later)
	e.sweep(t.Context(), time.Now().Add(time.Hour))
	metadatatest.AssertEqualNonceGapsFilled(t, e.tel, points(point(1)), loose)
	metadatatest.AssertEqualNonceItemsMissing(t, e.tel, points(point(3)), loose)
	metadatatest.AssertEqualNonceEpochsSkipped(t, e.tel, points(point(2)), loose)
	metadatatest.AssertEqualNonceStreams(t, e.tel, points(point(2)), loose)
	metadatatest.AssertEqualNonceLiveEpochs(t, e.tel, points(point(2)), loose)
	metadatatest.AssertEqualNonceStreamsSilent(t, e.tel, points(point(1)), loose)
	metadatatest.AssertEqualNonceGapsClosed(t, e.tel, points(point(0)), loose)

	maxDelay, skew := e.Limits()
	e.sweep(t.Context(), time.Now().Add(maxDelay+2*skew))
	metadatatest.AssertEqualNonceGapsClosed(t, e.tel, points(point(1)), loose)
	metadatatest.AssertEqualNonceGapsReported(t, e.tel, points(point(2)), loose)
	metadatatest.AssertEqualNonceEpochsSkipped(t, e.tel, points(point(2)), loose)
}

// weighing is a storage that knows what was written to it, and takes a moment.
type weighing struct {
	*memoryStorage
	takes time.Duration

	mu     sync.Mutex
	writes []int64 // bytes of each
	failed int64   // of them
}

func (w *weighing) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return w, nil
}

func (w *weighing) Batch(ctx context.Context, ops ...*storage.Operation) error {
	time.Sleep(w.takes)
	err := w.memoryStorage.Batch(ctx, ops...)
	size := int64(0)
	for _, op := range ops {
		if op.Type == storage.Get {
			return err
		}
		size += int64(len(op.Value))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, size)
	if err != nil {
		w.failed++
	}
	return err
}

func TestEveryWriteOfTheWindowsIsMeasured(t *testing.T) {
	st := &weighing{memoryStorage: newMemoryStorage(), takes: 5 * time.Millisecond}
	began := time.Now()
	e := start(t, hostWith(storageID, st), testConfig(t, withStorage))
	accept(t, e.Windows(), block(1, "tpmsign:logs"), block(2, "tpmsign:logs"))
	st.breakDown(true)
	_, err := e.Windows().Claim(t.Context(), time.Now(), []replay.Block{block(1, "tpmsign:metrics")})
	require.Error(t, err)
	st.breakDown(false)
	require.NoError(t, e.Shutdown(t.Context())) // nothing is written behind our back now
	elapsed := time.Since(began)

	all, failed := int64(len(st.writes)), st.failed
	require.Positive(t, failed)
	require.Greater(t, all, failed)
	sum := int64(0)
	for _, size := range st.writes {
		sum += size
	}
	metadatatest.AssertEqualNonceWindowCommits(t, e.tel,
		points(point(all-failed, "outcome", "ok"), point(failed, "outcome", "failed")), metricdatatest.IgnoreTimestamp())
	sizes := histogramOf[int64](t, e.tel, "otelcol_nonce_window_commit_size")
	require.EqualValues(t, all, sizes.Count)
	require.Equal(t, sum, sizes.Sum)
	largest, ok := sizes.Max.Value()
	require.True(t, ok)
	require.Equal(t, slices.Max(st.writes), largest)
	durations := histogramOf[float64](t, e.tel, "otelcol_nonce_window_commit_duration")
	require.EqualValues(t, all, durations.Count)
	require.GreaterOrEqual(t, durations.Sum, float64(all)*st.takes.Seconds())
	require.Less(t, durations.Sum, elapsed.Seconds())
}

// histogramOf returns the only data point of a histogram, which has no attributes.
func histogramOf[N int64 | float64](t *testing.T, tel *componenttest.Telemetry, name string) metricdata.HistogramDataPoint[N] {
	t.Helper()
	m, err := tel.GetMetric(name)
	require.NoError(t, err)
	all := m.Data.(metricdata.Histogram[N]).DataPoints
	require.Len(t, all, 1)
	require.Zero(t, all[0].Attributes.Len())
	return all[0]
}
