package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/test/harness"
)

// latency is one row of the latency table. Milliseconds.
type latency struct {
	Rate     int     `json:"requests_per_second"`
	Chip     float64 `json:"tpm_ms"` // asked for; 0.5 is the software TPM's own time
	Signing  float64 `json:"signing_ms"`
	Requests int     `json:"requests"`

	BaseP50 float64 `json:"base_p50_ms"`
	BaseP99 float64 `json:"base_p99_ms"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`

	BlocksPerSignature float64 `json:"blocks_per_signature"`
}

var (
	rates = [3]int{10, 100, 1000} // requests per second
	// What is added to the software TPM's own half a millisecond.
	chipTimes = []time.Duration{0, 9500 * time.Microsecond, 49500 * time.Microsecond, 99500 * time.Microsecond}
)

const swtpmTime = 500 * time.Microsecond

// runLatencies sends requests of one block of 20 log records at random times
// of a fixed mean rate to an agent with and one without tpmsign, and takes the
// time from when each was due to its answer.
func runLatencies(ctx context.Context, o *options, res *result) error {
	f, err := startFleet(ctx, filepath.Join(o.out, "fleet-latency"), true, o)
	if err != nil {
		return err
	}
	defer f.close(ctx)
	message, err := newWorkload(3).batch(block.Logs, 1, 20).Marshal()
	if err != nil {
		return err
	}
	request, err := frame(message, false)
	if err != nil {
		return err
	}
	for i, rate := range rates {
		a := arrivals{rate: rate, length: o.arrivals[i], request: request}
		if _, err := a.run(ctx, f.agents.base); err != nil { // connections, heaps
			return err
		}
		base, err := a.run(ctx, f.agents.base)
		if err != nil {
			return err
		}
		for _, delay := range chipTimes {
			f.chip.takes(delay)
			row, err := a.signed(ctx, f.agents.with)
			if err != nil {
				return err
			}
			row.Chip = ms(delay + swtpmTime)
			row.BaseP50, row.BaseP99 = quantile(base, 0.5), quantile(base, 0.99)
			progress("%4d requests/s, TPM %5.1f ms: p50 %.1f ms, p99 %.1f ms, %.1f blocks per signature",
				row.Rate, row.Chip, row.P50, row.P99, row.BlocksPerSignature)
			res.Latencies = append(res.Latencies, row)
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// arrivals is an open load: requests come whether or not earlier ones were
// answered.
type arrivals struct {
	rate    int
	length  time.Duration
	request []byte
}

func (a arrivals) run(ctx context.Context, c *collector) ([]float64, error) {
	random := rand.New(rand.NewPCG(uint64(a.rate), 2))
	var group sync.WaitGroup
	var mu sync.Mutex // guards the rest
	var took []float64
	var failed error
	began := time.Now()
	for due := time.Duration(0); due < a.length; due += time.Duration(random.ExpFloat64() / float64(a.rate) * float64(time.Second)) {
		time.Sleep(due - time.Since(began))
		group.Go(func() {
			err := c.sender.export(ctx, block.Logs, a.request)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			took = append(took, ms(time.Since(began)-due))
		})
	}
	group.Wait()
	return took, failed
}

// signed runs the load against an agent that signs.
func (a arrivals) signed(ctx context.Context, c *collector) (*latency, error) {
	short := a
	short.length = min(a.length, time.Second)
	if _, err := short.run(ctx, c); err != nil {
		return nil, err
	}
	before, err := c.scrape(ctx)
	if err != nil {
		return nil, err
	}
	took, err := a.run(ctx, c)
	if err != nil {
		return nil, err
	}
	after, err := c.scrape(ctx)
	if err != nil {
		return nil, err
	}
	grew := func(name string) float64 { return sum(after, name) - sum(before, name) }
	groups := grew("tpm_groups")
	if groups == 0 || held(before, after) != 0 {
		return nil, fmt.Errorf("%v groups were signed, %v blocks held back", groups, held(before, after))
	}
	return &latency{
		Rate: a.rate, Requests: len(took), P50: quantile(took, 0.5), P99: quantile(took, 0.99),
		BlocksPerSignature: grew("tpmsign_signed_blocks") / groups,
		Signing:            1000 * grew("tpm_signing_duration_sum") / grew("tpm_signing_duration_count"),
	}, nil
}

func held(before, after harness.Samples) float64 {
	return sum(after, "tpmsign_pended_blocks") - sum(before, "tpmsign_pended_blocks")
}
