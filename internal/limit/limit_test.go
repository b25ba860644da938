package limit_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/limit"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func TestBurstThenSteadyRate(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 10, Per: time.Second, Burst: 3}, 10)
	for range 3 {
		ok, _ := table.Allow("a", 1, t0)
		require.True(t, ok)
	}
	ok, retry := table.Allow("a", 1, t0)
	require.False(t, ok)
	require.Equal(t, 100*time.Millisecond, retry)

	ok, _ = table.Allow("a", 1, t0.Add(retry-time.Nanosecond))
	require.False(t, ok, "a moment too early")
	ok, _ = table.Allow("a", 1, t0.Add(retry))
	require.True(t, ok, "come when told")

	// Over a long time the rate holds, whatever is tried.
	allowed := 0
	for ms := 1000; ms < 11_000; ms++ {
		if ok, _ := table.Allow("a", 1, t0.Add(time.Duration(ms)*time.Millisecond)); ok {
			allowed++
		}
	}
	require.InDelta(t, 100+3, allowed, 1)
}

func TestKeysDoNotShareABucket(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 1, Per: time.Minute}, 10)
	ok, _ := table.Allow("a", 1, t0)
	require.True(t, ok)
	ok, _ = table.Allow("a", 1, t0)
	require.False(t, ok)
	ok, _ = table.Allow("b", 1, t0)
	require.True(t, ok)
}

func TestSeveralEventsAtOnce(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 10, Per: time.Second}, 10)
	ok, _ := table.Allow("a", 11, t0)
	require.False(t, ok, "more than the burst never fit")
	ok, _ = table.Allow("a", 7, t0)
	require.True(t, ok)
	ok, retry := table.Allow("a", 4, t0)
	require.False(t, ok)
	require.Equal(t, 100*time.Millisecond, retry)
	ok, _ = table.Allow("a", 3, t0)
	require.True(t, ok, "a refusal takes nothing out")
	ok, _ = table.Allow("a", 0, t0)
	require.True(t, ok)
}

func TestManyKeysStayInTheTable(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 1, Per: time.Hour}, 100)
	for i := range 10_000 {
		table.Allow(strconv.Itoa(i), 1, t0)
	}
	require.Equal(t, 100, table.Len())
	ok, _ := table.Allow("9999", 1, t0)
	require.False(t, ok, "the last ones are kept")
}

// Somebody who is refused again and again must not lose his bucket to others
// who come once.
func TestRefusedKeyStaysRefused(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 1, Per: time.Hour}, 10)
	table.Allow("bad", 1, t0)
	for i := range 1000 {
		table.Allow(strconv.Itoa(i), 1, t0)
		ok, _ := table.Allow("bad", 1, t0)
		require.False(t, ok)
	}
}

func TestClockThatWentBackLocksNobodyOut(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 1, Per: time.Second}, 10)
	table.Allow("a", 1, t0.Add(24*time.Hour))
	ok, retry := table.Allow("a", 1, t0)
	require.False(t, ok)
	require.LessOrEqual(t, retry, time.Second)
	ok, _ = table.Allow("a", 1, t0.Add(retry))
	require.True(t, ok)
}

func TestZeroRateDoesNotLimit(t *testing.T) {
	for _, r := range []limit.Rate{{}, {Events: 5}, {Per: time.Second}, {Events: -1, Per: time.Second}} {
		table := limit.NewTable(r, 0)
		for range 100 {
			ok, _ := table.Allow("a", 1, t0)
			require.True(t, ok)
		}
		require.Zero(t, table.Len())
	}
}

func TestHugeNumbersDoNotOverflow(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 1, Per: 24 * time.Hour, Burst: 1_000_000_000}, 0)
	for range 10 {
		ok, _ := table.Allow("a", 1000, t0)
		require.True(t, ok)
	}
	require.Equal(t, 1, table.Len())
}

func TestConcurrentCallersShareOneBudget(t *testing.T) {
	table := limit.NewTable(limit.Rate{Events: 50, Per: time.Hour}, 10)
	var wg sync.WaitGroup
	var allowed atomic.Int32
	for range 20 {
		wg.Go(func() {
			for range 10 {
				if ok, _ := table.Allow("a", 1, t0); ok {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 50, allowed.Load())
}

func TestRateReadsWhatItWrites(t *testing.T) {
	for text, want := range map[string]limit.Rate{
		"100/s":    {Events: 100, Per: time.Second},
		"10/m:50":  {Events: 10, Per: time.Minute, Burst: 50},
		"5/10s":    {Events: 5, Per: 10 * time.Second},
		"1/h:3":    {Events: 1, Per: time.Hour, Burst: 3},
		"7/1h0m1s": {Events: 7, Per: time.Hour + time.Second},
		"off":      {},
	} {
		got, err := limit.ParseRate(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{"", "100", "/s", "0/s", "-1/s", "1/", "1/x", "1/0s", "1/s:", "1/s:0", "1/s:x", "1/48h", "9999999999999/s", "1/s:1:1"} {
		_, err := limit.ParseRate(text)
		require.Error(t, err, text)
	}
}

func BenchmarkAllow(b *testing.B) {
	table := limit.NewTable(limit.Rate{Events: 100, Per: time.Second}, 10_000)
	keys := make([]string, 20_000)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	now, i := t0, 0
	for b.Loop() {
		now = now.Add(time.Microsecond)
		table.Allow(keys[i%len(keys)], 1, now)
		i++
	}
}
