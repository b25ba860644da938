package geo

import (
	"math"
	"slices"
)

// join finds the edges that are no boundary on the sphere, hides them, and
// returns for each outline the component that it belongs to:
//
//	     -180                          180
//	  90  +--- - - - pole - - - - - ----+      the pole, when all of the line
//	      | c                         a |      at 90° is in the area
//	      |  +------+         +------+  |
//	seam  |  |      |         |      |  | seam, where a part of the area lies
//	      +--+                       +--+      at its other side
//
// Only the outermost edges of a polygon count as seam; more than maxSeams are
// left as they are, and circles do not reach across them.
func join(outlines []outline) []int {
	c := newComponents(len(outlines))
	joinSeam(outlines, c)
	for _, y := range [...]float64{90, -90} {
		joinPole(outlines, c, y)
	}
	out := make([]int, len(outlines))
	for i := range out {
		out[i] = c.of(i)
	}
	return out
}

const maxSeams = 4096

// components are disjoint sets.
type components []int

func newComponents(n int) components {
	c := make(components, n)
	for i := range c {
		c[i] = i
	}
	return c
}

func (c components) of(i int) int {
	for c[i] != i {
		c[i] = c[c[i]]
		i = c[i]
	}
	return i
}

func (c components) join(i, k int) { c[c.of(i)] = c.of(k) }

// stretch is a part of a line, and the outline whose area lies at it.
type stretch struct {
	lo, hi float64
	owner  int
}

// joinSeam looks at 180°: what ends there from the west, and what begins there
// to the east.
func joinSeam(outlines []outline, c components) {
	var west, east []stretch
	for i := range outlines {
		o := &outlines[i]
		if seamAt(o.maxX) {
			west = append(west, o.touching(o.maxX, i)...)
		}
		if seamAt(o.minX) {
			east = append(east, o.touching(o.minX, i)...)
		}
		if len(west)+len(east) > maxSeams {
			return
		}
	}
	both := meet(west, east, c)
	if len(both) == 0 {
		return
	}
	for i := range outlines {
		o := &outlines[i]
		for k, edges := range o.rings {
			o.rings[k] = hideSeam(edges, both, func(x float64) bool {
				return seamAt(x) && (x == o.minX || x == o.maxX)
			})
		}
	}
}

func seamAt(x float64) bool { return math.Abs(x) == 180 || math.Abs(x) == 540 }

// touching returns where the outline's area lies at the line x: where an odd
// number of its edges does.
func (o *outline) touching(x float64, owner int) []stretch {
	var ends []float64
	for _, edges := range o.rings {
		for i := range edges {
			if e := &edges[i]; e.x1 == x && e.x2 == x && e.y1 != e.y2 {
				ends = append(ends, e.y1, e.y2)
			}
		}
	}
	slices.Sort(ends)
	var out []stretch
	for i := 0; i+1 < len(ends); i += 2 {
		if ends[i] < ends[i+1] {
			out = append(out, stretch{ends[i], ends[i+1], owner})
		}
	}
	return out
}

// meet returns where both sides have area, apart from each other and ascending,
// and joins their owners.
func meet(west, east []stretch, c components) []stretch {
	var both []stretch
	for _, w := range west {
		for _, e := range east {
			if lo, hi := math.Max(w.lo, e.lo), math.Min(w.hi, e.hi); lo < hi {
				both = append(both, stretch{lo: lo, hi: hi})
				c.join(w.owner, e.owner)
			}
		}
		if len(both) > maxSeams {
			return nil
		}
	}
	return merged(both)
}

// merged sorts stretches and puts those together that touch.
func merged(in []stretch) []stretch {
	slices.SortFunc(in, func(a, b stretch) int {
		switch {
		case a.lo < b.lo:
			return -1
		case a.lo > b.lo:
			return 1
		default:
			return 0
		}
	})
	var out []stretch
	for _, s := range in {
		if n := len(out); n > 0 && s.lo <= out[n-1].hi {
			out[n-1].hi = math.Max(out[n-1].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}

// hideSeam cuts the edges of a seam where its other side ends, and hides the
// parts that have one.
func hideSeam(edges []edge, both []stretch, seam func(x float64) bool) []edge {
	if !slices.ContainsFunc(edges, func(e edge) bool { return e.x1 == e.x2 && seam(e.x1) }) {
		return edges
	}
	out := make([]edge, 0, len(edges)+8)
	for _, e := range edges {
		if e.x1 != e.x2 || !seam(e.x1) {
			out = append(out, e)
			continue
		}
		out = append(out, cut(e, both)...)
	}
	return out
}

// cut returns the parts of an upright edge, from its beginning to its end.
func cut(e edge, both []stretch) []edge {
	lo, hi := math.Min(e.y1, e.y2), math.Max(e.y1, e.y2)
	var parts []edge
	at := lo
	add := func(to float64, hidden bool) {
		if to > at {
			parts = append(parts, edge{x1: e.x1, y1: at, x2: e.x1, y2: to, hidden: hidden})
			at = to
		}
	}
	for _, s := range both {
		if s.hi <= lo || s.lo >= hi {
			continue
		}
		add(math.Max(s.lo, lo), false)
		add(math.Min(s.hi, hi), true)
	}
	add(hi, false)
	if e.y1 > e.y2 {
		slices.Reverse(parts)
		for i := range parts {
			parts[i].y1, parts[i].y2 = parts[i].y2, parts[i].y1
		}
	}
	return parts
}

// joinPole hides the edges at a pole when the area lies all around it.
func joinPole(outlines []outline, c components, y float64) {
	var around []stretch
	atPole := func(e *edge) bool { return e.y1 == y && e.y2 == y }
	for i := range outlines {
		for _, edges := range outlines[i].rings[:1] {
			for k := range edges {
				if e := &edges[k]; atPole(e) {
					lo, hi := math.Min(e.x1, e.x2), math.Max(e.x1, e.x2)
					around = append(around, stretch{lo, hi, i}, stretch{lo - 360, hi - 360, i}, stretch{lo + 360, hi + 360, i})
				}
			}
		}
	}
	if len(around) == 0 {
		return
	}
	owner := around[0].owner
	if all := merged(slices.Clone(around)); len(all) != 1 || !holesSpare(outlines, y) {
		return
	}
	for _, s := range around {
		c.join(s.owner, owner)
	}
	for i := range outlines {
		for k := range outlines[i].rings[0] {
			if e := &outlines[i].rings[0][k]; atPole(e) {
				e.hidden = true
			}
		}
	}
}

// holesSpare reports whether no hole comes to the pole.
func holesSpare(outlines []outline, y float64) bool {
	for i := range outlines {
		for _, edges := range outlines[i].rings[1:] {
			if slices.ContainsFunc(edges, func(e edge) bool { return e.y1 == y || e.y2 == y }) {
				return false
			}
		}
	}
	return true
}
