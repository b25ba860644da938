package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/paulmach/orb"
	"github.com/paulmach/orb/planar"

	"github.com/telemark-otel/telemark/internal/block"
)

// maxPositions bounds an area, since every block with a location is held
// against it.
const maxPositions = 100_000

// Area is a GeoJSON Polygon or MultiPolygon.
type Area struct {
	polygons orb.MultiPolygon
}

// Errors of [ParseArea].
var (
	ErrAreaType     = errors.New("an area is a GeoJSON geometry of type Polygon or MultiPolygon")
	ErrAreaEmpty    = errors.New("the area has no polygon, or a polygon without outer ring")
	ErrAreaRing     = errors.New("a ring needs four positions or more, and the last must be the first again")
	ErrAreaPosition = errors.New("a position is [longitude, latitude] in degrees, -180 to 180 and -90 to 90")
	ErrAreaTooLarge = fmt.Errorf("an area has at most %d positions", maxPositions)
)

// ParseArea reads a geometry object (RFC 7946 §3.1.6, §3.1.7):
//
//	{"type": "Polygon",      "coordinates": [ring, hole, …]}
//	{"type": "MultiPolygon", "coordinates": [[ring, hole, …], …]}
//	ring = [[longitude, latitude], …], closed
//
// A third number of a position is its altitude and is not looked at. An area
// across the antimeridian has to be cut there, as RFC 7946 §3.1.9 asks.
func ParseArea(geometry []byte) (*Area, error) {
	var g struct {
		Type        string          `json:"type"`
		Coordinates json.RawMessage `json:"coordinates"`
	}
	if err := json.Unmarshal(geometry, &g); err != nil {
		return nil, fmt.Errorf("read GeoJSON geometry: %w", err)
	}
	var polygons [][][][]float64
	switch g.Type {
	case "Polygon":
		polygons = make([][][][]float64, 1)
		if err := json.Unmarshal(g.Coordinates, &polygons[0]); err != nil {
			return nil, fmt.Errorf("read coordinates of Polygon: %w", err)
		}
	case "MultiPolygon":
		if err := json.Unmarshal(g.Coordinates, &polygons); err != nil {
			return nil, fmt.Errorf("read coordinates of MultiPolygon: %w", err)
		}
	default:
		return nil, fmt.Errorf("%w, not %q", ErrAreaType, clip(g.Type))
	}
	return newArea(polygons)
}

func newArea(polygons [][][][]float64) (*Area, error) {
	if len(polygons) == 0 {
		return nil, ErrAreaEmpty
	}
	a, positions := &Area{}, 0
	for _, rings := range polygons {
		if len(rings) == 0 {
			return nil, ErrAreaEmpty
		}
		var polygon orb.Polygon
		for _, r := range rings {
			ring, err := newRing(r)
			if err != nil {
				return nil, err
			}
			if positions += len(ring); positions > maxPositions {
				return nil, ErrAreaTooLarge
			}
			polygon = append(polygon, ring)
		}
		a.polygons = append(a.polygons, polygon)
	}
	return a, nil
}

func newRing(positions [][]float64) (orb.Ring, error) {
	if len(positions) < 4 {
		return nil, fmt.Errorf("%w: it has %d", ErrAreaRing, len(positions))
	}
	ring := make(orb.Ring, 0, len(positions))
	for _, p := range positions {
		if len(p) < 2 || len(p) > 3 || math.Abs(p[0]) > 180 || math.Abs(p[1]) > 90 {
			return nil, fmt.Errorf("%w: %v", ErrAreaPosition, p)
		}
		ring = append(ring, orb.Point{p[0], p[1]})
	}
	if !ring.Closed() {
		return nil, fmt.Errorf("%w: it goes from %v to %v", ErrAreaRing, ring[0], ring[len(ring)-1])
	}
	return ring, nil
}

// Contains reports whether the point lies in the area or on its boundary.
func (a *Area) Contains(latitude, longitude float64) bool {
	if math.IsNaN(latitude) || math.IsNaN(longitude) {
		return false
	}
	return planar.MultiPolygonContains(a.polygons, orb.Point{longitude, latitude})
}

func (a *Area) allows(l *block.Location, m Mode) bool {
	switch m {
	case Centre:
		return a.Contains(l.Latitude, l.Longitude)
	default:
		return false
	}
}
