package ratelimitextension

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/telemark-otel/telemark/extension/ratelimitextension/internal/metadata"
)

// started returns an extension that limits nothing but what change asks for.
func started(t *testing.T, change func(*Config)) *Extension {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.Rules = nil
	cfg.MaxNesting = 0
	change(cfg)
	require.NoError(t, cfg.Validate())
	e, err := newExtension(extensiontest.NewNopSettings(metadata.Type), cfg)
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, e.Shutdown(context.Background())) })
	return e
}
