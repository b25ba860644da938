package config_test

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/config"
)

func parse(t *testing.T, args ...string) (*config.Config, error) {
	t.Helper()
	c, fs := &config.Config{}, pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs, c)
	require.NoError(t, fs.Parse(args))
	if err := config.Variables.Apply(fs); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

func TestDefaultsAreValid(t *testing.T) {
	c, err := parse(t)
	require.NoError(t, err)
	require.Equal(t, "/mnt", c.StoragePath)
	require.Equal(t, "http://localhost:3000", c.RegistryURL)
	require.False(t, c.HostAddress().IsValid())
	require.Equal(t, "/run/identityd-podman/root", c.PodmanDir())
}

func TestWhatIsWrongIsSaidWithTheWayOut(t *testing.T) {
	for args, want := range map[string]string{
		"--listen=3001":          `--listen "3001": want HOST:PORT`,
		"--listen=:70000":        "want HOST:PORT",
		"--listen=:03001":        "want HOST:PORT",
		"--ssh-listen=":          "--ssh-listen",
		"--tls-listen=:3001":     "both want port 3001",
		"--publish=2222":         "--publish and --ssh-listen: both want port 2222",
		"--publish=0":            "want a port from 1 to 65535",
		"--publish=65536":        "want a port from 1 to 65535",
		"--publish-address=eth0": "want an address of this machine",
		"--publish-tls=:8443 --publish-address=0.0.0.0": "give a loopback address",
		"--require-tls --tls-listen=":                   "there is no --tls-listen",
		"--storage-path=mnt":                            "want an absolute path",
		"--storage-path=/mnt/../etc":                    "want an absolute path",
		"--storage-path=/":                              "want an absolute path",
		"--run-dir=/" + strings.Repeat("r", 39):         "want at most 39 bytes, or give --podman-socket",
		"--run-dir=/mnt/run":                            "put it on a tmpfs",
		"--storage-key=public":                          "want owner, vault or legacy",
		"--storage-key=vault":                           "needs --vault-address, --vault-key and --vault-token-file",
		"--vault-key=a":                                 "not used with --storage-key owner",
		"--storage-key=vault --vault-address=http://v --vault-key=k --vault-token-file=f": "want https://",
		"--registry-url=registry:3000":                 "want http(s)://HOST",
		"--registry-url=http://u:hunter2@registry":     "want http(s)://HOST",
		"--registry-url=off --registry-key=k":          "there is no registry",
		"--registry-ca=ca.crt":                         "without https://",
		"--registry-key=k --registry-first-generation": "keeps its witness out",
		"--mock-tdx-url=http://127.0.0.1:1":            "needs --dev",
		"--mock-tdx-url=localhost --dev":               "want http://HOST:PORT",
		"--boot-id=x":                                  "needs --dev",
		"--rate-token=fast":                            "--rate-token",
		"--rate-table=0":                               "want 1 to 1000000",
		"--max-calls=0":                                "want 1 to 10000",
		"--max-connections=-1":                         "want 1 to 1000000",
		"--pull-timeout=1s":                            "want 10s to 2h0m0s",
		"--workload-memory=1":                          "want at least",
		"--workload-pids=1":                            "want 16 to",
	} {
		_, err := parse(t, strings.Fields(args)...)
		require.ErrorContains(t, err, want, args)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestFlagComesBeforeItsVariable(t *testing.T) {
	t.Setenv("STORAGE_PATH", "/data")
	t.Setenv("REGISTRY_URL", "https://registry.example")
	t.Setenv("MOCK_TDX_URL", "http://127.0.0.1:9")
	t.Setenv("IDENTITYD_LISTEN", ":4001")
	_, err := parse(t)
	require.ErrorContains(t, err, "MOCK_TDX_URL: quotes that anybody can forge")
	c, err := parse(t, "--dev", "--listen=:5001", "--run-dir=/data/run")
	require.NoError(t, err)
	require.Equal(t, "/data", c.StoragePath)
	require.Equal(t, "https://registry.example", c.RegistryURL)
	require.Equal(t, ":5001", c.Listen)

	t.Setenv("IDENTITYD_MAX_CALLS", "hunter2")
	_, err = parse(t, "--dev")
	require.ErrorContains(t, err, "$IDENTITYD_MAX_CALLS: not a value of --max-calls")
	require.NotContains(t, err.Error(), "hunter2")
}

func TestProxyMeansLoopback(t *testing.T) {
	c, err := parse(t, "--publish-tls=:8443")
	require.NoError(t, err)
	require.True(t, c.HostAddress().IsLoopback())
	c, err = parse(t, "--publish-address=192.0.2.1")
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", c.HostAddress().String())
}

func TestWhatProtectsAndIsNotThereIsWarnedOf(t *testing.T) {
	c, err := parse(t, "--registry-key=r.pub")
	require.NoError(t, err)
	require.Empty(t, c.Warnings())
	for args, want := range map[string]string{
		"--storage-key=legacy":                    "storage_key: it is derived from the owner's public key and the PPID",
		"--dev --mock-tdx-url=http://127.0.0.1:1": "mock_tdx:",
		"--registry-url=off":                      "registry:",
		"--registry-url=http://registry.example":  "registry_tls:",
		"--publish=80":                            "registry_key:",
		"--tls-listen=off":                        "tls:",
		"--podman-socket=/run/podman/podman.sock": "podman_socket:",
		"--podman-root=/var/lib/containers":       "podman_root:",
		"--persist-exec":                          "persist_exec:",
		"--rate-quote=off":                        "rates:",
		"--no-rtmr3":                              "rtmr3:",
	} {
		c, err := parse(t, strings.Fields(args)...)
		require.NoError(t, err, args)
		require.Contains(t, strings.Join(c.Warnings(), "\n"), want, args)
	}
}
