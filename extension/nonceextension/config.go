package nonceextension

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"

	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/replay"
)

// Config is the configuration of the extension. It either issues nonces and
// keeps windows, or, with Upstream, relays nonces.
type Config struct {
	// ServerConfig is the listener for GET /nonce, POST /nonces and GET /health.
	// Endpoint localhost:8444 unless given.
	ServerConfig confighttp.ServerConfig `mapstructure:",squash"`

	// Admin is the listener for GET /metrics/status and POST /nonces/cleanup, on a relay
	// for GET /gateway/status and GET /gateway/rate-limits with keys. Endpoint
	// localhost:8445 unless given; any that is not loopback needs auth. A relay opens
	// it only when it is configured; an empty endpoint is none.
	Admin confighttp.ServerConfig `mapstructure:"admin"`

	// SecretFile holds the MAC secret: raw bytes, all of them count, 32 bytes to 4 KiB,
	// readable by its owner only. Empty: a random secret is made and kept in
	// Storage; without Storage it lives as long as the process.
	SecretFile string `mapstructure:"secret_file"`

	// Audience is what nonces are bound to, 1 to 128 bytes. Every agent must sign
	// for the same audience.
	Audience string `mapstructure:"audience"`

	// Length of a nonce in bytes, 32 to 64.
	Length int `mapstructure:"length"`

	// MaxDelay is how old the nonce of a block may be when the block arrives, and so how
	// long windows are kept. 1 s to 30 days.
	MaxDelay time.Duration `mapstructure:"max_delay"`

	// Skew is how far clocks may differ, 0 to 1 h. 0: not at all.
	Skew time.Duration `mapstructure:"skew"`

	// GapTimeout is how long a block may be missing before it is reported,
	// 100 ms to MaxDelay.
	GapTimeout time.Duration `mapstructure:"gap_timeout"`

	// ClaimLease is how long a block in delivery is kept from others, 100 ms to
	// 1 h. Longer than the slowest delivery: a block whose lease is over may be delivered twice.
	ClaimLease time.Duration `mapstructure:"claim_lease"`

	// SilentAfter is how long a stream may be quiet before it counts as silent, 1 s
	// to 24 h. 0: for ever. Agents send heartbeats every minute.
	SilentAfter time.Duration `mapstructure:"silent_after"`

	// Storage names the storage extension that keeps windows, store epoch and secret. None:
	// they live as long as the process. It must write through to disk (file_storage:
	// `fsync: true`) for what the windows promise to hold over a power cut.
	Storage *component.ID `mapstructure:"storage"`

	// WriteInterval is how long a write of the windows may wait for more requests to
	// share it, counted from the write before, 0 to 100 ms. Requests are answered
	// when it is done; their data is handed on before. 64 blocks do not wait. 0: none does.
	WriteInterval time.Duration `mapstructure:"write_interval"`

	// Upstream makes this a relay: nonces are asked for at the issuing server named by its
	// endpoint, an http or https URL. Timeout 5 s unless given.
	Upstream configoptional.Optional[confighttp.ClientConfig] `mapstructure:"upstream"`

	// Keep is for how many keys a relay keeps the latest nonce, to hand it out again while the
	// issuing server fails, 0 to 1,000,000. 0: none.
	Keep int `mapstructure:"keep"`

	// prevent unkeyed literal initialization
	_ struct{}
}

var _ confmap.Unmarshaler = (*Config)(nil)

// Unmarshal leaves the admin listener of a relay closed unless it is configured: a relay
// may stand beside an issuing server that has the default port.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if err := conf.Unmarshal(c); err != nil {
		return err
	}
	if c.Upstream.HasValue() && !conf.IsSet("admin") {
		c.Admin.NetAddr.Endpoint = ""
	}
	return nil
}

// Bounds of the configuration.
const (
	minInterval    = 100 * time.Millisecond
	minMaxDelay    = time.Second
	maxMaxDelay    = 30 * 24 * time.Hour
	maxSkew        = time.Hour
	maxClaimLease  = time.Hour
	minSilentAfter = sweepEvery
	maxSilentAfter = 24 * time.Hour
	maxKeep        = 1_000_000

	maxWriteInterval = 100 * time.Millisecond // not longer than a claim may be leased
)

// The rules of the configuration, each naming its key.
var (
	errEndpoint      = errors.New("`endpoint` must not be empty; for the default leave the key out")
	errAdminEndpoint = errors.New("`admin::endpoint` must not be empty; for the default leave the key out")
	errAdminOpen     = errors.New("`admin::endpoint` is reachable from other machines and has no `admin::auth`; configure one or listen on localhost")
	errAudience      = fmt.Errorf("`audience` must have 1 to %d bytes", nonce.MaxAudienceLen)
	errLength        = fmt.Errorf("`length` must be %d to %d bytes", nonce.MinLen, nonce.MaxLen)
	errMaxDelay      = fmt.Errorf("`max_delay` must be between %v and %v", minMaxDelay, maxMaxDelay)
	errSkew          = fmt.Errorf("`skew` must be between 0 and %v", maxSkew)
	errGapTimeout    = fmt.Errorf("`gap_timeout` must be at least %v and at most `max_delay`", minInterval)
	errClaimLease    = fmt.Errorf("`claim_lease` must be between %v and %v", minInterval, maxClaimLease)
	errSilentAfter   = fmt.Errorf("`silent_after` must be 0 (never), or between %v and %v", minSilentAfter, maxSilentAfter)
	errWriteInterval = fmt.Errorf("`write_interval` must be between 0 (no wait) and %v", maxWriteInterval)
	errUpstream      = errors.New("`upstream::endpoint` must be an http or https URL without query, such as https://collector:8444")
	errUpstreamWait  = errors.New("`upstream::timeout` must be above 0: somebody waits for each answer")
	errKeep          = fmt.Errorf("`keep` must be between 0 (none) and %d", maxKeep)
	errRelaySecret   = errors.New("`secret_file` cannot be combined with `upstream`: a relay has no secret")
	errRelayStorage  = errors.New("`storage` cannot be combined with `upstream`: a relay keeps no windows")
	errNegative      = errors.New("must not be negative")
)

