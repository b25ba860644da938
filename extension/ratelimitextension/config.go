package ratelimitextension

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/telemark-otel/telemark/internal/limit"
	"github.com/telemark-otel/telemark/internal/nesting"
)

// Config is the configuration of the extension.
type Config struct {
	// KeyBy is what requests share a bucket by: client_address (default),
	// mtls_identity, header:NAME or query:NAME. Requests without it share by client_address.
	KeyBy string `mapstructure:"key_by"`

	// Requests limits requests per key, and messages of gRPC streams. Rate 0: not limited.
	Requests RateConfig `mapstructure:"requests"`

	// Bytes limits what requests carry per key, after decompression. Rate 0: not limited. A
	// request that was let in is read to its end: what is more than the burst delays
	// those after it.
	Bytes RateConfig `mapstructure:"bytes"`

	// MaxConcurrent is how many requests and streams may be served at the same
	// time, of all keys together. 0: not limited.
	MaxConcurrent int64 `mapstructure:"max_concurrent"`

	// MaxNesting is how deep attribute values and log bodies of OTLP requests may
	// nest, 1 to 16384 levels: a value stands at 1, what is in its array or map one deeper.
	// Looked at before anything is decoded. 0: not bounded, and one request can end the
	// process.
	MaxNesting int `mapstructure:"max_nesting"`

	// MaxKeys is how many buckets each rule keeps, 1 to 1,000,000; those used
	// longest ago are forgotten first.
	MaxKeys int `mapstructure:"max_keys"`

	// TrustedProxies are addresses and networks (CIDR) whose X-Forwarded-For is believed. None: it
	// is ignored.
	TrustedProxies []string `mapstructure:"trusted_proxies"`

	// IPv6PrefixLength is how much of an IPv6 address tells clients apart, 32 to
	// 128 bits. Whoever has one address usually has the /64 around it.
	IPv6PrefixLength int `mapstructure:"ipv6_prefix_length"`

	// Rules are limits for certain paths, used instead of Requests and Bytes; the
	// first that matches counts. Unless given, /nonce and /nonces are limited.
	Rules []Rule `mapstructure:"rules"`

	// RejectedBy is the role that refusals name, 1 to 64 printable ASCII characters.
	RejectedBy string `mapstructure:"rejected_by"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// Rule is limits for a path.
type Rule struct {
	// Path of HTTP requests, or full name of a gRPC method; one that ends with * matches
	// all paths that begin like it.
	Path string `mapstructure:"path"`

	// KeyBy as in Config; that of Config when empty.
	KeyBy string `mapstructure:"key_by"`

	// Requests and Bytes as in Config. Rate 0: not limited.
	Requests RateConfig `mapstructure:"requests"`
	Bytes    RateConfig `mapstructure:"bytes"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// RateConfig is so many requests or bytes in a time, with a burst.
type RateConfig struct {
	// Rate is how many in Per, up to 1e12. 0: not limited.
	Rate int `mapstructure:"rate"`

	// Per is that time, 1 ms to 24 h. 1 s when 0.
	Per time.Duration `mapstructure:"per"`

	// Burst is how many at once, up to 1e12. Rate when 0.
	Burst int `mapstructure:"burst"`

	// prevent unkeyed literal initialization
	_ struct{}
}

// Bounds of the configuration.
const (
	maxMaxKeys    = 1_000_000
	maxRules      = 100
	maxRate       = 1_000_000_000_000
	minPer        = time.Millisecond
	maxPer        = 24 * time.Hour
	minIPv6Prefix = 32
	maxRejectedBy = 64
)

// The rules of the configuration, said of the key that stands before them.
var (
	errKeyBy         = errors.New("must be client_address, mtls_identity, header:NAME or query:NAME")
	errRate          = fmt.Errorf("must be between 0 (not limited) and %d", maxRate)
	errPer           = fmt.Errorf("must be between %v and %v", minPer, maxPer)
	errBurst         = fmt.Errorf("must be between 0 (as `rate`) and %d", maxRate)
	errBurstAlone    = errors.New("limits nothing without `rate`")
	errMaxConcurrent = errors.New("must be 0 (not limited) or more")
	errMaxNesting    = fmt.Errorf("must be between 0 (not bounded) and %d", nesting.MaxLevels)
	errMaxKeys       = fmt.Errorf("must be between 1 and %d", maxMaxKeys)
	errTrusted       = errors.New("must be addresses or networks such as 10.0.0.0/8")
	errIPv6Prefix    = fmt.Errorf("must be between %d and 128", minIPv6Prefix)
	errRules         = fmt.Errorf("must be at most %d", maxRules)
	errPath          = errors.New("must begin with / and may end with one *")
	errPathTwice     = errors.New("has a rule already, and the first one counts")
	errRejectedBy    = fmt.Errorf("must be 1 to %d printable ASCII characters", maxRejectedBy)
)

// Validate checks what the collector cannot.
func (c *Config) Validate() error {
	var errs []error
	rule := func(key string, err error, value any) {
		errs = append(errs, fmt.Errorf("`%s` %w, got %.64q", key, err, fmt.Sprint(value)))
	}
	if _, err := parseKeyBy(c.KeyBy); err != nil {
		rule("key_by", err, c.KeyBy)
	}
	errs = append(errs, c.Requests.validate("requests"), c.Bytes.validate("bytes"))
	if c.MaxConcurrent < 0 {
		rule("max_concurrent", errMaxConcurrent, c.MaxConcurrent)
	}
	if c.MaxNesting < 0 || c.MaxNesting > nesting.MaxLevels {
		rule("max_nesting", errMaxNesting, c.MaxNesting)
	}
	if c.MaxKeys < 1 || c.MaxKeys > maxMaxKeys {
		rule("max_keys", errMaxKeys, c.MaxKeys)
	}
	if _, err := parseNetworks(c.TrustedProxies); err != nil {
		errs = append(errs, fmt.Errorf("`trusted_proxies` %w", err))
	}
	if c.IPv6PrefixLength < minIPv6Prefix || c.IPv6PrefixLength > 128 {
		rule("ipv6_prefix_length", errIPv6Prefix, c.IPv6PrefixLength)
	}
	if len(c.RejectedBy) < 1 || len(c.RejectedBy) > maxRejectedBy || strings.ContainsFunc(c.RejectedBy, func(r rune) bool { return r < ' ' || r > '~' }) {
		rule("rejected_by", errRejectedBy, c.RejectedBy)
	}
	if len(c.Rules) > maxRules {
		rule("rules", errRules, len(c.Rules))
		return errors.Join(errs...)
	}
	seen := map[string]bool{}
	for i := range c.Rules {
		where, r := fmt.Sprintf("rules::%d::", i), &c.Rules[i]
		if !strings.HasPrefix(r.Path, "/") || strings.Contains(strings.TrimSuffix(r.Path, "*"), "*") {
			rule(where+"path", errPath, r.Path)
		} else if seen[r.Path] {
			rule(where+"path", errPathTwice, r.Path)
		}
		seen[r.Path] = true
		if _, err := parseKeyBy(r.KeyBy); r.KeyBy != "" && err != nil {
			rule(where+"key_by", err, r.KeyBy)
		}
		errs = append(errs, r.Requests.validate(where+"requests"), r.Bytes.validate(where+"bytes"))
	}
	return errors.Join(errs...)
}

func (c *RateConfig) validate(key string) error {
	switch {
	case c.Rate < 0 || c.Rate > maxRate:
		return fmt.Errorf("`%s::rate` %w, got %d", key, errRate, c.Rate)
	case c.Burst < 0 || c.Burst > maxRate:
		return fmt.Errorf("`%s::burst` %w, got %d", key, errBurst, c.Burst)
	case c.Per != 0 && (c.Per < minPer || c.Per > maxPer):
		return fmt.Errorf("`%s::per` %w, got %v", key, errPer, c.Per)
	case c.Rate == 0 && c.Burst > 0:
		return fmt.Errorf("`%s::burst` %w", key, errBurstAlone)
	default:
		return nil
	}
}

func (c *RateConfig) limit() limit.Rate {
	per := c.Per
	if per == 0 {
		per = time.Second
	}
	return limit.Rate{Events: c.Rate, Per: per, Burst: c.Burst}
}

func parseNetworks(texts []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		network, err := netip.ParsePrefix(s)
		if err != nil {
			var addr netip.Addr
			if addr, err = netip.ParseAddr(s); err == nil {
				addr = addr.WithZone("")
				network = netip.PrefixFrom(addr, addr.BitLen())
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%w, got %.64q", errTrusted, s)
		}
		if addr := network.Addr(); addr.Is4In6() && network.Bits() >= 96 {
			network = netip.PrefixFrom(addr.Unmap(), network.Bits()-96)
		}
		out[i] = network.Masked()
	}
	return out, nil
}

const (
	defaultMaxKeys    = 20_000
	defaultIPv6Prefix = 64
	defaultRejectedBy = "gateway"

	// Far above the 64 levels that receipts allow: what lies between is refused block by
	// block, and not with all that travels in its request.
	defaultMaxNesting = nesting.MaxLevels

	// An agent asks for a nonce every 30 s. The limit is one for agents gone wild, by
	// key: a whole site may sit behind one address.
	defaultNonceRate = 100
	defaultNoncePer  = 60 * time.Second
)

func createDefaultConfig() component.Config {
	nonces := RateConfig{Rate: defaultNonceRate, Per: defaultNoncePer}
	return &Config{
		KeyBy:            keyByAddress,
		MaxNesting:       defaultMaxNesting,
		MaxKeys:          defaultMaxKeys,
		IPv6PrefixLength: defaultIPv6Prefix,
		RejectedBy:       defaultRejectedBy,
		Rules: []Rule{
			{Path: "/nonce", KeyBy: "query:kid", Requests: nonces},
			{Path: "/nonces", KeyBy: keyByAddress, Requests: nonces},
		},
	}
}
