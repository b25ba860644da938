package tpmsignprocessor

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadatatest"
)

// metered is a processor whose telemetry and log can be read.
func metered(t *testing.T, cfg *Config, next *verifier) (*sut, *componenttest.Telemetry, *observer.ObservedLogs) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	set := metadatatest.NewSettings(tel)
	core, logs := observer.New(zap.InfoLevel)
	set.Logger = zap.New(core)
	return newSUTWith(t, set, cfg, next), tel, logs
}

const testStream = "tpmsign/edge:logs"

// point is a data point of the test stream with one more attribute, if any.
func point(value int64, kv ...string) metricdata.DataPoint[int64] {
	attrs := []attribute.KeyValue{attribute.String("stream", testStream)}
	if len(kv) == 2 {
		attrs = append(attrs, attribute.String(kv[0], kv[1]))
	}
	return metricdata.DataPoint[int64]{Value: value, Attributes: attribute.NewSet(attrs...)}
}

// addedLatency is the only data point of that histogram.
func addedLatency(t *testing.T, tel *componenttest.Telemetry) metricdata.HistogramDataPoint[float64] {
	t.Helper()
	m, err := tel.GetMetric("otelcol_tpmsign_added_latency")
	require.NoError(t, err)
	all := m.Data.(metricdata.Histogram[float64]).DataPoints
	require.Len(t, all, 1)
	require.Equal(t, point(0).Attributes, all[0].Attributes)
	return all[0]
}

func points(p ...metricdata.DataPoint[int64]) []metricdata.DataPoint[int64] { return p }

