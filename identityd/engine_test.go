package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/config"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// A run directory that is a mount of its own says nothing of what is beside it.
func TestImagesAreNotKeptOnTheHostsDisk(t *testing.T) {
	_, err := openEngine(t.Context(), &config.Config{RunDir: filepath.Join(t.TempDir(), "run")}, zap.NewNop())
	require.Equal(t, reason.RunDirUnsafe, reason.Of(err), "%v", err)
}
