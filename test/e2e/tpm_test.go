package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/tpm/tpmproxy"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
	"github.com/telemark-otel/telemark/test/harness"
)

const (
	addedLatency    = "otelcol_tpmsign_added_latency"
	signingDuration = "otelcol_tpm_signing_duration"
	pendingBlocks   = "otelcol_tpmsign_pending_blocks"
)

// TestSlowTPMCostsLatencyAndNoThroughput offers the same load to two agents at
// the same time, one of which has a TPM that takes 100 ms longer for every command.
func TestSlowTPMCostsLatencyAndNoThroughput(t *testing.T) {
	const (
		delay    = 100 * time.Millisecond
		every    = 20 * time.Millisecond
		requests = 600
		items    = 20 // in each request
	)
	quick, slow := tpmtest.New(t), tpmtest.New(t)
	f := newFleet(t, map[string]string{"quick": quick, "slow": slow}, "quick", "slow")
	f.Devices["slow"] = tpmtest.Proxy(t, slow, tpmproxy.Fault{Delay: tpmproxy.Duration(delay)}).Device()
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	edges := []*harness.Node{f.agent("quick", gateway.GRPC, collector.Nonce), f.agent("slow", gateway.GRPC, collector.Nonce)}
	f.begin()
	for _, n := range edges { // the key is there, and the nonce
		f.run(harness.Load{Endpoint: n.GRPC, Protocol: harness.GRPC, Signal: block.Traces, Service: "warm-up", Items: 1, PerRequest: 1})
	}

	took := make([]time.Duration, len(edges))
	done := make(chan error, len(edges))
	start := time.Now()
	for i, n := range edges {
		go func() {
			err := harness.Load{
				Endpoint: n.GRPC, Protocol: harness.GRPC, Signal: block.Logs, Service: n.Name,
				First: int64(i * requests * items), Items: requests * items, PerRequest: items, Clients: 200, Every: every,
			}.Run(t.Context())
			took[i] = time.Since(start)
			done <- err
		}()
	}
	for range edges {
		require.NoError(t, <-done)
	}
	rate := func(i int) float64 { return requests * items / took[i].Seconds() }
	signing := f.mean(edges[1], signingDuration)
	t.Logf("accepted: %.0f items/s without delay, %.0f with; offered %.0f", rate(0), rate(1), items/every.Seconds())
	for _, n := range edges {
		t.Logf("%s: a signature takes %v, latency added %v in the mean", n.Name, f.mean(n, signingDuration), f.mean(n, addedLatency, "stream", "tpmsign:logs"))
	}
	require.GreaterOrEqual(t, rate(1), 0.9*rate(0))
	require.GreaterOrEqual(t, signing, delay, "the proxy does not delay")
	require.Less(t, f.mean(edges[1], addedLatency, "stream", "tpmsign:logs"), 3*signing, "one signature is under way when a request comes, and the next one is its own")

	both := span{0, 2 * requests * items}
	require.NoError(t, f.awaitArchive(collector, block.Logs, drainTime, both).exactly(both))
	f.requireWhole(collector)
}

// mean reads the mean of a histogram in seconds.
func (f *fleet) mean(n *harness.Node, name string, labels ...string) time.Duration {
	f.Helper()
	samples, err := n.Scrape(f.Context())
	require.NoError(f, err)
	count := samples.Sum(name+"_count", labels...)
	require.NotZero(f, count, name)
	return time.Duration(samples.Sum(name+"_sum", labels...) / count * float64(time.Second))
}

// outage is how long the TPM is gone: longer than the agent's command timeout,
// its longest pause between attempts, what tpmsign waits for a signature, and
// the timeouts of the clients, all as they are by default.
const outage = time.Minute

const sources = `
receivers:
  host_metrics: {collection_interval: 1s, scrapers: {cpu: {}, memory: {}, load: {}}}
  file_log: {include: ["%s"], start_at: beginning, storage: file_storage, retry_on_failure: {enabled: true, max_elapsed_time: 0}}
service: {pipelines: {metrics: {receivers: [host_metrics]}, logs: {receivers: [file_log]}}}
`

