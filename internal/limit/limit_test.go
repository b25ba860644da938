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

// A piece larger than the burst would wait for ever; it overdraws, and the
// average holds all the same.
func TestPieceLargerThanTheBurstPassesAndIsPaidFor(t *testing.T) {
	table := limit.NewTableOf[int](limit.Rate{Events: 1000, Per: time.Second, Burst: 500}, 10, time.Minute)
	ok, _ := table.Lend(7, 3000, t0)
	require.True(t, ok)
	require.InDelta(t, 6, table.Used(7, t0), 1e-6)
	ok, retry := table.Lend(7, 1, t0)
	require.False(t, ok)
	require.Equal(t, 2500*time.Millisecond+time.Millisecond, retry)
	ok, _ = table.Lend(8, 1, t0)
	require.True(t, ok, "a neighbour")
	ok, _ = table.Lend(7, 0, t0.Add(retry-time.Nanosecond-time.Millisecond))
	require.False(t, ok)
	ok, _ = table.Lend(7, 1, t0.Add(retry))
	require.True(t, ok, "come when told")

	passed := 0
	for ms := 10_000; ms < 110_000; ms += 7 {
		if ok, _ := table.Lend(9, 700, t0.Add(time.Duration(ms)*time.Millisecond)); ok {
			passed += 700
		}
	}
	require.InDelta(t, 100_000+500, passed, 700)
}

func TestAskingTakesNothing(t *testing.T) {
	table := limit.NewTableOf[string](limit.Rate{Events: 10, Per: time.Second}, 10, time.Minute)
	for range 100 {
		ok, _ := table.Lend("a", 0, t0)
		require.True(t, ok)
	}
	require.Zero(t, table.Used("a", t0))
	require.Zero(t, table.Len())
	table.Take("a", 10, t0)
	ok, _ := table.Lend("a", 0, t0)
	require.False(t, ok)
	table.Take("a", 0, t0)
	require.InDelta(t, 1, table.Used("a", t0), 1e-9)
}

// Nobody is shut out for longer than the debt that the table allows.
func TestDebtIsBounded(t *testing.T) {
	table := limit.NewTableOf[string](limit.Rate{Events: 1, Per: time.Second}, 10, time.Minute)
	for range 5 {
		table.Take("a", 1_000_000_000, t0)
	}
	ok, retry := table.Lend("a", 1, t0)
	require.False(t, ok)
	require.Equal(t, time.Minute+time.Second, retry)
	ok, _ = table.Lend("a", 1, t0.Add(retry))
	require.True(t, ok)
	table.Take("a", 1_000_000_000, t0.Add(time.Hour))
	ok, retry = table.Lend("a", 1, t0)
	require.False(t, ok, "the clock went back")
	require.LessOrEqual(t, retry, time.Minute+time.Second)
}

// Rates of many events in a nanosecond are held too.
func TestFastRatesAreExact(t *testing.T) {
	table := limit.NewTableOf[string](limit.Rate{Events: 3_000_000_000, Per: time.Second, Burst: 100_000}, 10, time.Minute)
	now, passed := t0, 0
	for now.Before(t0.Add(10 * time.Millisecond)) {
		if ok, _ := table.Lend("a", 10_000, now); ok {
			passed += 10_000
		}
		now = now.Add(time.Microsecond)
	}
	require.InDelta(t, 30_000_000, passed, 200_000)
}

func TestFullestAreThoseOfWhichMostIsUsed(t *testing.T) {
	for _, size := range []int{1000, 100_000} {
		shards := limit.NewShards[int](limit.Rate{Events: 1, Per: time.Second, Burst: 1000}, size, time.Minute)
		for i := range 500 {
			shards.Take(i, i, t0)
		}
		require.Equal(t, 499, shards.Len(), "who took nothing has no bucket")
		uses := shards.Fullest(3, t0)
		require.Len(t, uses, 3)
		require.Equal(t, limit.Use[int]{Key: 499, Used: 0.499}, uses[0])
		require.Equal(t, 497, uses[2].Key)
		require.Len(t, shards.Fullest(10_000, t0), 499)
		require.Empty(t, shards.Fullest(0, t0))
		require.Empty(t, shards.Fullest(3, t0.Add(time.Hour)), "all full again")
	}
}

func TestPartsShareTheirBound(t *testing.T) {
	shards := limit.NewShards[int](limit.Rate{Events: 1, Per: time.Hour}, 20_000, 0)
	for i := range 100_000 {
		shards.Allow(i, 1, t0)
	}
	require.LessOrEqual(t, shards.Len(), 20_000)
	require.Greater(t, shards.Len(), 19_000)
	ok, _ := shards.Allow(99_999, 1, t0)
	require.False(t, ok)
	require.True(t, shards.Limits())
	require.False(t, limit.NewShards[int](limit.Rate{}, 10, 0).Limits())
}

func BenchmarkShards(b *testing.B) {
	shards := limit.NewShards[[74]byte](limit.Rate{Events: 1_000_000_000, Per: time.Second}, 20_000, 0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var key [74]byte
		for i := 0; pb.Next(); i++ {
			key[0], key[1] = byte(i), byte(i>>8)&15
			shards.Allow(key, 1, t0)
		}
	})
}
