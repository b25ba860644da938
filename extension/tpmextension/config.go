package tpmextension

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"

	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// defaultKeyDir is for TPMs that are not swtpm:DIR, which brings its own.
const defaultKeyDir = "/var/lib/telemark/keys"

// Bounds of the configuration.
const (
	minCommandTimeout = 2 * time.Second
	maxCommandTimeout = 5 * time.Minute
	maxRetryInterval  = time.Hour
	maxMaxWaiting     = 1 << 20
	maxGroupInterval  = time.Second
	minRenewInterval  = time.Second
	maxMaxAge         = 7 * 24 * time.Hour
	maxDeployment     = 256
)

// Config of the tpm extension. The zero value of a field is an error unless
// its comment says otherwise; createDefaultConfig fills in every default.
type Config struct {
	// Device is the TPM: a character device (/dev/tpmrm0), unix:PATH or
	// tcp:HOST:PORT of a TPM that speaks raw TPM commands, or swtpm:DIR, which
	// starts and owns a software TPM with its state in DIR. Default /dev/tpmrm0.
	Device string `mapstructure:"device"`

	// Key says which key signs and where it is kept.
	Key KeyConfig `mapstructure:"key"`

	// Audience is the claim aud of every receipt: 1 to 128 bytes. Verifier and
	// nonce server must be set to the same one. Default "telemark".
	Audience string `mapstructure:"audience"`

	// Deployment goes into the UEID claim, which tells machines apart across
	// deployments: at most 256 bytes. Empty means the audience.
	Deployment string `mapstructure:"deployment"`

	// MaxGroup is how many blocks one signature covers at most: 1 to 65536.
	// Default 4096.
	MaxGroup int `mapstructure:"max_group"`

	// GroupInterval is how long after one group the next is closed, at the
	// soonest, while blocks keep waiting: a TPM that is faster then signs larger
	// groups, which saves its computer a millisecond of work each. A TPM that is
	// slower and a block that nobody waits with are not delayed. 0 to 1s; 0
	// means at once. Default 50ms.
	GroupInterval time.Duration `mapstructure:"group_interval"`

	// MaxWaiting is how many blocks may wait for a signature: from max_group
	// to 1048576. Beyond it pipelines are refused until there is room.
	// Default 65536.
	MaxWaiting int `mapstructure:"max_waiting"`

	// CommandTimeout bounds one TPM command: 2s to 5m. Real chips take up to
	// 600 ms for a signature. Default 5s.
	CommandTimeout time.Duration `mapstructure:"command_timeout"`

	// Retry spaces the attempts to reach a TPM that is missing, gone or busy.
	// They never end.
	Retry RetryConfig `mapstructure:"retry"`

	// Storage is the storage extension that keeps epoch, sequence and chain
	// over restarts. Unset means that nothing is kept but a counter in the
	// TPM's NV memory, incremented once per start.
	Storage *component.ID `mapstructure:"storage"`

	// NVIndex is that counter: an index of the owner's range, 0x01800000 to
	// 0x01BFFFFF. Unused with storage. Default 0x01817E1E.
	NVIndex uint32 `mapstructure:"nv_index"`

	// Nonce is the server that anti-replay nonces come from. Unset means
	// receipts without nonce, which verifiers judge as freshness "sequence".
	Nonce configoptional.Optional[NonceConfig] `mapstructure:"nonce"`

	// Registry is where the key is enrolled and its lease renewed; signing waits
	// until it is. Unset means that verifiers know the key from elsewhere.
	Registry configoptional.Optional[RegistryConfig] `mapstructure:"registry"`

	// Location is the machine's position. Unset means no location claim.
	Location LocationConfig `mapstructure:"location"`
}

