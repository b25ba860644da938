package geo

import "math"

// Radii in metres. least and most are those of curvature of the WGS 84
// ellipsoid, at the equator along the meridian and at the poles: a way of s
// metres on the ellipsoid subtends, between geodetic latitudes and longitudes
// taken on a sphere, an angle from s/most to s/least.
const (
	meanRadius  = 6_371_008.8
	leastRadius = 6_335_439.3
	mostRadius  = 6_399_593.7
)

const degree = math.Pi / 180

// Position is a point in degrees, WGS 84.
type Position struct{ Latitude, Longitude float64 }

// Valid reports whether it is a point at all.
func (p Position) Valid() bool {
	return math.Abs(p.Latitude) <= 90 && math.Abs(p.Longitude) <= 180 // false for NaN
}

// Angle between two positions, in radians.
func Angle(a, b Position) float64 {
	c := newCentre(a)
	return c.angle(b.Longitude, b.Latitude)
}

// Distance between two positions in metres, on a sphere of the mean radius: off
// by at most 0.6 % from that on the ellipsoid.
func Distance(a, b Position) float64 { return Angle(a, b) * meanRadius }

// AtLeast is a bound in metres below the distance on the ellipsoid.
func AtLeast(a, b Position) float64 { return Angle(a, b) * leastRadius }

// centre is a position that many others are held against.
type centre struct {
	x, y   float64 // degrees
	lat    float64 // radians
	cosLat float64
}

func newCentre(p Position) centre {
	lat := p.Latitude * degree
	return centre{x: p.Longitude, y: p.Latitude, lat: lat, cosLat: math.Max(0, math.Cos(lat))}
}

// angle is the haversine formula; it is exact for near points and well enough
// for antipodes.
func (c *centre) angle(x, y float64) float64 {
	lat := y * degree
	u, v := math.Sin((lat-c.lat)/2), math.Sin((x-c.x)*degree/2)
	h := u*u + c.cosLat*math.Cos(lat)*v*v
	return 2 * math.Asin(math.Sqrt(math.Min(1, math.Max(0, h))))
}

// wrapped returns an angle in degrees in -180 to 180.
func wrapped(x float64) float64 {
	x = math.Mod(x, 360)
	switch {
	case x > 180:
		return x - 360
	case x < -180:
		return x + 360
	default:
		return x
	}
}
