package tpmverifyprocessor

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/location"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/regions"
)

// LocationConfig is the default location policy. What it asks is asked of every
// block whose key has no location policy of its own.
type LocationConfig struct {
	// Required refuses blocks without a location; true when absent.
	Required *bool `mapstructure:"required"`
	// Sources are the accepted sources, all when empty: static, gpsd, file and
	// file:SENSOR.
	Sources []string `mapstructure:"sources"`
	// MaxAge is how old a fix may have been when signed; 0 asks nothing.
	MaxAge time.Duration `mapstructure:"max_age"`
	// MaxAccuracy is in metres; 0 asks nothing.
	MaxAccuracy float64 `mapstructure:"max_accuracy"`
	// Within is GeoJSON: a Polygon, MultiPolygon, Feature or FeatureCollection.
	Within map[string]any `mapstructure:"within"`
	// Regions are references to named areas, NAME or NAME@SHA256: the position has to
	// be in one of them, or in Within.
	Regions []string `mapstructure:"regions"`
	// Mode is how positions are held against the areas: centre, or strict for
	// the whole circle of their accuracy. Centre when empty.
	Mode string `mapstructure:"mode"`
	// MaxSpeed in kilometres per hour bounds the way between two positions of a
	// key; 0 asks nothing. Mode check keeps no positions and does not judge it.
	MaxSpeed float64 `mapstructure:"max_speed"`
}

// Errors of Validate about the location. What its numbers break is an error of
// package policy behind "location::".
var (
	ErrLocationSources = errors.New("location::sources must be static, gpsd, file or file:SENSOR")
	ErrLocationMode    = errors.New("location::mode must be centre or strict")
	ErrLocationWithin  = errors.New("location::within must be an area in GeoJSON")
	ErrLocationRegions = errors.New("location::regions must name areas, NAME or NAME@SHA256")
)

func (l *LocationConfig) policy(named *policy.Regions) (*policy.Location, error) {
	p := &policy.Location{
		Required:    l.Required == nil || *l.Required,
		Sources:     l.Sources,
		MaxAge:      l.MaxAge,
		MaxAccuracy: l.MaxAccuracy,
	}
	p.SetMaxSpeed(l.MaxSpeed)
	for _, source := range l.Sources {
		if !location.ValidSource(source) {
			return nil, fmt.Errorf("%w, not %.64q", ErrLocationSources, source)
		}
	}
	var err error
	if p.Mode, err = policy.ParseMode(l.Mode); err != nil {
		return nil, fmt.Errorf("%w, not %.64q", ErrLocationMode, l.Mode)
	}
	if p.Within, err = l.within(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocationWithin, err)
	}
	if p.Regions, err = named.FindAll(l.Regions); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocationRegions, err)
	}
	switch err := p.Validate(); {
	case errors.Is(err, policy.ErrNothing):
		return nil, fmt.Errorf("location: %w", err)
	case err != nil:
		return nil, fmt.Errorf("location::%w", err) // it begins with the key
	default:
		return p, nil
	}
}

// within is nil when no area is drawn.
func (l *LocationConfig) within() (*policy.Area, error) {
	if l.Within == nil {
		return nil, nil //nolint:nilnil // everywhere
	}
	text, err := json.Marshal(l.Within)
	if err != nil {
		return nil, err
	}
	return policy.ParseArea(text)
}

// regions reads the files of the named areas.
func (c *Config) regions() (*policy.Regions, error) {
	r, err := regions.Load(c.RegionsDir, c.Regions)
	if err != nil {
		return nil, fmt.Errorf("tpmverify: regions: %w", err)
	}
	return r, nil
}
