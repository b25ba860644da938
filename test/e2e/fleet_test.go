// Package e2e tests what Telemark promises with real processes: the
// distribution as agent and as receiving collector, a stock collector as
// gateway, software TPMs, and the command line. Nothing in it looks into a
// process; it sees what users see: the archive, the status page, the
// collectors' own metrics and logs.
//
// What it leaves out: TLS, which package matrix and the demonstration run with on every hop, and
// the judgement of single malformed receipts, which the unit tests do.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/test/harness"
)

var signals = []block.Signal{block.Metrics, block.Logs, block.Traces}

// Names of the collectors' own metrics.
const (
	verifiedItems   = "otelcol_tpmverify_verified_items"
	verifiedBlocks  = "otelcol_tpmverify_verified_blocks"
	refusedBlocks   = "otelcol_tpmverify_refused_blocks"
	duplicateBlocks = "otelcol_tpmverify_duplicate_blocks"
	duplicateItems  = "otelcol_tpmverify_duplicate_items"
	gapsReported    = "otelcol_nonce_gaps_reported"
	gapsFilled      = "otelcol_nonce_gaps_filled"
	gapsClosed      = "otelcol_nonce_gaps_closed"
	itemsMissing    = "otelcol_nonce_items_missing"
)

// Time limits of what is polled for. They are long since machines are slow;
// nothing waits for them when all is well.
const (
	soon      = 20 * time.Second
	drainTime = 120 * time.Second
)

// fleet is the processes of one test. They end with the test, and when it has
// failed, they show what they had to say.
type fleet struct {
	*testing.T
	harness.Fleet
	keys  string // the key file
	waves [3][]*harness.Node
}

// The waves in which nodes start, so that each finds the next one listening.
const (
	collectors = iota
	gateways
	agents
)

// newFleet enrols the agents with these names; devices names the TPMs of those
// that are not to have one of their own.
func newFleet(t *testing.T, devices map[string]string, agents ...string) *fleet {
	t.Helper()
	dir := t.TempDir()
	f := &fleet{T: t, Fleet: harness.Fleet{Dir: dir, Devices: devices}, keys: filepath.Join(dir, "keys.json")}
	for _, bin := range []string{"otelcol-telemark", "otelcol-stock", "telemark"} {
		_, err := harness.Bin(bin)
		require.NoError(t, err)
	}
	t.Cleanup(f.end)
	require.NoError(t, f.Enrol(t.Context(), f.keys, agents...))
	return f
}

// in returns the fleet for a sub-test, whose failures are its own.
func (f *fleet) in(t *testing.T) *fleet {
	sub := *f
	sub.T = t
	return &sub
}

func (f *fleet) add(wave int, n *harness.Node, err error) *harness.Node {
	f.Helper()
	require.NoError(f, err)
	f.waves[wave] = append(f.waves[wave], n)
	return n
}

func (f *fleet) collector(name string, overlays ...string) *harness.Node {
	f.Helper()
	n, err := f.Collector(name, f.keys, overlays...)
	return f.add(collectors, n, err)
}

func (f *fleet) gateway(name, next string, overlays ...string) *harness.Node {
	f.Helper()
	n, err := f.Gateway(name, next, overlays...)
	return f.add(gateways, n, err)
}

func (f *fleet) agent(name, next, nonce string, overlays ...string) *harness.Node {
	f.Helper()
	n, err := f.Agent(name, next, nonce, overlays...)
	return f.add(agents, n, err)
}

// begin starts all nodes.
func (f *fleet) begin() {
	f.Helper()
	for _, wave := range f.waves {
		f.start(wave...)
	}
}

// start starts nodes side by side and waits until they are ready.
func (f *fleet) start(nodes ...*harness.Node) {
	f.Helper()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if errs[i] = n.Start(); errs[i] == nil {
				errs[i] = n.WaitReady(f.Context())
			}
		})
	}
	wg.Wait()
	require.NoError(f, errors.Join(errs...))
}

// stop ends nodes as an operator does.
func (f *fleet) stop(nodes ...*harness.Node) {
	f.Helper()
	for _, n := range nodes {
		require.NoError(f, n.Stop(30*time.Second))
	}
}

// end is the fleet's cleanup. No process may outlive the test, the software
// TPMs that the agents started included.
func (f *fleet) end() {
	if f.Failed() {
		f.report()
	}
	for _, n := range slices.Concat(f.waves[:]...) {
		n.Kill()
	}
	var left []string
	for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		if left = commandsNaming(f.Dir); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(left) > 0 {
		f.Errorf("processes outlived the test:\n%s", strings.Join(left, "\n"))
	}
}

// report writes what helps to find out why the test failed.
func (f *fleet) report() {
	for _, c := range f.waves[collectors] {
		if !c.Running() {
			continue
		}
		if streams, err := readStatus(c); err == nil {
			f.Logf("status page of %s:\n%s", c.Name, streams)
		}
	}
	for _, n := range slices.Concat(f.waves[:]...) {
		f.Logf("last lines of %s (running: %t):\n%s", n.Name, n.Running(), shortLog(n.Tail(200)))
	}
}

