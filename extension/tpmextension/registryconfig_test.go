package tpmextension

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"

	"github.com/telemark-otel/telemark/internal/registry/enrolment"
)

func registryConfig(t *testing.T, settings map[string]any) *Config {
	t.Helper()
	return unmarshal(t, confmap.NewFromStringMap(map[string]any{"registry": settings}))
}

func TestRegistryNeedsNothingButItsEndpoint(t *testing.T) {
	require.False(t, unmarshal(t, confmap.New()).Registry.HasValue())
	cfg := registryConfig(t, map[string]any{"endpoint": "https://registry:3000"})
	require.NoError(t, confmap.Validate(cfg))
	r := cfg.Registry.Get()
	require.Equal(t, 30*time.Second, r.Timeout)
	require.Equal(t, "auto", r.EK)
	require.Equal(t, enrolment.DefaultEventLog, r.EventLog)
	require.Empty(t, r.Name)
}

func TestRegistryConfigurationThatCannotWorkNamesItsKey(t *testing.T) {
	for key, bad := range map[string][]any{
		"endpoint":  {"", "registry:3000", "ftp://x", "https://r/?q=1"},
		"timeout":   {"0s", "-1s"},
		"token":     {"secret-token", "tmj1.x.y"},
		"name":      {"-a", "a b", "ä", strings.Repeat("a", 129), "a/b"},
		"ek":        {"", "rsa4096"},
		"event_log": {"relative"},
	} {
		for _, value := range bad {
			settings := map[string]any{"endpoint": "https://registry:3000"}
			settings[key] = value
			err := confmap.Validate(registryConfig(t, settings))
			require.ErrorContains(t, err, "registry::"+key, "%v", value)
			require.NotContains(t, err.Error(), "secret-token")
		}
	}
	both := registryConfig(t, map[string]any{"endpoint": "https://r", "token": someToken, "token_file": "/etc/telemark/join"})
	err := confmap.Validate(both)
	require.ErrorIs(t, err, errRegistryTwoTokens)
	require.NotContains(t, fmt.Sprintf("%v %+v", err, both.Registry.Get()), "AAAA", "the token is not printed")
}
