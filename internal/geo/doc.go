// Package geo holds areas on the Earth, read from GeoJSON (RFC 7946), and
// answers whether a position, or a circle of uncertainty around one, lies in
// them.
//
// Edges. A line between two positions is straight in longitude and latitude,
// as RFC 7946 §3.1.1 says, and not a great circle: between two points of one
// parallel it follows the parallel. Distances, on the other hand, are taken on the
// sphere, so that a circle of ten metres is one at the poles too, where a
// degree of longitude is nothing.
//
// Antimeridian. An area across it is cut there (RFC 7946 §3.1.9), or its ring
// goes on beyond ±180, or it has a bbox whose west is east of its east (RFC
// 7946 §5.2), and then each edge takes the short way. A cut is no edge: a circle that
// reaches across it is inside when both sides are, and the same goes for the
// lines by which an area around a pole is drawn down to 90°. An edge of more
// than 180° that says none of this is refused, since half of those who draw one
// mean the other way round.
//
// Rings. Their direction does not matter. A ring that crosses itself encloses
// what it goes round an odd number of times; a hole takes away whatever it goes
// round at all. Points on an outer ring are inside, points on a hole's are not.
// Polygons of one area may overlap; a circle that no single one holds
// is outside, but for the cuts above.
//
// Circles. Given in metres on the WGS 84 ellipsoid, they are held against the
// sphere enlarged by 0.6 %, so that the ellipsoidal circle lies in the one that
// is judged, whatever the latitude.
//
// What it leaves out: other geometries than areas, other reference systems,
// rings around a pole that are not drawn down to it, and I/O.
package geo
