package tpmextension

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/extension/tpmextension/internal/metadatatest"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment/enrolmenttest"
)

// loose leaves out of a comparison what tests do not know.
var loose = metricdatatest.IgnoreTimestamp()

// point is a data point with attributes, given as keys and values.
func point(value int64, kv ...string) metricdata.DataPoint[int64] {
	var attrs []attribute.KeyValue
	for i := 0; i < len(kv); i += 2 {
		attrs = append(attrs, attribute.String(kv[i], kv[i+1]))
	}
	return metricdata.DataPoint[int64]{Value: value, Attributes: attribute.NewSet(attrs...)}
}

func points(p ...metricdata.DataPoint[int64]) []metricdata.DataPoint[int64] { return p }

// histogramOf returns the only data point of a histogram, which has no
// attributes; the zero one while there is none.
func histogramOf[N int64 | float64](t *testing.T, tel *componenttest.Telemetry, name string) (p metricdata.HistogramDataPoint[N]) {
	t.Helper()
	m, err := tel.GetMetric(name)
	if err != nil {
		return p
	}
	all := m.Data.(metricdata.Histogram[N]).DataPoints
	require.Len(t, all, 1)
	require.Zero(t, all[0].Attributes.Len())
	return all[0]
}

// gaugeOf returns the only data point of a gauge, which has no attributes.
func gaugeOf(t *testing.T, tel *componenttest.Telemetry, name string) float64 {
	t.Helper()
	m, err := tel.GetMetric(name)
	require.NoError(t, err)
	all := m.Data.(metricdata.Gauge[float64]).DataPoints
	require.Len(t, all, 1)
	require.Zero(t, all[0].Attributes.Len())
	return all[0].Value
}

func TestInternalTelemetry(t *testing.T) {
	nonces := newNonceStub(t)
	soft := newSoftware(t)
	soft.start(t)
	began := time.Now()
	a := startAgent(t, &testHost{}, testConfig(soft.device(), t.TempDir(), noncesFrom(nonces)))
	a.sign(t, leaves("s", 5))
	a.sign(t, leaves("s", 2))
	// It is recorded after the receipts are out, the duration last.
	require.Eventually(t, func() bool {
		return histogramOf[float64](t, a.telemetry, "otelcol_tpm_signing_duration").Count == 2
	}, patience, time.Millisecond)
	elapsed := time.Since(began).Seconds()

	metadatatest.AssertEqualTPMGroups(t, a.telemetry, points(point(2)), loose)
	sizes := histogramOf[int64](t, a.telemetry, "otelcol_tpm_group_size")
	require.EqualValues(t, 2, sizes.Count, "one for each signature")
	require.EqualValues(t, 5+2, sizes.Sum, "each block in one group")
	durations := histogramOf[float64](t, a.telemetry, "otelcol_tpm_signing_duration")
	require.Greater(t, durations.Sum, a.Status().LastSigningSeconds, "and the first one")
	require.Less(t, durations.Sum, elapsed)
	metadatatest.AssertEqualTPMUp(t, a.telemetry, points(point(1)), loose)
	metadatatest.AssertEqualTPMWaiting(t, a.telemetry, points(point(0)), loose)
	metadatatest.AssertEqualTPMEpoch(t, a.telemetry, points(point(int64(a.Status().Epoch))), loose)
	_, err := a.telemetry.GetMetric("otelcol_tpm_enrolment_state")
	require.Error(t, err, "there is no registry")

	soft.kill()
	a.submit(t, leaves("s", 3))
	require.Error(t, a.host.waitFor(t, componentstatus.StatusRecoverableError))
	metadatatest.AssertEqualTPMUp(t, a.telemetry, points(point(0)), loose)
	metadatatest.AssertEqualTPMWaiting(t, a.telemetry, points(point(3)), loose)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.Shutdown(ctx), context.DeadlineExceeded, "a group was given up")
}

