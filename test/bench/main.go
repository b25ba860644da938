// Command bench measures what proof costs: CPU of agent and collector against
// the same pipelines without our processors, the digest alone, the bytes of
// receipts, and the latency of a slow TPM. docs/performance.md says what the
// numbers mean and keeps the last full run.
//
//	make bench              # about 20 minutes
//	make bench BENCH=quick  # about 3, with wider quartiles
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// plan says how long each part takes.
type plan struct {
	cell     time.Duration // of one cost cell, warm-up left out
	slice    time.Duration // of one variant in one round, about
	count    int           // of each micro benchmark
	micro    time.Duration // of one run of it
	arrivals [3]time.Duration
}

var (
	full = plan{
		cell: 20 * time.Second, slice: 600 * time.Millisecond, count: 5, micro: 200 * time.Millisecond,
		arrivals: [3]time.Duration{15 * time.Second, 6 * time.Second, 4 * time.Second},
	}
	quick = plan{
		cell: 3 * time.Second, slice: 300 * time.Millisecond, count: 3, micro: 50 * time.Millisecond,
		arrivals: [3]time.Duration{3 * time.Second, 2 * time.Second, time.Second},
	}
)

type options struct {
	plan
	out     string
	parts   string
	cells   string        // only cells whose name holds it
	chip    time.Duration // what the software TPM is slowed down by
	group   int           // blocks per signature at the collector
	queue   string        // of the exporters
	bin     string        // of agents and collectors, "" is the one that make builds
	profile bool
}

func main() {
	o := options{plan: full}
	isQuick := flag.Bool("quick", false, "take a fifth of the time; quartiles are wider")
	flag.StringVar(&o.out, "out", "build/bench", "`directory` of the results and of everything that the processes write")
	flag.StringVar(&o.parts, "parts", "micro,registry,size,cost,latency", "which parts to run")
	flag.StringVar(&o.cells, "cells", "", "run only the cost cells whose name contains `text`, such as agent/logs/1x20/gzip")
	flag.DurationVar(&o.chip, "tpm", defaultChip, "signing time of the TPM in the cost cells")
	flag.IntVar(&o.group, "group", defaultGroup, "blocks per signature in what collectors verify")
	flag.StringVar(&o.queue, "queue", "memory", "queue of the exporters: memory or none")
	flag.StringVar(&o.bin, "bin", "", "`file` of the collector to measure, when not bin/otelcol-telemark")
	flag.BoolVar(&o.profile, "profile", false, "also take CPU profiles of each cost cell, which makes it a little dearer")
	cell := flag.Duration("cell", 0, "time per cost cell, when not the usual")
	flag.Parse()
	if _, ok := queues[o.queue]; !ok {
		fmt.Fprintf(os.Stderr, "bench: -queue must be memory or none, not %q\n", o.queue)
		os.Exit(2)
	}
	if *isQuick {
		o.plan = quick
	}
	if *cell > 0 {
		o.cell = *cell
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	var err error
	if o.out, err = filepath.Abs(o.out); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o750); err != nil {
		return err
	}
	began := time.Now()
	res := &result{Machine: describeMachine(ctx), Command: strings.Join(os.Args[1:], " "), Date: began.UTC().Format(time.RFC3339)}
	parts := []struct {
		name string
		run  func(context.Context, *options, *result) error
	}{
		{"micro", runMicro},
		{"registry", runRegistry},
		{"size", runSizes},
		{"cost", runCosts},
		{"latency", runLatencies},
	}
	var known []string
	for _, p := range parts {
		known = append(known, p.name)
		if !wanted(o.parts, p.name) {
			continue
		}
		progress("%s", p.name)
		if err := p.run(ctx, o, res); err != nil {
			return fmt.Errorf("%s (the logs of every process are in %s): %w", p.name, o.out, err)
		}
	}
	if len(res.Micro)+len(res.Registry)+len(res.Sizes)+len(res.Costs)+len(res.Latencies) == 0 {
		return errors.New("nothing was measured; the parts are " + strings.Join(known, ", "))
	}
	res.Seconds = time.Since(began).Seconds()
	if _, err := os.Stdout.WriteString(res.String()); err != nil {
		return err
	}
	file := filepath.Join(o.out, "result.json")
	if err := res.save(file); err != nil {
		return err
	}
	progress("the same as JSON: %s", file)
	return nil
}

func wanted(list, name string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(one) == name {
			return true
		}
	}
	return false
}

// progress tells what goes on, apart from the tables on stdout.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
