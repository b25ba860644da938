package tpmsignprocessor

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadata"
	"github.com/telemark-otel/telemark/processor/tpmsignprocessor/internal/metadatatest"
)

func TestStartFindsTheOneTPM(t *testing.T) {
	other, named := component.MustNewID("other"), component.MustNewIDWithName("tpm", "second")
	tpm := newFakeTPM(t, 1)
	nop := struct {
		component.StartFunc
		component.ShutdownFunc
	}{}
	for name, tt := range map[string]struct {
		host   fakeHost
		tpm    *component.ID
		stored *component.ID
		want   error
	}{
		"none":                     {host: fakeHost{other: nop}, want: errNoTPM},
		"one":                      {host: fakeHost{tpmID: tpm, other: nop}},
		"several":                  {host: fakeHost{tpmID: tpm, named: tpm}, want: errSeveralTPMs},
		"several, one named":       {host: fakeHost{tpmID: tpm, named: tpm}, tpm: &named},
		"named and missing":        {host: fakeHost{tpmID: tpm}, tpm: &named, want: errTPMMissing},
		"named and another thing":  {host: fakeHost{tpmID: tpm, other: nop}, tpm: &other, want: errNotTPM},
		"something else in name":   {host: fakeHost{tpmID: nop}, want: errNotTPM},
		"storage missing":          {host: hostWith(tpm), stored: &other, want: errStorageGone},
		"storage is another thing": {host: fakeHost{tpmID: tpm, other: nop}, stored: &other, want: errNotStorage},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSUT(t, testConfig(func(c *Config) { c.TPM, c.Pending.Storage = tt.tpm, tt.stored }), newVerifier(block.Logs))
			require.ErrorIs(t, s.Start(t.Context(), tt.host), tt.want)
			require.NoError(t, s.Shutdown(t.Context()))
			require.Zero(t, tpm.streams["tpmsign/edge:logs"], "the stream name is given back")
		})
	}
}

func TestStreamNames(t *testing.T) {
	tpm := newFakeTPM(t, 1)
	next := newVerifier(block.Logs)
	for _, stream := range []string{"", "", "edge-a"} {
		s := newSUT(t, testConfig(func(c *Config) { c.Stream = stream }), next).start(hostWith(tpm))
		require.NoError(t, s.send(logsOf("a")))
		defer s.stop()
	}
	for _, stream := range []string{"tpmsign/edge:logs", "tpmsign/edge:logs#2", "edge-a:logs"} {
		require.Equal(t, 1, next.came(number{1, stream, 1}), stream)
	}

	long := processortest.NewNopSettings(metadata.Type)
	long.ID = component.MustNewIDWithName("tpmsign", strings.Repeat("x", 60))
	s, err := newSigner(long, testConfig(), block.Logs, consumer.Capabilities{}, nil)
	require.NoError(t, err)
	require.ErrorIs(t, s.Start(t.Context(), hostWith(tpm)), errStream)
}

func TestLifecycle(t *testing.T) {
	next := newVerifier(block.Logs)
	s := newSUT(t, testConfig(), next)
	require.ErrorIs(t, s.send(logsOf("too early")), errNotRunning)
	s.stop() // before start
	host := hostWith(newFakeTPM(t, 1))
	s.start(host)
	require.ErrorIs(t, s.Start(t.Context(), host), errStarted)
	require.NoError(t, s.send(logsOf("a")))
	s.stop()
	s.stop()
	require.ErrorIs(t, s.send(logsOf("too late")), errNotRunning)
	s.start(host) // again
	require.NoError(t, s.send(logsOf("b")))
	s.stop()
	next.requireContiguous(t)
	require.Equal(t, []string{"a", "b"}, next.accepted())
}

func TestShutdownFinishesPendingWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := newVerifier(block.Logs)
		tpm := newFakeTPM(t, 1)
		tpm.delay = 300 * time.Millisecond
		s := newSUT(t, testConfig(func(c *Config) { c.Pending.Wait = time.Millisecond }), next).start(hostWith(tpm))
		for _, name := range names("p", 20) {
			require.NoError(t, s.send(logsOf(name)))
		}
		require.Positive(t, s.pendingBlocks())
		s.stop()
		next.requireContiguous(t)
		require.Len(t, next.accepted(), 20)
	})
}

func TestShutdownDoesNotWaitForADeadTPM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tpm := newFakeTPM(t, 1)
		tpm.unready.Store(true)
		s := newSUT(t, testConfig(), newVerifier(block.Logs)).start(hostWith(tpm))
		require.NoError(t, s.send(logsOf("a")))
		began := time.Now()
		require.ErrorIs(t, s.Shutdown(t.Context()), errShutdownLost)
		require.Less(t, time.Since(began), time.Second)
	})
}

func TestShutdownIsBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout time.Duration
		pended  []metricdata.DataPoint[int64]
	}{
		"by its context": {time.Second, points(point(1, "cause", "slow_signature"), point(1, "cause", "shutdown"))},
		"by itself":      {time.Hour, points(point(2, "cause", "slow_signature"))}, // there is time to wait for the signature in vain
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tpm := newFakeTPM(t, 1)
				tpm.dead.Store(true) // and says it is ready
				s, tel, _ := metered(t, testConfig(), newVerifier(block.Logs))
				s.start(hostWith(tpm))
				require.NoError(t, s.send(logsOf("a")))
				go func() { _ = s.send(logsOf("b")) }()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
				defer cancel()
				began := time.Now()
				require.ErrorIs(t, s.Shutdown(ctx), errShutdownLost)
				require.LessOrEqual(t, time.Since(began), min(tt.timeout, drainTimeout))
				synctest.Wait()
				metadatatest.AssertEqualTpmsignPendedBlocks(t, tel, tt.pended, metricdatatest.IgnoreTimestamp())
				tpm.close()
			})
		})
	}
}

func TestShutdownReturnsThoughTheNextConsumerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSUT(t, testConfig(), newVerifier(block.Logs))
		release := make(chan struct{})
		s.next = func(context.Context, digest.Batch) error { <-release; return nil }
		s.start(hostWith(newFakeTPM(t, 1)))
		go func() { _ = s.send(logsOf("a")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
		close(release)
		synctest.Wait()
	})
}

func TestGeneratedHostHasNoTPMByDefault(t *testing.T) {
	s := newSUT(t, testConfig(), newVerifier(block.Logs))
	require.ErrorIs(t, s.Start(t.Context(), componenttest.NewNopHost()), errNoTPM)
}
