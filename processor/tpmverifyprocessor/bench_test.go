package tpmverifyprocessor

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// granting lets the same block be claimed again and again.
type granting struct{ replay.Store }

func (granting) Claim(_ context.Context, _ time.Time, blocks []replay.Block) ([]replay.Outcome, error) {
	out := make([]replay.Outcome, len(blocks))
	for i := range blocks {
		out[i].Claim = replay.Claim{Token: 1, Block: blocks[i]}
	}
	return out, nil
}

func (granting) Confirm(context.Context, time.Time, []replay.Claim) (int, error) { return 0, nil }

// BenchmarkVerify is the way of a request of ten blocks through the processor,
// without the windows and with the signature in the cache, beside the same
// request handed on bare. Receipts are kept and nothing is added, so that the
// request stays as it is and can be sent again.
func BenchmarkVerify(b *testing.B) {
	const blocks = 10
	for _, signal := range signals {
		for _, items := range []int{2, 20, 100} {
			r := prepareRig(b, signal, withWindows(&granting{memoryWindows(b)}), withConfig(func(c *Config) {
				c.Receipts, c.Attributes = ReceiptsKeep, AttributesConfig{}
			}))
			next := func(context.Context, digest.Batch) error { return nil }
			r.p.next = next
			require.NoError(b, r.p.Start(b.Context(), r.host))
			var all []digest.Batch
			for range blocks {
				all = append(all, signtest.Data(signal, "edge-a", items))
			}
			r.machines[0].Sign(b, stream, 0, all...)
			request := signtest.Merge(all...)
			perItem := func(b *testing.B) {
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*items*blocks), "ns/item")
			}
			b.Run(fmt.Sprintf("%v/%d/verify", signal, items), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := r.p.consume(b.Context(), request); err != nil {
						b.Fatal(err)
					}
				}
				perItem(b)
			})
			b.Run(fmt.Sprintf("%v/%d/bare", signal, items), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := next(b.Context(), request); err != nil {
						b.Fatal(err)
					}
				}
				perItem(b)
			})
			require.EqualValues(b, 0, r.refusedAll())
			r.shutdown()
		}
	}
}

// TestVerifyingAllocatesNothingPerItem holds the number of allocations of
// requests of few and of many items against each other.
func TestVerifyingAllocatesNothingPerItem(t *testing.T) {
	for _, signal := range signals {
		few, many := allocations(t, signal, 10), allocations(t, signal, 1000)
		require.InDelta(t, few, many, 10, "%v", signal)
	}
}

func allocations(t *testing.T, signal block.Signal, items int) float64 {
	r := newRig(t, signal, withWindows(&granting{memoryWindows(t)}), withConfig(func(c *Config) {
		c.Receipts, c.Attributes = ReceiptsKeep, AttributesConfig{}
	}))
	r.p.next = func(context.Context, digest.Batch) error { return nil }
	d := signtest.Data(signal, "edge-a", items)
	r.machines[0].Sign(t, stream, 0, d)
	return testing.AllocsPerRun(100, func() {
		if err := r.p.consume(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	})
}
