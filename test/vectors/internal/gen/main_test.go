package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAVectorThatIsThereIsNeverWritten(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, run(dir))
	path := filepath.Join(dir, "ok-logs.json")
	listed, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	require.NoError(t, err)
	require.Contains(t, string(listed), "  ok-logs.json\n")

	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o600))
	require.NoError(t, run(dir))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "{}", string(content))
	again, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	require.NoError(t, err)
	require.Equal(t, string(listed), string(again), "the sum of what was edited does not follow it")
}
