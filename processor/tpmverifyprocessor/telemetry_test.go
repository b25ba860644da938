package tpmverifyprocessor

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/registrytest"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// slowWindows are windows in which a claim takes its time.
type slowWindows struct {
	replay.Store
	r     *rig
	takes time.Duration
}

func (w *slowWindows) Claim(ctx context.Context, now time.Time, blocks []replay.Block) ([]replay.Outcome, error) {
	w.r.advance(w.takes)
	return w.Store.Claim(ctx, now, blocks)
}

// TestVerifyDurationIsThatOfJudgingAndClaiming: not that of the next component.
func TestVerifyDurationIsThatOfJudgingAndClaiming(t *testing.T) {
	const takes = 200 * time.Millisecond
	r := newRig(t, block.Traces, func(r *rig) { r.windows = &slowWindows{Store: memoryWindows(r.t), r: r, takes: takes} })
	r.setAnswer(func(context.Context, digest.Batch) error { r.advance(10 * time.Second); return nil })
	began := time.Now()
	require.NoError(t, r.send(r.signed(0), r.signed(1)))
	require.NoError(t, r.send(r.signed(0)))
	elapsed := time.Since(began)
	require.Equal(t, 3, r.take().Len())

	m, err := r.telemetry.GetMetric("otelcol_tpmverify_verify_duration")
	require.NoError(t, err)
	all := m.Data.(metricdata.Histogram[float64]).DataPoints
	require.Len(t, all, 1)
	require.Equal(t, attribute.NewSet(attribute.String("processor", "tpmverify"), attribute.String("signal", "traces")), all[0].Attributes)
	require.EqualValues(t, 2, all[0].Count, "one for each request, however many blocks it has")
	require.GreaterOrEqual(t, all[0].Sum, 2*takes.Seconds())
	require.LessOrEqual(t, all[0].Sum, (2*takes + elapsed).Seconds())
}

// TestMetricsTellProcessorsAndSignalsApart: but for those of the registry, which
// all signals share.
func TestMetricsTellProcessorsAndSignalsApart(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg), withConfig(func(c *Config) { c.Unsigned = UnsignedTag }))
	reg.Enrol(machineOf(t, r.machines[0]))
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	waitForStream(t, reg)
	d := r.signed(0)
	again := signtest.Copy(d)
	require.NoError(t, r.send(d, signtest.Data(block.Logs, "laptop", 1)))
	require.NoError(t, r.send(again, r.signedBy(newStranger(r, "edge-z"))))
	for _, name := range []string{"verified_blocks", "duplicate_blocks", "unsigned_blocks", "refused_blocks", "registry_lookups"} {
		require.EqualValues(t, 1, r.count("tpmverify_"+name), name)
	}

	var all metricdata.ResourceMetrics
	require.NoError(t, r.telemetry.Reader.Collect(t.Context(), &all))
	seen := 0
	for _, sm := range all.ScopeMetrics {
		for _, m := range sm.Metrics {
			name, ours := strings.CutPrefix(m.Name, "otelcol_tpmverify_")
			if !ours {
				continue
			}
			seen++
			want := map[string]string{"processor": "tpmverify", "signal": "logs"}
			switch {
			case name == "refused_blocks":
				want["reason"] = string(reason.UnknownKey)
			case name == "registry_lookups":
				delete(want, "signal")
				want["outcome"] = "unknown"
			case strings.HasPrefix(name, "registry_"):
				delete(want, "signal")
			}
			require.Equal(t, []map[string]string{want}, attributesOf(t, m), name)
		}
	}
	require.Greater(t, seen, 10)
}

// attributesOf returns the attributes of each data point.
func attributesOf(t *testing.T, m metricdata.Metrics) (all []map[string]string) {
	t.Helper()
	add := func(set attribute.Set) {
		one := map[string]string{}
		for _, kv := range set.ToSlice() {
			one[string(kv.Key)] = kv.Value.AsString()
		}
		all = append(all, one)
	}
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes)
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			add(p.Attributes)
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			add(p.Attributes)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			add(p.Attributes)
		}
	default:
		require.Fail(t, "no such metric is declared", "%s: %T", m.Name, data)
	}
	return all
}

// TestAgeOfWhatTheRegistrySaidGrowsWhileItIsAway, in seconds.
func TestAgeOfWhatTheRegistrySaidGrowsWhileItIsAway(t *testing.T) {
	reg := registrytest.New(t)
	r := prepareRig(t, block.Logs, withRegistry(t, reg))
	reg.Enrol(machineOf(t, r.machines[0]))
	began := time.Now()
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	waitForStream(t, reg)
	age := func() float64 {
		m, err := r.telemetry.GetMetric("otelcol_tpmverify_registry_age")
		require.NoError(t, err)
		return m.Data.(metricdata.Gauge[float64]).DataPoints[0].Value
	}
	require.Less(t, age(), time.Since(began).Seconds())

	reg.Set(func(s *registrytest.Switches) {
		s.MuteStream, s.NoStreams, s.Down = true, true, http.StatusServiceUnavailable
	})
	const away = 5 * time.Minute
	r.advance(away)
	require.Eventually(t, func() bool { return age() >= away.Seconds() }, 10*time.Second, 10*time.Millisecond)
	require.Less(t, age(), (away + time.Since(began)).Seconds())
}

func TestParkedBytesAreTheSizeOfTheBlocks(t *testing.T) {
	reg := registrytest.New(t)
	reg.Set(func(s *registrytest.Switches) { s.Down = http.StatusServiceUnavailable })
	ext, stop := openStorage(t, t.TempDir())
	defer stop()
	r := prepareRig(t, block.Logs, withRegistry(t, reg), withConfig(func(c *Config) { c.Park.Storage = &storageID }))
	r.host.extensions[storageID] = ext
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	size := int64(0)
	for range 2 {
		d := signtest.Data(block.Logs, r.machines[0].Name, 100)
		r.machines[0].Sign(t, stream, 0, d)
		wire, err := d.Marshal()
		require.NoError(t, err)
		size += int64(len(wire))
		require.NoError(t, r.send(d))
	}
	const most = 100 // of what is kept with each
	require.EqualValues(t, 2, r.count("tpmverify_parked_blocks"))
	require.GreaterOrEqual(t, r.count("tpmverify_parked_bytes"), size)
	require.LessOrEqual(t, r.count("tpmverify_parked_bytes"), size+2*most)
}
