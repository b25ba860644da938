package nonceextension

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/confignet"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
)

func load(t *testing.T, name string) *Config {
	t.Helper()
	all, err := confmaptest.LoadConf("testdata/config.yaml")
	require.NoError(t, err)
	sub, err := all.Sub(name)
	require.NoError(t, err)
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	return cfg
}

func TestDefaults(t *testing.T) {
	cfg := load(t, "nonce/defaults")
	require.Equal(t, createDefaultConfig(), cfg)
	require.Equal(t, "localhost:8444", cfg.ServerConfig.NetAddr.Endpoint)
	require.Equal(t, "localhost:8445", cfg.Admin.NetAddr.Endpoint)
	require.Equal(t, "telemark", cfg.Audience)
	require.Equal(t, 24*time.Hour, cfg.MaxDelay)
	require.False(t, cfg.Upstream.HasValue())
}

func TestEveryKeyIsRead(t *testing.T) {
	want := createDefaultConfig().(*Config)
	want.ServerConfig.NetAddr.Endpoint = "0.0.0.0:8444"
	want.Admin.NetAddr.Endpoint = "0.0.0.0:8445"
	want.Admin.Auth = configoptional.Some(confighttp.AuthConfig{
		Config: configauth.Config{AuthenticatorID: component.MustNewIDWithName("basicauth", "admin")},
	})
	want.SecretFile, want.Audience, want.Length = "/etc/telemark/nonce.secret", "prod", 48
	want.MaxDelay, want.Skew, want.GapTimeout = 48*time.Hour, 10*time.Second, 5*time.Minute
	want.ClaimLease, want.SilentAfter = 2*time.Minute, 0
	want.WriteInterval = 10 * time.Millisecond
	id := component.MustNewID("file_storage")
	want.Storage = &id
	require.Equal(t, want, load(t, "nonce/issuer"))
}

func TestRelayKeepsClientDefaults(t *testing.T) {
	cfg := load(t, "nonce/relay")
	require.True(t, cfg.Upstream.HasValue())
	require.Equal(t, "https://collector:8444", cfg.Upstream.Get().Endpoint)
	require.Equal(t, 5*time.Second, cfg.Upstream.Get().Timeout)
	require.Empty(t, (&Extension{cfg: cfg}).Dependencies())
	require.Equal(t, 10_000, cfg.Keep)
}

// A relay often stands beside a collector that has the default port.
func TestRelayOpensItsAdminListenerOnlyWhenItIsConfigured(t *testing.T) {
	require.Empty(t, load(t, "nonce/relay").Admin.NetAddr.Endpoint)
	require.Equal(t, "localhost:8445", load(t, "nonce/relay_admin").Admin.NetAddr.Endpoint)
	require.Equal(t, 7, load(t, "nonce/relay_admin").Keep)
}

