// Package config is what registryd is started with: flags, each with an
// environment variable that stands in its help, and their bounds. A flag comes
// before its variable. There is no configuration file; lists that people keep
// (who may do what, roots, policies) are files of their own.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/daemon"
	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/limit"
)

// Config of registryd. Durations and rates have bounds, see Validate.
type Config struct {
	Listen         string
	InsecureListen bool
	TLSCert        string
	TLSKey         string
	ClientCA       string
	TrustedProxies []string

	DB         string // file, or postgres:// URL
	DBFile     string // holds what DB would
	KeyFile    string
	ReplaceKey bool

	AuthFile    string
	RequireAuth bool

	EKRoots   string // directory; "" trusts no EK certificate
	Queue     string // genuine, all or none
	Lease     time.Duration
	PCRPolicy string

	TDXPolicy          string
	PCCSURL            string
	CollateralDir      string
	CollateralCache    string
	TDXRoots           string // instead of Intel's
	AllowEncryptedPPID bool
	RequireV1          bool
	SkipTDXAuth        bool
	Dev                bool

	RateAddress      string
	RateKey          string
	RateTable        int // buckets in each table
	MaxVerifications int
	MaxStreams       int
	MaxConnections   int

	LogLevel string

	proxies    []netip.Prefix
	perAddress limit.Rate
	perKey     limit.Rate
}

// The values of Queue.
var queues = map[string]bool{"genuine": true, "all": true, "none": true}

// Bounds.
const (
	minLease         = time.Minute
	maxLease         = 90 * 24 * time.Hour
	maxRateTable     = 10_000_000
	maxVerifications = 1024
	maxStreams       = 100_000
	maxConnections   = 1_000_000
)

// Validate checks the values, without opening what they name, and prepares the
// ones that have a form.
func (c *Config) Validate() error {
	return errors.Join(c.checkListen(), c.checkStore(), c.checkTDX(), c.checkLimits())
}

func (c *Config) checkListen() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %.128q: want HOST:PORT or :PORT", c.Listen)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("--tls-cert and --tls-key: one without the other; give both, or neither")
	}
	if c.ClientCA != "" && !c.TLS() {
		return errors.New("--client-ca: there are no client certificates without TLS; give --tls-cert and --tls-key")
	}
	if !c.TLS() && !c.InsecureListen && host != "" && !httpd.Loopback(host) {
		return fmt.Errorf("--listen %s: without TLS only loopback addresses are listened on; give --tls-cert and --tls-key, "+
			"listen on 127.0.0.1, or say --insecure-listen when something in front of it does TLS", c.Listen)
	}
	c.proxies = nil
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return fmt.Errorf("--trusted-proxies %.64q: want addresses or CIDRs such as 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Bits() == 0 {
			return fmt.Errorf("--trusted-proxies %s: everybody would be a proxy, and every X-Forwarded-For be believed", s)
		}
		c.proxies = append(c.proxies, p.Masked())
	}
	return nil
}

func (c *Config) checkStore() error {
	switch {
	case c.DB == "" && c.DBFile == "":
		return errors.New("--db is empty: want a file name, or a postgres:// URL")
	case c.KeyFile == "":
		return errors.New("--key-file is empty: want the file of the registry's signing key")
	}
	if !queues[c.Queue] {
		return fmt.Errorf("--queue %.32q: want genuine, all or none", c.Queue)
	}
	if c.Lease < minLease || c.Lease > maxLease {
		return fmt.Errorf("--lease %s: want %s to %s", c.Lease, minLease, maxLease)
	}
	return nil
}

func (c *Config) checkTDX() error {
	if c.SkipTDXAuth && !c.Dev {
		return errors.New("SKIP_TDX_AUTH: anybody could register an instance with an invented quote; this is for tests only, and needs --dev")
	}
	if c.TDXRoots != "" && !c.Dev {
		return errors.New("--tdx-roots: quotes that Intel does not vouch for would be taken; this is for tests only, and needs --dev")
	}
	if c.PCCSURL != "" && c.CollateralDir != "" {
		return errors.New("--pccs-url and --collateral-dir: collateral comes from one of them; give one")
	}
	if c.PCCSURL != "" {
		u, err := url.Parse(c.PCCSURL)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("--pccs-url %.128q: want an https:// URL", c.PCCSURL)
		}
	}
	return nil
}

func (c *Config) checkLimits() error {
	var err error
	if c.perAddress, err = limit.ParseRate(c.RateAddress); err != nil {
		return fmt.Errorf("--rate-address: %w", err)
	}
	if c.perKey, err = limit.ParseRate(c.RateKey); err != nil {
		return fmt.Errorf("--rate-key: %w", err)
	}
	for _, b := range []struct {
		name          string
		value, atMost int
	}{
		{"--rate-table", c.RateTable, maxRateTable},
		{"--max-verifications", c.MaxVerifications, maxVerifications},
		{"--max-streams", c.MaxStreams, maxStreams},
		{"--max-connections", c.MaxConnections, maxConnections},
	} {
		if b.value < 1 || b.value > b.atMost {
			return fmt.Errorf("%s %d: want 1 to %d", b.name, b.value, b.atMost)
		}
	}
	return nil
}

// TLS reports whether the listener speaks TLS.
func (c *Config) TLS() bool { return c.TLSCert != "" }

// Address is what is listened on. Without TLS ":PORT" is loopback only, unless
// InsecureListen says otherwise.
func (c *Config) Address() string {
	if !c.TLS() && !c.InsecureListen && strings.HasPrefix(c.Listen, ":") {
		return "127.0.0.1" + c.Listen
	}
	return c.Listen
}

// Proxies are the parsed TrustedProxies.
func (c *Config) Proxies() []netip.Prefix { return c.proxies }

// Proxy reports whether an address is a trusted proxy's.
func (c *Config) Proxy(a netip.Addr) bool {
	return slices.ContainsFunc(c.proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// PerAddress and PerKey are the parsed rates.
func (c *Config) PerAddress() limit.Rate { return c.perAddress }

// PerKey is the parsed RateKey.
func (c *Config) PerKey() limit.Rate { return c.perKey }

// DSN returns what the store is opened with, from --db or --db-file.
func (c *Config) DSN() (string, error) {
	if c.DBFile == "" {
		return c.DB, nil
	}
	return daemon.Secret("db-file", c.DBFile)
}
