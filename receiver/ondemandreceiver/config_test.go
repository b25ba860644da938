package ondemandreceiver

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/confmap"
)

func TestErrorsNameTheKey(t *testing.T) {
	application := func(key string, v int) map[string]any {
		return map[string]any{"application": map[string]any{key: v}}
	}
	for name, c := range map[string]struct {
		set  map[string]any
		want error
		key  string
	}{
		"endpoint":       {map[string]any{"endpoint": ""}, errEndpoint, "`endpoint`"},
		"open":           {map[string]any{"endpoint": "0.0.0.0:8442"}, errOpen, "`endpoint`"},
		"name":           {map[string]any{"endpoint": "edge.example:8442"}, errOpen, "`endpoint`"},
		"timeout":        {map[string]any{"timeout": "1ms"}, errTimeout, "`timeout`"},
		"no end":         {map[string]any{"timeout": "6m"}, errTimeout, "`timeout`"},
		"max_concurrent": {map[string]any{"max_concurrent": 0}, errMaxConcurrent, "`max_concurrent`"},
		"max_depth":      {application("max_depth", 33), errMaxDepth, "`application::max_depth`"},
		"max_values":     {application("max_values", -1), errMaxValues, "`application::max_values`"},
		"max_key":        {application("max_key", 0), errMaxKey, "`application::max_key`"},
		"max_string":     {application("max_string", 1<<20), errMaxString, "`application::max_string`"},
		"attribute":      {map[string]any{"resource_attributes": map[string]any{"": "x"}}, errAttribute, "`resource_attributes`"},
		"body":           {map[string]any{"max_request_body_size": -1}, errNegative, "`max_request_body_size` must not be negative, got -1"},
		"read":           {map[string]any{"read_timeout": "-1s"}, errNegative, "`read_timeout`"},
		"header":         {map[string]any{"read_header_timeout": "-1s"}, errNegative, "`read_header_timeout`"},
		"write":          {map[string]any{"write_timeout": "-1s"}, errNegative, "`write_timeout`"},
		"idle":           {map[string]any{"idle_timeout": "-1s"}, errNegative, "`idle_timeout`"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig()
			require.NoError(t, confmap.NewFromStringMap(c.set).Unmarshal(cfg))
			err := cfg.(*Config).Validate()
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.key)
		})
	}
}

func TestDefaultsAreValid(t *testing.T) {
	require.NoError(t, createDefaultConfig().(*Config).Validate())
}

func TestOtherMachinesGetInByCredentialsOnly(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.NetAddr.Endpoint = "0.0.0.0:8442"
	cfg.TLS = configoptional.Some(configtls.ServerConfig{})
	require.ErrorIs(t, cfg.Validate(), errOpen, "TLS alone says nothing about the caller")
	cfg.TLS = configoptional.Some(configtls.ServerConfig{ClientCAFile: "ca.pem"})
	require.NoError(t, cfg.Validate())
	cfg.TLS = configoptional.None[configtls.ServerConfig]()
	require.ErrorIs(t, cfg.Validate(), errOpen)
	cfg.Auth = configoptional.Some(confighttp.AuthConfig{})
	require.NoError(t, cfg.Validate())
}