// Validate checks what the collector cannot. The bounds hold in both roles: what has no
// effect in one must make sense all the same.
func (c *Config) Validate() error {
	errs := []error{c.validateBounds(), notNegative("", &c.ServerConfig), notNegative("admin::", &c.Admin)}
	if c.ServerConfig.NetAddr.Endpoint == "" {
		errs = append(errs, errEndpoint)
	}
	switch {
	case c.Admin.NetAddr.Endpoint != "":
		errs = append(errs, c.validateAdmin())
	case !c.Upstream.HasValue():
		errs = append(errs, errAdminEndpoint)
	}
	if c.Upstream.HasValue() {
		errs = append(errs, c.validateRelay())
	}
	return errors.Join(errs...)
}

func (c *Config) validateBounds() error {
	var errs []error
	if c.Audience == "" || len(c.Audience) > nonce.MaxAudienceLen {
		errs = append(errs, fmt.Errorf("%w, got %d", errAudience, len(c.Audience)))
	}
	if c.Length < nonce.MinLen || c.Length > nonce.MaxLen {
		errs = append(errs, fmt.Errorf("%w, got %d", errLength, c.Length))
	}
	between := func(v, lo, hi time.Duration, rule error) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("%w, got %v", rule, v))
		}
	}
	between(c.MaxDelay, minMaxDelay, maxMaxDelay, errMaxDelay)
	between(c.Skew, 0, maxSkew, errSkew)
	between(c.GapTimeout, minInterval, c.MaxDelay, errGapTimeout)
	between(c.ClaimLease, minInterval, maxClaimLease, errClaimLease)
	if c.SilentAfter != 0 {
		between(c.SilentAfter, minSilentAfter, maxSilentAfter, errSilentAfter)
	}
	between(c.WriteInterval, 0, maxWriteInterval, errWriteInterval)
	if c.Keep < 0 || c.Keep > maxKeep {
		errs = append(errs, fmt.Errorf("%w, got %d", errKeep, c.Keep))
	}
	return errors.Join(errs...)
}

// notNegative looks at what confighttp takes to be unset or unlimited without a word.
func notNegative(section string, s *confighttp.ServerConfig) error {
	var errs []error
	if s.MaxRequestBodySize < 0 {
		errs = append(errs, fmt.Errorf("`%smax_request_body_size` %w, got %d", section, errNegative, s.MaxRequestBodySize))
	}
	for _, t := range []struct {
		key string
		d   time.Duration
	}{
		{"read_timeout", s.ReadTimeout}, {"read_header_timeout", s.ReadHeaderTimeout}, {"write_timeout", s.WriteTimeout}, {"idle_timeout", s.IdleTimeout},
	} {
		if t.d < 0 {
			errs = append(errs, fmt.Errorf("`%s%s` %w, got %v", section, t.key, errNegative, t.d))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) validateAdmin() error {
	if !c.Admin.Auth.HasValue() && !isLocal(&c.Admin.NetAddr) {
		return fmt.Errorf("%w: %q", errAdminOpen, c.Admin.NetAddr.Endpoint)
	}
	return nil
}

func (c *Config) validateRelay() error {
	var errs []error
	if wait := c.Upstream.Get().Timeout; wait <= 0 {
		errs = append(errs, fmt.Errorf("%w, got %v", errUpstreamWait, wait))
	}
	u, err := url.Parse(c.Upstream.Get().Endpoint)
	switch {
	case err != nil: // it is not quoted, since it may hold a password
		errs = append(errs, errUpstream)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		errs = append(errs, fmt.Errorf("%w, got %q", errUpstream, u.Redacted()))
	}
	if c.SecretFile != "" {
		errs = append(errs, errRelaySecret)
	}
	if c.Storage != nil {
		errs = append(errs, errRelayStorage)
	}
	return errors.Join(errs...)
}

// isLocal says whether only this machine can reach a.
func isLocal(a *confignet.AddrConfig) bool {
	switch a.Transport {
	case confignet.TransportTypeUnix, confignet.TransportTypeNpipe:
		return true
	default:
	}
	host, _, err := net.SplitHostPort(a.Endpoint)
	return err == nil && isLoopback(host)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *Config) limits() replay.Limits {
	l := replay.DefaultLimits()
	l.MaxDelay, l.Skew = c.MaxDelay, c.Skew
	l.GapTimeout, l.ClaimLease, l.SilentAfter = c.GapTimeout, c.ClaimLease, c.SilentAfter
	return l
}
