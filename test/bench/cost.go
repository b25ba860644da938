package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
)

// Defaults of the cost cells.
const (
	defaultChip  = 25 * time.Millisecond // as fast as TPMs in servers get (ST33K)
	defaultGroup = 64
)

// goals are the ratios that must not be passed, by compression.
var goals = map[bool]float64{true: 1.10, false: 1.20}

// load is the form of the requests of a cell. All variants get them at the same
// rate, whether or not earlier ones were answered, since whoever waits for a
// signature must not be compared with one that is kept busy all the time.
type load struct {
	blocks, items int // of a request, of a block
	rate, zipRate int // requests per second; without compression there is room for more
}

// A request of the small load is one block, as an SDK sends it when little
// happens, one of the largest block as it does when it is busy; ten blocks are
// what a gateway or a busy agent merges.
var loads = []load{
	{blocks: 10, items: 100, rate: 200, zipRate: 80},
	{blocks: 1, items: 1000, rate: 200, zipRate: 80},
	{blocks: 1, items: 20, rate: 4000, zipRate: 3000},
}

func (l load) perRequest() int { return l.blocks * l.items }

// cost is one cell of the cost table. Seconds of CPU per million items.
type cost struct {
	Role        string `json:"role"`
	Signal      string `json:"signal"`
	Items       int    `json:"items_per_request"`
	Blocks      int    `json:"blocks_per_request"`
	Compression string `json:"compression"`

	Base    spread  `json:"base_cpu_s_per_million"`
	With    spread  `json:"with_cpu_s_per_million"`
	Ratio   spread  `json:"ratio"`
	Pooled  float64 `json:"ratio_of_sums"` // rounds without a garbage collection weigh as much as they should
	Control spread  `json:"control_ratio"`
	Goal    float64 `json:"goal"`
	Rounds  int     `json:"rounds"`

	BlocksPerSignature float64 `json:"blocks_per_signature,omitempty"`
	ChipCPU            float64 `json:"swtpm_cpu_s_per_million,omitempty"`
	WireBase           float64 `json:"wire_bytes_per_item_base"`
	WireWith           float64 `json:"wire_bytes_per_item_with"`
}

func (c *cost) met() bool { return c.Ratio.Median <= c.Goal }

func runCosts(ctx context.Context, o *options, res *result) error {
	res.ChipDelay, res.GroupSize = o.chip.String(), o.group
	for _, zip := range []bool{true, false} {
		cells := cellsOf(zip, o.cells)
		if len(cells) == 0 {
			continue
		}
		f, err := startFleet(ctx, filepath.Join(o.out, "fleet"), zip, o)
		if err != nil {
			return err
		}
		f.chip.takes(o.chip)
		for _, c := range cells {
			m := &measurement{cell: c, fleet: f, plan: o.plan, seed: 1}
			if o.profile {
				m.profiles = filepath.Join(o.out, "profiles")
			}
			got, err := m.run(ctx)
			if err != nil {
				f.close(ctx)
				return fmt.Errorf("%s: %w", c.name(), err)
			}
			progress("%-28s ratio %.3f (%.3f to %.3f), control %.3f, %d rounds", c.name(),
				got.Ratio.Median, got.Ratio.Q1, got.Ratio.Q3, got.Control.Median, got.Rounds)
			res.Costs = append(res.Costs, got)
		}
		f.close(ctx)
	}
	return nil
}

// cell names one measurement.
type cell struct {
	agent  bool
	signal block.Signal
	load   load
	zip    bool
}

func cellsOf(zip bool, only string) []cell {
	var cells []cell
	for _, agent := range []bool{true, false} {
		for _, l := range loads {
			for _, s := range signals {
				c := cell{agent: agent, signal: s, load: l, zip: zip}
				if strings.Contains(c.name(), only) {
					cells = append(cells, c)
				}
			}
		}
	}
	return cells
}

func (c cell) role() string {
	if c.agent {
		return "agent"
	}
	return "collector"
}

