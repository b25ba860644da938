package tpmextension

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configopaque"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment"
	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// ekAuto lets the TPM's certificates choose the endorsement key.
const ekAuto = "auto"

// maxTokenFile is more than a token and a line's end.
const maxTokenFile = 4096

// RegistryConfig is the client of the registry at which the key is enrolled.
type RegistryConfig struct {
	// ClientConfig is the connection; endpoint is the URL under which the
	// registry answers /v1/. timeout defaults to 30s.
	confighttp.ClientConfig `mapstructure:",squash"`

	// Token is a join token (tmj1.…), which shows that a machine that the
	// registry does not know is ours. It is not sent. Needed until the machine
	// is enrolled, and not where the registry knows its EK or somebody approves it.
	Token configopaque.String `mapstructure:"token"`

	// TokenFile holds the token instead: a regular file that only its owner
	// can read (0600 or 0400), read when it is needed. It may be gone once the
	// machine is enrolled.
	TokenFile string `mapstructure:"token_file"`

	// Name that the machine asks for: at most 128 bytes. Empty takes the one
	// that the registry has.
	Name string `mapstructure:"name"`

	// EK is the endorsement key that names the machine: rsa2048, p256, p384, or
	// auto, the one that the TPM holds a certificate for. Default auto.
	EK string `mapstructure:"ek"`

	// EventLog is the boot's event log, sent when the registry asks for it.
	// Empty means none. Default is where Linux shows it.
	EventLog string `mapstructure:"event_log"`
}

func defaultRegistryConfig() RegistryConfig {
	c := RegistryConfig{ClientConfig: confighttp.NewDefaultClientConfig(), EK: ekAuto, EventLog: enrolment.DefaultEventLog}
	c.Timeout = 30 * time.Second
	return c
}

// One error per rule. None quotes the token.
var (
	errRegistryEndpoint  = errors.New("`registry::endpoint` must be an http or https URL without query; remove the section `registry` to sign with a key that verifiers know from a file")
	errRegistryTimeout   = errors.New("`registry::timeout` must be above 0, so that a registry that hangs is noticed")
	errRegistryToken     = errors.New("`registry::token` is no join token; it has the form tmj1.ID.SECRET, as `telemark fleet token create` prints it")
	errRegistryTwoTokens = errors.New("`registry::token` and `registry::token_file` are both set; keep the file")
	errRegistryTokenFile = errors.New("`registry::token_file` must be a regular file that only its owner can read (chmod 0600), with one join token")
	errRegistryName      = errors.New("`registry::name` must have 1 to 128 letters, digits, dots, dashes, underscores and colons, and begin with a letter or digit; leave it out to take the name that the registry has")
	errRegistryEK        = errors.New("`registry::ek` must be auto, rsa2048, p256 or p384")
	errRegistryEventLog  = errors.New("`registry::event_log` must be an absolute path, or empty for none")
)

// Validate implements xconfmap.Validator.
func (c *RegistryConfig) Validate() error {
	shown, valid := shownURL(c.Endpoint)
	_, ekErr := c.algorithm()
	err := errors.Join(
		check(errRegistryEndpoint, valid, shown),
		check(errRegistryTimeout, c.Timeout > 0, c.Timeout),
		check(errRegistryName, validName(c.Name), fmt.Sprintf("%.130s", c.Name)),
		check(errRegistryEK, ekErr == nil, fmt.Sprintf("%.64s", c.EK)),
		check(errRegistryEventLog, c.EventLog == "" || filepath.IsAbs(c.EventLog), c.EventLog),
	)
	if c.Token != "" {
		if c.TokenFile != "" {
			err = errors.Join(err, errRegistryTwoTokens)
		}
		if _, tokenErr := api.ParseToken(string(c.Token)); tokenErr != nil {
			err = errors.Join(err, errRegistryToken)
		}
	}
	return err
}

// shownURL is an endpoint as it may stand in errors and logs, without a
// password in it, and whether it is a valid one.
func shownURL(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil {
		return "what cannot be read", false
	}
	return u.Redacted(), (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && u.Fragment == ""
}

func validName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return s == "" || len(s) <= api.MaxName && strings.ContainsRune(letters, rune(s[0])) && strings.Trim(s, letters+".-_:") == ""
}

// algorithm is 0 for auto.
func (c *RegistryConfig) algorithm() (tpm.EKAlgorithm, error) {
	if c.EK == ekAuto {
		return 0, nil
	}
	return tpm.ParseEKAlgorithm(c.EK)
}

// errNoToken says that the file of the token is not there, as is right once
// the machine is enrolled.
var errNoToken = errors.New("there is no file `registry::token_file`")

// readToken returns the join token, nil when none is configured.
func (c *RegistryConfig) readToken() (*api.Token, error) {
	text := string(c.Token)
	if c.TokenFile != "" {
		content, err := private.ReadSecret(c.TokenFile, maxTokenFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", errNoToken, err)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errRegistryTokenFile, err)
		}
		text = string(content)
	}
	if text == "" && c.TokenFile == "" {
		return nil, nil //nolint:nilnil // no token is a configuration of its own
	}
	token, err := api.ParseToken(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRegistryTokenFile, err)
	}
	return &token, nil
}

// clientDependencies are the extensions that an HTTP client uses.
func clientDependencies(c *confighttp.ClientConfig) []component.ID {
	var ids []component.ID
	if auth := c.Auth.Get(); auth != nil {
		ids = append(ids, auth.AuthenticatorID)
	}
	for _, m := range c.Middlewares {
		ids = append(ids, m.ID)
	}
	return ids
}
