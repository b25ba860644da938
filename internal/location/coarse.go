package location

import (
	"fmt"
	"math"
	"time"

	"github.com/telemark-otel/telemark/internal/receipt"
)

// Precision says how much of a position leaves the machine.
type Precision string

// The precisions.
const (
	PrecisionExact  Precision = "exact"
	PrecisionCoarse Precision = "coarse" // see Coarse
	PrecisionNone   Precision = "none"   // no claim
)

// ParsePrecision reads a precision; "" is exact.
func ParsePrecision(s string) (Precision, error) {
	switch p := Precision(s); p {
	case "":
		return PrecisionExact, nil
	case PrecisionExact, PrecisionCoarse, PrecisionNone:
		return p, nil
	default:
		return "", fmt.Errorf("%w, not %.64q", ErrPrecision, s)
	}
}

// The grid of coarse positions: points every tenth of a degree, 11 km from
// south to north and less from west to east.
const (
	gridPerDegree = 10
	gridRadius    = 1000 // metres: accuracies are multiples of it
	// equator is a bound above the metres of a degree anywhere on the
	// ellipsoid.
	equator = 6_399_593.7 * math.Pi / 180
)

// Coarse hides where in a cell of the grid a machine is. Its position is the
// nearest point of the grid; its accuracy is enlarged by what a cell of that
// latitude measures from its middle to its corner, and rounded up, so that the
// true position stays inside the circle and the size of the circle says nothing
// of where. The altitude is left out. An accuracy that is not known stays so.
type Coarse struct{ Source }

// Location implements [Source].
func (c Coarse) Location(now time.Time) *receipt.Location {
	l := c.Source.Location(now)
	if l == nil {
		return nil
	}
	l.Altitude = nil
	l.Latitude, l.Longitude = onGrid(l.Latitude), onGrid(l.Longitude)
	if l.Accuracy != nil {
		const half = 0.5 / gridPerDegree
		widest := math.Cos(math.Max(0, math.Abs(l.Latitude)-half) * math.Pi / 180)
		corner := equator * math.Hypot(half, half*widest)
		*l.Accuracy = math.Ceil((*l.Accuracy+corner)/gridRadius) * gridRadius
	}
	return l
}

func onGrid(degrees float64) float64 {
	return math.Round(degrees*gridPerDegree)/gridPerDegree + 0 // no negative zero
}