func (c cell) name() string {
	return fmt.Sprintf("%s/%v/%dx%d/%s", c.role(), c.signal, c.load.blocks, c.load.items, compression(c.zip))
}

func (c cell) rate() int {
	if c.zip {
		return c.load.zipRate
	}
	return c.load.rate
}

// measurement runs one cell.
type measurement struct {
	cell
	plan
	fleet    *fleet
	seed     uint64
	profiles string // directory, "" takes none

	templates []*template
	unsigned  [][]byte
	samples   [3][]float64 // CPU seconds per million items: with, base, control
	ratios    []float64
	control   []float64
	wire      [3]int64 // bytes that reached the sink
	items     [3]int64
	chipCPU   time.Duration
}

const (
	templateCount = 16
	warmRounds    = 2
	minRounds     = 5
)

func (m *measurement) variants() *variants {
	if m.agent {
		return &m.fleet.agents
	}
	return &m.fleet.collectors
}

func (m *measurement) run(ctx context.Context) (*cost, error) {
	if err := m.prepare(); err != nil {
		return nil, err
	}
	for range warmRounds {
		if _, err := m.round(ctx, 0); err != nil {
			return nil, err
		}
	}
	m.wire, m.items, m.chipCPU = [3]int64{}, [3]int64{}, 0
	before, err := m.counts(ctx)
	if err != nil {
		return nil, err
	}
	profiled := m.startProfiles(ctx)
	for began, i := time.Now(), 0; i < minRounds || time.Since(began) < m.plan.cell; i++ {
		cpu, err := m.round(ctx, i)
		if err != nil {
			return nil, err
		}
		for v, used := range cpu {
			m.samples[v] = append(m.samples[v], used)
		}
		// The two baselines are equal, so their mean is the better estimate.
		m.ratios = append(m.ratios, cpu[0]/((cpu[1]+cpu[2])/2))
		m.control = append(m.control, cpu[2]/cpu[1])
	}
	if err := profiled(); err != nil {
		return nil, err
	}
	after, err := m.counts(ctx)
	if err != nil {
		return nil, err
	}
	return m.result(before, after)
}

func (m *measurement) prepare() error {
	w := newWorkload(m.seed)
	for range templateCount {
		t, err := newTemplate(w.batch(m.signal, m.load.blocks, m.load.items))
		if err != nil {
			return err
		}
		message, err := t.batch.Marshal()
		if err != nil {
			return err
		}
		f, err := frame(message, m.variants().base.sender.zip)
		if err != nil {
			return err
		}
		m.templates, m.unsigned = append(m.templates, t), append(m.unsigned, f)
	}
	return nil
}

// frames returns the requests of one slice. Only what a collector is to verify
// is signed.
func (m *measurement) frames(variant, n int) ([][]byte, error) {
	if !m.agent && variant == 0 {
		return m.fleet.signer.frames(m.templates, streamOf(m.signal), n, m.zip)
	}
	out := make([][]byte, n)
	for i := range out {
		out[i] = m.unsigned[i%len(m.unsigned)]
	}
	return out, nil
}

// round runs one slice of each variant, beginning with another one each time.
func (m *measurement) round(ctx context.Context, i int) (cpu [3]float64, err error) {
	for k := range cpu {
		v := (i + k) % len(cpu)
		if cpu[v], err = m.runSlice(ctx, v); err != nil {
			return cpu, fmt.Errorf("%s: %w", m.variants().all()[v].Name, err)
		}
	}
	return cpu, nil
}

