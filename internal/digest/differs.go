package digest

import "github.com/telemark-otel/telemark/internal/block"

// The parts that Arrived.Differs names.
const (
	partResource = "resource"
	partScope    = "scope"
	partHeader   = "header"
	partItem     = "item"
)

// differs tells from the items that are wrong which part was changed: an item
// digest binds resource, scope and metric header, so a change there makes all
// items below it wrong. It names the outermost part that has all its items
// wrong, and no part for a block of one item, where every part explains it.
func (b Block) differs(wrong func(i int) bool) string {
	var scopes, headers tally
	i := 0
	b.shape(func(n int, last bool) {
		bad := 0
		for range n {
			if wrong(i) {
				bad++
			}
			i++
		}
		scopes.add(n, bad)
		headers.add(n, bad)
		headers.close()
		if last {
			scopes.close()
		}
	})
	switch {
	case i == 1:
		return ""
	case scopes.bad == i:
		return partResource
	case scopes.whole():
		return partScope
	case b.signal == block.Metrics && headers.whole():
		return partHeader
	default:
		return partItem
	}
}

// tally sees groups of items and keeps whether the wrong ones come in whole
// groups, one of them at least of more than one item.
type tally struct {
	n, bad        int // of all
	size, wrong   int // of the open group
	torn, several bool
}

func (t *tally) add(n, bad int) {
	t.n += n
	t.bad += bad
	t.size += n
	t.wrong += bad
}

func (t *tally) close() {
	if t.wrong > 0 {
		t.torn = t.torn || t.wrong < t.size
		t.several = t.several || t.size > 1
	}
	t.size, t.wrong = 0, 0
}

func (t *tally) whole() bool { return !t.torn && t.several }

// shape tells the number of items of each metric (of each scope, for logs and
// traces), and whether it is the last one of its scope.
func (b Block) shape(group func(items int, last bool)) {
	switch b.signal {
	case block.Metrics:
		for _, sm := range b.metrics.ScopeMetrics().All() {
			ms := sm.Metrics()
			for i := range ms.Len() {
				group(pointCount(ms.At(i)), i == ms.Len()-1)
			}
		}
	case block.Logs:
		for _, sl := range b.logs.ScopeLogs().All() {
			group(sl.LogRecords().Len(), true)
		}
	default:
		for _, ss := range b.traces.ScopeSpans().All() {
			group(ss.Spans().Len(), true)
		}
	}
}