// shortLog makes the end of a collector's log readable: what is worse than
// info, and the last line.
func shortLog(log string) string {
	const most = 15
	var lines []string
	last := ""
	for line := range strings.Lines(log) {
		var entry struct{ Level, TS, Caller, Msg, Error, Reason, Detail string }
		if json.Unmarshal([]byte(line), &entry) == nil {
			line = strings.Join(strings.Fields(fmt.Sprint(entry)), " ") + "\n"
		}
		if last = "  " + line; entry.Level != "info" {
			lines, last = append(lines, last), ""
		}
	}
	return strings.Join(lines[max(0, len(lines)-most):], "") + last
}

// commandsNaming lists the processes whose command line names dir.
func commandsNaming(dir string) (commands []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(dir+"/")) {
			commands = append(commands, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return commands
}

// eventually polls until check returns nil, and fails with its last error.
func (f *fleet) eventually(limit time.Duration, check func() error) {
	f.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("not within %v: %v", limit, err)
		}
		select {
		case <-f.Context().Done():
			f.Fatal(f.Context().Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// metric reads the sum of one of a node's own metrics.
func (f *fleet) metric(n *harness.Node, name string, labels ...string) int {
	f.Helper()
	samples, err := n.Scrape(f.Context())
	require.NoError(f, err)
	return int(samples.Sum(name, labels...))
}

// awaitMetric waits until a metric has reached a value.
func (f *fleet) awaitMetric(limit time.Duration, n *harness.Node, want int, name string, labels ...string) {
	f.Helper()
	f.eventually(limit, func() error {
		samples, err := n.Scrape(f.Context())
		if err != nil {
			return err
		}
		if got := int(samples.Sum(name, labels...)); got < want {
			return fmt.Errorf("%s %v of %s is %d, want %d", name, labels, n.Name, got, want)
		}
		return nil
	})
}

// command runs the telemark command line.
func (f *fleet) command(args ...string) ([]byte, error) {
	f.Helper()
	bin, err := harness.Bin("telemark")
	require.NoError(f, err)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(f.Context(), bin, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("telemark %v: %w\n%s", args, err, stderr.Bytes())
	}
	return out, err
}

// stream is a line of the status page.
type stream struct {
	KID          string         `json:"kid"`
	Stream       string         `json:"stream"`
	Epoch        uint64         `json:"epoch"`
	Verified     int            `json:"verified"`
	Refused      map[string]int `json:"refused"`
	Duplicates   int            `json:"duplicates"`
	GapsOpen     int            `json:"gaps_open"`
	GapsReported int            `json:"gaps_reported"`
	GapsClosed   int            `json:"gaps_closed"`
	LateFills    int            `json:"late_fills"`
	ItemsMissing int            `json:"items_missing"`
	InFlight     int            `json:"in_flight"`
	LastBlock    int            `json:"last_block"`
}

type streams []stream

func (s streams) String() string {
	var b strings.Builder
	for _, line := range s {
		fmt.Fprintf(&b, "  %+v\n", line)
	}
	return b.String()
}

// of returns the lines of one key.
func (s streams) of(kid string) (out streams) {
	for _, line := range s {
		if line.KID == kid {
			out = append(out, line)
		}
	}
	return out
}

// sum adds up one column.
func (s streams) sum(column func(*stream) int) (n int) {
	for i := range s {
		n += column(&s[i])
	}
	return n
}

// readStatus reads the status page of a collector to its end.
func readStatus(c *harness.Node) (out streams, err error) {
	client := http.Client{Timeout: 10 * time.Second}
	for cursor := ""; ; {
		resp, err := client.Get(c.Admin + "/metrics/status?cursor=" + cursor)
		if err != nil {
			return nil, err
		}
		var page struct {
			Streams streams `json:"streams"`
			Next    string  `json:"next"`
		}
		err = json.NewDecoder(resp.Body).Decode(&page)
		_ = resp.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("status page: %w", err)
		}
		out = append(out, page.Streams...)
		if cursor = page.Next; cursor == "" {
			return out, nil
		}
	}
}

func (f *fleet) status(c *harness.Node) streams {
	f.Helper()
	s, err := readStatus(c)
	require.NoError(f, err)
	return s
}

// kid returns the key id under which an agent is enrolled.
func (f *fleet) kid(agent string) string {
	f.Helper()
	content, err := os.ReadFile(f.keys)
	require.NoError(f, err)
	var file struct {
		Keys []struct{ KID, Name string }
	}
	require.NoError(f, json.Unmarshal(content, &file))
	for _, k := range file.Keys {
		if k.Name == agent {
			return k.KID
		}
	}
	f.Fatalf("%s is not enrolled", agent)
	return ""
}

// requireWhole demands that nothing is missing of any stream: its numbers run
// from one to the last without a gap, and nothing was refused.
func (f *fleet) requireWhole(c *harness.Node) {
	f.Helper()
	f.eventually(soon, func() error {
		all := f.status(c)
		if len(all) == 0 {
			return errors.New("the status page is empty")
		}
		for _, s := range all {
			gaps := s.GapsOpen + s.GapsReported + s.GapsClosed + s.LateFills + s.ItemsMissing
			if s.Verified != s.LastBlock || gaps != 0 || len(s.Refused) != 0 {
				return fmt.Errorf("%s of %s is not whole: %+v", s.Stream, s.KID, s)
			}
		}
		return nil
	})
	for _, name := range []string{gapsReported, gapsClosed, refusedBlocks} {
		require.Zero(f, f.metric(c, name), name)
	}
}