// runSlice sends a slice to one variant and returns what it cost.
func (m *measurement) runSlice(ctx context.Context, v int) (float64, error) {
	c := m.variants().all()[v]
	frames, err := m.frames(v, int(m.slice.Seconds()*float64(m.rate())))
	if err != nil {
		return 0, err
	}
	wire := c.sink.bytes.Load()
	chip, err := cpuTime(m.fleet.chip.process.PID())
	if err != nil {
		return 0, err
	}
	before, err := cpuTime(c.PID())
	if err != nil {
		return 0, err
	}
	if err := c.sender.sendPaced(ctx, m.signal, frames, m.rate()); err != nil {
		return 0, err
	}
	items := len(frames) * m.load.perRequest()
	after, err := m.finished(ctx, c, items)
	if err != nil {
		return 0, err
	}
	m.wire[v] += c.sink.bytes.Load() - wire
	m.items[v] += int64(items)
	if v == 0 {
		used, err := cpuTime(m.fleet.chip.process.PID())
		if err != nil {
			return 0, err
		}
		m.chipCPU += used - chip
	}
	return (after - before).Seconds() * 1e6 / float64(items), nil
}

// finished waits until a variant has handed on n more items, and returns the
// CPU time that it has used until then. What asking costs is not counted.
func (m *measurement) finished(ctx context.Context, c *collector, n int) (time.Duration, error) {
	c.sent += int64(n)
	for began := time.Now(); time.Since(began) < time.Minute; {
		c.sink.quiet(ctx)
		used, err := cpuTime(c.PID())
		if err != nil {
			return 0, err
		}
		s, err := c.scrape(ctx)
		if err != nil {
			return 0, err
		}
		if int64(sum(s, "exporter_sent_log_records")+sum(s, "exporter_sent_metric_points")+sum(s, "exporter_sent_spans")) >= c.sent {
			return used, nil
		}
	}
	return 0, fmt.Errorf("not all of %d items came out again", c.sent)
}

// counts is what the process with our processor says it did.
type counts struct {
	items, blocks, groups, refused float64
}

func (m *measurement) counts(ctx context.Context) (counts, error) {
	s, err := m.variants().with.scrape(ctx)
	if err != nil {
		return counts{}, err
	}
	signal := m.signal.String()
	if m.agent {
		stream := "tpmsign:" + signal
		return counts{
			items:   sum(s, "tpmsign_signed_items", "stream", stream),
			blocks:  sum(s, "tpmsign_signed_blocks", "stream", stream),
			groups:  sum(s, "tpm_groups"),
			refused: sum(s, "tpmsign_refused_blocks") + sum(s, "tpmsign_pended_blocks"),
		}, nil
	}
	return counts{
		items:   sum(s, "tpmverify_verified_items", "signal", signal),
		blocks:  sum(s, "tpmverify_verified_blocks", "signal", signal),
		refused: sum(s, "tpmverify_refused_blocks") + sum(s, "tpmverify_duplicate_blocks"),
	}, nil
}

// result checks that what was measured is what was meant: every item signed or
// verified, none refused, held back or found twice.
func (m *measurement) result(before, after counts) (*cost, error) {
	if got := after.items - before.items; int64(got) != m.items[0] {
		return nil, fmt.Errorf("%d items were sent and %v handled", m.items[0], got)
	}
	if n := after.refused - before.refused; n != 0 {
		return nil, fmt.Errorf("%v blocks were refused or held back", n)
	}
	c := &cost{
		Role: m.role(), Signal: m.signal.String(), Items: m.load.perRequest(), Blocks: m.load.blocks, Compression: compression(m.zip),
		With: spreadOf(m.samples[0]), Base: spreadOf(append(m.samples[1], m.samples[2]...)),
		Ratio: spreadOf(m.ratios), Control: spreadOf(m.control), Goal: goals[m.zip], Rounds: len(m.ratios),
		Pooled:   2 * total(m.samples[0]) / (total(m.samples[1]) + total(m.samples[2])),
		WireWith: float64(m.wire[0]) / float64(m.items[0]), WireBase: float64(m.wire[1]) / float64(m.items[1]),
	}
	if m.agent {
		c.BlocksPerSignature = (after.blocks - before.blocks) / (after.groups - before.groups)
		c.ChipCPU = m.chipCPU.Seconds() * 1e6 / float64(m.items[0])
	}
	return c, nil
}

func total(sample []float64) float64 {
	t := 0.0
	for _, v := range sample {
		t += v
	}
	return t
}
