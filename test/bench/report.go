package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
)

// result is everything that was measured.
type result struct {
	Machine   machine    `json:"machine"`
	Command   string     `json:"arguments"`
	Date      string     `json:"date"`
	Seconds   float64    `json:"seconds"`
	ChipDelay string     `json:"tpm_delay,omitempty"`
	GroupSize int        `json:"group_size,omitempty"`
	Costs     []*cost    `json:"costs,omitempty"`
	Micro     []micro    `json:"micro,omitempty"`
	Registry  []micro    `json:"registry,omitempty"`
	Sizes     []*size    `json:"sizes,omitempty"`
	Latencies []*latency `json:"latencies,omitempty"`
}

func (r *result) save(file string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o600)
}

// table writes rows as an aligned table that is Markdown too.
type table struct{ w *tabwriter.Writer }

func newTable(out *strings.Builder, heads ...string) *table {
	t := &table{tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)}
	t.row(heads...)
	rule := make([]string, len(heads))
	for i := range rule {
		rule[i] = "---"
	}
	t.row(rule...)
	return t
}

func (t *table) row(cells ...string) {
	_, _ = t.w.Write([]byte("|\t" + strings.Join(cells, "\t|\t") + "\t|\n")) // to memory
}

func (t *table) end() {
	_ = t.w.Flush()
}

// number formats a cell.
func number(format string, v ...any) string { return fmt.Sprintf(format, v...) }

func say(out *strings.Builder, format string, args ...any) {
	_, _ = fmt.Fprintf(out, format, args...)
}

// String is what stands on stdout.
func (r *result) String() string {
	out := new(strings.Builder)
	m := r.Machine
	say(out, "%s, %d cores, SHA instructions: %v, Linux %s, %s, tree %s, %s, took %.0f s\n",
		m.CPU, m.Cores, m.SHA, m.Kernel, m.Go, m.Commit, r.Date, r.Seconds)
	r.printCosts(out)
	r.printDigests(out)
	r.printMicro(out)
	r.printRegistry(out)
	r.printSizes(out)
	r.printLatencies(out)
	return out.String()
}

func (s spread) String() string { return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Q1, s.Q3) }

func (r *result) printCosts(out *strings.Builder) {
	if len(r.Costs) == 0 {
		return
	}
	say(out, "\nCPU-seconds per million items; a signature takes the TPM %s more than swtpm's own time; "+
		"collectors verify %d blocks per signature\n\n", r.ChipDelay, r.GroupSize)
	t := newTable(out, "role", "compression", "blocks", "items each", "signal", "without", "with", "ratio (quartiles)", "of sums", "A/A control", "goal", "",
		"blocks per signature", "TPM's own CPU", "bytes per item")
	for _, c := range r.Costs {
		verdict := "met"
		if !c.met() {
			verdict = "MISSED"
		}
		perSignature, chip := "-", "-"
		if c.BlocksPerSignature > 0 {
			perSignature, chip = number("%.0f", c.BlocksPerSignature), number("%.2f", c.ChipCPU)
		}
		t.row(c.Role, c.Compression, number("%d", c.Blocks), number("%d", c.Items/c.Blocks), c.Signal, number("%.2f", c.Base.Median), number("%.2f", c.With.Median),
			c.Ratio.String(), number("%.2f", c.Pooled), c.Control.String(), number("%.2f", c.Goal), verdict, perSignature, chip,
			number("%.0f → %.0f", c.WireBase, c.WireWith))
	}
	t.end()
}

// digestGoals are ns per item of the whole-block walk, SHA-256 included.
var digestGoals = []struct {
	signal string
	ns     float64
}{{"metrics", 200}, {"logs", 480}, {"traces", 450}}

