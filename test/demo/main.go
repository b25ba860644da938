// Command demo shows the main job on real input: machines with a software TPM
// each enrol at a registry with a join token and their EK certificate; their
// agents sign host metrics, a tailed log file and the traces of an SDK
// application; a stock gateway carries them; a collector, which learns keys from
// the registry, verifies and archives them; one machine is revoked in mid-run;
// and a hostile gateway fails at every attack. It uses the configuration files
// that are shipped, with TLS on every hop.
//
//	make demo           # exit 0 only when every number is as it must be
//	make demo KEEP=1    # leaves everything running and prints the addresses
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var errNotAsItMustBe = errors.New("a number above is not as it must be")

func main() {
	keep := flag.Bool("keep", false, "leave everything running until interrupted")
	length := flag.Duration("for", 15*time.Second, "how long telemetry flows")
	dir := flag.String("dir", "demo", "where keys, certificates, logs and archives go; emptied first")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *length, *keep); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "demo:", err)
		fmt.Fprintf(os.Stderr, "demo: the logs of every process are in %s\n", *dir)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, length time.Duration, keep bool) error {
	d, err := newDemo(dir)
	if err != nil {
		return err
	}
	defer d.close()
	steps := []struct {
		say string
		do  func(context.Context) error
	}{
		{"certificates for TLS on every hop", d.makeCertificates},
		{"a software TPM with an EK certificate for each machine", d.makeTPMs},
		{"the registry, and a join token", d.startRegistry},
		{"the collector, the stock gateway and the agents, which enrol", d.start},
	}
	for i, step := range steps {
		fmt.Printf("[%d/%d] %s\n", i+1, len(steps)+4, step.say)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("[5/8] host metrics, a log file and an SDK application's traces flow for %s\n", length)
	d.feed(ctx)
	if err := d.flow(ctx, length); err != nil {
		return err
	}
	fmt.Printf("[6/8] %s is revoked while its data flows\n", doomed)
	gone, err := d.revoke(ctx)
	if err != nil {
		return err
	}
	fmt.Println("[7/8] a hostile gateway attacks")
	attacked, err := d.runAttacks(ctx)
	if err != nil {
		return err
	}
	fmt.Println("[8/8] the agents say farewell, queues drain, the archive is read")
	rows, figures, err := d.settle(ctx, attacked)
	if err != nil {
		return err
	}
	printReport(rows, figures, gone, attacked)
	if keep {
		if err := d.keep(ctx); err != nil {
			return err
		}
	}
	for _, r := range rows {
		if !r.ok() {
			return errNotAsItMustBe
		}
	}
	for _, r := range attacked {
		if !r.ok() {
			return errNotAsItMustBe
		}
	}
	if figures.gaps != 0 || !gone.ok() {
		return errNotAsItMustBe
	}
	return nil
}