// KeyConfig says where the signing key lives.
type KeyConfig struct {
	// Dir keeps the key blobs and the generated auth value; created with mode
	// 0700. Empty means DIR/keys with device swtpm:DIR and
	// /var/lib/telemark/keys otherwise. What is in it is of no use without the TPM.
	Dir string `mapstructure:"dir"`

	// Algorithm is what the key signs with: ES256, ES384 or PS256. The others
	// are for TPMs without P-256. A key keeps its algorithm. Default ES256, which
	// is also meant by "sha256" and an empty value.
	Algorithm string `mapstructure:"algorithm"`

	// Handle is a persistent handle of the owner, 0x81000000 to 0x817FFFFF, at
	// which the key is kept in the TPM too. 0 means that it is loaded from the
	// blobs in dir alone.
	Handle uint32 `mapstructure:"handle"`

	// AuthFile holds the auth value that a new key is made with, 1 to 32 bytes
	// without zeros (white space at the end is cut): a regular file that only
	// its owner can read (0600 or 0400). Empty means a random one, kept in dir.
	AuthFile string `mapstructure:"auth_file"`

	// Import is a key that was made by others, for a dir that holds none.
	Import ImportConfig `mapstructure:"import"`
}

// RetryConfig is an exponential backoff.
type RetryConfig struct {
	// InitialInterval is the first pause: above 0, at most max_interval. Default 500ms.
	InitialInterval time.Duration `mapstructure:"initial_interval"`
	// MaxInterval is the longest pause: at most 1h. Default 30s.
	MaxInterval time.Duration `mapstructure:"max_interval"`
	// Multiplier is the growth from one pause to the next: 1 to 10. Default 2.
	Multiplier float64 `mapstructure:"multiplier"`
}

// NonceConfig is the client of the nonce server, or of a gateway's relay.
type NonceConfig struct {
	// ClientConfig is the connection; endpoint is the URL under which /nonce
	// answers. timeout defaults to 10s.
	confighttp.ClientConfig `mapstructure:",squash"`

	// RenewInterval is how often a fresh nonce is fetched, give or take 20 %:
	// 1s up to max_age. Default 30s.
	RenewInterval time.Duration `mapstructure:"renew_interval"`

	// MaxAge is how long signing goes on under the last nonce while no new one
	// is to be had: from renew_interval to 168h. Beyond it signing waits. Keep
	// it at or below the verifier's max_delay. Default 24h.
	MaxAge time.Duration `mapstructure:"max_age"`
}

// One error per rule. Validate adds the value.
var (
	errDevice         = errors.New("`device` must be /dev/…, unix:PATH, tcp:HOST:PORT or swtpm:DIR")
	errKeyHandle      = errors.New("`key::handle` must be a persistent handle from 0x81000000 to 0x817FFFFF, or 0 to load the key from `key::dir`")
	errKeyAlgorithm   = errors.New("`key::algorithm` must be ES256, ES384 or PS256; leave it out for ES256")
	errAuthFile       = errors.New("`key::auth_file` must be a regular file that only its owner can read (chmod 0600), with 1 to 32 bytes and no zero among them")
	errAudience       = errors.New("`audience` must have 1 to 128 bytes of printable ASCII; leave it out for \"telemark\"")
	errDeployment     = errors.New("`deployment` must have at most 256 bytes; leave it out to use `audience`")
	errMaxGroup       = errors.New("`max_group` must be 1 to 65536 blocks")
	errGroupInterval  = errors.New("`group_interval` must be 0 to 1s; 0 closes a group as soon as the TPM is free")
	errMaxWaiting     = errors.New("`max_waiting` must be at least `max_group` and at most 1048576 blocks")
	errCommandTimeout = errors.New("`command_timeout` must be 2s to 5m; TPMs are slow and a command given up is not a command undone")
	errRetryInitial   = errors.New("`retry::initial_interval` must be above 0 and at most `retry::max_interval`")
	errRetryMax       = errors.New("`retry::max_interval` must be above 0 and at most 1h")
	errRetryMult      = errors.New("`retry::multiplier` must be 1 to 10")
	errNVIndex        = errors.New("`nv_index` must be an index of the owner's range, 0x01800000 to 0x01BFFFFF")
	errNonceEndpoint  = errors.New("`nonce::endpoint` must be an http or https URL without query; remove the section `nonce` to sign without nonces")
	errNonceRenew     = errors.New("`nonce::renew_interval` must be at least 1s")
	errNonceMaxAge    = errors.New("`nonce::max_age` must be at least `nonce::renew_interval` and at most 168h")
	errNonceTimeout   = errors.New("`nonce::timeout` must be above 0, so that a server that hangs is noticed")
)

