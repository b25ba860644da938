package geo

import (
	"math"
	"slices"
)

// box is in degrees; x may go beyond ±180.
type box struct{ minX, minY, maxX, maxY float64 }

func emptyBox() box { return box{math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)} }

func (b *box) add(x, y float64) {
	b.minX, b.maxX = math.Min(b.minX, x), math.Max(b.maxX, x)
	b.minY, b.maxY = math.Min(b.minY, y), math.Max(b.maxY, y)
}

func (b *box) holds(x, y float64) bool {
	return x >= b.minX && x <= b.maxX && y >= b.minY && y <= b.maxY
}

// ring is closed, and its edges are indexed by latitude.
//
//	rows: the height of box in equal parts
//	row i: edges at index[starts[i]:starts[i+1]] touch it
//
// A ring of few edges has no rows.
type ring struct {
	box
	edges  []edge
	starts []int32
	index  []int32
	perRow float64 // degrees of latitude
}

const (
	maxRows  = 4096
	plainMax = 24 // edges that are looked at one by one
	// A row for each edge would do for coasts; edges that touch many rows are
	// what is bounded here.
	maxPerEdge = 8
)

func newRing(edges []edge) *ring {
	r := &ring{box: emptyBox(), edges: edges}
	for i := range edges {
		r.add(edges[i].x1, edges[i].y1)
	}
	if len(edges) <= plainMax || r.maxY <= r.minY {
		return r
	}
	for rows := min(maxRows, len(edges)/2); rows > 1; rows /= 2 {
		if r.tile(rows) {
			return r
		}
	}
	return r
}

// tile makes the index, or says that it would be too large.
func (r *ring) tile(rows int) bool {
	r.perRow = (r.maxY - r.minY) / float64(rows)
	if r.perRow <= 0 {
		return false
	}
	starts := make([]int32, rows+1)
	total := 0
	for i := range r.edges {
		lo, hi := r.rowsOf(&r.edges[i], rows)
		total += hi - lo + 1
		if total > maxPerEdge*len(r.edges) {
			return false
		}
		for row := lo; row <= hi; row++ {
			starts[row+1]++
		}
	}
	for i := range rows {
		starts[i+1] += starts[i]
	}
	next := slices.Clone(starts[:rows])
	index := make([]int32, total)
	for i := range r.edges {
		lo, hi := r.rowsOf(&r.edges[i], rows)
		for row := lo; row <= hi; row++ {
			index[next[row]] = int32(i)
			next[row]++
		}
	}
	r.starts, r.index = starts, index
	return true
}

func (r *ring) rowsOf(e *edge, rows int) (lo, hi int) {
	return r.row(math.Min(e.y1, e.y2), rows), r.row(math.Max(e.y1, e.y2), rows)
}

// row is monotonic in y, so that no edge is missed by rounding.
func (r *ring) row(y float64, rows int) int {
	return min(max(int(math.Floor((y-r.minY)/r.perRow)), 0), rows-1)
}

// between calls look with the edges that may touch the latitudes lo to hi, some
// of them twice, until it answers false.
func (r *ring) between(lo, hi float64, look func(*edge) bool) bool {
	if r.starts == nil {
		for i := range r.edges {
			if !look(&r.edges[i]) {
				return false
			}
		}
		return true
	}
	rows := len(r.starts) - 1
	for _, i := range r.index[r.starts[r.row(lo, rows)]:r.starts[r.row(hi, rows)+1]] {
		if !look(&r.edges[i]) {
			return false
		}
	}
	return true
}

// place is where a point lies.
type place struct {
	onEdge  bool
	odd     bool // gone round an odd number of times
	winding int  // how often, turns against each other taken off
}

// locate follows a ray to the east.
func (r *ring) locate(x, y float64) place {
	var p place
	if !r.holds(x, y) {
		return p
	}
	r.between(y, y, func(e *edge) bool {
		if e.y1 > y && e.y2 > y || e.y1 < y && e.y2 < y {
			return true
		}
		// Above zero when the point is to the left of the way from 1 to 2.
		side := (e.x2-e.x1)*(y-e.y1) - (x-e.x1)*(e.y2-e.y1)
		if side == 0 && x >= math.Min(e.x1, e.x2) && x <= math.Max(e.x1, e.x2) {
			p.onEdge = true
			return false
		}
		switch up := e.y2 > y; {
		case up == (e.y1 > y):
		case up && side > 0:
			p.odd, p.winding = !p.odd, p.winding+1
		case !up && side < 0:
			p.odd, p.winding = !p.odd, p.winding-1
		}
		return true
	})
	return p
}
