package location

import (
	"errors"
	"fmt"
	"time"
)

// Defaults and bounds of what is configured.
const (
	DefaultEndpoint = "localhost:2947"
	DefaultMaxAge   = time.Minute
	DefaultPoll     = 5 * time.Second

	maxMaxAge = 24 * time.Hour
	minPoll   = 100 * time.Millisecond
	maxPoll   = time.Hour
)

// Options name at most one source.
type Options struct {
	Static    *StaticOptions
	GPSD      *GPSDOptions
	File      *FileOptions
	Precision Precision
	// Report, when it is there, is called when a source that runs has a new
	// problem, or with "" when it has none any more.
	Report func(problem string)
}

// StaticOptions are a position in degrees and metres; nil is unknown.
type StaticOptions struct {
	Latitude, Longitude, Altitude, Accuracy *float64
}

// Errors of [New]. But for ErrSources, what it returns begins with the key that is
// wrong, behind that of its section: "file::path must be …".
var (
	ErrSources   = errors.New("more than one source: take one of static, gpsd and file")
	ErrPrecision = errors.New("precision must be exact, coarse or none")
	ErrMissing   = errors.New("static needs both latitude and longitude")
	ErrMaxAge    = fmt.Errorf("max_age must be above 0 and at most %v", maxMaxAge)
	ErrPoll      = fmt.Errorf("poll_interval must be %v to %v", minPoll, maxPoll)
	ErrPath      = errors.New("path must be the absolute path of the position file")
	ErrEndpoint  = errors.New("endpoint must be host:port, as localhost:2947")
)

// New returns the source, which is nil when there is none or its precision is
// none, and what has to run for it, which is nil when nothing has to.
func New(o Options) (Source, Live, error) {
	precision, err := ParsePrecision(string(o.Precision))
	if err != nil {
		return nil, nil, err
	}
	source, live, err := o.source()
	switch {
	case err != nil:
		return nil, nil, err
	case source == nil, precision == PrecisionNone:
		return nil, nil, nil
	case precision == PrecisionCoarse:
		return Coarse{source}, live, nil
	default:
		return source, live, nil
	}
}

func (o *Options) source() (Source, Live, error) {
	sources := 0
	for _, there := range []bool{o.Static != nil, o.GPSD != nil, o.File != nil} {
		if there {
			sources++
		}
	}
	switch {
	case sources > 1:
		return nil, nil, ErrSources
	case o.Static != nil:
		if o.Static.Latitude == nil || o.Static.Longitude == nil {
			return nil, nil, ErrMissing
		}
		s, err := NewStatic(*o.Static.Latitude, *o.Static.Longitude, o.Static.Altitude, o.Static.Accuracy)
		return s, nil, named("static", err)
	case o.GPSD != nil:
		s, err := NewGPSD(*o.GPSD)
		if err != nil {
			return nil, nil, named("gpsd", err)
		}
		s.report = o.Report
		return s, s, nil
	case o.File != nil:
		s, err := NewFile(*o.File)
		if err != nil {
			return nil, nil, named("file", err)
		}
		s.report = o.Report
		return s, s, nil
	default:
		return nil, nil, nil
	}
}

func named(section string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s::%w", section, err)
}
