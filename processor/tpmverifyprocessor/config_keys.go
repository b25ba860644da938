package tpmverifyprocessor

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
)

// KeysConfig says which keys are trusted. Exactly one of File and Registry is
// set.
type KeysConfig struct {
	// File is the path of the key file.
	File string `mapstructure:"file"`
	// RefreshInterval is how often the file is looked at; at least 100 ms.
	RefreshInterval time.Duration `mapstructure:"refresh_interval"`
	// Registry is where keys are asked for.
	Registry configoptional.Optional[RegistryConfig] `mapstructure:"registry"`
}

// RegistryConfig says how a registry is asked, and for how long its word holds.
type RegistryConfig struct {
	// ClientConfig is the connection; endpoint is the URL of the registry.
	// timeout is that of one request, 100 ms to 1 m; the stream of events has
	// none.
	confighttp.ClientConfig `mapstructure:",squash"`

	// PinFile is the path of the registry's public keys, PEM: answers that none
	// of them signed are not believed. It is read at the start.
	PinFile string `mapstructure:"pin_file"`
	// Cache is the path of the file that keeps signed answers, so that a restart
	// while the registry is out of reach goes on for max_stale; none when empty.
	Cache string `mapstructure:"cache"`
	// Refresh is how often the registry is asked while its stream of events is
	// not there; 100 ms to 1 m.
	Refresh time.Duration `mapstructure:"refresh"`
	// MaxStale is how long keys are relied on after they were last proven to be
	// current; beyond it blocks wait. 10 s to 24 h.
	MaxStale time.Duration `mapstructure:"max_stale"`
	// Skew is how far the registry's clock may differ; above 0, at most 5 m.
	Skew time.Duration `mapstructure:"skew"`
}

// Bounds of the key sources.
const (
	minRefresh         = 100 * time.Millisecond
	minRegistryRefresh = 100 * time.Millisecond
	maxRegistryRefresh = time.Minute
	minMaxStale        = 10 * time.Second
	maxMaxStale        = 24 * time.Hour
	maxRegistrySkew    = 5 * time.Minute
	minTimeout         = 100 * time.Millisecond
	maxTimeout         = time.Minute
)

// Errors of Validate about keys.
var (
	ErrKeys             = errors.New("keys::file must name the key file (`telemark key show` prints what to put in), or keys::registry say where keys are asked for")
	ErrKeysTwice        = errors.New("keys::file and keys::registry do not go together: take one of them out")
	ErrRefresh          = errors.New("keys::refresh_interval must be 100ms or more")
	ErrRegistryEndpoint = errors.New("keys::registry::endpoint must be a URL like https://registry:3000")
	ErrRegistryPin      = errors.New("keys::registry::pin_file must name the file of the registry's public key (`registryd key show` prints it): without it anybody on the way could enrol machines")
	ErrRegistryRefresh  = errors.New("keys::registry::refresh must be 100ms to 1m")
	ErrRegistryMaxStale = errors.New("keys::registry::max_stale must be 10s to 24h")
	ErrRegistrySkew     = errors.New("keys::registry::skew must be above 0 and at most 5m")
	ErrRegistryTimeout  = errors.New("keys::registry::timeout must be 100ms to 1m")
)

func defaultKeys() KeysConfig {
	client := confighttp.NewDefaultClientConfig()
	client.Timeout = 5 * time.Second
	return KeysConfig{
		RefreshInterval: 10 * time.Second,
		Registry: configoptional.Default(RegistryConfig{
			ClientConfig: client,
			Refresh:      time.Second,
			MaxStale:     15 * time.Minute,
			Skew:         30 * time.Second,
		}),
	}
}

// validate is called where blocks are judged.
func (k *KeysConfig) validate() error {
	var errs []error
	if k.RefreshInterval < minRefresh {
		errs = append(errs, fmt.Errorf("%w, not %v", ErrRefresh, k.RefreshInterval))
	}
	switch {
	case k.File != "" && k.Registry.HasValue():
		errs = append(errs, ErrKeysTwice)
	case k.Registry.HasValue():
		errs = append(errs, k.Registry.Get().rules())
	case k.File == "":
		errs = append(errs, ErrKeys)
	}
	return errors.Join(errs...)
}

// rules is not called Validate, which the embedded connection has and the
// Collector calls by itself.
func (c *RegistryConfig) rules() error {
	var errs []error
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		errs = append(errs, ErrRegistryEndpoint) // it is not quoted, since it may hold a password
	}
	if c.PinFile == "" {
		errs = append(errs, ErrRegistryPin)
	}
	within := func(d, least, most time.Duration, broken error) {
		if d < least || d > most {
			errs = append(errs, fmt.Errorf("%w, not %v", broken, d))
		}
	}
	within(c.Refresh, minRegistryRefresh, maxRegistryRefresh, ErrRegistryRefresh)
	within(c.MaxStale, minMaxStale, maxMaxStale, ErrRegistryMaxStale)
	within(c.Skew, 1, maxRegistrySkew, ErrRegistrySkew)
	within(c.Timeout, minTimeout, maxTimeout, ErrRegistryTimeout)
	return errors.Join(errs...)
}
