package geo

import "math"

// edge is a piece of a ring, straight in degrees. x may go beyond ±180.
type edge struct {
	x1, y1, x2, y2 float64
	hidden         bool // a cut or a pole: no boundary on the sphere
}

// How the search for the nearest point of an edge ends.
const (
	maxSteps = 10_000
	stack    = 64 // halvings of an edge before it is shorter than any tolerance
)

// reach returns the smallest angle between c and e when it is below most, else
// some value that is not below most. Below most it may be too small by tolerance. It stops as soon
// as it is known to be below enough.
func (e *edge) reach(c *centre, most, enough, tolerance float64) float64 {
	switch {
	case e.y1 == e.y2:
		return e.parallel(c)
	case e.x1 == e.x2:
		return e.meridian(c)
	default:
		return e.slanted(c, most, enough, tolerance)
	}
}

// parallel: the angle to a point of a parallel grows with the difference of
// longitude.
func (e *edge) parallel(c *centre) float64 {
	lo, hi := math.Min(e.x1, e.x2), math.Max(e.x1, e.x2)
	for _, turn := range [...]float64{-360, 0, 360} {
		if x := c.x + turn; x >= lo && x <= hi {
			return c.angle(c.x, e.y1)
		}
	}
	return math.Min(c.angle(e.x1, e.y1), c.angle(e.x2, e.y1))
}

// meridian: along it the cosine of the angle is A sin y + B cos y, with its one
// maximum where tan y = A/B.
func (e *edge) meridian(c *centre) float64 {
	lo, hi := math.Min(e.y1, e.y2), math.Max(e.y1, e.y2)
	foot := math.Atan2(math.Sin(c.lat), c.cosLat*math.Cos((c.x-e.x1)*degree)) / degree
	if foot >= lo && foot <= hi {
		return c.angle(e.x1, foot)
	}
	return math.Min(c.angle(e.x1, lo), c.angle(e.x1, hi))
}

// slanted halves the edge where its nearest point may be.
func (e *edge) slanted(c *centre, most, enough, tolerance float64) float64 {
	w := newWalk(e, c)
	best := math.Min(most, math.Min(c.angle(e.x1, e.y1), c.angle(e.x2, e.y2)))
	if best < enough {
		return best
	}
	type piece struct{ middle, half float64 }
	var pieces [stack]piece
	n := 1
	pieces[0] = piece{0.5, 0.5}
	lowest := math.Inf(1) // bound over pieces that were not looked into
	for steps := 0; n > 0; steps++ {
		n--
		p := pieces[n]
		d, bound := w.around(p.middle, p.half)
		if best = math.Min(best, d); best < enough {
			return best
		}
		within := tolerance
		if best > farAway {
			within = coarse
		}
		switch {
		case bound >= most, best < most && bound >= best-within:
		case w.speed*p.half <= within/2, steps >= maxSteps, n+2 > stack:
			lowest = math.Min(lowest, math.Max(0, bound))
		default:
			h := p.half / 2
			pieces[n], pieces[n+1] = piece{p.middle - h, h}, piece{p.middle + h, h}
			n += 2
		}
	}
	return math.Min(best, lowest)
}

// Beyond farAway, in radians, coarse will do.
const (
	farAway = math.Pi / 2
	coarse  = 1e-4
)

// walk is a point that moves along a slanted edge from t = 0 to 1 at even speed
// in degrees. On the sphere it is never faster than speed and never
// accelerates by more than bend, both in radians.
type walk struct {
	c           *centre
	sinLat      float64 // of c
	x, y        float64 // degrees at t = 0
	dx, dy      float64
	speed, bend float64
}

func newWalk(e *edge, c *centre) walk {
	w := walk{c: c, sinLat: math.Sin(c.lat), x: e.x1, y: e.y1, dx: e.x2 - e.x1, dy: e.y2 - e.y1}
	widest := 1.0 // cosine of the latitude nearest the equator
	if e.y1*e.y2 > 0 {
		widest = math.Cos(math.Min(math.Abs(e.y1), math.Abs(e.y2)) * degree)
	}
	u, v := w.dx*degree, w.dy*degree
	w.speed = math.Hypot(v, u*widest)
	w.bend = math.Hypot(u*u/2, 2*u*v)
	return w
}

// around returns the angle at t, and a bound below the angles up to half before
// and after t. The point comes nearer by no more than it moves. Within a
// quarter of the Earth the angle is convex but for the bend, so that its slope
// tells more.
func (w *walk) around(t, half float64) (angle, bound float64) {
	x, y := w.x+t*w.dx, w.y+t*w.dy
	d := w.c.angle(x, y)
	bound = d - w.speed*half
	if d+w.speed*half > farAway || d < 1e-12 {
		return d, bound
	}
	sinY, cosY := math.Sincos(y * degree)
	sinX, cosX := math.Sincos((x - w.c.x) * degree)
	slope := (w.c.cosLat*cosY*sinX*w.dx - (w.sinLat*cosY-w.c.cosLat*sinY*cosX)*w.dy) * degree / math.Sin(d)
	return d, math.Max(bound, d-math.Abs(slope)*half-w.bend*half*half/2)
}
