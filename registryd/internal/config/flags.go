package config

import (
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/telemark-otel/telemark/internal/daemon"
)

// Variables are the environment variables of the flags.
var Variables = daemon.Variables{
	Prefix: "REGISTRYD_",
	Own: map[string]string{
		"db":            "REGISTRY_DB_PATH",
		"pccs-url":      "PCCS_URL",
		"skip-tdx-auth": "SKIP_TDX_AUTH",
	},
}

// Flags adds the flags of registryd serve, with their defaults.
func Flags(fs *pflag.FlagSet, c *Config) {
	fs.StringVar(&c.Listen, "listen", ":3000", "address to listen on; without TLS :PORT is loopback only")
	fs.BoolVar(&c.InsecureListen, "insecure-listen", false, "listen beyond loopback without TLS: something in front of it does TLS")
	fs.StringVar(&c.TLSCert, "tls-cert", "", "certificate chain, PEM; read again on SIGHUP")
	fs.StringVar(&c.TLSKey, "tls-key", "", "its private key, PEM")
	fs.StringVar(&c.ClientCA, "client-ca", "", "authorities of client certificates, PEM; who may do what stands in the auth file")
	fs.StringSliceVar(&c.TrustedProxies, "trusted-proxies", nil, "CIDRs whose X-Forwarded-For counts")

	fs.StringVar(&c.DB, "db", "registry.db", "SQLite file, or postgres:// URL; one with a password goes into --db-file or the variable")
	fs.StringVar(&c.DBFile, "db-file", "", "file that holds what --db would, mode 0600")
	fs.StringVar(&c.KeyFile, "key-file", "registry-key.pem", "signing key (Ed25519, PKCS #8, PEM), the same for all replicas; made when absent, with FILE.pub to pin")
	fs.BoolVar(&c.ReplaceKey, "replace-key", false, "start although the store was written under another signing key")

	fs.StringVar(&c.AuthFile, "auth-file", "", "who has which role, YAML; read again on SIGHUP; nobody without")
	fs.BoolVar(&c.RequireAuth, "require-auth", false, "single look-ups of keys and instances need the role viewer too")

	fs.StringVar(&c.EKRoots, "ek-roots", "", "directory of TPM vendors' certificates, PEM or DER; read again when it changes")
	fs.StringVar(&c.Queue, "queue", "genuine", "unknown machines that wait for approval: genuine, all or none")
	fs.DurationVar(&c.Lease, "lease", 24*time.Hour, "how long a machine or instance is trusted before it attests again, 1m to 2160h")
	fs.StringVar(&c.PCRPolicy, "pcr-policy", "", "accepted values of platform registers, YAML")

	fs.StringVar(&c.TDXPolicy, "tdx-policy", "", "what TDX instances must look like, YAML")
	fs.StringVar(&c.PCCSURL, "pccs-url", "", "service for Intel's collateral; Intel's own when neither this nor --collateral-dir is given")
	fs.StringVar(&c.CollateralDir, "collateral-dir", "", "offline bundle of collateral")
	fs.StringVar(&c.CollateralCache, "collateral-cache", "", "directory that keeps fetched collateral over restarts; in memory only without")
	fs.StringVar(&c.TDXRoots, "tdx-roots", "", "certificates to trust instead of Intel's, PEM; for tests, needs --dev")
	fs.BoolVar(&c.AllowEncryptedPPID, "allow-encrypted-ppid", false, "accept quotes whose PPID nothing proves (certification data of types 2 and 3)")
	fs.BoolVar(&c.RequireV1, "require-v1", false, "refuse registrations of the first generation, which do not prove when they were made")
	fs.BoolVar(&c.SkipTDXAuth, "skip-tdx-auth", false, "do not verify quotes; for tests, needs --dev")
	fs.BoolVar(&c.Dev, "dev", false, "allow what is for development only")

	fs.StringVar(&c.RateAddress, "rate-address", "200/s:2000", "requests of one client address (IPv6: one /64), EVENTS/PER[:BURST] or off")
	fs.StringVar(&c.RateKey, "rate-key", "20/s:100", "requests about one key, machine or instance, EVENTS/PER[:BURST] or off")
	fs.IntVar(&c.RateTable, "rate-table", 100_000, "addresses, and keys, that are remembered for it; 1 to 10,000,000")
	fs.IntVar(&c.MaxVerifications, "max-verifications", 8, "verifications at the same time; 1 to 1,024")
	fs.IntVar(&c.MaxStreams, "max-streams", 4096, "event streams at the same time; 1 to 100,000")
	fs.IntVar(&c.MaxConnections, "max-connections", 16384, "connections at the same time; 1 to 1,000,000")
	fs.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")

	Variables.Document(fs)
}

// ErrPassword says that a password stands where everybody on the machine reads it.
var ErrPassword = errors.New("--db: a password on the command line can be read by everybody on this machine; put the URL into --db-file, or into $REGISTRY_DB_PATH")

// FromEnvironment sets the flags that were not given from their variables.
func FromEnvironment(fs *pflag.FlagSet) error {
	if f := fs.Lookup("db"); f != nil && f.Changed && hasPassword(f.Value.String()) {
		return ErrPassword
	}
	return Variables.Apply(fs)
}

func hasPassword(dsn string) bool {
	u, err := url.Parse(dsn)
	if err != nil {
		return strings.Contains(dsn, "://") && strings.Contains(dsn, "@")
	}
	if u.User != nil {
		if _, ok := u.User.Password(); ok {
			return true
		}
	}
	return u.Query().Has("password")
}
