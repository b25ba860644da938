package digest

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/xpdata"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

func viaJSON(tb testing.TB, b Batch) Batch {
	tb.Helper()
	switch b.Signal() {
	case block.Metrics:
		raw, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(b.Metrics())
		require.NoError(tb, err)
		md, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(raw)
		require.NoError(tb, err)
		return FromMetrics(md)
	case block.Logs:
		raw, err := (&plog.JSONMarshaler{}).MarshalLogs(b.Logs())
		require.NoError(tb, err)
		ld, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(raw)
		require.NoError(tb, err)
		return FromLogs(ld)
	default:
		raw, err := (&ptrace.JSONMarshaler{}).MarshalTraces(b.Traces())
		require.NoError(tb, err)
		td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(raw)
		require.NoError(tb, err)
		return FromTraces(td)
	}
}

func TestDigestSurvivesReencoding(t *testing.T) {
	for _, s := range signals {
		for seed := range uint64(150) {
			b := toBatch(t, s, newGenerator(seed).block(s))
			for _, tol := range allTolerances {
				p := prepared(t, b.At(0), tol)
				for _, again := range []Batch{reread(b), viaJSON(t, b), viaJSON(t, reread(viaJSON(t, b)))} {
					again.At(0).Attach(Proof{Receipt: []byte("receipt"), Manifest: p.Manifest})
					again = reread(again)
					a, err := again.At(0).Check(expect(tol, p))
					require.NoError(t, err, "%v seed %d", s, seed)
					require.Equal(t, p.Items, a.Items)
					require.Equal(t, p.Items, a.Total)
					require.Nil(t, a.Candidates)
					require.Empty(t, a.Added)
				}
				b.At(0).StripProof()
			}
		}
	}
}

func TestBlockTransplantedBetweenSignalsIsRefused(t *testing.T) {
	// The domain names the signal, so equal C of two signals has two digests.
	seen := map[block.Digest]bool{}
	for _, s := range signals {
		w := newWalker(options{signal: s})
		d := w.end(w.begin(w.buf, domainBlock, nil))
		w.release()
		require.False(t, seen[d])
		seen[d] = true
	}
}

func TestAddedResourceAttributes(t *testing.T) {
	for _, s := range signals {
		for _, tol := range allTolerances {
			b := typicalBatch(s, 3)
			p := prepared(t, b.At(0), tol)
			b.At(0).Attach(Proof{Receipt: []byte("receipt"), Manifest: p.Manifest})
			b.At(0).Attributes().PutStr("k8s.cluster.name", "gw")
			b.At(0).Attributes().PutInt("gateway.hop", 1)
			b = reread(b)
			a, err := b.At(0).Check(expect(tol, p))
			if !tol.Has(block.Enrich) {
				require.ErrorIs(t, err, &reason.Error{Reason: reason.ResourceEnriched})
				require.Equal(t, "resource", a.Differs)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, []string{"k8s.cluster.name", "gateway.hop"}, a.Added)

			kept := reread(b)
			require.Equal(t, 2, kept.At(0).StripAdded(p.Keys, "gw."))
			_, ok := kept.At(0).Attributes().Get("gw.k8s.cluster.name")
			require.True(t, ok)
			a, err = kept.At(0).Check(expect(tol, p))
			require.NoError(t, err)
			require.Len(t, a.Added, 2)

			require.Equal(t, 2, b.At(0).StripAdded(p.Keys, ""))
			a, err = b.At(0).Check(expect(tol, p))
			require.NoError(t, err)
			require.Empty(t, a.Added)
			proof, err := b.At(0).Proof()
			require.NoError(t, err)
			require.Equal(t, []byte("receipt"), proof.Receipt)
		}
	}
}

func TestChangedResourceIsRefusedWhateverIsTolerated(t *testing.T) {
	for name, change := range map[string]func(a pcommon.Map){
		"value":   func(a pcommon.Map) { a.PutStr("host.name", "other") },
		"type":    func(a pcommon.Map) { a.PutStr("process.pid", "4711") },
		"removed": func(a pcommon.Map) { a.RemoveIf(func(k string, _ pcommon.Value) bool { return k == "host.name" }) },
		"moved": func(a pcommon.Map) {
			v, _ := a.Get("service.name")
			s := v.Str()
			a.RemoveIf(func(k string, _ pcommon.Value) bool { return k == "service.name" })
			a.PutStr("service.name", s)
		},
		"duplicate": func(a pcommon.Map) { addDuplicate(a, "host.name") },
		"reserved":  func(a pcommon.Map) { a.PutStr("telemark.verdict", "verified") },
	} {
		for _, s := range signals {
			for _, tol := range allTolerances {
				blk := typicalBatch(s, 3).At(0)
				p := prepared(t, blk, tol)
				change(blk.Attributes())
				_, err := blk.Check(expect(tol, p))
				require.Error(t, err, "%s under %v", name, tol)
				switch {
				case name == "reserved":
					require.Equal(t, reason.ReservedAttribute, reason.Of(err))
				case tol.Has(block.Enrich) && name != "value" && name != "type":
					require.Equal(t, reason.ResourceChanged, reason.Of(err))
				}
			}
		}
	}
}

