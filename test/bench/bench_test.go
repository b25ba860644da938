package main

import (
	"iter"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/verdict"
)

func TestQuantileInterpolatesBetweenRanks(t *testing.T) {
	sample := []float64{40, 10, 30, 20}
	require.InDelta(t, 10, quantile(sample, 0), 0)
	require.InDelta(t, 25, quantile(sample, 0.5), 0)
	require.InDelta(t, 32.5, quantile(sample, 0.75), 0)
	require.InDelta(t, 40, quantile(sample, 1), 0)
	require.True(t, math.IsNaN(quantile(nil, 0.5)))
	require.Equal(t, []float64{40, 10, 30, 20}, sample, "the sample was reordered")
}

func TestCPUTimeIsThatOfTheProcessAndNotOfTheClock(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	require.NoError(t, err)
	for began := time.Now(); time.Since(began) < 30*time.Millisecond; {
		_ = newWorkload(1).batch(block.Logs, 1, 100)
	}
	after, err := cpuTime(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, after, before)

	_, err = cpuTime(1<<22 + 1)
	require.Error(t, err, "above the highest process id there can be")
}

func TestBenchmarksAreReadByPackageWithMedians(t *testing.T) {
	got := parseBenchmarks([]byte(`goos: linux
pkg: github.com/telemark-otel/telemark/internal/digest
BenchmarkPrepare/none/metrics   	    4688	     300 ns/op	 751.15 MB/s	       3.0 ns/item	       0 B/op	       0 allocs/op
BenchmarkPrepare/none/metrics   	    4688	     100 ns/op	 751.15 MB/s	       1.0 ns/item	       0 B/op	       2 allocs/op
BenchmarkPrepare/none/metrics   	    4688	     200 ns/op	 751.15 MB/s	       2.0 ns/item	       0 B/op	       2 allocs/op
PASS
pkg: github.com/telemark-otel/telemark/internal/receipt
BenchmarkAppend 	    4688	     111 ns/op
ok  	github.com/telemark-otel/telemark/internal/receipt	1.0s
`))
	require.Len(t, got, 2)
	require.Equal(t, "internal/digest", got[0].Package)
	require.Equal(t, "Prepare/none/metrics", got[0].Name)
	require.InDelta(t, 2, got[0].Values["ns/item"], 0)
	require.InDelta(t, 200, got[0].Values["ns/op"], 0)
	require.InDelta(t, 2, got[0].Values["allocs/op"], 0)
	require.Equal(t, "Append", got[1].Name)
}

func TestSinkCountsWhatSendersSend(t *testing.T) {
	s, err := newSink()
	require.NoError(t, err)
	defer s.close()
	for _, zip := range []bool{false, true} {
		message, err := newWorkload(1).batch(block.Traces, 2, 20).Marshal()
		require.NoError(t, err)
		f, err := frame(message, zip)
		require.NoError(t, err)
		from := newSender(s.endpoint, zip)
		before := s.bytes.Load()
		require.NoError(t, from.sendPaced(t.Context(), block.Traces, [][]byte{f, f, f}, 1000))
		require.Equal(t, int64(3*(len(f)-frameHeader)), s.bytes.Load()-before)
		from.close()
	}
}

func TestSenderReportsRefusals(t *testing.T) {
	answer := func(status string, body []byte) string {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write(body)
			w.Header().Set("Grpc-Status", status)
		}))
		server.Config.Protocols = unencryptedHTTP2()
		server.Start()
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	f, err := frame([]byte("request"), false)
	require.NoError(t, err)
	send := func(endpoint string) error {
		s := newSender(endpoint, false)
		defer s.close()
		return s.export(t.Context(), block.Logs, f)
	}
	empty := []byte{0, 0, 0, 0, 0}
	require.NoError(t, send(answer("0", empty)))
	require.NoError(t, send(answer("0", []byte{0, 0, 0, 0, 2, 0x0a, 0x00})), "an empty partial_success")
	require.ErrorContains(t, send(answer("14", empty)), "status 14")
	require.ErrorContains(t, send(answer("0", []byte{0, 0, 0, 0, 4, 0x0a, 0x02, 0x08, 0x01})), "not all was accepted")
	require.Error(t, send(answer("0", nil)))
}

type attributes struct{ pcommon.Map }

func (a attributes) Values(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if v, ok := a.Get(key); ok {
			yield(v.AsString())
		}
	}
}

// What collectors are fed must take the way of real data, so each block is
// verified, and none is one that came before.
func TestPresignedBlocksVerifyAndDiffer(t *testing.T) {
	key, err := newSoftwareKey()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, key.writeKeys(file))
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	keys, err := keyfile.Parse(file, content, &policy.Policy{Freshness: policy.Sequence, LiveWithin: policy.DefaultLiveWithin})
	require.NoError(t, err)
	judge := verdict.Judge{Keys: keys, Signatures: receipt.NewSignatureCache(64), MaxDelay: time.Hour}

	p, err := newPresigner(key, "", 4)
	require.NoError(t, err)
	defer p.close(t.Context())
	for _, s := range signals {
		w := newWorkload(9)
		var templates []*template
		for range 3 {
			made, err := newTemplate(w.batch(s, 3, 10))
			require.NoError(t, err)
			templates = append(templates, made)
		}
		frames, err := p.frames(templates, streamOf(s), 7, false)
		require.NoError(t, err)
		seen := map[uint64]bool{}
		for _, f := range frames {
			b, err := digest.UnmarshalBatch(s, f[frameHeader:])
			require.NoError(t, err)
			require.Equal(t, 3, b.Len())
			for i := range b.Len() {
				var v verdict.Verdict
				judge.Block(&v, b.At(i), attributes{b.At(i).Attributes()}, nil, time.Now())
				require.Equal(t, reason.Reason(""), v.Reason, v.Detail)
				require.False(t, seen[v.Receipt.BlockNo], "block %d came twice", v.Receipt.BlockNo)
				seen[v.Receipt.BlockNo] = true
			}
		}
		require.Len(t, seen, 21)
	}
}

// One short cell of each role: the processes start, everything that is sent is
// signed or verified and comes out again. How long it takes is not looked at.
func TestACellOfEachRoleRuns(t *testing.T) {
	o := &options{plan: plan{cell: time.Millisecond, slice: 50 * time.Millisecond}, out: t.TempDir(), group: defaultGroup, queue: "memory"}
	for _, only := range []string{"agent/metrics/1x1000/none", "collector/traces/1x20/none"} {
		o.cells = only
		res := &result{}
		require.NoError(t, runCosts(t.Context(), o, res))
		require.Len(t, res.Costs, 1)
		require.Positive(t, res.Costs[0].With.Median)
		require.Positive(t, res.Costs[0].Base.Median)
	}
}
