package tpmverifyprocessor

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/regions"
)

// LocationConfig is the default location policy. What it asks is asked of every
// block whose key has no location policy of its own.
type LocationConfig struct {
	// Required refuses blocks without a location; true when absent.
	Required *bool `mapstructure:"required"`
	// Sources are the accepted sources, all when empty.
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

func (l *LocationConfig) policy(named *policy.Regions) (*policy.Location, error) {
	p := &policy.Location{
		Required:    l.Required == nil || *l.Required,
		Sources:     l.Sources,
		MaxAge:      l.MaxAge,
		MaxAccuracy: l.MaxAccuracy,
	}
	p.SetMaxSpeed(l.MaxSpeed)
	var err error
	if p.Mode, err = policy.ParseMode(l.Mode); err != nil {
		return nil, err
	}
	if l.Within != nil {
		text, err := json.Marshal(l.Within)
		if err != nil {
			return nil, fmt.Errorf("within: %w", err)
		}
		if p.Within, err = policy.ParseArea(text); err != nil {
			return nil, fmt.Errorf("within: %w", err)
		}
	}
	if p.Regions, err = named.FindAll(l.Regions); err != nil {
		return nil, fmt.Errorf("regions: %w", err)
	}
	return p, p.Validate()
}

// regions reads the files of the named areas.
func (c *Config) regions() (*policy.Regions, error) {
	r, err := regions.Load(c.RegionsDir, c.Regions)
	if err != nil {
		return nil, fmt.Errorf("tpmverify: regions: %w", err)
	}
	return r, nil
}
