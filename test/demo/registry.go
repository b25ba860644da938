package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/test/harness"
)

// revocationTime is how long a revocation may take to reach the collector.
const revocationTime = 2 * time.Second

// revoked is what became of the machine that is revoked in mid-run.
type revoked struct {
	after time.Duration // until the collector refused its first block; 0 when it did not
	later int           // blocks of it that were accepted more than revocationTime later
}

func (r revoked) ok() bool { return r.after > 0 && r.after <= revocationTime && r.later == 0 }

func (r revoked) String() string {
	if r.after == 0 {
		return doomed + " revoked: its data did not stop"
	}
	return fmt.Sprintf("%s revoked in mid-run: refused after %d ms, blocks accepted later %d", doomed, r.after.Milliseconds(), r.later)
}

// makeTPMs makes the machines' software TPMs, with an EK certificate each, and
// their keys.
func (d *demo) makeTPMs(ctx context.Context) error {
	for _, name := range machines() {
		dir := filepath.Join(d.dir, name)
		if _, err := d.run(ctx, "key", "create", "--device", "swtpm:"+filepath.Join(dir, "tpm"), "--dir", filepath.Join(dir, "keys")); err != nil {
			return err
		}
	}
	return nil
}

// startRegistry starts a registry that trusts the makers of the machines' TPMs,
// and has it make a join token.
func (d *demo) startRegistry(ctx context.Context) error {
	pem, err := os.ReadFile(filepath.Join(d.certs, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
	d.registry, err = harness.NewRegistry(filepath.Join(d.dir, "registry"), harness.RegistryOptions{
		Port: d.ports["registry"], Cert: filepath.Join(d.certs, "registry.crt"), Key: filepath.Join(d.certs, "registry.key"), TLS: client,
	})
	if err != nil {
		return err
	}
	for _, name := range machines() {
		if err := d.registry.Trust(filepath.Join(d.dir, name, "tpm"), name); err != nil {
			return err
		}
	}
	if err := d.registry.Start(); err != nil {
		return err
	}
	d.procs = append(d.procs, d.registry.Process)
	if err := d.registry.WaitReady(ctx, &http.Client{Transport: &http.Transport{TLSClientConfig: client}}); err != nil {
		return err
	}
	viewer, err := os.ReadFile(d.registry.ViewFile)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.certs, "registry.token"), viewer, 0o600); err != nil {
		return err
	}
	token, err := d.fleet(ctx, "token", "create", "--uses", strconv.Itoa(len(machines())))
	if err != nil {
		return err
	}
	return os.WriteFile(d.registry.JoinFile, token, 0o600)
}

// fleet runs 'telemark fleet' as an operator.
func (d *demo) fleet(ctx context.Context, args ...string) ([]byte, error) {
	return d.run(ctx, append(append([]string{"fleet"}, args...), "--registry", d.registry.URL, "--token-file", d.registry.AdminFile, "--ca", filepath.Join(d.certs, "ca.crt"))...)
}

// awaitEnrolment waits until every machine has enrolled itself, and writes the
// keys that an auditor needs.
func (d *demo) awaitEnrolment(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, name := range machines() {
		for {
			m, err := d.registry.Client.Machine(ctx, name)
			if err == nil && m.State == api.StateEnrolled && m.Evidence == api.EvidenceChain {
				break
			}
			select {
			case <-ctx.Done():
				return errors.Join(fmt.Errorf("%s has not enrolled, see %s", name, d.agents[name].Log), err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	keys, err := d.fleet(ctx, "keys", "--pin", d.registry.Pin)
	if err != nil {
		return err
	}
	return os.WriteFile(d.keysFile, keys, 0o600)
}

// revoke revokes a machine while its data flows, and watches it stop.
func (d *demo) revoke(ctx context.Context) (revoked, error) {
	if _, err := d.fleet(ctx, "revoke", doomed, "--reason", "stolen"); err != nil {
		return revoked{}, err
	}
	start := time.Now()
	var r revoked
	for time.Since(start) < 2*revocationTime && r.after == 0 {
		samples, err := harness.Scrape(ctx, d.metricsURL("collector"))
		if err != nil {
			return r, err
		}
		if samples.Sum(refusedBlocks, "reason", string(reason.KeyRevoked)) > 0 {
			r.after = time.Since(start)
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Until(start.Add(revocationTime)))
	then, err := d.verifiedOf(ctx, doomed)
	if err != nil {
		return r, err
	}
	time.Sleep(time.Second)
	now, err := d.verifiedOf(ctx, doomed)
	r.later = now - then
	d.stopFeed()
	if err := errors.Join(err, d.agents[doomed].Stop(30*time.Second)); err != nil {
		return r, err
	}
	return r, d.awaitQuiet(ctx)
}

// awaitQuiet waits until nothing of the revoked machine is on the way any more,
// so that no attack is given its verdict.
func (d *demo) awaitQuiet(ctx context.Context) error {
	const quiet = time.Second
	last, since := -1.0, time.Now()
	for time.Since(since) < quiet {
		samples, err := harness.Scrape(ctx, d.metricsURL("collector"))
		if err != nil {
			return err
		}
		if now := samples.Sum(refusedBlocks); now != last {
			last, since = now, time.Now()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// verifiedOf counts the verified blocks of one machine.
func (d *demo) verifiedOf(ctx context.Context, name string) (int, error) {
	streams, err := d.status(ctx)
	if err != nil {
		return 0, err
	}
	names, err := d.names()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range streams {
		if names[s.KID] == name {
			n += s.Verified
		}
	}
	return n, nil
}

// feed lets the machine that will be revoked write its log until stopFeed.
func (d *demo) feed(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.writeLines(ctx, d.agents[doomed], time.Hour) // ends with its context
	}()
	d.stopFeed = func() {
		cancel()
		<-done
	}
}
