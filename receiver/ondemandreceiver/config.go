package ondemandreceiver

import (
	"errors"
	"fmt"
	"net"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"

	"github.com/telemark-otel/telemark/internal/httpd"
)

// Config is the configuration of the receiver.
type Config struct {
	// ServerConfig is the listener. Endpoint localhost:8442 unless given; any that
	// is not loopback needs `auth`, or `tls::client_ca_file`. Without them requests
	// must name localhost or a loopback address as their host. Requests for metrics
	// have Timeout and 10 s to be answered, whatever `write_timeout` says.
	confighttp.ServerConfig `mapstructure:",squash"`

	// Timeout is how long the pipeline may take to accept what was made, 100 ms to
	// 5 min. Then the request is answered 503, and whether the metrics arrived is
	// not known.
	Timeout time.Duration `mapstructure:"timeout"`

	// MaxConcurrent requests for metrics run at a time, 1 to 1024; others are
	// answered 503 once their body is read.
	MaxConcurrent int `mapstructure:"max_concurrent"`

	// ResourceAttributes stand on every resource. host.name is this machine's
	// unless it is given; empty values are left out.
	ResourceAttributes map[string]string `mapstructure:"resource_attributes"`

	// Application bounds what an application may send.
	Application ApplicationConfig `mapstructure:"application"`

	// Signer names the extension whose state GET /metrics/status shows. None: the
	// only one that has a state, if there is one.
	Signer *component.ID `mapstructure:"signer"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// ApplicationConfig bounds custom_data.
type ApplicationConfig struct {
	// MaxDepth of nested objects, 1 to 32. The outermost is depth 1.
	MaxDepth int `mapstructure:"max_depth"`
	// MaxValues is the most numbers and strings together, 1 to 100,000.
	MaxValues int `mapstructure:"max_values"`
	// MaxKey and MaxString are the longest flattened name and the longest string,
	// in bytes, 1 to 64 KiB.
	MaxKey    int `mapstructure:"max_key"`
	MaxString int `mapstructure:"max_string"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// Bounds of the configuration.
const (
	minTimeout    = 100 * time.Millisecond
	maxTimeout    = 5 * time.Minute
	maxConcurrent = 1024
	maxDepth      = 32
	maxValues     = 100_000
	maxText       = 64 << 10
)

// The rules of the configuration, each naming its key.
var (
	errEndpoint      = errors.New("`endpoint` must not be empty; for the default leave the key out")
	errOpen          = errors.New("`endpoint` is reachable from other machines, who could have this one sign whatever they send; configure `auth` or `tls::client_ca_file`, or listen on localhost")
	errTimeout       = fmt.Errorf("`timeout` must be between %v and %v", minTimeout, maxTimeout)
	errMaxConcurrent = fmt.Errorf("`max_concurrent` must be between 1 and %d", maxConcurrent)
	errMaxDepth      = fmt.Errorf("`application::max_depth` must be between 1 and %d", maxDepth)
	errMaxValues     = fmt.Errorf("`application::max_values` must be between 1 and %d", maxValues)
	errMaxKey        = fmt.Errorf("`application::max_key` must be between 1 and %d bytes", maxText)
	errMaxString     = fmt.Errorf("`application::max_string` must be between 1 and %d bytes", maxText)
	errAttribute     = errors.New("`resource_attributes` has an empty name")
	errNegative      = errors.New("must not be negative")
)

// Validate checks what the collector cannot.
func (c *Config) Validate() error {
	var errs []error
	switch {
	case c.NetAddr.Endpoint == "":
		errs = append(errs, errEndpoint)
	case !isLocal(&c.NetAddr) && !c.Auth.HasValue() && !c.authenticatesByTLS():
		errs = append(errs, fmt.Errorf("%w: %q", errOpen, c.NetAddr.Endpoint))
	}
	if c.Timeout < minTimeout || c.Timeout > maxTimeout {
		errs = append(errs, fmt.Errorf("%w, got %v", errTimeout, c.Timeout))
	}
	between := func(v, most int, rule error) {
		if v < 1 || v > most {
			errs = append(errs, fmt.Errorf("%w, got %d", rule, v))
		}
	}
	between(c.MaxConcurrent, maxConcurrent, errMaxConcurrent)
	between(c.Application.MaxDepth, maxDepth, errMaxDepth)
	between(c.Application.MaxValues, maxValues, errMaxValues)
	between(c.Application.MaxKey, maxText, errMaxKey)
	between(c.Application.MaxString, maxText, errMaxString)
	if _, ok := c.ResourceAttributes[""]; ok {
		errs = append(errs, errAttribute)
	}
	return errors.Join(append(errs, c.notNegative())...)
}

// notNegative looks at what confighttp takes to be unset or unlimited without a word.
func (c *Config) notNegative() error {
	var errs []error
	if c.MaxRequestBodySize < 0 {
		errs = append(errs, fmt.Errorf("`max_request_body_size` %w, got %d", errNegative, c.MaxRequestBodySize))
	}
	for _, t := range []struct {
		key string
		d   time.Duration
	}{
		{"read_timeout", c.ReadTimeout}, {"read_header_timeout", c.ReadHeaderTimeout}, {"write_timeout", c.WriteTimeout}, {"idle_timeout", c.IdleTimeout},
	} {
		if t.d < 0 {
			errs = append(errs, fmt.Errorf("`%s` %w, got %v", t.key, errNegative, t.d))
		}
	}
	return errors.Join(errs...)
}

// authenticatesByTLS says whether only holders of a certificate get in.
func (c *Config) authenticatesByTLS() bool {
	return c.TLS.HasValue() && c.TLS.Get().ClientCAFile != ""
}

// takesAnyHost says whether the host that a request names is of no matter: a
// browser has no credentials for pages of elsewhere, and cannot reach a socket.
func (c *Config) takesAnyHost() bool {
	return c.Auth.HasValue() || c.authenticatesByTLS() || isSocket(&c.NetAddr)
}

// isSocket says whether a is a socket or pipe in the file system.
func isSocket(a *confignet.AddrConfig) bool {
	return a.Transport == confignet.TransportTypeUnix || a.Transport == confignet.TransportTypeNpipe
}

// isLocal says whether only this machine can reach a.
func isLocal(a *confignet.AddrConfig) bool {
	if isSocket(a) {
		return true
	}
	host, _, err := net.SplitHostPort(a.Endpoint)
	return err == nil && httpd.Loopback(host)
}
