package digest

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor/batchprocessor"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// sink gathers what a collector component sends on.
type sink struct {
	mu  sync.Mutex
	got []Batch
}

func (s *sink) add(b Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, reread(b))
	return nil
}

func (s *sink) metrics(_ context.Context, md pmetric.Metrics) error { return s.add(FromMetrics(md)) }
func (s *sink) logs(_ context.Context, ld plog.Logs) error          { return s.add(FromLogs(ld)) }
func (s *sink) traces(_ context.Context, td ptrace.Traces) error    { return s.add(FromTraces(td)) }

// started is a component that takes one signal.
type started struct {
	component.Component
	consume func(Batch) error
}

func run(t *testing.T, c started, in []Batch) {
	t.Helper()
	require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
	for _, b := range in {
		require.NoError(t, c.consume(b))
	}
	require.NoError(t, c.Shutdown(t.Context()))
}

// throughBatchProcessor sends the batches through the batch processor itself.
func throughBatchProcessor(t *testing.T, maxItems int, in []Batch) []Batch {
	t.Helper()
	f := batchprocessor.NewFactory()
	cfg := f.CreateDefaultConfig().(*batchprocessor.Config)
	cfg.SendBatchSize, cfg.SendBatchMaxSize, cfg.Timeout = uint32(maxItems), uint32(maxItems), time.Minute
	set := processortest.NewNopSettings(f.Type())
	var (
		s   sink
		c   started
		err error
	)
	switch in[0].Signal() {
	case block.Metrics:
		next, e := consumer.NewMetrics(s.metrics)
		require.NoError(t, e)
		p, e := f.CreateMetrics(t.Context(), set, cfg, next)
		c, err = started{p, func(b Batch) error { return p.ConsumeMetrics(t.Context(), b.Metrics()) }}, e
	case block.Logs:
		next, e := consumer.NewLogs(s.logs)
		require.NoError(t, e)
		p, e := f.CreateLogs(t.Context(), set, cfg, next)
		c, err = started{p, func(b Batch) error { return p.ConsumeLogs(t.Context(), b.Logs()) }}, e
	default:
		next, e := consumer.NewTraces(s.traces)
		require.NoError(t, e)
		p, e := f.CreateTraces(t.Context(), set, cfg, next)
		c, err = started{p, func(b Batch) error { return p.ConsumeTraces(t.Context(), b.Traces()) }}, e
	}
	require.NoError(t, err)
	run(t, c, in)
	return s.got
}

// throughExporterQueue sends the batches through the batching queue of exporters.
func throughExporterQueue(t *testing.T, sizer exporterhelper.RequestSizerType, maxSize int64, in []Batch) []Batch {
	t.Helper()
	cfg := exporterhelper.NewDefaultQueueConfig()
	cfg.Batch = configoptional.Some(exporterhelper.BatchConfig{
		FlushTimeout: time.Minute, Sizer: sizer, MinSize: maxSize, MaxSize: maxSize,
	})
	queue := exporterhelper.WithQueue(configoptional.Some(cfg))
	set := exportertest.NewNopSettings(component.MustNewType("nop"))
	var (
		s   sink
		c   started
		err error
	)
	switch in[0].Signal() {
	case block.Metrics:
		e, er := exporterhelper.NewMetrics(t.Context(), set, struct{}{}, s.metrics, queue)
		c, err = started{e, func(b Batch) error { return e.ConsumeMetrics(t.Context(), b.Metrics()) }}, er
	case block.Logs:
		e, er := exporterhelper.NewLogs(t.Context(), set, struct{}{}, s.logs, queue)
		c, err = started{e, func(b Batch) error { return e.ConsumeLogs(t.Context(), b.Logs()) }}, er
	default:
		e, er := exporterhelper.NewTraces(t.Context(), set, struct{}{}, s.traces, queue)
		c, err = started{e, func(b Batch) error { return e.ConsumeTraces(t.Context(), b.Traces()) }}, er
	}
	require.NoError(t, err)
	run(t, c, in)
	return s.got
}

// claims is a small stand-in for the windows: each place of the manifest once.
type claims map[string][]bool

func (c claims) take(t *testing.T, a Arrived, manifest []byte) {
	t.Helper()
	taken := c[string(manifest)]
	if taken == nil {
		taken = make([]bool, a.Total)
		c[string(manifest)] = taken
	}
	for i := range a.Items {
		candidates := []uint32{uint32(i)}
		if a.Candidates != nil {
			candidates = a.Candidates[i]
		}
		ok := false
		for _, k := range candidates {
			if !taken[k] {
				taken[k], ok = true, true
				break
			}
		}
		require.True(t, ok, "item %d has no free place among %v", i, candidates)
	}
}

