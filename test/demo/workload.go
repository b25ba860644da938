package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telemark-otel/telemark/test/harness"
)

// counts is what entered the agents: lines written and spans ended, by agent.
type counts struct {
	mu    sync.Mutex
	lines map[string]int
	spans map[string]int
}

// flow runs the log writers and the SDK applications for length; host metrics
// come from the agents themselves.
func (d *demo) flow(ctx context.Context, length time.Duration) error {
	d.counts.lines, d.counts.spans = map[string]int{}, map[string]int{}
	var wg sync.WaitGroup
	errs := make(chan error, 2*len(agentNames))
	for _, name := range agentNames {
		a := d.agents[name]
		wg.Go(func() { errs <- d.writeLines(ctx, a, length) })
		wg.Go(func() { errs <- d.runApplication(ctx, a, length) })
	}
	var done atomic.Bool
	go func() { wg.Wait(); done.Store(true) }()
	// On a terminal one line is rewritten, elsewhere a line stands for itself.
	begin, end, pause := "\r", "", 500*time.Millisecond
	if info, err := os.Stdout.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		begin, end, pause = "", "\n", 3*time.Second
	}
	start := time.Now()
	for next := start; !done.Load(); time.Sleep(100 * time.Millisecond) {
		if now := time.Now(); !now.Before(next) {
			fmt.Print(begin + d.progress(ctx, now.Sub(start)) + end)
			next = now.Add(pause)
		}
	}
	fmt.Println(begin + d.progress(ctx, time.Since(start)))
	for range 2 * len(agentNames) {
		if err := <-errs; err != nil {
			return err
		}
	}
	return ctx.Err()
}

// keep starts the agents again and lets telemetry flow until the demonstration
// is interrupted.
func (d *demo) keep(ctx context.Context) error {
	for _, name := range agentNames {
		if err := d.launch(ctx, d.agents[name].Process); err != nil {
			return err
		}
	}
	d.printAddresses()
	const forever = 10 * 365 * 24 * time.Hour
	var wg sync.WaitGroup
	for _, name := range agentNames {
		a := d.agents[name]
		for _, feed := range []func(context.Context, *agent, time.Duration) error{d.writeLines, d.runApplication} {
			wg.Go(func() {
				if err := feed(ctx, a, forever); err != nil && ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, "demo:", err)
				}
			})
		}
	}
	<-ctx.Done()
	wg.Wait()
	fmt.Println("\nEnding; the agents say farewell.")
	return nil
}

// progress says what the collector has verified so far.
func (d *demo) progress(ctx context.Context, since time.Duration) string {
	samples, err := harness.Scrape(ctx, d.metricsURL("collector"))
	if err != nil {
		return fmt.Sprintf("      %2.0f s  the collector does not answer", since.Seconds())
	}
	return fmt.Sprintf("      %2.0f s  verified: %s items in %s blocks, refused: %s", since.Seconds(),
		thousands(int(samples.Sum(verifiedItems))), thousands(int(samples.Sum(verifiedBlocks))), thousands(int(samples.Sum(refusedBlocks))))
}

// writeLines appends to the log file that the agent tails, 50 lines a second.
func (d *demo) writeLines(ctx context.Context, a *agent, length time.Duration) error {
	f, err := os.OpenFile(a.logFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // written a line at a time
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(length)
	for n := 0; ; n++ {
		d.counts.mu.Lock()
		d.counts.lines[a.name] = n
		d.counts.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case now := <-tick.C:
			if _, err := fmt.Fprintf(f, "%s level=info msg=\"door %d opened\" machine=%s n=%d\n", now.UTC().Format(time.RFC3339Nano), n%8, a.name, n); err != nil {
				return err
			}
		}
	}
}

// runApplication runs the SDK application beside an agent. It knows the
// agent's OTLP endpoint and nothing else.
func (d *demo) runApplication(ctx context.Context, a *agent, length time.Duration) error {
	cmd := exec.CommandContext(ctx, d.app, "-for", length.String(), "-signals", "traces")
	cmd.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+a.otlp)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("SDK application beside %s: %w\n%s", a.name, err, stderr.String())
	}
	var sent struct{ Spans int }
	if err := json.Unmarshal(out, &sent); err != nil {
		return fmt.Errorf("SDK application beside %s: %w", a.name, err)
	}
	d.counts.mu.Lock()
	defer d.counts.mu.Unlock()
	d.counts.spans[a.name] = sent.Spans
	return nil
}
