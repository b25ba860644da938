package nonceextension

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/extension"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadata"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/replay"
)

const (
	defaultEndpoint      = "localhost:8444"
	defaultAdminEndpoint = "localhost:8445"
	defaultAudience      = "telemark"
	defaultUpstreamWait  = 5 * time.Second

	// defaultWriteInterval keeps writing under a hundredth of a processor.
	defaultWriteInterval = 50 * time.Millisecond

	// defaultKeep is a few MB.
	defaultKeep = 10_000

	// defaultBody holds 1,000 key ids and no more than a server should read
	// from anybody who can connect.
	defaultBody = 128 << 10

	// defaultRead is ample for such requests: connections that trickle are not kept.
	defaultRead = 10 * time.Second
)

// NewFactory returns the factory of the nonce extension.
func NewFactory() extension.Factory {
	return extension.NewFactory(metadata.Type, createDefaultConfig, create, metadata.ExtensionStability)
}

func createDefaultConfig() component.Config {
	server := func(endpoint string) confighttp.ServerConfig {
		s := confighttp.NewDefaultServerConfig()
		s.NetAddr.Endpoint = endpoint
		s.MaxRequestBodySize = defaultBody
		s.ReadHeaderTimeout, s.ReadTimeout = defaultRead, defaultRead
		return s
	}
	upstream := confighttp.NewDefaultClientConfig()
	upstream.Timeout = defaultUpstreamWait
	limits := replay.DefaultLimits()
	return &Config{
		ServerConfig: server(defaultEndpoint),
		Admin:        server(defaultAdminEndpoint),
		Audience:     defaultAudience,
		Length:       nonce.DefaultLen,
		MaxDelay:     limits.MaxDelay,
		Skew:         limits.Skew,
		GapTimeout:   limits.GapTimeout,
		ClaimLease:   limits.ClaimLease,
		SilentAfter:  limits.SilentAfter,

		WriteInterval: defaultWriteInterval,
		Keep:          defaultKeep,
		Upstream:      configoptional.Default(upstream),
	}
}

func create(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
	return newExtension(set, cfg.(*Config))
}
