package geo

import (
	"errors"
	"fmt"
	"math"
)

// Bounds of an area.
const (
	MaxPositions = 100_000
	maxTurn      = 360 // degrees of longitude that a ring may be wide
)

// Errors of what was drawn.
var (
	ErrEmpty    = errors.New("the area has no polygon, or a polygon without outer ring")
	ErrRing     = errors.New("a ring needs four positions or more, and the last must be the first again")
	ErrPosition = errors.New("a position is [longitude, latitude] in degrees, with latitude -90 to 90 and longitude -180 to 180, or up to ±360 where a ring goes on across the antimeridian")
	ErrTooLarge = fmt.Errorf("an area has at most %d positions", MaxPositions)
	ErrLongEdge = errors.New("an edge of more than 180° of longitude can be meant the one way round or the other: " +
		"cut the area at the antimeridian, or go on beyond ±180, or add a bbox whose west is east of its east; if the long way is meant, put a position in between")
	ErrFlat = errors.New("a ring encloses nothing: all of it lies on one parallel or meridian")
	ErrTurn = errors.New("a ring goes round the Earth: draw an area around a pole down to it, along ±180 to latitude ±90")
)

// drawing is one polygon as it stands in a file.
type drawing struct {
	rings   [][]Position
	crosses bool // its bbox says that it crosses the antimeridian
	label   string
}

// build makes an area of polygons.
func build(drawings []drawing) (*Area, error) {
	if len(drawings) == 0 {
		return nil, ErrEmpty
	}
	a := &Area{polygons: make([]polygon, 0, len(drawings))}
	outlines := make([]outline, 0, len(drawings))
	for i := range drawings {
		o, err := drawings[i].outline()
		if err != nil {
			return nil, err
		}
		for _, r := range drawings[i].rings {
			a.positions += len(r)
		}
		if a.positions > MaxPositions {
			return nil, ErrTooLarge
		}
		outlines = append(outlines, o)
	}
	components := join(outlines)
	for i := range outlines {
		o := &outlines[i]
		p := polygon{outer: newRing(o.rings[0]), component: components[i], label: drawings[i].label}
		for _, r := range o.rings[1:] {
			p.holes = append(p.holes, newRing(r))
		}
		a.polygons = append(a.polygons, p)
	}
	return a, nil
}

// outline is a polygon as edges, its outer ring's west in -180 to 180, its holes
// in the same turn.
type outline struct {
	box
	rings [][]edge
}

func (d *drawing) outline() (outline, error) {
	if len(d.rings) == 0 {
		return outline{}, ErrEmpty
	}
	o := outline{box: emptyBox()}
	for i, positions := range d.rings {
		edges, b, err := d.ring(positions)
		if err != nil {
			return outline{}, err
		}
		turn := 0.0
		if i == 0 {
			turn = -360 * math.Floor((b.minX+180)/360)
			o.box = b
			o.minX, o.maxX = b.minX+turn, b.maxX+turn
		} else {
			turn = nearestTurn(o.box, b)
		}
		for k := range edges {
			edges[k].x1 += turn
			edges[k].x2 += turn
		}
		o.rings = append(o.rings, edges)
	}
	return o, nil
}

// nearestTurn returns by how much a hole has to be turned to lie in its outer ring.
func nearestTurn(outer, hole box) float64 {
	for _, turn := range [...]float64{0, 360, -360, 720, -720} {
		if hole.minX+turn >= outer.minX && hole.maxX+turn <= outer.maxX {
			return turn
		}
	}
	return 0
}

// ring checks the positions of a ring and makes edges of them.
func (d *drawing) ring(positions []Position) ([]edge, box, error) {
	if len(positions) < 4 {
		return nil, box{}, fmt.Errorf("%w: it has %d", ErrRing, len(positions))
	}
	first, last := positions[0], positions[len(positions)-1]
	edges := make([]edge, 0, len(positions)-1)
	b := emptyBox()
	at := first.Longitude
	for i, p := range positions {
		if !(math.Abs(p.Latitude) <= 90 && math.Abs(p.Longitude) <= maxTurn) {
			return nil, box{}, fmt.Errorf("%w: [%v, %v]", ErrPosition, p.Longitude, p.Latitude)
		}
		if i == 0 {
			b.add(at, p.Latitude)
			continue
		}
		before := positions[i-1]
		way, err := d.way(before, p)
		if err != nil {
			return nil, box{}, err
		}
		e := edge{x1: at, y1: before.Latitude, x2: p.Longitude, y2: p.Latitude}
		if d.crosses { // the way was added up, and may lead into another turn
			e.x2 = at + way
		}
		at = e.x2
		b.add(at, p.Latitude)
		if e.x1 != e.x2 || e.y1 != e.y2 {
			edges = append(edges, e)
		}
	}
	switch {
	case first.Latitude != last.Latitude || wrapped(first.Longitude-last.Longitude) != 0:
		return nil, box{}, fmt.Errorf("%w: it goes from [%v, %v] to [%v, %v]", ErrRing, first.Longitude, first.Latitude, last.Longitude, last.Latitude)
	case math.Abs(at-first.Longitude) > 1e-9, b.maxX-b.minX > maxTurn:
		return nil, box{}, ErrTurn
	case b.minX == b.maxX, b.minY == b.maxY:
		return nil, box{}, ErrFlat
	}
	edges[len(edges)-1].x2 = first.Longitude // free of rounding
	return edges, b, nil
}

// way returns how far east an edge goes.
func (d *drawing) way(from, to Position) (float64, error) {
	way := to.Longitude - from.Longitude
	switch {
	case math.Abs(way) <= 180, math.Abs(way) == 360 && !d.crosses:
		return way, nil
	case d.crosses:
		return wrapped(way), nil
	default:
		return 0, fmt.Errorf("%w: from [%v, %v] to [%v, %v]", ErrLongEdge, from.Longitude, from.Latitude, to.Longitude, to.Latitude)
	}
}
