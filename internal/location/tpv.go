package location

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/go-json-experiment/json"
)

// report is what is read of a line of gpsd, of whatever class.
type report struct {
	Class string `json:"class"`

	// VERSION
	ProtoMajor int `json:"proto_major"`

	// TPV
	Device string   `json:"device"`
	Mode   int      `json:"mode"`
	Time   string   `json:"time"`
	Lat    *float64 `json:"lat"`
	Lon    *float64 `json:"lon"`
	AltHAE *float64 `json:"altHAE"` // metres above the ellipsoid
	EPH    *float64 `json:"eph"`    // metres, horizontal
	EPX    *float64 `json:"epx"`    // metres, east and west
	EPY    *float64 `json:"epy"`    // metres, north and south

	// SKY
	Used       *int        `json:"uSat"`
	Seen       *int        `json:"nSat"`
	Satellites []satellite `json:"satellites"`

	// ERROR
	Message string `json:"message"`
}

type satellite struct {
	Used bool `json:"used"`
}

func parseReport(line []byte) (*report, error) {
	var r report
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("a line of gpsd cannot be read: %.200s", err.Error())
	}
	return &r, nil
}

// Modes of a TPV.
const (
	mode2D = 2
	mode3D = 3
)

// Errors of a TPV.
var (
	errNoFix = errors.New("the receiver has no fix")
	// gpsd gives parts of a fix while the receiver goes on speaking.
	errNoTime = errors.New("the receiver does not say when it took the fix")
)

// fix returns the fix of a TPV that arrived at now.
func (r *report) fix(now time.Time) (*fix, error) {
	if r.Mode != mode2D && r.Mode != mode3D {
		return nil, errNoFix
	}
	if r.Lat == nil || r.Lon == nil {
		return nil, errNoFix
	}
	if r.Time == "" {
		return nil, errNoTime
	}
	taken, err := time.Parse(time.RFC3339Nano, r.Time)
	if err != nil || !validTime(taken) {
		return nil, fmt.Errorf("the time of the fix is no time: %.64q", r.Time)
	}
	f := &fix{
		latitude: *r.Lat, longitude: *r.Lon, accuracy: r.radius(),
		taken: taken, arrived: now, source: SourceGPSD,
	}
	if r.Mode == mode3D && r.AltHAE != nil && within(*r.AltHAE, minAltitude, maxAltitude) {
		f.altitude = clone(r.AltHAE)
	}
	return f, check(f.latitude, f.longitude, nil, nil)
}

// radius is the radius in metres of a circle that holds the position with the
// confidence of gpsd's estimates: it makes them of the geometry of the
// satellites and error models of 95 %, unless the receiver gives its own.
//
//	radius = max( eph, √(epx² + epy²) ),  of what is there
//
// With epx or epy alone the other one is taken to be as large. nil without any.
func (r *report) radius() *float64 {
	radius := math.Inf(-1)
	if valid(r.EPH) {
		radius = *r.EPH
	}
	switch x, y := valid(r.EPX), valid(r.EPY); {
	case x && y:
		radius = max(radius, math.Hypot(*r.EPX, *r.EPY))
	case x:
		radius = max(radius, *r.EPX*math.Sqrt2)
	case y:
		radius = max(radius, *r.EPY*math.Sqrt2)
	}
	if !within(radius, 0, maxAccuracy) {
		return nil
	}
	return &radius
}

// valid reports whether an estimate is one: gpsd says 0 of none too.
func valid(v *float64) bool { return v != nil && *v > 0 && !math.IsInf(*v, 0) }

// satellites returns how many are used and seen, -1 where a SKY does not say.
func (r *report) satellites() (used, seen int) {
	used, seen = -1, -1
	if len(r.Satellites) > 0 {
		used, seen = 0, len(r.Satellites)
		for _, s := range r.Satellites {
			if s.Used {
				used++
			}
		}
	}
	if r.Used != nil && *r.Used >= 0 {
		used = *r.Used
	}
	if r.Seen != nil && *r.Seen >= 0 {
		seen = *r.Seen
	}
	return used, seen
}