func (r *result) printDigests(out *strings.Builder) {
	find := func(name string) (micro, bool) {
		for _, m := range r.Micro {
			if m.Package == "internal/digest" && m.Name == name {
				return m, true
			}
		}
		return micro{}, false
	}
	if _, ok := find("Prepare/none/metrics"); !ok {
		return
	}
	say(out, "\nDigest of a block of 100 items, SHA-256 included, ns per item\n\n")
	t := newTable(out, "signal", "signer", "verifier", "goal", "", "allocations per block", "with split", "with enrich")
	for _, g := range digestGoals {
		sign, _ := find("Prepare/none/" + g.signal)
		verify, _ := find("Check/none/" + g.signal)
		split, _ := find("Prepare/split/" + g.signal)
		enrich, _ := find("Prepare/enrich/" + g.signal)
		verdict := "met"
		if max(sign.Values["ns/item"], verify.Values["ns/item"]) > g.ns {
			verdict = "MISSED"
		}
		ns := func(m micro) string { return number("%.0f", m.Values["ns/item"]) }
		t.row(g.signal, ns(sign), ns(verify), number("%.0f", g.ns), verdict,
			number("%.0f", max(sign.Values["allocs/op"], verify.Values["allocs/op"])), ns(split), ns(enrich))
	}
	t.end()
}

func (r *result) printMicro(out *strings.Builder) {
	if len(r.Micro) == 0 {
		return
	}
	say(out, "\nBenchmarks of the packages, medians\n\n")
	t := newTable(out, "package", "benchmark", "ns/op", "B/op", "allocs/op", "other")
	for _, m := range r.Micro {
		if m.Package == "internal/digest" {
			continue // above
		}
		var other []string
		for _, unit := range []string{"ns/item", "receipts/s", "allocs/block", "B/block", "MB/s"} {
			if v, ok := m.Values[unit]; ok {
				other = append(other, number("%.4g %s", v, unit))
			}
		}
		t.row(m.Package, m.Name, number("%.0f", m.Values["ns/op"]), number("%.0f", m.Values["B/op"]),
			number("%.0f", m.Values["allocs/op"]), strings.Join(other, ", "))
	}
	t.end()
}

// printRegistry says how often a second each benchmark of the registry runs, one
// after the other.
func (r *result) printRegistry(out *strings.Builder) {
	if len(r.Registry) == 0 {
		return
	}
	say(out, "\nRegistry, one core, medians\n\n")
	t := newTable(out, "package", "benchmark", "ms", "a second", "allocs/op")
	for _, m := range r.Registry {
		ns := m.Values["ns/op"]
		t.row(m.Package, m.Name, number("%.3f", ns/1e6), number("%.0f", 1e9/ns), number("%.0f", m.Values["allocs/op"]))
	}
	t.end()
}

func (r *result) printSizes(out *strings.Builder) {
	if len(r.Sizes) == 0 {
		return
	}
	say(out, "\nWhat a receipt adds to a block of %d items\n\n", sizedItems)
	t := newTable(out, "blocks per signature", "signal", "receipt, bytes", "added, bytes", "block, bytes", "share", "gzip: added", "block", "share")
	percent := func(part, whole float64) string { return number("%.1f %%", 100*part/whole) }
	for _, s := range r.Sizes {
		t.row(number("%d", s.Group), s.Signal, number("%.0f", s.Receipt), number("%.0f", s.Added), number("%.0f", s.Block), percent(s.Added, s.Block),
			number("%.0f", s.Zipped), number("%.0f", s.ZBlock), percent(s.Zipped, s.ZBlock))
	}
	t.end()
}

func (r *result) printLatencies(out *strings.Builder) {
	if len(r.Latencies) == 0 {
		return
	}
	say(out, "\nLatency in ms of a request of 20 log records, from when it was due to its answer\n\n")
	t := newTable(out, "requests/s", "TPM", "signing as measured", "p50 without", "p50 with", "added", "p99 without", "p99 with", "added",
		"blocks per signature", "requests")
	for _, l := range r.Latencies {
		t.row(number("%d", l.Rate), number("%g ms", l.Chip), number("%.1f", l.Signing),
			number("%.1f", l.BaseP50), number("%.1f", l.P50), number("%.1f", l.P50-l.BaseP50),
			number("%.1f", l.BaseP99), number("%.1f", l.P99), number("%.1f", l.P99-l.BaseP99),
			number("%.1f", l.BlocksPerSignature), number("%d", l.Requests))
	}
	t.end()
}