func addDuplicate(a pcommon.Map, key string) {
	a.PutStr("tmp", "x")
	rebuild(a, func(k string) string {
		if k == "tmp" {
			return key
		}
		return k
	})
}

func TestManySignedAndAddedAttributes(t *testing.T) {
	var keys xpdata.MapBuilder
	for i := range 500 {
		keys.AppendEmpty(fmt.Sprintf("signed.%d", i)).SetInt(int64(i))
	}
	blk := typicalBatch(block.Logs, 1).At(0)
	keys.UnsafeIntoMap(blk.Attributes())
	p := prepared(t, blk, block.Enrich)
	require.Len(t, p.Keys, 500)

	var all xpdata.MapBuilder
	for i := range 50_000 {
		all.AppendEmpty(fmt.Sprintf("added.%d", i)).SetStr("x")
		if i%100 == 0 {
			all.AppendEmpty(fmt.Sprintf("signed.%d", i/100)).SetInt(int64(i / 100))
		}
	}
	all.UnsafeIntoMap(blk.Attributes())
	a, err := blk.Check(expect(block.Enrich, p))
	require.NoError(t, err)
	require.Len(t, a.Added, 50_000)
	require.Equal(t, 50_000, blk.StripAdded(p.Keys, ""))
	require.Equal(t, p, prepared(t, blk, block.Enrich))
}

func TestOtherNaNsAreRewrittenNotPassedOn(t *testing.T) {
	odd := math.Float64frombits(0x7ff8000000000001)
	negative := math.Copysign(0, -1)
	b := NewBatch(block.Metrics)
	blk := b.append()
	ms := blk.metrics.ScopeMetrics().AppendEmpty().Metrics()
	dp := ms.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty()
	dp.SetDoubleValue(odd)
	dp.Attributes().PutEmptySlice("s").AppendEmpty().SetDouble(odd)
	dp.Exemplars().AppendEmpty().SetDoubleValue(odd)
	h := ms.AppendEmpty().SetEmptyHistogram().DataPoints().AppendEmpty()
	h.SetSum(odd)
	h.SetMin(odd)
	h.SetMax(odd)
	h.ExplicitBounds().Append(1, odd)
	e := ms.AppendEmpty().SetEmptyExponentialHistogram().DataPoints().AppendEmpty()
	e.SetSum(odd)
	e.SetMin(odd)
	e.SetMax(odd)
	e.SetZeroThreshold(negative)
	q := ms.AppendEmpty().SetEmptySummary().DataPoints().AppendEmpty()
	q.SetSum(negative)
	q.QuantileValues().AppendEmpty().SetValue(odd)
	q.QuantileValues().At(0).SetQuantile(negative)
	arrived := NewBatch(block.Metrics)
	blk.CopyTo(arrived)

	p := prepared(t, blk, 0)
	require.Equal(t, Cleaning{NaNs: 14}, p.Cleaning)
	require.Equal(t, p.Digest, prepared(t, blk, 0).Digest)
	require.Zero(t, prepared(t, blk, 0).Cleaning)

	a, err := arrived.At(0).Check(expect(0, p))
	require.NoError(t, err)
	require.Equal(t, 14, a.NaNs)
	mended, err := b.Marshal()
	require.NoError(t, err)
	passedOn, err := arrived.Marshal()
	require.NoError(t, err)
	require.Equal(t, mended, passedOn)
	require.EqualValues(t, canonicalNaN, math.Float64bits(arrived.At(0).metrics.ScopeMetrics().At(0).Metrics().At(0).Gauge().DataPoints().At(0).DoubleValue()))
}

