package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
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
	pendedBlocks    = "otelcol_tpmsign_pended_blocks"
)

// TestSlowTPMCostsLatencyAndNoThroughput offers the same load to two agents at
// the same time, one of which has a TPM that takes 100 ms longer for every
// command. Each is offered what it took just before, without the delay, when all
// of the pipeline went as fast as this machine lets it now: more than a hundred
// requests a second. Signed one after the other, it would be ten.
func TestSlowTPMCostsLatencyAndNoThroughput(t *testing.T) {
	const (
		delay      = 100 * time.Millisecond
		length     = 8 * time.Second // in which waiting for the last answer does not count for much
		perRequest = 50              // items
		trial      = 20_000          // items to each agent without delay
	)
	quick, slow := tpmtest.New(t), tpmtest.New(t)
	f := newFleet(t, map[string]string{"quick": quick, "slow": slow}, "quick", "slow")
	proxy := tpmtest.Proxy(t, slow)
	f.Devices["slow"] = proxy.Device()
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	edges := []*harness.Node{f.agent("quick", gateway.GRPC, collector.Nonce), f.agent("slow", gateway.GRPC, collector.Nonce)}
	f.begin()

	start := time.Now()
	f.offer(edges, harness.Load{Items: trial, PerRequest: perRequest})
	f.awaitMetric(drainTime, collector, 2*trial, verifiedItems, "signal", "logs")
	requests := int(trial / perRequest * length / time.Since(start))
	require.Greater(t, requests, int(2*length/delay), "the machine is so busy that one signature for each request would nearly do, so the test shows nothing")

	proxy.Set(tpmproxy.Fault{Delay: tpmproxy.Duration(delay)})
	before := f.scrape(edges)
	items := requests * perRequest
	took := f.offer(edges, harness.Load{First: 2 * trial, Items: items, PerRequest: perRequest, Every: length / time.Duration(requests)})
	after := f.scrape(edges)

	rate := func(i int) float64 { return float64(items) / took[i].Seconds() }
	t.Logf("accepted: %.0f items/s without delay, %.0f with; offered %.0f to each", rate(0), rate(1), float64(items)/length.Seconds())
	for i, n := range edges {
		t.Logf("%s: a signature takes %v, latency added %v in the mean", n.Name, mean(before[i], after[i], signingDuration), mean(before[i], after[i], addedLatency))
		require.Zero(t, after[i].Sum(pendedBlocks), "%s accepted requests before they were signed, and does not count their latency", n.Name)
	}
	require.GreaterOrEqual(t, rate(1), 0.9*rate(0))
	signing := mean(before[1], after[1], signingDuration)
	require.GreaterOrEqual(t, signing, delay, "the proxy does not delay")
	// A request waits for the signature that is being made, half of one in the mean,
	// and for its own.
	require.Less(t, mean(before[1], after[1], addedLatency), 2*signing)

	all := span{0, 2 * (trial + items)}
	require.NoError(t, f.awaitArchive(collector, block.Logs, drainTime, all).exactly(all))
	f.requireWhole(collector)
}

// offer sends a load to agents at the same time, with other items to each, and
// returns how long each agent took to accept it. There are far more clients than
// requests are under way in two signing times, so that they are not what limits an
// agent that answers late.
func (f *fleet) offer(edges []*harness.Node, l harness.Load) []time.Duration {
	f.Helper()
	took, errs := make([]time.Duration, len(edges)), make([]error, len(edges))
	l.Protocol, l.Signal, l.Clients = harness.GRPC, block.Logs, 500
	var wg sync.WaitGroup
	start := time.Now()
	for i, n := range edges {
		l.Endpoint, l.Service = n.GRPC, n.Name
		own := l
		wg.Go(func() {
			errs[i] = own.Run(f.Context())
			took[i] = time.Since(start)
		})
		l.First += int64(l.Items)
	}
	wg.Wait()
	require.NoError(f, errors.Join(errs...))
	return took
}

// scrape reads the own metrics of each of the nodes.
func (f *fleet) scrape(nodes []*harness.Node) []harness.Samples {
	f.Helper()
	all := make([]harness.Samples, len(nodes))
	for i, n := range nodes {
		var err error
		all[i], err = n.Scrape(f.Context())
		require.NoError(f, err)
	}
	return all
}

// mean is the mean of what came to a histogram in seconds between two scrapes.
func mean(before, after harness.Samples, name string) time.Duration {
	grown := func(part string) float64 { return after.Sum(name+part) - before.Sum(name+part) }
	return time.Duration(grown("_sum") / grown("_count") * float64(time.Second))
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
