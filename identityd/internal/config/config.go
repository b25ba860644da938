// Package config is what identityd is started with: flags, each with an
// environment variable that stands in its help, and their bounds. A flag comes
// before its variable. There is no configuration file, and secrets come from
// files only.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/internal/httpd"
	"github.com/telemark-otel/telemark/internal/limit"
)

// Config of identityd. Durations, sizes and rates have bounds, see Validate.
type Config struct {
	Listen    string
	TLSListen string // "" or off: no TLS listener

	StoragePath string
	RunDir      string // in memory
	StorageKey  string // owner, vault or legacy
	PersistExec bool

	VaultAddress   string
	VaultMount     string
	VaultKey       string
	VaultTokenFile string
	VaultCA        string

	RegistryURL             string // "off": nobody is told
	RegistryKey             string // file, the registry's public key
	RegistryCA              string
	RegistryFirstGeneration bool

	PodmanSocket string // "": a service of our own
	PodmanRoot   string // "": PodmanRun/root
	PodmanConfig string
	PullTimeout  time.Duration
	Memory       int64 // bytes for the workload; 0: four fifths of the machine's
	Pids         int64 // processes and threads of the workload; 0: 4,096

	SSHListen      string
	Publish        int    // host port, of the workload
	PublishAddress string // "": every IPv4 address, with PublishTLS loopback
	PublishTLS     string // "": no proxy

	RequireV1  bool
	RequireTLS bool

	RateAddress    string
	RateToken      string
	RateQuote      string
	RateTable      int
	MaxCalls       int
	MaxConnections int

	MockTDXURL string
	NoRTMR3    bool
	BootID     string
	Dev        bool

	LogLevel string

	perAddress, perToken, perQuote limit.Rate
	publishAddress                 netip.Addr
}

// Bounds.
const (
	minPull        = 10 * time.Second
	maxPull        = 2 * time.Hour
	maxRateTable   = 1_000_000
	maxCalls       = 10_000
	maxConnections = 1_000_000
	minMemory      = 16 << 20
	minPids        = 16
	maxPids        = 1 << 22
	maxRunRoot     = 50 // bytes
)

const podmanSuffix = "-podman"

// Off is what --registry-url is given for telling nobody, and --tls-listen for no
// listener: an empty variable counts as none.
const Off = "off"

// Validate checks the values, without opening what they name, and prepares the
// ones that have a form.
func (c *Config) Validate() error {
	return errors.Join(c.checkListen(), c.checkPublish(), c.checkStorage(), c.checkRegistry(), c.checkDev(), c.checkLimits())
}

func (c *Config) checkListen() error {
	if c.TLSListen == Off {
		c.TLSListen = ""
	}
	seen := map[string]string{}
	for _, l := range []struct {
		flag, value string
		may         bool // may be empty
	}{
		{"listen", c.Listen, false},
		{"tls-listen", c.TLSListen, true},
		{"ssh-listen", c.SSHListen, false},
		{"publish-tls", c.PublishTLS, true},
	} {
		if l.value == "" && l.may {
			continue
		}
		port, err := portOf(l.value)
		if err != nil {
			return fmt.Errorf("--%s %.128q: want HOST:PORT or :PORT", l.flag, l.value)
		}
		if other, taken := seen[port]; taken && port != "0" {
			return fmt.Errorf("--%s and --%s: both want port %s; give each its own", other, l.flag, port)
		}
		seen[port] = l.flag
	}
	if c.RequireTLS && c.TLSListen == "" {
		return errors.New("--require-tls: nobody could send a token, there is no --tls-listen")
	}
	if other, taken := seen[strconv.Itoa(c.Publish)]; taken {
		return fmt.Errorf("--publish and --%s: both want port %d; give each its own", other, c.Publish)
	}
	return nil
}

func portOf(address string) (string, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "", errors.New("no port")
	}
	return port, nil
}