func (c claims) complete(t *testing.T, blocks int) {
	t.Helper()
	require.Len(t, c, blocks)
	for _, taken := range c {
		require.NotContains(t, taken, false)
	}
}

// signed prepares blocks, attaches the manifest with a receipt that names the
// digest, and returns requests.
func signed(t *testing.T, s block.Signal, tol block.Tolerance, count int) []Batch {
	t.Helper()
	var out []Batch
	for i := range count {
		b := NewBatch(s)
		if i%2 == 0 {
			toBatch(t, s, newGenerator(uint64(i+1000)).block(s)).MoveBlock(0, b)
		}
		typicalBatch(s, 30+i).MoveBlock(0, b)
		// the same items again: equal to the last byte
		b.At(b.Len() - 1).CopyTo(b)
		b.At(b.Len() - 1).appendScopesTo(b.At(b.Len() - 2))
		b.Filter(func(i int) bool { return i < b.Len()-1 })
		for k := range b.Len() {
			p := prepared(t, b.At(k), tol)
			b.At(k).Attach(Proof{Receipt: append([]byte("receipt"), p.Digest[:]...), Manifest: p.Manifest})
		}
		out = append(out, b)
	}
	return out
}

func expected(t *testing.T, b Block, tol block.Tolerance) Expected {
	t.Helper()
	p, err := b.Proof()
	require.NoError(t, err)
	return Expected{Tolerances: tol, Digest: block.Digest(p.Receipt[len("receipt"):]), Manifest: p.Manifest}
}

func TestFragmentsOfAnyBatcherVerifyInAnyOrder(t *testing.T) {
	batchers := map[string]func([]Batch) []Batch{
		"batch processor, 7":    func(in []Batch) []Batch { return throughBatchProcessor(t, 7, in) },
		"batch processor, 1":    func(in []Batch) []Batch { return throughBatchProcessor(t, 1, in) },
		"exporter queue, items": func(in []Batch) []Batch { return throughExporterQueue(t, exporterhelper.RequestSizerTypeItems, 11, in) },
		"exporter queue, bytes": func(in []Batch) []Batch {
			return throughExporterQueue(t, exporterhelper.RequestSizerTypeBytes, 200_000, in)
		},
		"SplitLarge of a signer": func(in []Batch) []Batch { return cutAll(in, 5) },
	}
	for name, through := range batchers {
		for _, s := range signals {
			t.Run(name+"/"+s.String(), func(t *testing.T) {
				fragments := through(signed(t, s, block.Split, 8))
				rand.New(rand.NewPCG(1, 2)).Shuffle(len(fragments), func(i, k int) {
					fragments[i], fragments[k] = fragments[k], fragments[i]
				})
				c, n := claims{}, 0
				for _, f := range fragments {
					for i := range f.Len() {
						want := expected(t, f.At(i), block.Split)
						a, err := f.At(i).Check(want)
						require.NoError(t, err)
						c.take(t, a, want.Manifest)
						n++
					}
				}
				require.Greater(t, n, 8)
				c.complete(t, 12)
			})
		}
	}
}

func cutAll(in []Batch, most int) []Batch {
	for _, b := range in {
		b.SplitLarge(most)
	}
	return in
}

func TestMergedRequestsVerify(t *testing.T) {
	for _, s := range signals {
		for _, out := range [][]Batch{
			throughBatchProcessor(t, 1_000_000, signed(t, s, 0, 8)),
			throughExporterQueue(t, exporterhelper.RequestSizerTypeItems, 1_000_000, signed(t, s, 0, 8)),
		} {
			require.Len(t, out, 1)
			require.Equal(t, 12, out[0].Len())
			for i := range out[0].Len() {
				_, err := out[0].At(i).Check(expected(t, out[0].At(i), 0))
				require.NoError(t, err)
			}
		}
	}
}

func TestSplitBlockWithoutToleranceIsRefused(t *testing.T) {
	for _, s := range signals {
		b := typicalBatch(s, 35)
		p := prepared(t, b.At(0), 0)
		b.At(0).Attach(Proof{Receipt: append([]byte("receipt"), p.Digest[:]...)})
		for _, f := range throughBatchProcessor(t, 10, []Batch{b}) {
			for i := range f.Len() {
				want := expected(t, f.At(i), 0)
				a, err := f.At(i).Check(want)
				require.ErrorIs(t, err, &reason.Error{Reason: reason.DigestMismatch})
				require.Empty(t, a.Differs)
				want.Items = a.Items + 1
				_, err = f.At(i).Check(want)
				require.ErrorIs(t, err, &reason.Error{Reason: reason.BlockSplit})
			}
		}
	}
}

