// Package location gives the agent's own position for the location claim of a
// receipt: EAT (RFC 9711, label 264), WGS 84.
//
// Sources: what the operator wrote down ([Static]), a receiver behind gpsd
// ([GPSD], the JSON protocol of gpsd, protocol version 3), and a file that
// somebody else keeps, a modem's or a sensor's daemon ([File]). The latter two
// run in a goroutine of their own and answer from memory. A position that is not
// known is not claimed, and one that has grown too old is not known any more.
// [Coarse] takes precision away before a claim leaves the machine.
//
// Whether a position is believed is for the verifier's policy to say. What this
// package leaves out: other protocols of receivers, and any proof that the
// receiver is not lied to.
package location

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/receipt"
)

// SourceStatic is the claim "src" of a configured position.
const SourceStatic = "static"

// ValidSource reports whether some source here claims src, so that a policy can
// wait for it.
func ValidSource(src string) bool {
	sensor, named := strings.CutPrefix(src, SourceFile+":")
	return src == SourceStatic || src == SourceGPSD || src == SourceFile || named && validSensor(sensor)
}

// Source knows where the machine is.
type Source interface {
	// Location returns the position to claim at now, or nil when none is
	// known, in which case the statement goes without one. It is called once
	// per signature, must not block, and may be called from any goroutine. The
	// caller owns what it gets.
	Location(now time.Time) *receipt.Location
}

// Live is a Source that has to run to know anything.
type Live interface {
	Source
	// Run keeps the position current until ctx is done. It is called once.
	Run(ctx context.Context)
	// Status says what is known at now, for people.
	Status(now time.Time) Status
}

// Status is how a source stands.
type Status struct {
	// Problem is why nothing newer is known, "" when all is well.
	Problem string
	// Receiver is what is known of who says so: a device, a sensor. "" for none.
	Receiver string
	// Quality is the kind of the last fix: "2D", "3D"; "" when not known.
	Quality string
	// Satellites used and seen, -1 when not known.
	Used, Seen int
}

// Errors of positions that cannot be.
var (
	ErrLatitude  = errors.New("latitude must lie in -90 to 90 degrees")
	ErrLongitude = errors.New("longitude must lie in -180 to 180 degrees")
	ErrAltitude  = errors.New("altitude must lie in -12000 to 1000000 metres above the WGS 84 ellipsoid")
	ErrAccuracy  = errors.New("accuracy must lie in 0 to 20100000 metres")
)

// Bounds in metres: from below the deepest trench to the satellites, and half
// the circumference of the Earth.
const (
	minAltitude = -12_000
	maxAltitude = 1_000_000
	maxAccuracy = 20_100_000
)

// Static is a position that an operator wrote down. It carries neither
// timestamp nor age: no fix was ever taken.
type Static struct {
	latitude, longitude float64
	altitude, accuracy  *float64
}

// NewStatic returns the source of a fixed position: degrees, and metres or nil
// for unknown.
func NewStatic(latitude, longitude float64, altitude, accuracy *float64) (*Static, error) {
	if err := check(latitude, longitude, altitude, accuracy); err != nil {
		return nil, err
	}
	return &Static{latitude: latitude, longitude: longitude, altitude: clone(altitude), accuracy: clone(accuracy)}, nil
}

// check refuses what is nowhere.
func check(latitude, longitude float64, altitude, accuracy *float64) error {
	if !within(latitude, -90, 90) {
		return fmt.Errorf("%w, not %v", ErrLatitude, latitude)
	}
	if !within(longitude, -180, 180) {
		return fmt.Errorf("%w, not %v", ErrLongitude, longitude)
	}
	if altitude != nil && !within(*altitude, minAltitude, maxAltitude) {
		return fmt.Errorf("%w, not %v", ErrAltitude, *altitude)
	}
	if accuracy != nil && !within(*accuracy, 0, maxAccuracy) {
		return fmt.Errorf("%w, not %v", ErrAccuracy, *accuracy)
	}
	return nil
}

// Location implements [Source].
func (s *Static) Location(time.Time) *receipt.Location {
	return &receipt.Location{
		Latitude:  s.latitude,
		Longitude: s.longitude,
		Altitude:  clone(s.altitude),
		Accuracy:  clone(s.accuracy),
		Source:    SourceStatic,
	}
}

// within is false for NaN.
func within(v, low, high float64) bool { return v >= low && v <= high && !math.IsInf(v, 0) }

func clone(v *float64) *float64 {
	if v == nil {
		return nil
	}
	return new(*v)
}
