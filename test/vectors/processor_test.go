package vectors_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/processor/tpmverifyprocessor"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// TestProcessor lets every vector arrive at tpmverify in mode observe, which
// hands on all blocks with their verdicts. The clock is that of synctest.
func TestProcessor(t *testing.T) {
	for _, v := range all(t) {
		t.Run(v.Name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { throughProcessor(t, v) }) })
	}
}

func throughProcessor(t *testing.T, v *vector.Vector) {
	sleepUntil(v.Steps[0].Now)
	windows, _, err := replay.Open(t.Context(), time.Now(), replay.Options{Limits: limits(v), Random: random})
	require.NoError(t, err)
	p := newPipeline(t, v)
	err = p.start(t.Context(), host{component.MustNewID("nonce"): &nonces{
		authority: authority(t, v), windows: windows, maxDelay: time.Duration(v.MaxDelay), skew: time.Duration(v.Skew),
	}})
	defer func() { require.NoError(t, p.shutdown(context.WithoutCancel(t.Context()))) }()
	if refusedByKeyFile(v) {
		require.ErrorContains(t, err, "key file")
		return
	}
	require.NoError(t, err)
	for i := range v.Steps {
		s := &v.Steps[i]
		sleepUntil(s.Now)
		if s.Sweep {
			_, err := windows.Sweep(t.Context(), time.Now())
			require.NoError(t, err)
		}
		unreadable, want := decoded(s)
		if unreadable {
			continue // the receiver refuses it
		}
		batch, err := export(p.signal, s.Request)
		require.NoError(t, err)
		require.NoError(t, p.consume(t.Context(), batch), "a bad block never makes the request fail")
		requireDelivered(t, want, p.take(), i)
	}
}

func sleepUntil(t vector.Time) { time.Sleep(time.Until(t.Time)) }

func requireDelivered(t *testing.T, want []vector.Block, got []digest.Batch, step int) {
	t.Helper()
	n := 0
	for _, batch := range got {
		for i := range batch.Len() {
			require.Less(t, n, len(want), "step %d", step)
			b := batch.At(i)
			v, _ := b.Attributes().Get(block.AttrVerdict)
			require.Equal(t, want[n].Verdict, v.AsString(), "step %d, block %d", step, n)
			if want[n].Items != nil {
				require.Equal(t, want[n].Items.Accepted, b.Items(), "step %d, block %d", step, n)
			}
			n++
		}
	}
	require.Len(t, want, n, "step %d", step)
}

// nonces stands in for the nonce extension.
type nonces struct {
	component.StartFunc
	component.ShutdownFunc
	authority      *nonce.Authority
	windows        replay.Store
	maxDelay, skew time.Duration
}

func (n *nonces) Nonces() *nonce.Authority               { return n.authority }
func (n *nonces) Windows() replay.Store                  { return n.windows }
func (n *nonces) Limits() (maxDelay, skew time.Duration) { return n.maxDelay, n.skew }

type host map[component.ID]component.Component

func (h host) GetExtensions() map[component.ID]component.Component { return h }

// pipeline is a tpmverify of one signal and what comes out of it.
type pipeline struct {
	signal   block.Signal
	start    func(context.Context, component.Host) error
	shutdown func(context.Context) error
	consume  func(context.Context, digest.Batch) error
	take     func() []digest.Batch
}

func config(t *testing.T, v *vector.Vector) *tpmverifyprocessor.Config {
	t.Helper()
	cfg := tpmverifyprocessor.NewFactory().CreateDefaultConfig().(*tpmverifyprocessor.Config)
	cfg.Mode = tpmverifyprocessor.ModeObserve
	cfg.Receipts = tpmverifyprocessor.ReceiptsKeep
	cfg.Keys.File = filepath.Join(t.TempDir(), "keys.json")
	cfg.Keys.RefreshInterval = 365 * 24 * time.Hour
	cfg.Bind, cfg.BindRequired = v.Policy.Bind, v.Policy.BindRequired
	cfg.Freshness.Require, cfg.Freshness.LiveWithin = v.Policy.Freshness, time.Duration(v.Policy.LiveWithin)
	require.NoError(t, cfg.Validate())
	require.NoError(t, os.WriteFile(cfg.Keys.File, keyFile(t, v), 0o600))
	return cfg
}

func newPipeline(t *testing.T, v *vector.Vector) *pipeline {
	t.Helper()
	f, cfg, set := tpmverifyprocessor.NewFactory(), config(t, v), processortest.NewNopSettings(component.MustNewType("tpmverify"))
	signal, err := block.ParseSignal(v.Signal)
	require.NoError(t, err)
	p := &pipeline{signal: signal}
	var c component.Component
	switch signal {
	case block.Metrics:
		sink := &consumertest.MetricsSink{}
		m, err := f.CreateMetrics(t.Context(), set, cfg, sink)
		require.NoError(t, err)
		c = m
		p.consume = func(ctx context.Context, b digest.Batch) error { return m.ConsumeMetrics(ctx, b.Metrics()) }
		p.take = func() []digest.Batch { return taken(sink.AllMetrics(), sink.Reset, digest.FromMetrics) }
	case block.Logs:
		sink := &consumertest.LogsSink{}
		l, err := f.CreateLogs(t.Context(), set, cfg, sink)
		require.NoError(t, err)
		c = l
		p.consume = func(ctx context.Context, b digest.Batch) error { return l.ConsumeLogs(ctx, b.Logs()) }
		p.take = func() []digest.Batch { return taken(sink.AllLogs(), sink.Reset, digest.FromLogs) }
	default:
		sink := &consumertest.TracesSink{}
		x, err := f.CreateTraces(t.Context(), set, cfg, sink)
		require.NoError(t, err)
		c = x
		p.consume = func(ctx context.Context, b digest.Batch) error { return x.ConsumeTraces(ctx, b.Traces()) }
		p.take = func() []digest.Batch { return taken(sink.AllTraces(), sink.Reset, digest.FromTraces) }
	}
	p.start, p.shutdown = c.Start, c.Shutdown
	return p
}

func taken[T any](all []T, reset func(), wrap func(T) digest.Batch) []digest.Batch {
	out := make([]digest.Batch, len(all))
	for i := range all {
		out[i] = wrap(all[i])
	}
	reset()
	return out
}