func TestManifestThatWasTamperedWithIsRefused(t *testing.T) {
	for _, s := range signals {
		blk := typicalBatch(s, 5).At(0)
		p := prepared(t, blk, block.Split)
		swapped := append([]byte{}, p.Manifest...)
		copy(swapped, p.Manifest[32:64])
		copy(swapped[32:], p.Manifest[:32])
		for manifest, want := range map[string]reason.Reason{
			"":                       reason.ManifestMalformed,
			string(p.Manifest[:31]):  reason.ManifestMalformed,
			string(p.Manifest) + "x": reason.ManifestMalformed,
			string(p.Manifest[32:]):  reason.ManifestMismatch,
			string(swapped):          reason.ManifestMismatch,
			string(p.Manifest) + string(p.Manifest[:32]): reason.ManifestMismatch,
		} {
			e := expect(block.Split, p)
			e.Manifest = []byte(manifest)
			_, err := blk.Check(e)
			require.Equal(t, want, reason.Of(err))
		}
		e := expect(block.Split, p)
		e.Items = 5
		_, err := blk.Check(e)
		require.NoError(t, err)
		e.Items = 6
		_, err = blk.Check(e)
		require.Equal(t, reason.ManifestMismatch, reason.Of(err))
		e.Manifest = nil
		_, err = blk.Check(e)
		require.Equal(t, reason.ManifestMissing, reason.Of(err))

		whole := expect(0, prepared(t, blk, 0))
		blk.Attach(Proof{Manifest: p.Manifest})
		_, err = blk.Check(whole)
		require.Equal(t, reason.ManifestMismatch, reason.Of(err), "a manifest that no receipt covers")
	}
}

func TestManifestOfEqualItemsCostsLinearMemory(t *testing.T) {
	const n = 20_000
	b := NewBatch(block.Logs)
	records := b.append().logs.ScopeLogs().AppendEmpty().LogRecords()
	for range n {
		records.AppendEmpty().SetSeverityText("same")
	}
	p := prepared(t, b.At(0), block.Split)
	b.At(0).FilterItems(func(i int) bool { return i > 0 })
	require.Less(t, testing.Benchmark(func(tb *testing.B) {
		tb.ReportAllocs()
		for tb.Loop() {
			a, err := b.At(0).Check(expect(block.Split, p))
			require.NoError(tb, err)
			require.Len(tb, a.Candidates, n-1)
			require.Len(tb, a.Candidates[0], n)
		}
	}).AllocedBytesPerOp(), int64(8<<20))
}

func TestDifferingPartIsNamedBySplitItems(t *testing.T) {
	build := func() Block {
		b := NewBatch(block.Metrics)
		blk := b.append()
		putResource(blk.resource())
		for range 2 {
			sm := blk.metrics.ScopeMetrics().AppendEmpty()
			for m := range 2 {
				dps := sm.Metrics().AppendEmpty().SetEmptyGauge().DataPoints()
				for i := range 2 {
					dps.AppendEmpty().SetIntValue(int64(m*10 + i))
				}
			}
		}
		return blk
	}
	for want, change := range map[string]func(b Block){
		"resource": func(b Block) { b.Attributes().PutStr("service.name", "other") },
		"scope":    func(b Block) { b.metrics.ScopeMetrics().At(1).Scope().SetName("other") },
		"header":   func(b Block) { b.metrics.ScopeMetrics().At(1).Metrics().At(0).SetName("other") },
		"item": func(b Block) {
			b.metrics.ScopeMetrics().At(1).Metrics().At(0).Gauge().DataPoints().At(1).SetIntValue(42)
		},
	} {
		blk := build()
		p := prepared(t, blk, block.Split)
		change(blk)
		a, err := blk.Check(expect(block.Split, p))
		require.ErrorIs(t, err, &reason.Error{Reason: reason.ItemMismatch})
		require.Equal(t, want, a.Differs)
	}
	one := NewBatch(block.Logs)
	one.append().logs.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().SetSeverityText("x")
	p := prepared(t, one.At(0), block.Split)
	one.At(0).Attributes().PutStr("a", "b")
	a, err := one.At(0).Check(expect(block.Split, p))
	require.ErrorIs(t, err, &reason.Error{Reason: reason.ItemMismatch})
	require.Empty(t, a.Differs, "with one item every part explains it")
}
