package lint

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/telemark-otel/telemark/internal/block"
)

// model is a configuration, indexed the way the rules ask for it.
type model struct {
	opts      Options
	root      values
	pipelines []*pipeline // by name
	running   []string    // service::extensions
}

// pipeline is one entry of service::pipelines.
type pipeline struct {
	name       string // "metrics/in"
	signal     string // "metrics"
	receivers  []component
	processors []component
	exporters  []component
}

// component is one use of a component in a pipeline, or an extension.
type component struct {
	kind string // "receivers", "processors", "exporters", "connectors", "extensions"
	id   string // "otlp/gateway"
	typ  string // see typeOf
	cfg  values
	use  []string // where a pipeline names it
}

// path is the place where the component is configured, and keys below it.
func (c component) path(keys ...string) []string {
	return append([]string{c.kind, c.id}, keys...)
}

// typeOf returns the component type of an id, without underscores: types are
// being renamed upstream by adding them (otlphttp became otlp_http), and both
// names stand for the same component.
func typeOf(id string) string {
	typ, _, _ := strings.Cut(id, "/")
	typ = strings.ReplaceAll(strings.TrimSpace(typ), "_", "")
	if typ == "otlpgrpc" {
		return "otlp"
	}
	return typ
}

func newModel(config map[string]any, opts Options) *model {
	m := &model{opts: opts, root: config}
	service := m.root.at("service")
	m.running = service.texts("extensions")
	pipes := service.at("pipelines")
	for _, name := range slices.Sorted(maps.Keys(pipes)) {
		p := &pipeline{name: name}
		p.signal, _, _ = strings.Cut(name, "/")
		cfg := pipes.at(name)
		p.receivers = m.uses(p, "receivers", cfg)
		p.processors = m.uses(p, "processors", cfg)
		p.exporters = m.uses(p, "exporters", cfg)
		m.pipelines = append(m.pipelines, p)
	}
	return m
}

func (m *model) uses(p *pipeline, kind string, cfg values) []component {
	var out []component
	for i, id := range cfg.texts(kind) {
		c := m.component(kind, id)
		c.use = []string{"service", "pipelines", p.name, kind, "[" + strconv.Itoa(i) + "]"}
		out = append(out, c)
	}
	return out
}

func (m *model) component(kind, id string) component {
	c := component{kind: kind, id: id, typ: typeOf(id), cfg: m.root.at(kind, id)}
	if kind != "processors" && kind != "extensions" && m.root.at("connectors").has(id) {
		c.kind, c.cfg = "connectors", m.root.at("connectors", id)
	}
	return c
}

// extensions returns the configured extensions of a type that are running.
func (m *model) extensions(typ string) []component {
	var out []component
	for _, id := range m.running {
		if typeOf(id) == typ {
			out = append(out, m.component("extensions", id))
		}
	}
	return out
}

// step is one component that a block meets on its way.
type step struct {
	component
	in *pipeline
}

// downstream returns what a block meets after processor i of p (-1: from the
// start of p), across connectors, up to and without the steps for which stop
// answers true, and what lies behind those.
func (m *model) downstream(p *pipeline, i int, stop func(step) bool) []step {
	return m.walkDown(p, i+1, stop, map[string]bool{p.name: true})
}

func (m *model) walkDown(p *pipeline, from int, stop func(step) bool, seen map[string]bool) []step {
	var out []step
	for _, c := range p.processors[from:] {
		s := step{c, p}
		if stop(s) {
			return out
		}
		out = append(out, s)
	}
	for _, e := range p.exporters {
		out = append(out, step{e, p})
		if e.kind != "connectors" {
			continue
		}
		for _, next := range m.pipelines {
			if seen[next.name] || !uses(next.receivers, e.id) || !joins(e, p, next) {
				continue
			}
			seen[next.name] = true
			out = append(out, m.walkDown(next, 0, stop, seen)...)
		}
	}
	return out
}

// upstream returns what a block met before processor i of p, nearest first.
func (m *model) upstream(p *pipeline, i int, stop func(step) bool) []step {
	return m.walkUp(p, i, stop, map[string]bool{p.name: true})
}

func (m *model) walkUp(p *pipeline, to int, stop func(step) bool, seen map[string]bool) []step {
	var out []step
	for _, c := range slices.Backward(p.processors[:to]) {
		s := step{c, p}
		if stop(s) {
			return out
		}
		out = append(out, s)
	}
	for _, r := range p.receivers {
		out = append(out, step{r, p})
		if r.kind != "connectors" {
			continue
		}
		for _, before := range m.pipelines {
			if seen[before.name] || !uses(before.exporters, r.id) || !joins(r, before, p) {
				continue
			}
			seen[before.name] = true
			out = append(out, m.walkUp(before, len(before.processors), stop, seen)...)
		}
	}
	return out
}

// joins reports whether a connector leads from one pipeline into the other: the
// forward connector stays within a signal, others make one of another.
func joins(c component, from, to *pipeline) bool {
	return c.typ != "forward" || from.signal == to.signal
}

func uses(cs []component, id string) bool {
	return slices.ContainsFunc(cs, func(c component) bool { return c.id == id })
}

// place is a processor in a pipeline.
type place struct {
	step
	index int
}

// places returns where processors for which want answers true stand.
func (m *model) places(want func(component) bool) []place {
	var out []place
	for _, p := range m.pipelines {
		for i, c := range p.processors {
			if want(c) {
				out = append(out, place{step{c, p}, i})
			}
		}
	}
	return out
}

func (m *model) signers() []place { return m.places(isSigner) }

// verifiers returns the tpmverify processors that judge for good: the ones of
// mode check only look, the ones of mode strip do not even look.
func (m *model) verifiers() []place { return m.places(isVerifier) }

func isSigner(c component) bool { return c.typ == "tpmsign" }

func isVerifier(c component) bool {
	return c.typ == "tpmverify" && verifyMode(c) != "strip" && verifyMode(c) != "check"
}

func isStrip(s step) bool { return s.typ == "tpmverify" && verifyMode(s.component) == "strip" }

func verifyMode(c component) string {
	if mode := c.cfg.text("mode"); mode != "" {
		return mode
	}
	return "enforce"
}

func keepsReceipts(c component) bool { return c.cfg.text("receipts") == "keep" }

func never(step) bool { return false }

// tolerance returns what a signer of this configuration tolerates.
func tolerance(c component) block.Tolerance {
	var t block.Tolerance
	for _, w := range c.cfg.texts("tolerate") {
		switch w {
		case "split":
			t |= block.Split
		case "enrich":
			t |= block.Enrich
		}
	}
	return t
}