func (c *Config) checkPublish() error {
	if c.Publish < 1 || c.Publish > 65535 {
		return fmt.Errorf("--publish %d: want a port from 1 to 65535", c.Publish)
	}
	c.publishAddress = netip.Addr{}
	if c.PublishTLS != "" {
		c.publishAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if c.PublishAddress == "" {
		return nil
	}
	a, err := netip.ParseAddr(c.PublishAddress)
	if err != nil {
		return fmt.Errorf("--publish-address %.64q: want an address of this machine, or nothing for all", c.PublishAddress)
	}
	if c.PublishTLS != "" && !a.IsLoopback() {
		return fmt.Errorf("--publish-address %s: with --publish-tls the workload is reached through the proxy alone; give a loopback address, or none", a)
	}
	c.publishAddress = a
	return nil
}

func (c *Config) checkStorage() error {
	for _, p := range []struct{ flag, value string }{{"storage-path", c.StoragePath}, {"run-dir", c.RunDir}} {
		if !filepath.IsAbs(p.value) || filepath.Clean(p.value) != p.value || p.value == "/" {
			return fmt.Errorf("--%s %.256q: want an absolute path without .. and without a slash at its end", p.flag, p.value)
		}
	}
	if (c.RunDir == c.StoragePath || strings.HasPrefix(c.RunDir, c.StoragePath+"/")) && !c.Dev {
		return fmt.Errorf("--run-dir %s: it holds the secrets, and the host reads --storage-path; put it on a tmpfs (or say --dev, for development)", c.RunDir)
	}
	// Podman takes no longer path for what it keeps while it runs.
	if room := maxRunRoot - len(podmanSuffix+"/run"); c.PodmanSocket == "" && len(c.RunDir) > room {
		return fmt.Errorf("--run-dir %.64s…: podman's own directory lies beside it; want at most %d bytes, or give --podman-socket", c.RunDir, room)
	}
	vault := c.VaultAddress != "" || c.VaultKey != "" || c.VaultTokenFile != "" || c.VaultCA != ""
	switch storage.Kind(c.StorageKey) {
	case storage.OwnerKey, storage.LegacyKey:
		if vault {
			return fmt.Errorf("--vault-…: not used with --storage-key %s; give --storage-key vault, or leave them out", c.StorageKey)
		}
	case storage.VaultKey:
		if c.VaultAddress == "" || c.VaultKey == "" || c.VaultTokenFile == "" {
			return errors.New("--storage-key vault: needs --vault-address, --vault-key and --vault-token-file")
		}
		u, err := url.Parse(c.VaultAddress)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !c.Dev) {
			return fmt.Errorf("--vault-address %.128q: want https://HOST[:PORT]; the volume's key comes back through it", redact(c.VaultAddress))
		}
	default:
		return fmt.Errorf("--storage-key %.32q: want owner, vault or legacy", c.StorageKey)
	}
	return nil
}

func (c *Config) checkRegistry() error {
	if c.RegistryURL == Off {
		if c.RegistryKey != "" || c.RegistryCA != "" || c.RegistryFirstGeneration {
			return errors.New("--registry-url off: there is no registry that --registry-key, --registry-ca or --registry-first-generation could be about")
		}
		return nil
	}
	u, err := url.Parse(c.RegistryURL)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("--registry-url %.128q: want http(s)://HOST[:PORT], or off", redact(c.RegistryURL))
	}
	if c.RegistryKey != "" && c.RegistryFirstGeneration {
		return errors.New("--registry-first-generation: a registry whose key is pinned (--registry-key) has /v1/; leave out one of them, or anybody on the way keeps its witness out")
	}
	if c.RegistryCA != "" && u.Scheme != "https" {
		return errors.New("--registry-ca: there are no certificates without https:// in --registry-url")
	}
	return nil
}

func (c *Config) checkDev() error {
	if c.Dev {
		if c.MockTDXURL == "" {
			return nil
		}
		if u, err := url.Parse(c.MockTDXURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("MOCK_TDX_URL %.128q: want http://HOST:PORT", redact(c.MockTDXURL))
		}
		return nil
	}
	if c.MockTDXURL != "" {
		return errors.New("MOCK_TDX_URL: quotes that anybody can forge would stand for this machine; this is for development only, and needs --dev")
	}
	if c.BootID != "" {
		return errors.New("--boot-id: a restart could pass for a reboot; this is for tests only, and needs --dev")
	}
	return nil
}

