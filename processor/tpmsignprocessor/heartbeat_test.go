package tpmsignprocessor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadatatest"
)

func withHeartbeat(c *Config) { c.Heartbeat.Interval = time.Minute }

func TestIdleStreamSpeaksAndSaysFarewell(t *testing.T) {
	for _, signal := range allSignals {
		t.Run(signal.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := newVerifier(signal)
				tel := componenttest.NewTelemetry()
				defer func() { require.NoError(t, tel.Shutdown(context.Background())) }()
				set := metadatatest.NewSettings(tel)
				set.Resource.Attributes().PutStr("service.name", "otelcol-telemark")
				set.Resource.Attributes().PutStr("telemark.verdict", "verified")
				s := newSUTWith(t, set, testConfig(withHeartbeat, func(c *Config) { c.Tolerate = []string{"split", "enrich"} }), next)
				s.start(hostWith(newFakeTPM(t, 1)))
				time.Sleep(50 * time.Second)
				require.Zero(t, next.spoke(heartbeat))
				require.NoError(t, s.send(batch(signal, []string{"a"})))
				time.Sleep(50 * time.Second) // 100 s, 50 s since the last block
				require.Zero(t, next.spoke(heartbeat))
				time.Sleep(15 * time.Second)
				require.Equal(t, 1, next.spoke(heartbeat))
				time.Sleep(2 * time.Minute)
				require.Equal(t, 3, next.spoke(heartbeat))
				require.Zero(t, next.spoke(farewell))
				s.stop()
				require.Equal(t, 1, next.spoke(farewell))
				require.Equal(t, 3, next.spoke(heartbeat))
				next.requireContiguous(t)
				name := "tpmsign/edge:" + signal.String()
				require.Equal(t, 1, next.came(number{1, name, 5}))
				spoken := func(n int64, u utterance) metricdata.DataPoint[int64] {
					return metricdata.DataPoint[int64]{Value: n, Attributes: attribute.NewSet(attribute.String("stream", name), attribute.String("kind", string(u)))}
				}
				metadatatest.AssertEqualTpmsignHeartbeats(t, tel, points(spoken(3, "heartbeat"), spoken(1, "farewell")), metricdatatest.IgnoreTimestamp())
			})
		})
	}
}

func TestHeartbeatOffIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(), next).start(hostWith(newFakeTPM(t, 1)))
		time.Sleep(time.Hour)
		s.stop()
		require.Zero(t, next.seen())
	})
}

func TestHeartbeatsDoNotPileUpWhileTheTPMIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		s := newSUT(t, testConfig(withHeartbeat), next).start(hostWith(tpm))
		tpm.unready.Store(true)
		time.Sleep(time.Hour)
		require.Zero(t, s.pendingBlocks())
		tpm.unready.Store(false)
		tpm.dead.Store(true) // nobody has noticed yet
		time.Sleep(time.Hour)
		require.Equal(t, 1, s.pendingBlocks(), "the one whose group is closed")
		tpm.dead.Store(false)
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, next.spoke(heartbeat))
		s.stop()
		next.requireContiguous(t)
	})
}

func TestHeartbeatThatIsRefusedForNowComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		recovered := time.Now().Add(30 * time.Minute)
		next.fail = func(int) error {
			if time.Now().Before(recovered) {
				return errDown
			}
			return nil
		}
		s, tel, _ := metered(t, testConfig(withHeartbeat), next)
		s.start(hostWith(newFakeTPM(t, 1)))
		time.Sleep(29 * time.Minute)
		require.Equal(t, 1, s.pendingBlocks())
		time.Sleep(2 * time.Minute)
		s.stop()
		next.requireContiguous(t)
		require.Positive(t, next.spoke(heartbeat))
		metadatatest.AssertEqualTpmsignHeartbeats(t, tel, points(
			point(int64(next.spoke(heartbeat)), "kind", "heartbeat"), point(1, "kind", "farewell"),
		), metricdatatest.IgnoreTimestamp())
	})
}

func TestDeadTPMSaysNoFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		s := newSUT(t, testConfig(withHeartbeat), next).start(hostWith(tpm))
		require.NoError(t, s.send(logsOf("a")))
		tpm.unready.Store(true)
		began := time.Now()
		s.stop()
		require.Zero(t, time.Since(began))
		require.Zero(t, next.spoke(farewell))
		next.requireContiguous(t)
	})
}

func TestUserDataCannotSpeakForTheStream(t *testing.T) {
	for _, signal := range allSignals {
		t.Run(signal.String(), func(t *testing.T) {
			next := newVerifier(signal)
			s := newSUT(t, testConfig(), next).start(hostWith(newFakeTPM(t, 1)))
			b := batch(signal, []string{"a", farewell.name()}, []string{farewell.name()})
			switch signal {
			case block.Metrics:
				b.Metrics().ResourceMetrics().At(1).ScopeMetrics().At(0).Scope().SetName(digest.HeartbeatScope)
			case block.Logs:
				b.Logs().ResourceLogs().At(1).ScopeLogs().At(0).Scope().SetName(digest.HeartbeatScope)
			default:
				b.Traces().ResourceSpans().At(1).ScopeSpans().At(0).Scope().SetName(digest.HeartbeatScope)
			}
			require.NoError(t, s.send(b))
			s.stop()
			next.requireContiguous(t)
			different, _ := next.blocks()
			require.Equal(t, 1, different, "the block in the reserved scope is gone")
		})
	}
}

func TestClockSetBackDoesNotSilenceTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		s := newSUT(t, testConfig(withHeartbeat), next).start(hostWith(newFakeTPM(t, 1)))
		s.running.Load().lastBlock.Store(time.Now().Add(365 * 24 * time.Hour).UnixNano()) // what the clock said before
		time.Sleep(90 * time.Second)
		require.Equal(t, 1, next.spoke(heartbeat))
		s.stop()
	})
}

func TestClockSetBackDoesNotSilenceTheLog(t *testing.T) {
	var s sampler
	now := time.Now()
	_, ok := s.check(now)
	require.True(t, ok)
	_, ok = s.check(now.Add(samplePeriod - time.Second))
	require.False(t, ok)
	_, ok = s.check(now.Add(-time.Hour))
	require.True(t, ok)
	_, ok = s.check(now.Add(-time.Hour + time.Second))
	require.False(t, ok)
}