func TestValidateNamesTheKey(t *testing.T) {
	relay := func(c *Config) {
		up := confighttp.NewDefaultClientConfig()
		up.Endpoint, up.Timeout = "https://collector:8444", time.Second
		c.Upstream = configoptional.Some(up)
	}
	id := component.MustNewID("file_storage")
	for name, tc := range map[string]struct {
		change func(*Config)
		want   error
		key    string
	}{
		"endpoint":         {func(c *Config) { c.ServerConfig.NetAddr.Endpoint = "" }, errEndpoint, "`endpoint`"},
		"admin empty":      {func(c *Config) { c.Admin.NetAddr.Endpoint = "" }, errAdminEndpoint, "`admin::endpoint`"},
		"admin open":       {func(c *Config) { c.Admin.NetAddr.Endpoint = "0.0.0.0:8445" }, errAdminOpen, "`admin::endpoint`"},
		"admin all":        {func(c *Config) { c.Admin.NetAddr.Endpoint = ":8445" }, errAdminOpen, "`admin::endpoint`"},
		"admin name":       {func(c *Config) { c.Admin.NetAddr.Endpoint = "localhost.example:1" }, errAdminOpen, "`admin::endpoint`"},
		"admin no port":    {func(c *Config) { c.Admin.NetAddr.Endpoint = "127.0.0.1" }, errAdminOpen, "`admin::endpoint`"},
		"audience":         {func(c *Config) { c.Audience = "" }, errAudience, "`audience`"},
		"audience long":    {func(c *Config) { c.Audience = strings.Repeat("a", 129) }, errAudience, "129"},
		"length":           {func(c *Config) { c.Length = 31 }, errLength, "`length`"},
		"length long":      {func(c *Config) { c.Length = 65 }, errLength, "65"},
		"max_delay":        {func(c *Config) { c.MaxDelay = 0 }, errMaxDelay, "`max_delay`"},
		"max_delay long":   {func(c *Config) { c.MaxDelay = 31 * 24 * time.Hour }, errMaxDelay, "744h"},
		"skew":             {func(c *Config) { c.Skew = -time.Second }, errSkew, "`skew`"},
		"gap_timeout":      {func(c *Config) { c.GapTimeout = 0 }, errGapTimeout, "`gap_timeout`"},
		"gap_timeout long": {func(c *Config) { c.GapTimeout = 25 * time.Hour }, errGapTimeout, "25h"},
		"claim_lease":      {func(c *Config) { c.ClaimLease = time.Millisecond }, errClaimLease, "`claim_lease`"},
		"silent_after":     {func(c *Config) { c.SilentAfter = -1 }, errSilentAfter, "`silent_after`"},
		"silent at once":   {func(c *Config) { c.SilentAfter = 500 * time.Microsecond }, errSilentAfter, "`silent_after`"},
		"write_interval":   {func(c *Config) { c.WriteInterval = -1 }, errWriteInterval, "`write_interval`"},
		"write_interval s": {func(c *Config) { c.WriteInterval = time.Second }, errWriteInterval, "1s"},
		"upstream empty":   {func(c *Config) { relay(c); c.Upstream.Get().Endpoint = "" }, errUpstream, "`upstream::endpoint`"},
		"upstream scheme":  {func(c *Config) { relay(c); c.Upstream.Get().Endpoint = "collector:8444" }, errUpstream, "collector:8444"},
		"upstream query":   {func(c *Config) { relay(c); c.Upstream.Get().Endpoint = "https://c/?x=1" }, errUpstream, "x=1"},
		"upstream timeout": {func(c *Config) { relay(c); c.Upstream.Get().Timeout = 0 }, errUpstreamWait, "`upstream::timeout`"},
		"keep":             {func(c *Config) { relay(c); c.Keep = -1 }, errKeep, "`keep`"},
		"keep much":        {func(c *Config) { relay(c); c.Keep = 1_000_001 }, errKeep, "1000001"},
		"keep, no relay":   {func(c *Config) { c.Keep = -1 }, errKeep, "`keep` must be between 0 (none) and 1000000, got -1"},
		"relay max_delay":  {func(c *Config) { relay(c); c.MaxDelay = -time.Hour }, errMaxDelay, "`max_delay`"},
		"relay length":     {func(c *Config) { relay(c); c.Length = -32 }, errLength, "`length`"},
		"relay audience":   {func(c *Config) { relay(c); c.Audience = "" }, errAudience, "`audience`"},
		"body":             {func(c *Config) { c.ServerConfig.MaxRequestBodySize = -1 }, errNegative, "`max_request_body_size` must not be negative, got -1"},
		"read_timeout":     {func(c *Config) { c.ServerConfig.ReadTimeout = -1 }, errNegative, "`read_timeout`"},
		"header timeout":   {func(c *Config) { c.ServerConfig.ReadHeaderTimeout = -1 }, errNegative, "`read_header_timeout`"},
		"admin body":       {func(c *Config) { c.Admin.MaxRequestBodySize = -1 }, errNegative, "`admin::max_request_body_size`"},
		"admin write":      {func(c *Config) { c.Admin.WriteTimeout = -1 }, errNegative, "`admin::write_timeout`"},
		"admin idle":       {func(c *Config) { relay(c); c.Admin.IdleTimeout = -1 }, errNegative, "`admin::idle_timeout`"},
		"relay admin open": {func(c *Config) { relay(c); c.Admin.NetAddr.Endpoint = ":8446" }, errAdminOpen, "`admin::endpoint`"},
		"relay secret":     {func(c *Config) { relay(c); c.SecretFile = "x" }, errRelaySecret, "`secret_file`"},
		"relay storage":    {func(c *Config) { relay(c); c.Storage = &id }, errRelayStorage, "`storage`"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			tc.change(cfg)
			err := cfg.Validate()
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.key)
		})
	}
}

func TestAdminMayListenLocallyWithoutAuth(t *testing.T) {
	for _, a := range []confignet.AddrConfig{
		{Endpoint: "localhost:1", Transport: "tcp"},
		{Endpoint: "127.0.0.9:1", Transport: "tcp"},
		{Endpoint: "[::1]:1", Transport: "tcp6"},
		{Endpoint: "/run/telemark/admin.sock", Transport: "unix"},
	} {
		cfg := createDefaultConfig().(*Config)
		cfg.Admin.NetAddr = a
		require.NoError(t, cfg.Validate(), a.Endpoint)
	}
}

func TestPasswordInTheUpstreamIsNotInTheError(t *testing.T) {
	for _, endpoint := range []string{"https://edge:s3cret@collector:8444", "htps://edge:s3cret@collector", "https://edge:s3cret@collector:port"} {
		cfg := createDefaultConfig().(*Config)
		cfg.Upstream.GetOrInsertDefault().Endpoint = endpoint
		err := cfg.Validate()
		require.ErrorIs(t, err, errUpstream)
		require.NotContains(t, err.Error(), "s3cret")
	}
}
