package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/reason"
)

// clockSlack is how far a fix may lie after the signature that carries it: a
// receiver's clock and the machine's differ a little.
const clockSlack = time.Minute

// Mode is how a position with an accuracy is held against an area.
type Mode int

// The modes.
const (
	// Centre asks that the position itself lies inside; points on the
	// boundary do.
	Centre Mode = iota
	// Strict asks that the whole circle of the accuracy does. A position
	// without accuracy is then too inaccurate.
	Strict
)

// String returns the configured form.
func (m Mode) String() string {
	switch m {
	case Centre:
		return "centre"
	case Strict:
		return "strict"
	default:
		return fmt.Sprintf("mode(%d)", int(m))
	}
}

// ParseMode reads a mode; "" is centre.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "", "centre":
		return Centre, nil
	case "strict":
		return Strict, nil
	default:
		return 0, fmt.Errorf("mode %.64q is not known, take strict or centre", s)
	}
}

// Location is what is demanded of the location claim.
type Location struct {
	// Required refuses blocks without a location. Without it, only what is
	// claimed is judged.
	Required bool
	// Sources are the accepted values of "src"; none accepts all.
	Sources []string
	// MaxAge is how old a fix may have been when it was signed; 0 asks
	// nothing. A claim that says neither age nor time is then too old.
	MaxAge time.Duration
	// MaxAccuracy in metres is the coarsest accuracy; 0 asks nothing. A claim
	// without accuracy is then too coarse.
	MaxAccuracy float64
	// Within and Regions are the allowed areas: one of them has to hold the
	// position. Without any it is everywhere.
	Within  *Area
	Regions []*Region
	Mode    Mode
	// MaxSpeed in metres per second bounds the way from one position of the key
	// to the next; 0 asks nothing. It is not judged here, but where what was
	// accepted before is known (package replay).
	MaxSpeed float64
}

// Errors of [Location.Validate].
var (
	ErrMaxAge      = errors.New("max_age must not be negative")
	ErrMaxAccuracy = errors.New("max_accuracy must be a number of metres, not negative")
	ErrMaxSpeed    = errors.New("max_speed must be a number of kilometres per hour, 0 to 1000000")
	ErrMode        = errors.New("mode: strict needs an area: set within or regions")
	ErrNothing     = errors.New("a location policy that asks for nothing has no effect: set required, sources, max_age, max_accuracy, within, regions or max_speed")
)

// kmh is a kilometre per hour in metres per second.
const kmh = 1 / 3.6

// SetMaxSpeed takes the configured form.
func (l *Location) SetMaxSpeed(kilometresPerHour float64) { l.MaxSpeed = kilometresPerHour * kmh }

const maxSpeed = 1e6 * kmh

// Validate checks the numbers.
func (l *Location) Validate() error {
	switch {
	case l.MaxAge < 0:
		return fmt.Errorf("%w: %v", ErrMaxAge, l.MaxAge)
	case math.IsNaN(l.MaxAccuracy), math.IsInf(l.MaxAccuracy, 0), l.MaxAccuracy < 0:
		return fmt.Errorf("%w: %v", ErrMaxAccuracy, l.MaxAccuracy)
	case !(l.MaxSpeed >= 0 && l.MaxSpeed <= maxSpeed):
		return fmt.Errorf("%w: %v", ErrMaxSpeed, l.MaxSpeed/kmh)
	case slices.Contains(l.Sources, ""):
		return errors.New("sources must not hold an empty name")
	case l.Mode != Centre && !l.fenced():
		return ErrMode
	case !l.Required && len(l.Sources) == 0 && l.MaxAge == 0 && l.MaxAccuracy == 0 && !l.fenced() && l.MaxSpeed == 0:
		return ErrNothing
	}
	return nil
}

func (l *Location) fenced() bool { return l.Within != nil || len(l.Regions) > 0 }

func (l *Location) judge(got *block.Location, signed time.Time) error {
	if got == nil {
		if l.Required {
			return reason.New(reason.LocationMissing, "the statement has no location")
		}
		return nil
	}
	if len(l.Sources) > 0 && !slices.Contains(l.Sources, got.Source) {
		return reason.New(reason.LocationSourceNotAllowed, "the source is %q", clip(got.Source))
	}
	if l.MaxAge > 0 {
		if err := l.judgeAge(got, signed); err != nil {
			return err
		}
	}
	if err := l.judgeAccuracy(got); err != nil {
		return err
	}
	if l.fenced() && !l.inside(got) {
		return l.outside(got)
	}
	return nil
}

