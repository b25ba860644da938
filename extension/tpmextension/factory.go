package tpmextension

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/extension"

	"github.com/telemark-otel/telemark/extension/tpmextension/internal/metadata"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// NewFactory returns the factory of the tpm extension.
func NewFactory() extension.Factory {
	return extension.NewFactory(metadata.Type, createDefaultConfig, create, metadata.ExtensionStability)
}

func createDefaultConfig() component.Config {
	nonce := NonceConfig{
		ClientConfig:  confighttp.NewDefaultClientConfig(),
		RenewInterval: 30 * time.Second,
		MaxAge:        24 * time.Hour,
	}
	nonce.Timeout = 10 * time.Second
	return &Config{
		Device:         "/dev/tpmrm0",
		Audience:       "telemark",
		MaxGroup:       4096,
		GroupInterval:  50 * time.Millisecond,
		MaxWaiting:     1 << 16,
		CommandTimeout: 5 * time.Second,
		Retry:          RetryConfig{InitialInterval: 500 * time.Millisecond, MaxInterval: 30 * time.Second, Multiplier: 2},
		NVIndex:        tpm.DefaultCounterIndex,
		Nonce:          configoptional.Default(nonce),
		Registry:       configoptional.Default(defaultRegistryConfig()),
		Location:       defaultLocation(),
	}
}

func create(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
	return newExtension(cfg.(*Config), set), nil
}
