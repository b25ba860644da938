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
	for key, c := range map[string]struct {
		set  map[string]any
		want error
	}{
		"endpoint":       {map[string]any{"endpoint": ""}, errEndpoint},
		"open":           {map[string]any{"endpoint": "0.0.0.0:8442"}, errOpen},
		"name":           {map[string]any{"endpoint": "edge.example:8442"}, errOpen},
		"timeout":        {map[string]any{"timeout": "1ms"}, errTimeout},
		"max_concurrent": {map[string]any{"max_concurrent": 0}, errMaxConcurrent},
		"max_depth":      {map[string]any{"application": map[string]any{"max_depth": 33}}, errMaxDepth},
		"max_values":     {map[string]any{"application": map[string]any{"max_values": -1}}, errMaxValues},
		"max_key":        {map[string]any{"application": map[string]any{"max_key": 0}}, errMaxKey},
		"max_string":     {map[string]any{"application": map[string]any{"max_string": 1 << 20}}, errMaxString},
		"attribute":      {map[string]any{"resource_attributes": map[string]any{"": "x"}}, errAttribute},
	} {
		t.Run(key, func(t *testing.T) {
			cfg := createDefaultConfig()
			require.NoError(t, confmap.NewFromStringMap(c.set).Unmarshal(cfg))
			require.ErrorIs(t, cfg.(*Config).Validate(), c.want)
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
