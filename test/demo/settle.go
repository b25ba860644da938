package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// Names of the collectors' own metrics.
const (
	verifiedItems  = "otelcol_tpmverify_verified_items"
	verifiedBlocks = "otelcol_tpmverify_verified_blocks"
	refusedBlocks  = "otelcol_tpmverify_refused_blocks"
	duplicates     = "otelcol_tpmverify_duplicate_blocks"
	groupSizes     = "otelcol_tpm_group_size"
	addedLatency   = "otelcol_tpmsign_added_latency"
	acceptedPoints = "otelcol_receiver_accepted_metric_points"
)

// attackedStream is the stream whose gaps are the attacks' doing.
const attackedStream = "tpmsign/attacked:metrics"

// verdicts reads how often the collector gave each reason, duplicates among
// them.
func (d *demo) verdicts(ctx context.Context) (map[string]float64, error) {
	samples, err := harness.Scrape(ctx, d.metricsURL("collector"))
	if err != nil {
		return nil, err
	}
	out := map[string]float64{string(reason.Duplicate): samples.Sum(duplicates)}
	for _, r := range reason.All() {
		if r != reason.Duplicate {
			out[string(r)] = samples.Sum(refusedBlocks, "reason", string(r))
		}
	}
	return out, nil
}

// settle stops the sources, lets everything drain, and counts.
func (d *demo) settle(ctx context.Context, attacked []attackRow) ([]row, figures, error) {
	var f figures
	sent := map[string]map[block.Signal]int{}
	groups, blocks := 0.0, 0.0
	var latency harness.Samples
	for _, name := range agentNames {
		a := d.agents[name]
		samples, err := harness.Scrape(ctx, a.metrics)
		if err != nil {
			return nil, f, err
		}
		groups += samples.Sum(groupSizes + "_count")
		blocks += samples.Sum(groupSizes + "_sum")
		latency = append(latency, samples...)
	}
	if groups > 0 {
		f.blocksPerGroup = blocks / groups
	}
	f.p50 = seconds(latency.Quantile(0.5, addedLatency))
	f.p99 = seconds(latency.Quantile(0.99, addedLatency))

	points, err := d.stopAgents(ctx)
	if err != nil {
		return nil, f, err
	}
	for _, name := range agentNames {
		sent[name] = map[block.Signal]int{block.Metrics: points[name], block.Logs: d.counts.lines[name], block.Traces: d.counts.spans[name]}
	}
	rows, err := d.waitForArchive(ctx, sent)
	if err != nil {
		return nil, f, err
	}
	if f.gaps, err = d.openGaps(ctx); err != nil {
		return nil, f, err
	}
	d.checkExpectations(attacked)
	return rows, f, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// stopAgents ends the agents and returns how many host metric points each has
// accepted. Scraping stops with the process, so the last reading is repeated
// until it no longer changes while the interval is long compared to it.
func (d *demo) stopAgents(ctx context.Context) (map[string]int, error) {
	points := map[string]int{}
	for _, name := range append([]string{stranger}, agentNames...) {
		a := d.agents[name]
		last, err := lastReading(ctx, a)
		if err != nil {
			return nil, err
		}
		points[name] = last
		if err := a.Stop(30 * time.Second); err != nil {
			return nil, err
		}
	}
	return points, nil
}

// lastReading waits until the agent has just collected, so that what it counts
// then is all it will ever count.
func lastReading(ctx context.Context, a *agent) (int, error) {
	first := -1
	for {
		samples, err := harness.Scrape(ctx, a.metrics)
		if err != nil {
			return 0, err
		}
		now := int(samples.Sum(acceptedPoints, "receiver", "host_metrics"))
		if first >= 0 && now > first {
			return now, nil
		}
		first = now
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// waitForArchive counts the archive until nothing is missing, or nothing has
// come for a while.
func (d *demo) waitForArchive(ctx context.Context, sent map[string]map[block.Signal]int) ([]row, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		rows, err := d.countArchive(ctx, sent)
		if err != nil {
			return nil, err
		}
		complete := true
		for _, r := range rows {
			complete = complete && r.lost == 0
		}
		if complete || time.Now().After(deadline) {
			return rows, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (d *demo) countArchive(ctx context.Context, sent map[string]map[block.Signal]int) ([]row, error) {
	rejected, err := d.rejectedBlocks(ctx)
	if err != nil {
		return nil, err
	}
	verified, twice := map[string]map[block.Signal]int{}, map[string]map[block.Signal]int{}
	for _, name := range agentNames {
		verified[name], twice[name] = map[block.Signal]int{}, map[block.Signal]int{}
	}
	d.archived = map[string]int{}
	for _, signal := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
		blocks, err := harness.ReadArchive(filepath.Join(d.dir, "archive", signal.String()+".jsonl"), signal)
		if err != nil {
			return nil, err
		}
		seen := map[string]bool{}
		for _, b := range blocks {
			if b.Verdict == reason.Verified && b.Name == doomed {
				continue // until it was revoked
			}
			if b.Verdict != reason.Verified || verified[b.Name] == nil {
				return nil, fmt.Errorf("the archive holds a block of %q with verdict %q", b.Name, b.Verdict)
			}
			if b.Receipt.Stream == attackedStream {
				d.archived[harness.ServiceOf(b.Block)]++
				continue
			}
			if seen[b.ID()] {
				twice[b.Name][signal] += b.Items
				continue
			}
			seen[b.ID()] = true
			verified[b.Name][signal] += b.Items
		}
	}
	var rows []row
	for _, name := range agentNames {
		for _, signal := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
			r := row{agent: name, signal: signal.String(), sent: sent[name][signal], verified: verified[name][signal], rejected: rejected[name+"/"+signal.String()], twice: twice[name][signal]}
			r.lost = r.sent - r.verified
			rows = append(rows, r)
		}
	}
	return rows, nil
}

// checkExpectations holds what the archive has of victims and neighbours
// against what each attack allows.
func (d *demo) checkExpectations(attacked []attackRow) {
	for _, e := range d.expect {
		if got := d.archived[e.service]; got != e.times {
			attacked[e.row].neighbours = fmt.Sprintf("%s archived %d times, not %d", e.service, got, e.times)
		}
	}
}
