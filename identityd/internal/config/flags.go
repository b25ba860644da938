package config

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/telemark-otel/telemark/internal/daemon"
)

// Variables are the environment variables of the flags.
var Variables = daemon.Variables{
	Prefix: "IDENTITYD_",
	Own: map[string]string{
		"storage-path": "STORAGE_PATH",
		"registry-url": "REGISTRY_URL",
		"mock-tdx-url": "MOCK_TDX_URL",
	},
}

// Flags adds the flags of identityd serve, with their defaults.
func Flags(fs *pflag.FlagSet, c *Config) {
	fs.StringVar(&c.Listen, "listen", ":3001", "address of the plain HTTP listener")
	fs.StringVar(&c.TLSListen, "tls-listen", ":3443", "address of the TLS listener, whose certificate carries a quote; off for none")
	fs.BoolVar(&c.RequireTLS, "require-tls", false, "refuse calls that carry a token or credentials over plain HTTP from another machine")
	fs.BoolVar(&c.RequireV1, "require-v1", false, "refuse the older form of calls that are signed or carry a token")

	fs.StringVar(&c.StoragePath, "storage-path", "/mnt", "directory on the disk, which may be the host's: state and encrypted volume")
	fs.StringVar(&c.RunDir, "run-dir", "/run/identityd", "directory in memory (tmpfs, 0700) for the secrets of this boot; --dev takes one on disk")
	fs.StringVar(&c.StorageKey, "storage-key", "owner", "where the volume's key comes from: owner, vault or legacy (public values; protects nothing)")
	fs.BoolVar(&c.PersistExec, "persist-exec", false, "let programs in persisted directories be executed")
	fs.StringVar(&c.VaultAddress, "vault-address", "", "of OpenBao or Vault, https://…")
	fs.StringVar(&c.VaultMount, "vault-mount", "transit", "where its transit engine is mounted")
	fs.StringVar(&c.VaultKey, "vault-key", "", "name of the key in the engine")
	fs.StringVar(&c.VaultTokenFile, "vault-token-file", "", "file with this instance's token, mode 0600; read again before each use")
	fs.StringVar(&c.VaultCA, "vault-ca", "", "authorities of its certificate, PEM; the system's without")

	fs.StringVar(&c.RegistryURL, "registry-url", "http://localhost:3000", "of the registry; off to tell nobody")
	fs.StringVar(&c.RegistryKey, "registry-key", "", "the registry's public key, PEM, to pin; 'registryd key show' prints it")
	fs.StringVar(&c.RegistryCA, "registry-ca", "", "authorities of the registry's certificate, PEM; the system's without")
	fs.BoolVar(&c.RegistryFirstGeneration, "registry-first-generation", false, "register with registries that have no /v1/, too; it proves less")

	fs.StringVar(&c.PodmanSocket, "podman-socket", "", "socket of a podman service that is there; without, identityd starts one of its own")
	fs.StringVar(&c.PodmanRoot, "podman-root", "", "where its own service keeps images and containers; RUN_DIR-podman/root without, in memory as the run directory is")
	fs.StringVar(&c.PodmanConfig, "podman-config", "", "containers.conf of its own service; the system's without")
	fs.DurationVar(&c.PullTimeout, "pull-timeout", 15*time.Minute, "time for pulling an image, 10s to 2h")
	fs.Int64Var(&c.Memory, "workload-memory", 0, "bytes of memory for the workload; 0 for four fifths of the machine's")
	fs.Int64Var(&c.Pids, "workload-pids", 0, "processes and threads of the workload; 0 for 4096")

	fs.StringVar(&c.SSHListen, "ssh-listen", ":2222", "address of the temporary SSH")
	fs.IntVar(&c.Publish, "publish", 8080, "port of this machine that the exposed workload is published on")
	fs.StringVar(&c.PublishAddress, "publish-address", "", "address for it; all without, loopback with --publish-tls")
	fs.StringVar(&c.PublishTLS, "publish-tls", "", "address of a TLS proxy in front of it, whose certificate carries a quote; none without")

	fs.StringVar(&c.RateAddress, "rate-address", "20/s:200", "requests of one client address (IPv6: one /64), EVENTS/PER[:BURST] or off")
	fs.StringVar(&c.RateToken, "rate-token", "10/m:10", "of these, attempts with a token")
	fs.StringVar(&c.RateQuote, "rate-quote", "30/m:15", "of these, calls that make a quote")
	fs.IntVar(&c.RateTable, "rate-table", 10_000, "addresses that are remembered for it; 1 to 1,000,000")
	fs.IntVar(&c.MaxCalls, "max-calls", 64, "calls at the same time; 1 to 10,000")
	fs.IntVar(&c.MaxConnections, "max-connections", 1024, "connections at the same time on each listener, a quarter of one address; 1 to 1,000,000")

	fs.StringVar(&c.MockTDXURL, "mock-tdx-url", "", "server that forges quotes, in place of TDX; for development, needs --dev")
	fs.BoolVar(&c.NoRTMR3, "no-rtmr3", false, "keep the event log without extending RTMR3, where something else uses the register")
	fs.StringVar(&c.BootID, "boot-id", "", "in place of the kernel's; for tests, needs --dev")
	fs.BoolVar(&c.Dev, "dev", false, "allow what is for development only")
	fs.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")

	Variables.Document(fs)
}