func TestEachFailureOfTheTPMCountsOnceAsItsClass(t *testing.T) {
	nonces := newNonceStub(t)
	cfg := testConfig("unix:"+filepath.Join(shortDir(t), "sock"), t.TempDir(), noncesFrom(nonces))
	cfg.Retry = RetryConfig{InitialInterval: time.Hour, MaxInterval: time.Hour, Multiplier: 1}
	a := startAgent(t, &testHost{}, cfg)
	require.Eventually(t, func() bool { return a.Status().State == "failing" }, patience, time.Millisecond)
	metadatatest.AssertEqualTPMErrors(t, a.telemetry, points(point(1, "class", "gone")), loose)
	metadatatest.AssertEqualTPMUp(t, a.telemetry, points(point(0)), loose)
	for _, unknown := range []string{"otelcol_tpm_epoch", "otelcol_tpm_nonce_age", "otelcol_tpm_groups"} {
		_, err := a.telemetry.GetMetric(unknown)
		require.Error(t, err, unknown)
	}
}

func TestNonceOutageIsCountedAndAges(t *testing.T) {
	nonces := newNonceStub(t)
	began := time.Now()
	a := startAgent(t, &testHost{}, testConfig("swtpm:"+shortDir(t), t.TempDir(), noncesFrom(nonces)))
	a.sign(t, leaves("s", 1))
	_, err := a.telemetry.GetMetric("otelcol_tpm_nonce_errors")
	require.Error(t, err, "none yet")

	nonces.set(true, nil)
	require.Eventually(t, func() bool { return nonces.failures() >= 3 && a.Status().NonceError != "" }, patience, time.Millisecond)
	// No nonce comes any more: it only grows older.
	before := *a.Status().NonceAgeSeconds
	age := gaugeOf(t, a.telemetry, "otelcol_tpm_nonce_age")
	require.Greater(t, age, before)
	require.Less(t, age, time.Since(began).Seconds())
	metadatatest.AssertEqualTPMUp(t, a.telemetry, points(point(1)), loose)

	nonces.set(false, nil)
	require.Eventually(t, func() bool { return a.Status().NonceError == "" }, patience, time.Millisecond)
	metadatatest.AssertEqualTPMNonceErrors(t, a.telemetry, points(point(int64(nonces.failures()))), loose)
}

// What the registry says shows as the attempt that it was and the state that it
// leads to; without its trust there is neither a lease nor anything signed.
func TestEnrolmentIsMetered(t *testing.T) {
	const lease = 2 * time.Hour
	for state, c := range map[string]struct {
		answer enrolmenttest.Answer
		reason string
		signs  bool
	}{
		"enrolled": {answer: enrolmenttest.Answer{Lease: lease}, signs: true},
		"pending":  {answer: enrolmenttest.Answer{State: api.StatePending}},
		"refused":  {answer: enrolmenttest.Answer{Refuse: api.Refuse(api.TokenUsedUp, "no")}, reason: "token_used_up"},
	} {
		t.Run(state, func(t *testing.T) {
			registry := enrolmenttest.Start(t)
			registry.Set(c.answer)
			began := time.Now()
			a := startAgent(t, &testHost{}, testConfig("swtpm:"+shortDir(t), t.TempDir(), enrolledAt(registry.URL, joining(registry))))
			a.enrolment(t, state)
			metadatatest.AssertEqualTPMEnrolments(t, a.telemetry, points(point(1, "outcome", state, "reason", c.reason)), loose)
			var states []metricdata.DataPoint[int64]
			for _, s := range []string{"starting", "enrolled", "pending", "refused", "revoked", "expired"} {
				value := int64(0)
				if s == state {
					value = 1
				}
				states = append(states, point(value, "state", s))
			}
			metadatatest.AssertEqualTPMEnrolmentState(t, a.telemetry, states, loose)
			if !c.signs {
				_, err := a.telemetry.GetMetric("otelcol_tpm_lease_remaining")
				require.Error(t, err)
				metadatatest.AssertEqualTPMUp(t, a.telemetry, points(point(0)), loose)
				return
			}
			left := gaugeOf(t, a.telemetry, "otelcol_tpm_lease_remaining")
			require.Less(t, left, lease.Seconds())
			require.Greater(t, left, (lease - time.Since(began)).Seconds())
		})
	}
}