func TestProofTwiceOrNotAsBytesIsRefused(t *testing.T) {
	for _, s := range signals {
		for _, key := range []string{block.AttrReceipt, block.AttrManifest} {
			blk := typicalBatch(s, 2).At(0)
			p := prepared(t, blk, block.Split)
			blk.Attach(Proof{Receipt: []byte{1}, Manifest: p.Manifest})
			_, err := blk.Check(expect(block.Split, p))
			require.NoError(t, err)
			addDuplicate(blk.Attributes(), key)
			_, err = blk.Proof()
			require.Equal(t, reason.ReceiptNotUnique, reason.Of(err))
			_, err = blk.Check(expect(block.Split, p))
			require.Equal(t, reason.ReceiptNotUnique, reason.Of(err))

			blk.StripProof()
			blk.Attributes().PutStr(key, "text")
			_, err = blk.Proof()
			require.Equal(t, reason.ReceiptWrongType, reason.Of(err))
			_, err = blk.Check(expect(block.Split, p))
			require.Equal(t, reason.ReceiptWrongType, reason.Of(err))
		}
	}
}

func TestProofTwiceIsNamedBeforeItsType(t *testing.T) {
	for _, first := range []string{block.AttrReceipt, block.AttrManifest} {
		blk := typicalBatch(block.Logs, 2).At(0)
		p := prepared(t, blk, block.Split)
		blk.Attributes().PutStr(first, "text")
		addDuplicate(blk.Attributes(), block.AttrReceipt)
		addDuplicate(blk.Attributes(), block.AttrReceipt)
		_, err := blk.Proof()
		require.Equal(t, reason.ReceiptNotUnique, reason.Of(err))
		_, err = blk.Check(expect(block.Split, p))
		require.Equal(t, reason.ReceiptNotUnique, reason.Of(err))
	}
}

func TestEmptyProofIsThereAllTheSame(t *testing.T) {
	blk := typicalBatch(block.Logs, 1).At(0)
	p, err := blk.Proof()
	require.NoError(t, err)
	require.Nil(t, p.Receipt)
	blk.Attributes().PutEmptyBytes(block.AttrReceipt)
	p, err = blk.Proof()
	require.NoError(t, err)
	require.NotNil(t, p.Receipt)
}

func TestEmptyContainersAreRefused(t *testing.T) {
	for name, add := range map[string]func(b Block){
		"block":  func(b Block) { b.FilterItems(func(int) bool { return false }) },
		"scope":  func(b Block) { b.metrics.ScopeMetrics().AppendEmpty() },
		"metric": func(b Block) { b.metrics.ScopeMetrics().At(0).Metrics().AppendEmpty().SetName("m") },
		"gauge":  func(b Block) { b.metrics.ScopeMetrics().At(0).Metrics().AppendEmpty().SetEmptyGauge() },
		"another scope first": func(b Block) {
			b.metrics.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetEmptySum().SetIsMonotonic(true)
		},
	} {
		for _, tol := range allTolerances {
			blk := typicalBatch(block.Metrics, 3).At(0)
			p := prepared(t, blk, tol)
			add(blk)
			_, err := blk.Check(expect(tol, p))
			require.Equal(t, reason.EmptyContainer, reason.Of(err), name)
			again := prepared(t, blk, tol)
			if name == "block" {
				require.Zero(t, again.Items)
				continue
			}
			require.Equal(t, p.Digest, again.Digest, name)
			require.Positive(t, again.Cleaning.Containers)
		}
	}
	for _, s := range signals {
		p, err := NewBatch(s).append().Prepare(0)
		require.NoError(t, err)
		require.Zero(t, p)
	}
}

func TestUnknownToleranceIsRefused(t *testing.T) {
	blk := typicalBatch(block.Logs, 1).At(0)
	_, err := blk.Prepare(4)
	require.Equal(t, reason.InvalidValue, reason.Of(err))
	_, err = blk.Check(Expected{Tolerances: 0x80})
	require.Equal(t, reason.InvalidValue, reason.Of(err))
}

func TestNoAllocationPerItem(t *testing.T) {
	for _, s := range signals {
		for _, tol := range []block.Tolerance{0, block.Split} {
			// A few per block are allowed: the race detector makes the pool forget.
			const most = 16.0
			blk := typicalBatch(s, 1000).At(0)
			p := prepared(t, blk, tol)
			want := expect(tol, p)
			require.LessOrEqual(t, testing.AllocsPerRun(20, func() {
				if _, err := blk.Prepare(tol); err != nil {
					panic(err)
				}
			}), most)
			require.LessOrEqual(t, testing.AllocsPerRun(20, func() {
				if _, err := blk.Check(want); err != nil {
					panic(err)
				}
			}), most)
		}
	}
}
