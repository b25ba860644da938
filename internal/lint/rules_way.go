package lint

import (
	"slices"

	"github.com/telemark-otel/telemark/internal/block"
)

// The rules about what happens to data between signing and verifying.

// leg is one stretch of a block's way on which nothing may change it.
type leg struct {
	steps     []step
	tolerated block.Tolerance
}

// signedLegs go from a signer out of this collector.
func (m *model) signedLegs() []leg {
	var out []leg
	for _, s := range m.signers() {
		stop := func(s step) bool { return isVerifier(s.component) || isStrip(s) || isSigner(s.component) }
		out = append(out, leg{m.downstream(s.in, s.index, stop), tolerance(s.component)})
	}
	return out
}

// verifiedLegs go from the receivers of this collector to a verifier, where
// nothing on the way signs.
func (m *model) verifiedLegs() []leg {
	var out []leg
	for _, v := range m.verifiers() {
		stop := func(s step) bool { return isSigner(s.component) || isVerifier(s.component) }
		steps := m.upstream(v.in, v.index, stop)
		if !slices.ContainsFunc(m.upstream(v.in, v.index, never), func(s step) bool { return isSigner(s.component) }) {
			out = append(out, leg{steps, m.opts.Tolerate})
		}
	}
	return out
}

// relayedLegs are the pipelines that pass on what others signed: data comes in
// by OTLP and leaves over the network, and nothing here signs or verifies it.
func (m *model) relayedLegs() []leg {
	var out []leg
	for _, p := range m.pipelines {
		way := m.whole(p)
		if m.relays(way) {
			out = append(out, leg{m.downstream(p, -1, never), m.opts.Tolerate})
		}
	}
	return out
}

// whole is everything that data meets before, in and after p.
func (m *model) whole(p *pipeline) []step {
	way := m.upstream(p, len(p.processors), never)
	return append(way, m.downstream(p, len(p.processors)-1, never)...)
}

func (m *model) relays(way []step) bool {
	in, out := false, false
	for _, s := range way {
		switch {
		case isSigner(s.component) || isVerifier(s.component) || isStrip(s):
			return false
		case s.kind == "receivers" && s.typ == "otlp":
			in = in || !m.isAgent() || listensOpenly(s.component)
		case leaves(s):
			out = true
		}
	}
	return in && out
}

// isAgent reports whether anything is signed here. What an agent receives on
// loopback is its own data, not somebody else's.
func (m *model) isAgent() bool { return len(m.signers()) > 0 }

// leaves reports whether an exporter sends data to a next collector.
func leaves(s step) bool {
	return s.kind == "exporters" && (s.typ == "otlp" || s.typ == "otlphttp" || s.typ == "kafka")
}

func changedAfterSigning(m *model, report reporter)    { reportChanges(m.signedLegs(), report) }
func changedOnGateway(m *model, report reporter)       { reportChanges(m.relayedLegs(), report) }
func changedBeforeVerifying(m *model, report reporter) { reportChanges(m.verifiedLegs(), report) }

func reportChanges(legs []leg, report reporter) {
	for _, l := range legs {
		for _, s := range l.steps {
			if e, c := effectOf(s); e == changes && !l.tolerates(c) {
				report(s.use, s.id+" "+c.does)
			}
		}
	}
}

func (l leg) tolerates(c change) bool { return c.tolerated != 0 && l.tolerated.Has(c.tolerated) }

func unknownProcessor(m *model, report reporter) {
	for _, l := range slices.Concat(m.signedLegs(), m.relayedLegs(), m.verifiedLegs()) {
		for _, s := range l.steps {
			if e, _ := effectOf(s); e == unknown {
				report(s.use, s.id+" is not known here")
			}
		}
	}
}

func splitWithoutTolerance(m *model, report reporter) {
	for _, l := range slices.Concat(m.signedLegs(), m.relayedLegs(), m.verifiedLegs()) {
		if l.tolerated.Has(block.Split) {
			continue
		}
		for _, s := range l.steps {
			if path, what := splits(s); path != nil {
				report(path, what)
			}
		}
	}
}

func changedBeforeArchive(m *model, report reporter) {
	for _, v := range m.verifiers() {
		if !keepsReceipts(v.component) {
			continue
		}
		for _, s := range m.downstream(v.in, v.index, isStrip) {
			if e, c := effectOf(s); e == changes {
				report(s.use, s.id+" "+c.does)
			}
			if path, what := splits(s); path != nil && !m.opts.Tolerate.Has(block.Split) {
				report(path, what)
			}
		}
	}
}

func signedTwice(m *model, report reporter) {
	for _, s := range m.signers() {
		for _, after := range m.downstream(s.in, s.index, never) {
			if isSigner(after.component) {
				report(after.use, after.id+" signs again what "+s.id+" in "+s.in.name+" has signed")
			}
		}
	}
}

func unsignedPipeline(m *model, report reporter) {
	if !m.isAgent() {
		return
	}
	for _, p := range m.pipelines {
		way := m.whole(p)
		touched := slices.ContainsFunc(way, func(s step) bool { return isSigner(s.component) || isVerifier(s.component) || isStrip(s) })
		if !touched && !m.relays(way) && slices.ContainsFunc(way, leaves) {
			report([]string{"service", "pipelines", p.name, "processors"}, "no tpmsign on the way of "+p.name)
		}
	}
}

func batchBeforeSigning(m *model, report reporter) {
	for _, s := range m.signers() {
		for _, before := range m.upstream(s.in, s.index, never) {
			if before.kind == "processors" && before.typ == "batch" {
				report(before.use, before.id+" before "+s.id)
			}
		}
	}
}

func fanOutBeforeSigning(m *model, report reporter) {
	for _, s := range m.signers() {
		for _, before := range m.upstream(s.in, s.index, never) {
			if branches := m.branches(before); branches > 1 {
				report(before.use, before.id+" feeds several pipelines of "+before.in.signal+" before "+s.id)
			}
		}
	}
}

// branches counts the pipelines of the same signal that a receiver, or the
// connector that plays one, feeds.
func (m *model) branches(s step) int {
	if s.kind != "receivers" && s.kind != "connectors" {
		return 0
	}
	n := 0
	for _, p := range m.pipelines {
		if p.signal == s.in.signal && uses(p.receivers, s.id) {
			n++
		}
	}
	return n
}

func signerShared(m *model, report reporter) {
	reportShared(m.signers(), func(p place) bool { return p.cfg.at("pending").text("storage") != "" }, report)
}

func verifierShared(m *model, report reporter) {
	reportShared(m.verifiers(), func(place) bool { return true }, report)
}

// reportShared reports the second and later use of a processor within a signal.
func reportShared(places []place, counts func(place) bool, report reporter) {
	first := map[string]string{}
	for _, p := range places {
		if !counts(p) {
			continue
		}
		key := p.in.signal + " " + p.id
		if other, ok := first[key]; ok {
			report(p.use, p.id+" is also in "+other)
			continue
		}
		first[key] = p.in.name
	}
}