func TestUserDataIsCleanedAndCounted(t *testing.T) {
	next := newVerifier(block.Logs)
	s, tel, logs := metered(t, testConfig(), next)
	s.start(hostWith(newFakeTPM(t, 1)))

	b := batch(block.Logs, []string{"a", "a'"}, []string{"reserved"}, []string{"empty"})
	rl := b.Logs().ResourceLogs()
	rl.At(0).Resource().Attributes().PutStr("Telemark.Verdict", "verified")
	rl.At(0).Resource().Attributes().PutEmptyBytes(block.AttrReceipt).FromRaw([]byte("another signer's"))
	rl.At(0).Resource().Attributes().PutEmptyBytes(block.AttrManifest).FromRaw([]byte("too"))
	record := rl.At(0).ScopeLogs().At(0).LogRecords().At(0)
	record.Attributes().PutEmptyMap("m").PutStr("telemark.name", "edge-b")
	record.Attributes().PutStr("utf8", "bad \xff")
	record.SetEventName("bad \xff too")
	record.Attributes().PutDouble("nan", math.Float64frombits(0x7ff8000000000123))
	rl.At(0).ScopeLogs().AppendEmpty()
	rl.At(1).ScopeLogs().At(0).Scope().SetName(digest.HeartbeatScope)
	rl.At(2).ScopeLogs().RemoveIf(func(plog.ScopeLogs) bool { return true })
	require.NoError(t, s.send(b))
	require.NoError(t, s.send(func() digest.Batch {
		b := logsOf("b")
		b.Logs().ResourceLogs().At(0).Resource().Attributes().PutStr(block.AttrReceipt, "again")
		return b
	}()))

	metadatatest.AssertEqualTpmsignSignedBlocks(t, tel, points(point(2)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignSignedItems(t, tel, points(point(3)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignCleaned(t, tel, points(
		point(2, "kind", "attributes"), point(3, "kind", "receipts"), point(1, "kind", "scopes"),
		point(2, "kind", "strings"), point(1, "kind", "containers"), point(1, "kind", "nans"),
	), metricdatatest.IgnoreTimestamp())
	require.Equal(t, 1, logs.FilterMessageSnippet("receipts of another signer").Len(), "the warning is said once")

	s.stop()
	next.requireContiguous(t)
	require.Equal(t, []string{"a", "a'", "b"}, next.accepted())
}

func TestBlockThatCannotBeSignedDoesNotRefuseItsNeighbours(t *testing.T) {
	next := newVerifier(block.Logs)
	s, tel, logs := metered(t, testConfig(), next)
	s.start(hostWith(newFakeTPM(t, 1)))
	deep := func(b digest.Batch, i int) {
		m := b.Logs().ResourceLogs().At(i).Resource().Attributes().PutEmptyMap("m")
		for range 200 {
			m = m.PutEmptyMap("m")
		}
	}
	b := batch(block.Logs, []string{"a"}, []string{"bad"}, []string{"c"})
	deep(b, 1)
	require.NoError(t, s.send(b))
	all := batch(block.Logs, []string{"bad"})
	deep(all, 0)
	require.NoError(t, s.send(all), "what can never be signed is not worth a retry")
	metadatatest.AssertEqualTpmsignRefusedBlocks(t, tel, points(point(2, "reason", string(reason.TooDeep))), metricdatatest.IgnoreTimestamp())
	require.Equal(t, 1, logs.FilterMessageSnippet("cannot be signed").Len(), "the log is sampled")
	s.stop()
	next.requireContiguous(t)
	require.Equal(t, []string{"a", "c"}, next.accepted())
	require.Equal(t, 1, next.seen())
}

func TestKeyListThatNoReceiptHoldsIsRefused(t *testing.T) {
	next := newVerifier(block.Logs)
	s, tel, _ := metered(t, testConfig(func(c *Config) { c.Tolerate = []string{"enrich"} }), next)
	s.start(hostWith(newFakeTPM(t, 1)))
	b := batch(block.Logs, []string{"a"}, []string{"many"}, []string{"long"})
	attrs := b.Logs().ResourceLogs().At(1).Resource().Attributes()
	for i := range 600 {
		attrs.PutInt(fmt.Sprint("k", i), 1)
	}
	attrs = b.Logs().ResourceLogs().At(2).Resource().Attributes()
	attrs.PutInt(strings.Repeat("k", 20_000), 1)
	require.NoError(t, s.send(b))
	metadatatest.AssertEqualTpmsignRefusedBlocks(t, tel, points(point(2, "reason", string(reason.InvalidValue))), metricdatatest.IgnoreTimestamp())
	s.stop()
	next.requireContiguous(t)
	require.Equal(t, []string{"a"}, next.accepted())
}

// watching is a TPM that shows what is pending.
type watching struct {
	*fakeTPM
	asked map[string]func() (int, int64)
}

func (w *watching) WatchPending(stream string, pending func() (int, int64)) func() {
	w.asked[stream] = pending
	return func() { delete(w.asked, stream) }
}

func TestPendingIsShownToWhomeverWatchesUntilTheEnd(t *testing.T) {
	tpm := &watching{fakeTPM: newFakeTPM(t, 1), asked: map[string]func() (int, int64){}}
	next := newVerifier(block.Logs)
	s, _, _ := metered(t, testConfig(), next)
	s.start(fakeHost{tpmID: tpm})
	require.Len(t, tpm.asked, 1)
	tpm.unready.Store(true)
	require.NoError(t, s.send(batch(block.Logs, []string{"a"}, []string{"b"})))
	for _, pending := range tpm.asked {
		blocks, bytes := pending()
		require.Equal(t, 2, blocks)
		require.Positive(t, bytes)
	}
	tpm.unready.Store(false)
	s.stop()
	require.Empty(t, tpm.asked)
}

func TestPendingIsMetered(t *testing.T) {
	next := newVerifier(block.Logs)
	s, tel, _ := metered(t, testConfig(func(c *Config) { c.Pending.MaxBlocks = 3 }), next)
	tpm := newFakeTPM(t, 1)
	s.start(hostWith(tpm))
	tpm.unready.Store(true)
	require.NoError(t, s.send(batch(block.Logs, []string{"a", "a'", "a''"}, []string{"b"})))
	require.Error(t, s.send(batch(block.Logs, []string{"c"}, []string{"d"})))
	_, bytes := s.running.Load().queue.size()
	metadatatest.AssertEqualTpmsignPendingBlocks(t, tel, points(point(2)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignPendingBytes(t, tel, points(point(bytes)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignPendedBlocks(t, tel, points(point(2, "cause", "not_ready")), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignRefusedRequests(t, tel, points(point(1)), metricdatatest.IgnoreTimestamp())

	tpm.unready.Store(false)
	eventually(t, func() bool { return s.pendingBlocks() == 0 }, "pending is worked off")
	next.failWith(func(n int) error {
		switch n {
		case 2:
			return errRefused
		case 3:
			return errDown
		default:
			return nil
		}
	})
	require.Error(t, s.send(logsOf("e")))
	require.NoError(t, s.send(logsOf("f")))
	eventually(t, func() bool { return s.pendingBlocks() == 0 }, "pending is worked off")
	require.NoError(t, s.send(logsOf("g")))
	metadatatest.AssertEqualTpmsignDownstreamRefusedBlocks(t, tel, points(point(1)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignDownstreamRetries(t, tel, points(point(1)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignPendingBlocks(t, tel, points(point(0)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignSignedBlocks(t, tel, points(point(5)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignSignedItems(t, tel, points(point(7)), metricdatatest.IgnoreTimestamp())
	metadatatest.AssertEqualTpmsignPendedBlocks(t, tel,
		points(point(2, "cause", "not_ready"), point(1, "cause", "downstream")), metricdatatest.IgnoreTimestamp())
	require.EqualValues(t, 3, addedLatency(t, tel).Count)
	s.stop()
}
