package geo

import (
	"math"
)

// Area is a set of polygons, immutable and safe for concurrent use. Its zero
// value holds nothing.
type Area struct {
	polygons  []polygon
	positions int
}

// polygon is an outer ring and its holes. Those that belong together across a
// cut share a component.
type polygon struct {
	outer     *ring
	holes     []*ring
	component int
	label     string
}

// Polygons returns how many polygons the area has, and Positions how many
// positions they were drawn with.
func (a *Area) Polygons() int { return len(a.polygons) }

// Positions see Polygons.
func (a *Area) Positions() int { return a.positions }

// Label returns what a file calls polygon i: its Feature's name or id, "" if it
// has none.
func (a *Area) Label(i int) string { return a.polygons[i].label }

// Contains reports whether a position lies in the area. It allocates nothing.
func (a *Area) Contains(p Position) bool { return a.find(p, 0, nil) >= 0 }

// Find returns the first polygon that a position lies in, or -1.
func (a *Area) Find(p Position) int { return a.find(p, 0, nil) }

// ContainsCircle reports whether all of the circle of a radius in metres lies
// in the area. It allocates nothing.
func (a *Area) ContainsCircle(p Position, radius float64) bool { return a.FindCircle(p, radius) >= 0 }

// FindCircle returns the first polygon that holds the circle, together with
// those on the other side of a cut, or -1.
func (a *Area) FindCircle(p Position, radius float64) int {
	if !(radius >= 0) { // also NaN
		return -1
	}
	c := newCentre(p)
	return a.find(p, math.Min(radius/leastRadius, math.Pi), &c)
}

func (a *Area) find(p Position, angle float64, c *centre) int {
	if !p.Valid() {
		return -1
	}
	for i := range a.polygons {
		if a.polygons[i].contains(p.Longitude, p.Latitude) && (c == nil || a.clear(a.polygons[i].component, c, angle)) {
			return i
		}
	}
	return -1
}

// contains tries the three turns that a ring may be drawn in.
func (p *polygon) contains(x, y float64) bool {
	return p.containsAt(x, y) || p.containsAt(x+360, y) || p.containsAt(x-360, y)
}

func (p *polygon) containsAt(x, y float64) bool {
	at := p.outer.locate(x, y)
	if !at.onEdge && !at.odd {
		return false
	}
	for _, h := range p.holes {
		// A hole that reaches out of its ring may be drawn in another turn.
		for _, turn := range [...]float64{0, 360, -360} {
			if at := h.locate(x+turn, y); at.onEdge || at.winding != 0 {
				return false
			}
		}
	}
	return true
}

// tolerance of the search along an edge, in radians: 6 cm, to the disadvantage
// of who is judged.
const tolerance = 1e-8

// clear reports whether no boundary of a component comes nearer than angle.
func (a *Area) clear(component int, c *centre, angle float64) bool {
	if angle == 0 {
		return true // a point; that it is inside is known
	}
	w := newWindow(c, angle)
	for i := range a.polygons {
		p := &a.polygons[i]
		if p.component != component {
			continue
		}
		if !w.clear(p.outer) {
			return false
		}
		for _, h := range p.holes {
			if !w.clear(h) {
				return false
			}
		}
	}
	return true
}

// window is the box, in degrees, around a circle.
type window struct {
	c        *centre
	angle    float64
	lo, hi   float64 // latitudes
	halfwide float64 // degrees of longitude to both sides; 180 and more for all
}

func newWindow(c *centre, angle float64) window {
	w := window{c: c, angle: angle, lo: c.y - angle/degree, hi: c.y + angle/degree, halfwide: 360}
	const slack = 1e-9
	w.lo, w.hi = w.lo-slack, w.hi+slack
	if w.lo > -90 && w.hi < 90 {
		w.halfwide = math.Asin(math.Min(1, math.Sin(angle)/c.cosLat))/degree + slack
	}
	return w
}

// wide reports whether longitudes from lo to hi come into the window.
func (w *window) wide(lo, hi float64) bool {
	lo, hi = lo-w.halfwide, hi+w.halfwide
	return lo <= w.c.x && w.c.x <= hi || lo <= w.c.x+360 && w.c.x+360 <= hi || lo <= w.c.x-360 && w.c.x-360 <= hi
}

func (w *window) clear(r *ring) bool {
	if r.minY > w.hi || r.maxY < w.lo || !w.wide(r.minX, r.maxX) {
		return true
	}
	return r.between(w.lo, w.hi, func(e *edge) bool {
		switch {
		case e.hidden, math.Min(e.y1, e.y2) > w.hi, math.Max(e.y1, e.y2) < w.lo, !w.wide(math.Min(e.x1, e.x2), math.Max(e.x1, e.x2)):
			return true
		default:
			return e.reach(w.c, w.angle, w.angle, tolerance) >= w.angle
		}
	})
}

// ToEdge returns the distance in metres from a position to the nearest boundary
// of the area, on a sphere of the mean radius; infinity when it has none. It
// looks at every edge.
func (a *Area) ToEdge(p Position) float64 {
	c := newCentre(p)
	least := math.Inf(1)
	for i := range a.polygons {
		for _, r := range a.polygons[i].rings() {
			for k := range r.edges {
				if e := &r.edges[k]; !e.hidden {
					least = math.Min(least, e.reach(&c, least, 0, tolerance))
				}
			}
		}
	}
	return least * meanRadius
}

func (p *polygon) rings() []*ring { return append([]*ring{p.outer}, p.holes...) }
