package tpmextension

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/config/configoptional"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/location"
)

// LocationConfig says where the machine's position comes from: at most one of
// the sections static, gpsd and file is set. Without any there is no claim, and
// neither is there while the source does not know.
type LocationConfig struct {
	// Static is a position written down by the operator.
	Static configoptional.Optional[StaticLocationConfig] `mapstructure:"static"`
	// GPSD is a receiver behind a gpsd.
	GPSD configoptional.Optional[GPSDLocationConfig] `mapstructure:"gpsd"`
	// File is a file that somebody else keeps, as a modem's or a sensor's daemon.
	File configoptional.Optional[FileLocationConfig] `mapstructure:"file"`

	// Precision is how much of it is claimed, since receipts travel in clear:
	// exact; coarse, a point of a grid of a tenth of a degree with an accuracy
	// that holds the true position; or none. Default exact.
	Precision string `mapstructure:"precision"`
}

// StaticLocationConfig is a WGS 84 position.
type StaticLocationConfig struct {
	// Latitude in degrees, north positive: -90 to 90. Required.
	Latitude *float64 `mapstructure:"latitude"`
	// Longitude in degrees, east positive: -180 to 180. Required.
	Longitude *float64 `mapstructure:"longitude"`
	// Altitude in metres above the ellipsoid. Unset means unknown.
	Altitude *float64 `mapstructure:"altitude"`
	// Accuracy in metres, a radius. Unset means unknown; verifiers whose policy
	// bounds it refuse what is unknown.
	Accuracy *float64 `mapstructure:"accuracy"`
}

// GPSDLocationConfig is a gpsd.
type GPSDLocationConfig struct {
	// Endpoint is host:port. Default localhost:2947.
	Endpoint string `mapstructure:"endpoint"`
	// Device is the receiver that counts, as gpsd calls it (/dev/ttyACM0). Empty
	// means all, the last word counts.
	Device string `mapstructure:"device"`
	// MaxAge is how old a fix may be that is claimed: above 0, at most 24h.
	// Default 1m.
	MaxAge time.Duration `mapstructure:"max_age"`
}

// FileLocationConfig is a file with a position in JSON.
type FileLocationConfig struct {
	// Path is absolute. Required.
	Path string `mapstructure:"path"`
	// MaxAge is as with gpsd.
	MaxAge time.Duration `mapstructure:"max_age"`
	// PollInterval is how often the file is looked at where no notification comes:
	// 100ms to 1h. Default 5s.
	PollInterval time.Duration `mapstructure:"poll_interval"`
}

func defaultLocation() LocationConfig {
	return LocationConfig{
		Static:    configoptional.Default(StaticLocationConfig{}),
		GPSD:      configoptional.Default(GPSDLocationConfig{Endpoint: location.DefaultEndpoint, MaxAge: location.DefaultMaxAge}),
		File:      configoptional.Default(FileLocationConfig{MaxAge: location.DefaultMaxAge, PollInterval: location.DefaultPoll}),
		Precision: string(location.PrecisionExact),
	}
}

func (c *LocationConfig) validate() error {
	_, _, err := c.open(nil)
	return err
}

// open returns the configured source, nil when there is none, and what has to
// run for it, if anything.
func (c *LocationConfig) open(report func(problem string)) (location.Source, location.Live, error) {
	o := location.Options{Precision: location.Precision(c.Precision), Report: report}
	if s := c.Static.Get(); s != nil {
		o.Static = &location.StaticOptions{Latitude: s.Latitude, Longitude: s.Longitude, Altitude: s.Altitude, Accuracy: s.Accuracy}
	}
	if g := c.GPSD.Get(); g != nil {
		o.GPSD = &location.GPSDOptions{Endpoint: g.Endpoint, Device: g.Device, MaxAge: g.MaxAge}
	}
	if f := c.File.Get(); f != nil {
		o.File = &location.FileOptions{Path: f.Path, MaxAge: f.MaxAge, Poll: f.PollInterval}
	}
	source, live, err := location.New(o)
	switch {
	case errors.Is(err, location.ErrSources):
		return nil, nil, fmt.Errorf("location: %w", err)
	case err != nil:
		return nil, nil, fmt.Errorf("location::%w", err) // it begins with the key
	default:
		return source, live, nil
	}
}

// reportLocation logs what the source has to say. It says each thing once.
func reportLocation(logger *zap.Logger) func(problem string) {
	return func(problem string) {
		if problem == "" {
			logger.Info("the location is known")
			return
		}
		logger.Warn("nothing newer of the location is known; there is no claim once the last fix is max_age old", zap.String("problem", problem))
	}
}
