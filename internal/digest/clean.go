package digest

import (
	"math"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/xpdata"

	"github.com/telemark-otel/telemark/internal/block"
)

// strip removes what a signed block must not hold: proofs of an earlier signer,
// reserved attributes, scopes in the signer's name, empty containers.
func (b Block) strip(c *Cleaning, heartbeat bool) {
	b.Attributes().RemoveIf(func(k string, _ pcommon.Value) bool {
		if proofKey(k) {
			c.Receipts++
			return true
		}
		return false
	})
	if !heartbeat {
		c.Scopes += b.removeScopes(func(s pcommon.InstrumentationScope) bool { return s.Name() == HeartbeatScope })
	}
	c.Attributes += b.StripReserved()
	c.Containers += b.prune()
}

// StripReserved removes every reserved attribute at any depth and says how
// many; the receipt and manifest attributes of the resource stay as they are.
// A value at [MaxDepth] loses what nests deeper in it, which counts as one.
func (b Block) StripReserved() int {
	n := 0
	s := func(m pcommon.Map) { n += stripMap(m, 1) }
	keep := b.Attributes()
	visitor{
		attrs: func(m pcommon.Map) {
			if m != keep {
				s(m)
				return
			}
			m.RemoveIf(func(k string, v pcommon.Value) bool {
				switch {
				case proofKey(k):
					return false
				case reserved(k):
					n++
					return true
				}
				n += stripValue(v, 1)
				return false
			})
		},
		value: func(v pcommon.Value) { n += stripValue(v, 1) },
	}.block(b)
	return n
}

func stripMap(m pcommon.Map, depth int) (n int) {
	m.RemoveIf(func(k string, v pcommon.Value) bool {
		if reserved(k) {
			n++
			return true
		}
		n += stripValue(v, depth)
		return false
	})
	return n
}

func stripValue(v pcommon.Value, depth int) (n int) {
	switch v.Type() {
	case pcommon.ValueTypeMap:
		if depth == MaxDepth && v.Map().Len() > 0 {
			v.SetEmptyMap()
			return 1
		}
		return stripMap(v.Map(), depth+1)
	case pcommon.ValueTypeSlice:
		if depth == MaxDepth && v.Slice().Len() > 0 {
			v.SetEmptySlice()
			return 1
		}
		for _, e := range v.Slice().All() {
			n += stripValue(e, depth+1)
		}
	default: // no attributes in it
	}
	return n
}

// removeScopes removes scopes with all that is in them.
func (b Block) removeScopes(drop func(pcommon.InstrumentationScope) bool) int {
	n := 0
	count := func(gone bool) bool {
		if gone {
			n++
		}
		return gone
	}
	switch b.signal {
	case block.Metrics:
		b.metrics.ScopeMetrics().RemoveIf(func(s pmetric.ScopeMetrics) bool { return count(drop(s.Scope())) })
	case block.Logs:
		b.logs.ScopeLogs().RemoveIf(func(s plog.ScopeLogs) bool { return count(drop(s.Scope())) })
	default:
		b.traces.ScopeSpans().RemoveIf(func(s ptrace.ScopeSpans) bool { return count(drop(s.Scope())) })
	}
	return n
}

// prune removes containers without items and says how many.
func (b Block) prune() int {
	n := 0
	count := func(gone bool) bool {
		if gone {
			n++
		}
		return gone
	}
	switch b.signal {
	case block.Metrics:
		b.metrics.ScopeMetrics().RemoveIf(func(s pmetric.ScopeMetrics) bool {
			s.Metrics().RemoveIf(func(m pmetric.Metric) bool { return count(pointCount(m) == 0) })
			return count(s.Metrics().Len() == 0)
		})
	case block.Logs:
		b.logs.ScopeLogs().RemoveIf(func(s plog.ScopeLogs) bool { return count(s.LogRecords().Len() == 0) })
	default:
		b.traces.ScopeSpans().RemoveIf(func(s ptrace.ScopeSpans) bool { return count(s.Spans().Len() == 0) })
	}
	return n
}

// repair replaces invalid UTF-8 by U+FFFD, one for each run of bad bytes, in
// keys too. It keeps order and duplicates.
func (b Block) repair(c *Cleaning) {
	r := repairer{count: &c.Strings}
	visitor{
		attrs: r.attrs,
		value: r.value,
		str: func(s string, set func(string)) {
			if t, ok := r.fix(s); ok {
				set(t)
			}
		},
	}.block(b)
}

type repairer struct{ count *int }

func (r repairer) fix(s string) (string, bool) {
	if utf8.ValidString(s) {
		return s, false
	}
	*r.count++
	return strings.ToValidUTF8(s, string(utf8.RuneError)), true
}

func (r repairer) attrs(m pcommon.Map) {
	bad := false
	for k, v := range m.All() {
		r.value(v)
		bad = bad || !utf8.ValidString(k)
	}
	if !bad {
		return
	}
	rebuild(m, func(k string) string {
		k, _ = r.fix(k)
		return k
	})
}

// value is only called after a walk that found no nesting beyond MaxDepth.
func (r repairer) value(v pcommon.Value) {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		if s, ok := r.fix(v.Str()); ok {
			v.SetStr(s)
		}
	case pcommon.ValueTypeMap:
		r.attrs(v.Map())
	case pcommon.ValueTypeSlice:
		for _, e := range v.Slice().All() {
			r.value(e)
		}
	default: // no string in it
	}
}

// rebuild renames keys; pcommon.Map itself has no way to, and none to put a key
// that is there already.
func rebuild(m pcommon.Map, name func(string) string) {
	var to xpdata.MapBuilder
	to.EnsureCapacity(m.Len())
	for k, v := range m.All() {
		v.MoveTo(to.AppendEmpty(name(k)))
	}
	to.UnsafeIntoMap(m)
}

// canonicalDoubles rewrites the doubles whose C is not their own bits: NaNs,
// and -0 where zero means absent. The digest does not change by it.
func (b Block) canonicalDoubles() {
	var value func(v pcommon.Value)
	attrs := func(m pcommon.Map) {
		for _, v := range m.All() {
			value(v)
		}
	}
	value = func(v pcommon.Value) {
		switch v.Type() {
		case pcommon.ValueTypeDouble:
			if f, ok := canonical(v.Double(), false); ok {
				v.SetDouble(f)
			}
		case pcommon.ValueTypeMap:
			attrs(v.Map())
		case pcommon.ValueTypeSlice:
			for _, e := range v.Slice().All() {
				value(e)
			}
		default: // no double in it
		}
	}
	visitor{
		attrs: attrs,
		value: value,
		double: func(f float64, implicit bool, set func(float64)) {
			if g, ok := canonical(f, implicit); ok {
				set(g)
			}
		},
	}.block(b)
}

func canonical(f float64, implicit bool) (float64, bool) {
	switch x := math.Float64bits(f); {
	case f != f && x != canonicalNaN:
		return math.Float64frombits(canonicalNaN), true
	case implicit && f == 0 && x != 0:
		return 0, true
	}
	return f, false
}
