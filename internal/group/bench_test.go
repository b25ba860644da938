package group

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
)

type fastSigner struct{ took time.Duration }

func (s fastSigner) Sign(_ context.Context, digest []byte) ([]byte, error) {
	time.Sleep(s.took)
	return fakeSignature([32]byte(digest)), nil
}

// BenchmarkSubmitters: 1,000 submitters of one block each, a signer of 1 ms.
func BenchmarkSubmitters(b *testing.B) {
	cfg := testConfig(fastSigner{took: time.Millisecond})
	c := newCommitter(b, cfg)
	defer closeNow(b, c)

	const submitters = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rounds := 0
	for b.Loop() {
		rounds++
		var wg sync.WaitGroup
		for i := range submitters {
			wg.Go(func() {
				ticket, err := c.Submit([]Leaf{{
					Signal: block.Metrics, Stream: "tpmsign/edge:metrics", Items: 1, Digest: [32]byte{byte(i)},
				}})
				if err == nil {
					_, err = ticket.Result()
				}
				if err != nil {
					panic(err)
				}
			})
		}
		wg.Wait()
	}
	runtime.ReadMemStats(&after)
	blocks := float64(rounds * submitters)
	b.ReportMetric(blocks/b.Elapsed().Seconds(), "receipts/s")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/blocks, "allocs/block")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/blocks, "B/block")
}

// BenchmarkReceipts: what one block of a group of 512 costs, in tickets of 20.
func BenchmarkReceipts(b *testing.B) {
	cfg := testConfig(fastSigner{})
	c := newCommitter(b, cfg)
	defer closeNow(b, c)
	b.ReportAllocs()
	for b.Loop() {
		ticket, err := c.Submit(someLeaves("tpmsign/edge:metrics", 20))
		if err == nil {
			_, err = ticket.Result()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