// TestNothingIsLostWhileTheTPMIsGone takes the TPM away from an agent that
// follows a log file and reads the host's metrics: once it is dead, once it no
// longer answers.
func TestNothingIsLostWhileTheTPMIsGone(t *testing.T) {
	chip := tpmtest.Start(t)
	f := newFleet(t, map[string]string{"edge-a": chip.Device()}, "edge-a")
	proxy := tpmtest.Proxy(t, chip.Device())
	f.Devices["edge-a"] = proxy.Device()
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	logFile := filepath.Join(f.Dir, "app.log")
	agent := f.agent("edge-a", gateway.GRPC, collector.Nonce, fmt.Sprintf(sources, logFile))
	w := startWriter(t, logFile)
	f.begin()

	f.awaitMetric(soon, collector, 100, verifiedItems, "signal", "logs")
	f.awaitMetric(soon, collector, 1, verifiedItems, "signal", "metrics")
	f.without(agent, collector, w, outage, chip.Kill, chip.Restart)
	f.without(agent, collector, w, 20*time.Second, func() { proxy.Set(tpmproxy.Fault{Action: tpmproxy.Hang}) }, func() { proxy.Set() })

	lines := w.stop(t)
	f.eventually(drainTime, func() error { return wholeLog(collector, lines) })

	points := f.lastPoints(agent)
	f.stop(agent)
	f.eventually(drainTime, func() error {
		archived := 0
		for _, b := range f.archive(collector, block.Metrics).blocks {
			archived += b.items
		}
		if archived != points {
			return fmt.Errorf("%d points are archived, the agent has read %d", archived, points)
		}
		return nil
	})
	f.requireWhole(collector)
	t.Logf("%d lines and %d points, all verified once", lines, points)
}

// without takes the TPM away for a time, looks at what happens meanwhile, and
// waits until all is well again.
func (f *fleet) without(agent, collector *harness.Node, w *writer, length time.Duration, gone, back func()) {
	f.Helper()
	gone()
	end := time.Now().Add(length)
	f.awaitMetric(length, agent, 10, pendingBlocks)
	require.Zero(f, f.metric(agent, "otelcol_tpm_up"))
	f.eventually(length+soon, func() error {
		if left := time.Until(end); left > 0 {
			return fmt.Errorf("%v of the outage are left", left)
		}
		return nil
	})
	before, written := f.metric(collector, verifiedItems, "signal", "logs"), int(w.lines.Load())
	require.Less(f, before, written-100, "the collector has verified what nobody can have signed")
	back()
	f.awaitMetric(drainTime, collector, written, verifiedItems, "signal", "logs")
	f.eventually(soon, func() error {
		if n := f.metric(agent, pendingBlocks); n > 0 {
			return fmt.Errorf("%d blocks are still pending", n)
		}
		return nil
	})
}

// lastPoints waits until the agent has just read the host's metrics and returns
// how many points those were in all: no more will come for a second.
func (f *fleet) lastPoints(agent *harness.Node) (points int) {
	f.Helper()
	const name = "otelcol_receiver_accepted_metric_points"
	first := f.metric(agent, name, "receiver", "host_metrics")
	f.eventually(soon, func() error {
		if points = f.metric(agent, name, "receiver", "host_metrics"); points == first {
			return fmt.Errorf("the agent reads no host metrics")
		}
		return nil
	})
	return points
}

// writer writes numbered lines to a log file.
type writer struct {
	lines atomic.Int64
	quit  chan struct{}
	done  chan error
}

func startWriter(t *testing.T, path string) *writer {
	t.Helper()
	file, err := os.Create(path)
	require.NoError(t, err)
	w := &writer{quit: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		defer func() { _ = file.Close() }()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := int64(0); ; n++ {
			select {
			case <-w.quit:
				w.done <- nil
				return
			case <-t.Context().Done():
				w.done <- t.Context().Err()
				return
			case <-tick.C:
			}
			if _, err := fmt.Fprintf(file, "level=info msg=\"door %d opened\" n=%d\n", n%8, n); err != nil {
				w.done <- err
				return
			}
			w.lines.Store(n + 1)
		}
	}()
	return w
}

// stop ends the writer and returns how many lines there are.
func (w *writer) stop(t *testing.T) int {
	t.Helper()
	close(w.quit)
	require.NoError(t, <-w.done)
	return int(w.lines.Load())
}

var lineNumber = regexp.MustCompile(` n=(\d+)$`)

// wholeLog says in which way the archive of logs is anything else than each of
// the lines once, nil when in none.
func wholeLog(collector *harness.Node, lines int) error {
	times := make([]int, lines)
	err := harness.EachArchived(collector.Logs, block.Logs, func(b *harness.ArchivedBlock) error {
		for _, sl := range b.Block.Logs().ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				match := lineNumber.FindStringSubmatch(lr.Body().Str())
				if match == nil {
					continue // a heartbeat
				}
				n, err := strconv.Atoi(match[1])
				if err != nil || n >= lines {
					return fmt.Errorf("nobody wrote the line %q", lr.Body().Str())
				}
				times[n]++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for n, count := range times {
		if count != 1 {
			return fmt.Errorf("line %d of %d is in the archive %d times", n, lines, count)
		}
	}
	return nil
}