// Validate implements xconfmap.Validator. It touches no device.
func (c *Config) Validate() error {
	return errors.Join(
		c.validateDevice(),
		c.Key.validate(),
		check(errAudience, validAudience(c.Audience), c.Audience),
		check(errDeployment, len(c.Deployment) <= maxDeployment, len(c.Deployment)),
		check(errMaxGroup, c.MaxGroup >= 1 && c.MaxGroup <= receipt.MaxTreeSize, c.MaxGroup),
		check(errGroupInterval, c.GroupInterval >= 0 && c.GroupInterval <= maxGroupInterval, c.GroupInterval),
		check(errMaxWaiting, c.MaxWaiting >= c.MaxGroup && c.MaxWaiting <= maxMaxWaiting, c.MaxWaiting),
		check(errCommandTimeout, c.CommandTimeout >= minCommandTimeout && c.CommandTimeout <= maxCommandTimeout, c.CommandTimeout),
		c.Retry.validate(),
		check(errNVIndex, c.NVIndex >= 0x01800000 && c.NVIndex <= 0x01BFFFFF, fmt.Sprintf("%#08x", c.NVIndex)),
		c.Location.validate(),
	)
}

func (c *KeyConfig) validate() error {
	_, err := tpm.ParseAlgorithm(c.Algorithm)
	return errors.Join(
		check(errKeyAlgorithm, err == nil, c.Algorithm),
		check(errKeyHandle, c.Handle == 0 || c.Handle>>23 == 0x81000000>>23, fmt.Sprintf("%#08x", c.Handle)),
		c.Import.validate(c.Handle),
	)
}

func (c *Config) validateDevice() error {
	if err := tpm.ParseDevice(c.Device); err != nil {
		return fmt.Errorf("%w: %w", errDevice, err)
	}
	return nil
}

func (c *RetryConfig) validate() error {
	return errors.Join(
		check(errRetryMax, c.MaxInterval > 0 && c.MaxInterval <= maxRetryInterval, c.MaxInterval),
		check(errRetryInitial, c.InitialInterval > 0 && c.InitialInterval <= c.MaxInterval, c.InitialInterval),
		check(errRetryMult, c.Multiplier >= 1 && c.Multiplier <= 10, c.Multiplier),
	)
}

// Validate implements xconfmap.Validator.
func (c *NonceConfig) Validate() error {
	shown, valid := shownURL(c.Endpoint)
	return errors.Join(
		check(errNonceEndpoint, valid, shown),
		check(errNonceTimeout, c.Timeout > 0, c.Timeout),
		check(errNonceRenew, c.RenewInterval >= minRenewInterval, c.RenewInterval),
		check(errNonceMaxAge, c.MaxAge >= c.RenewInterval && c.MaxAge <= maxMaxAge, c.MaxAge),
	)
}

// keyDir is where the blobs are kept.
func (c *Config) keyDir() string {
	if c.Key.Dir != "" {
		return c.Key.Dir
	}
	if dir, ok := tpm.SoftwareDir(c.Device); ok {
		return filepath.Join(dir, "keys")
	}
	return defaultKeyDir
}

// deployment is what the UEID is made of.
func (c *Config) deployment() string {
	if c.Deployment != "" {
		return c.Deployment
	}
	return c.Audience
}

// check returns rule with the value it was broken by.
func check(rule error, ok bool, value any) error {
	if ok {
		return nil
	}
	if s, isString := value.(string); isString {
		return fmt.Errorf("%w, not %q", rule, s)
	}
	return fmt.Errorf("%w, not %v", rule, value)
}

func validAudience(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return s != "" && len(s) <= receipt.MaxAudience
}