func (c *Config) checkLimits() error {
	for _, r := range []struct {
		flag, value string
		into        *limit.Rate
	}{
		{"rate-address", c.RateAddress, &c.perAddress},
		{"rate-token", c.RateToken, &c.perToken},
		{"rate-quote", c.RateQuote, &c.perQuote},
	} {
		var err error
		if *r.into, err = limit.ParseRate(r.value); err != nil {
			return fmt.Errorf("--%s: %w", r.flag, err)
		}
	}
	for _, b := range []struct {
		flag          string
		value, atMost int
	}{
		{"rate-table", c.RateTable, maxRateTable},
		{"max-calls", c.MaxCalls, maxCalls},
		{"max-connections", c.MaxConnections, maxConnections},
	} {
		if b.value < 1 || b.value > b.atMost {
			return fmt.Errorf("--%s %d: want 1 to %d", b.flag, b.value, b.atMost)
		}
	}
	if c.PullTimeout < minPull || c.PullTimeout > maxPull {
		return fmt.Errorf("--pull-timeout %s: want %s to %s", c.PullTimeout, minPull, maxPull)
	}
	if c.Memory != 0 && c.Memory < minMemory {
		return fmt.Errorf("--workload-memory %d: want at least %d bytes, or 0 for four fifths of the machine's", c.Memory, minMemory)
	}
	if c.Pids != 0 && (c.Pids < minPids || c.Pids > maxPids) {
		return fmt.Errorf("--workload-pids %d: want %d to %d, or 0 for 4096", c.Pids, minPids, maxPids)
	}
	return nil
}

// redact takes the password out of a URL that is shown.
func redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}

// PerAddress is the parsed RateAddress.
func (c *Config) PerAddress() limit.Rate { return c.perAddress }

// PerToken is the parsed RateToken.
func (c *Config) PerToken() limit.Rate { return c.perToken }

// PerQuote is the parsed RateQuote.
func (c *Config) PerQuote() limit.Rate { return c.perQuote }

// HostAddress is where the workload's port is published; the zero Addr is every
// IPv4 address.
func (c *Config) HostAddress() netip.Addr { return c.publishAddress }

// Storage is the parsed StorageKey.
func (c *Config) Storage() storage.Kind { return storage.Kind(c.StorageKey) }

// PodmanRun is where our own service has its socket. It lies beside the run
// directory, since Podman lets everybody enter the directories that lead to its
// own.
func (c *Config) PodmanRun() string { return c.RunDir + podmanSuffix }

// PodmanDir is where images and containers of our own service are kept.
func (c *Config) PodmanDir() string {
	if c.PodmanRoot != "" {
		return c.PodmanRoot
	}
	return filepath.Join(c.PodmanRun(), "root")
}

// Warnings names what protects and is not there.
func (c *Config) Warnings() []string {
	var out []string
	add := func(is bool, what string) {
		if is {
			out = append(out, what)
		}
	}
	plainRegistry := false
	if u, err := url.Parse(c.RegistryURL); err == nil && u.Scheme == "http" {
		plainRegistry = !httpd.Loopback(u.Hostname())
	}
	add(c.Storage() == storage.LegacyKey, "storage_key: it is derived from the owner's public key and the PPID, which are both public: whoever reads the disk can decrypt it; use owner or vault")
	add(c.MockTDXURL != "", "mock_tdx: quotes come from MOCK_TDX_URL and prove nothing")
	add(c.Dev, "dev: what is for development only is allowed")
	add(c.NoRTMR3, "rtmr3: the event log is not extended into RTMR3")
	add(c.RegistryURL == Off, "registry: nobody is told of this instance, and only the owner's tool knows which counter it saw last")
	add(c.RegistryURL != Off && c.RegistryKey == "", "registry_key: without --registry-key what the registry saw cannot be believed")
	add(plainRegistry, "registry_tls: the registry is asked over plain HTTP")
	add(c.PodmanSocket != "", "podman_socket: where the service of --podman-socket keeps images is not known here; whoever can write there decides what runs")
	add(c.PodmanSocket == "" && c.PodmanRoot != "", "podman_root: images lie in --podman-root; whoever can write there decides what runs")
	add(c.TLSListen == "", "tls: without --tls-listen the owner's token crosses the host in clear")
	add(c.PersistExec, "persist_exec: programs that were planted in persisted directories while SSH was open can be executed afterwards")
	add(c.perAddress.IsZero() || c.perToken.IsZero() || c.perQuote.IsZero(), "rates: clients are not limited in everything")
	return out
}
