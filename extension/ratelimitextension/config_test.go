package ratelimitextension

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/limit"
)

func load(t *testing.T, name string) *Config {
	t.Helper()
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := conf.Sub(name)
	require.NoError(t, err)
	cfg := createDefaultConfig()
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	return cfg.(*Config)
}

func TestConfigurationIsRead(t *testing.T) {
	require.Equal(t, createDefaultConfig(), component.Config(load(t, "ratelimit")))
	require.Empty(t, load(t, "ratelimit/no_rules").Rules)
	l, err := newLimiter(load(t, "ratelimit/all"))
	require.NoError(t, err)
	require.Equal(t, proxies{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"),
		netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("198.51.100.0/24"),
	}, l.trusted)
	require.Equal(t, [2]limit.Rate{{Events: 50, Per: time.Second, Burst: 100}, {Events: 10_000_000, Per: time.Second, Burst: 50_000_000}}, l.rest.rates)
	require.Equal(t, byIdentity, l.rest.by.kind)
	require.Same(t, &l.rules[0], l.rule("/v1/logs"))
	require.Same(t, &l.rules[1], l.rule("/nonce"))
	require.Same(t, &l.rest, l.rule("/nonce/x"))
	require.Equal(t, keyBy{byHeader, "X-Tenant", "x-tenant", "header:X-Tenant"}, l.rules[0].by)
}

// The default limits nonces and nothing else.
func TestDefaultLeavesTelemetryAlone(t *testing.T) {
	l, err := newLimiter(createDefaultConfig().(*Config))
	require.NoError(t, err)
	require.True(t, l.rule("/v1/logs").idle())
	require.Equal(t, 16_384, l.maxNesting, "but one request must not end the process")
	require.Greater(t, l.maxNesting, digest.MaxDepth, "the verifier says what is wrong with less")
	require.True(t, l.rule("/opentelemetry.proto.collector.logs.v1.LogsService/Export").idle())
	require.Equal(t, limit.Rate{Events: 100, Per: time.Minute}, l.rule("/nonce").rates[0])
	require.Equal(t, keyBy{kind: byQuery, name: "kid", config: "query:kid"}, l.rule("/nonce").by)
	require.Equal(t, byAddress, l.rule("/nonces").by.kind)
}

func TestInvalidConfigurationNamesTheKey(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		want   error
		text   string
	}{
		"key_by":           {func(c *Config) { c.KeyBy = "ip" }, errKeyBy, "`key_by` must be client_address, mtls_identity, header:NAME or query:NAME, got \"ip\""},
		"header":           {func(c *Config) { c.KeyBy = "header:a b" }, errKeyBy, "key_by"},
		"no header":        {func(c *Config) { c.KeyBy = "header:" }, errKeyBy, "key_by"},
		"query":            {func(c *Config) { c.KeyBy = "query:a=b" }, errKeyBy, "key_by"},
		"rate":             {func(c *Config) { c.Requests.Rate = -1 }, errRate, "`requests::rate`"},
		"bytes burst":      {func(c *Config) { c.Bytes = RateConfig{Rate: 1, Burst: maxRate + 1} }, errBurst, "`bytes::burst`"},
		"burst alone":      {func(c *Config) { c.Bytes.Burst = 5 }, errBurstAlone, "`bytes::burst`"},
		"per":              {func(c *Config) { c.Requests = RateConfig{Rate: 1, Per: time.Microsecond} }, errPer, "`requests::per`"},
		"max_concurrent":   {func(c *Config) { c.MaxConcurrent = -1 }, errMaxConcurrent, "max_concurrent"},
		"max_nesting":      {func(c *Config) { c.MaxNesting = 16_385 }, errMaxNesting, "`max_nesting` must be between 0 (not bounded) and 16384, got \"16385\""},
		"negative nesting": {func(c *Config) { c.MaxNesting = -1 }, errMaxNesting, "max_nesting"},
		"max_keys":         {func(c *Config) { c.MaxKeys = 0 }, errMaxKeys, "max_keys"},
		"trusted_proxies":  {func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "proxy.example"} }, errTrusted, "`trusted_proxies` must be addresses or networks such as 10.0.0.0/8, got \"proxy.example\""},
		"ipv6 prefix":      {func(c *Config) { c.IPv6PrefixLength = 129 }, errIPv6Prefix, "129"},
		"rejected_by":      {func(c *Config) { c.RejectedBy = "" }, errRejectedBy, "rejected_by"},
		"rejected_by line": {func(c *Config) { c.RejectedBy = "a\nb" }, errRejectedBy, "rejected_by"},
		"too many rules":   {func(c *Config) { c.Rules = make([]Rule, maxRules+1) }, errRules, "101"},
		"path":             {func(c *Config) { c.Rules[0].Path = "nonce" }, errPath, "`rules::0::path`"},
		"path star":        {func(c *Config) { c.Rules[1].Path = "/a*b*" }, errPath, "`rules::1::path`"},
		"path twice":       {func(c *Config) { c.Rules[1].Path = "/nonce" }, errPathTwice, "`rules::1::path`"},
		"rule key_by":      {func(c *Config) { c.Rules[0].KeyBy = "x" }, errKeyBy, "`rules::0::key_by`"},
		"rule rate":        {func(c *Config) { c.Rules[0].Requests.Rate = -5 }, errRate, "`rules::0::requests::rate`"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			tc.change(cfg)
			err := cfg.Validate()
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.text)
		})
	}
}
