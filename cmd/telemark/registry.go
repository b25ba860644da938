package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/telemark-otel/telemark/internal/registry/admin"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	envRegistry     = "TELEMARK_REGISTRY"
	envRegistryRole = "TELEMARK_REGISTRY_TOKEN_FILE"
	envRegistryCA   = "TELEMARK_REGISTRY_CA"

	registryTimeout = time.Minute
	maxTokenFile    = 4 << 10
)

// connection names a registry and who calls it. Its flags can be given by
// environment variables, so that they need not be said with every command.
type connection struct {
	url, tokenFile, ca, cert, key string
}

func (c *connection) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&c.url, "registry", os.Getenv(envRegistry), "URL of the registry ($"+envRegistry+")")
	f.StringVar(&c.tokenFile, "token-file", os.Getenv(envRegistryRole), "file with the bearer token of your role ($"+envRegistryRole+")")
	f.StringVar(&c.ca, "ca", os.Getenv(envRegistryCA), "file with the CA certificates that the registry's is checked with; the system's when empty ($"+envRegistryCA+")")
	f.StringVar(&c.cert, "cert", "", "client certificate, instead of a token")
	f.StringVar(&c.key, "key", "", "key of the client certificate")
}

func (c *connection) client() (*admin.Client, error) {
	if c.url == "" {
		return nil, errors.New("which registry? Give --registry URL or set " + envRegistry)
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	config, err := c.tls()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, Timeout: registryTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("the registry redirects, which it never does: is this its address?")
	}}
	out, err := admin.New(c.url, client, token)
	if err != nil {
		return nil, fmt.Errorf("--registry: %w", err)
	}
	return out, nil
}

func (c *connection) token() (string, error) {
	if c.tokenFile == "" {
		return "", nil
	}
	info, err := os.Stat(c.tokenFile)
	if err != nil {
		return "", work(fmt.Errorf("--token-file: %w", err))
	}
	if !info.Mode().IsRegular() || info.Size() > maxTokenFile {
		return "", work(fmt.Errorf("--token-file: %s is not a file with a token", c.tokenFile))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", work(fmt.Errorf("--token-file: others can read %s: chmod 0600 it, and make a new token if others may have", c.tokenFile))
	}
	content, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return "", work(fmt.Errorf("--token-file: %w", err))
	}
	return strings.TrimSpace(string(content)), nil
}

func (c *connection) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		content, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, work(fmt.Errorf("--ca: %w", err))
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(content) {
			return nil, work(fmt.Errorf("--ca: %s holds no certificate in PEM", c.ca))
		}
	}
	if (c.cert == "") != (c.key == "") {
		return nil, errors.New("--cert and --key belong together")
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, work(fmt.Errorf("--cert: %w", err))
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// answered turns an error of a call into one of the command line: what the
// registry refused, with what to do, or work that could not be done.
func answered(err error) error {
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[*api.Error](err); ok {
		help := refused.Reason.Help()
		if help == "" || strings.Contains(refused.Error(), help) { // the detail is the help where there is nothing more to say
			return refuse("%s", refused.Error())
		}
		return refuse("%s\n%s", refused.Error(), help)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return work(fmt.Errorf("%w\nName the authority that signed the registry's certificate with --ca or %s", err, envRegistryCA))
	}
	return work(err)
}
