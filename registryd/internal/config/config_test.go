package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/registryd/internal/config"
)

func parse(t *testing.T, args ...string) (*config.Config, error) {
	t.Helper()
	c, fs := &config.Config{}, pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs, c)
	require.NoError(t, fs.Parse(args))
	if err := config.FromEnvironment(fs); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

func TestPlainHTTPIsForLoopback(t *testing.T) {
	for args, want := range map[string]string{
		"--listen=:3000":              "127.0.0.1:3000",
		"--listen=localhost:1":        "localhost:1",
		"--listen=[::1]:1":            "[::1]:1",
		"--listen=[::ffff:7f00:1]:1":  "[::ffff:7f00:1]:1",
		"--listen=0.0.0.0:1":          "",
		"--listen=[::]:1":             "",
		"--listen=10.0.0.1:1":         "",
		"--listen=registry.example:1": "",
		"--listen=3000":               "",
	} {
		c, err := parse(t, args)
		if want == "" {
			require.Error(t, err, args)
			continue
		}
		require.NoError(t, err, args)
		require.Equal(t, want, c.Address())
	}
	c, err := parse(t, "--listen=:3000", "--insecure-listen")
	require.NoError(t, err)
	require.Equal(t, ":3000", c.Address())
	c, err = parse(t, "--listen=:3000", "--tls-cert=a", "--tls-key=b")
	require.NoError(t, err)
	require.Equal(t, ":3000", c.Address())
}

func TestFlagComesBeforeItsVariable(t *testing.T) {
	t.Setenv("REGISTRY_DB_PATH", "postgres://registry:secret@db/registry")
	t.Setenv("REGISTRYD_LEASE", "2h")
	t.Setenv("REGISTRYD_TRUSTED_PROXIES", "10.0.0.0/8,192.0.2.1")
	c, err := parse(t, "--lease=3h")
	require.NoError(t, err)
	require.Equal(t, "3h0m0s", c.Lease.String())
	require.Len(t, c.Proxies(), 2)
	dsn, err := c.DSN()
	require.NoError(t, err)
	require.Contains(t, dsn, "secret")

	t.Setenv("REGISTRYD_RATE_TABLE", "postgres://registry:secret@db")
	_, err = parse(t)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}

func TestPasswordOnTheCommandLineIsRefused(t *testing.T) {
	for _, dsn := range []string{"postgres://a:b@db/x", "postgresql://a:@db/x", "postgres://db/x?password=b", "postgres://a:b%zz@db/x"} {
		_, err := parse(t, "--db="+dsn)
		require.ErrorIs(t, err, config.ErrPassword, dsn)
		require.NotContains(t, err.Error(), dsn)
	}
	_, err := parse(t, "--db=postgres://a@db/x")
	require.NoError(t, err)
}

func TestFileOfTheDatabaseURL(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dsn")
	require.NoError(t, os.WriteFile(file, []byte(" postgres://a:b@db/x\n"), 0o600))
	c, err := parse(t, "--db-file="+file)
	require.NoError(t, err)
	dsn, err := c.DSN()
	require.NoError(t, err)
	require.Equal(t, "postgres://a:b@db/x", dsn)
	require.NoError(t, os.Chmod(file, 0o640))
	_, err = c.DSN()
	require.ErrorContains(t, err, "others could read")
}
