package ondemandreceiver

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"

	"github.com/telemark-otel/telemark/receiver/ondemandreceiver/internal/metadata"
)

const (
	defaultEndpoint = "localhost:8442"
	defaultTimeout  = 30 * time.Second
	// Making system metrics reads dozens of files: few at a time suffice.
	defaultConcurrent = 4
	defaultDepth      = 8
	defaultValues     = 1000
	defaultKey        = 255
	defaultString     = 4 << 10
	// defaultBody holds 1,000 values of usual length.
	defaultBody = 256 << 10
	defaultRead = 10 * time.Second
)

// NewFactory returns the factory of the on-demand receiver.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(metadata.Type, createDefaultConfig, receiver.WithMetrics(create, metadata.MetricsStability))
}

func createDefaultConfig() component.Config {
	server := confighttp.NewDefaultServerConfig()
	server.NetAddr.Endpoint = defaultEndpoint
	server.MaxRequestBodySize = defaultBody
	server.ReadHeaderTimeout, server.ReadTimeout = defaultRead, defaultRead
	return &Config{
		ServerConfig:  server,
		Timeout:       defaultTimeout,
		MaxConcurrent: defaultConcurrent,
		Application:   ApplicationConfig{MaxDepth: defaultDepth, MaxValues: defaultValues, MaxKey: defaultKey, MaxString: defaultString},
	}
}

func create(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	return newReceiver(set, cfg.(*Config), next)
}
