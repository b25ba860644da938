package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
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
)

// String returns the configured form.
func (m Mode) String() string {
	switch m {
	case Centre:
		return "centre"
	default:
		return fmt.Sprintf("mode(%d)", int(m))
	}
}

// ParseMode reads a mode; "" is centre.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "", "centre":
		return Centre, nil
	default:
		return 0, fmt.Errorf("mode %q is not known, take centre", s)
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
	// Within is the allowed area, nil everywhere.
	Within *Area
	Mode   Mode
}

// Errors of [Location.Validate].
var (
	ErrMaxAge      = errors.New("max_age must not be negative")
	ErrMaxAccuracy = errors.New("max_accuracy must be a number of metres, not negative")
	ErrNothing     = errors.New("a location policy that asks for nothing has no effect: set required, sources, max_age, max_accuracy or within")
)

// Validate checks the numbers.
func (l *Location) Validate() error {
	switch {
	case l.MaxAge < 0:
		return fmt.Errorf("%w: %v", ErrMaxAge, l.MaxAge)
	case math.IsNaN(l.MaxAccuracy), math.IsInf(l.MaxAccuracy, 0), l.MaxAccuracy < 0:
		return fmt.Errorf("%w: %v", ErrMaxAccuracy, l.MaxAccuracy)
	case slices.Contains(l.Sources, ""):
		return errors.New("sources must not hold an empty name")
	case !l.Required && len(l.Sources) == 0 && l.MaxAge == 0 && l.MaxAccuracy == 0 && l.Within == nil:
		return ErrNothing
	}
	return nil
}

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
	if l.MaxAccuracy > 0 {
		if got.Accuracy == nil {
			return reason.New(reason.LocationTooInaccurate, "the accuracy is unknown, %g m is required", l.MaxAccuracy)
		}
		// Written so that a NaN is refused.
		if !(*got.Accuracy >= 0 && *got.Accuracy <= l.MaxAccuracy) {
			return reason.New(reason.LocationTooInaccurate, "the accuracy is %g m, %g m is required", *got.Accuracy, l.MaxAccuracy)
		}
	}
	if l.Within != nil && !l.Within.allows(got, l.Mode) {
		return reason.New(reason.LocationOutside, "%.5f, %.5f is outside", got.Latitude, got.Longitude)
	}
	return nil
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