func (l *Location) judgeAccuracy(got *block.Location) error {
	switch {
	case l.MaxAccuracy <= 0 && l.Mode == Centre:
		return nil
	case got.Accuracy == nil && l.MaxAccuracy <= 0:
		return reason.New(reason.LocationTooInaccurate, "the accuracy is unknown, mode %s needs one", l.Mode)
	case got.Accuracy == nil:
		return reason.New(reason.LocationTooInaccurate, "the accuracy is unknown, %g m is required", l.MaxAccuracy)
	case !(*got.Accuracy >= 0): // written so that a NaN is refused
		return reason.New(reason.LocationTooInaccurate, "the accuracy is %g m", *got.Accuracy)
	case l.MaxAccuracy > 0 && *got.Accuracy > l.MaxAccuracy:
		return reason.New(reason.LocationTooInaccurate, "the accuracy is %g m, %g m is required", *got.Accuracy, l.MaxAccuracy)
	default:
		return nil
	}
}

func (l *Location) inside(got *block.Location) bool {
	p := geo.Position{Latitude: got.Latitude, Longitude: got.Longitude}
	if l.Within != nil && l.Mode.holds(l.Within, p, got.Accuracy) {
		return true
	}
	for _, r := range l.Regions {
		if r.Area != nil && l.Mode.holds(r.Area, p, got.Accuracy) {
			return true
		}
	}
	return false
}

// holds is false for modes that are not known.
func (m Mode) holds(a *Area, p geo.Position, accuracy *float64) bool {
	switch m {
	case Centre:
		return a.Contains(p)
	case Strict:
		return accuracy != nil && a.ContainsCircle(p, *accuracy)
	default:
		return false
	}
}

func (l *Location) outside(got *block.Location) error {
	if l.Mode == Strict {
		centre := Location{Within: l.Within, Regions: l.Regions}
		if centre.inside(got) {
			return reason.New(reason.LocationOutside, "%.5f, %.5f is inside, and its circle of %g m reaches out", got.Latitude, got.Longitude, *got.Accuracy)
		}
	}
	return reason.New(reason.LocationOutside, "%.5f, %.5f is outside%s", got.Latitude, got.Longitude, l.named())
}

// named lists the regions for people, the first few of many.
func (l *Location) named() string {
	const most = 4
	var b strings.Builder
	for i, r := range l.Regions {
		switch {
		case i == most:
			b.WriteString(", …")
			return b.String()
		case i > 0:
			b.WriteString(", ")
		default:
			b.WriteString(" ")
		}
		b.WriteString(r.Name)
	}
	return b.String()
}

// Taken returns when the position was taken, as far as the claim says: its
// time, else its age before the signature.
func Taken(got *block.Location, signed time.Time) int64 {
	switch {
	case got.Timestamp != nil:
		return *got.Timestamp
	case got.Age != nil && *got.Age >= 0 && *got.Age <= signed.Unix():
		return signed.Unix() - *got.Age
	default:
		return signed.Unix()
	}
}

// judgeAge takes the oldest of what the claim says. The age is the agent's
// word, but its fix cannot be younger than the nonce under which it is signed
// lets it be, which is why signed is the later one of iat and T.
func (l *Location) judgeAge(got *block.Location, signed time.Time) error {
	if got.Age == nil && got.Timestamp == nil {
		return reason.New(reason.LocationStale, "the claim says neither age nor time, %v is required", l.MaxAge)
	}
	most := int64(l.MaxAge / time.Second)
	if a := got.Age; a != nil && (*a < 0 || *a > most) {
		return reason.New(reason.LocationStale, "the fix was %d s old, %v is allowed", *a, l.MaxAge)
	}
	if at := got.Timestamp; at != nil {
		at := time.Unix(*at, 0)
		if age := signed.Sub(at); age > l.MaxAge || age < -clockSlack {
			return reason.New(reason.LocationStale, "the fix was %v old, %v is allowed", age.Round(time.Second), l.MaxAge)
		}
	}
	return nil
}
