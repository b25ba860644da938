package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// started serves the lab of a directory until the test ends or stop is called,
// and returns its address.
func started(t *testing.T, dir string) (address string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"serve", "--dir", dir, "--listen", "127.0.0.1:0"}) }()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "address"))
		address = strings.TrimSpace(string(b))
		return err == nil && address != ""
	}, 10*time.Second, 10*time.Millisecond)
	return address, func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, os.Remove(filepath.Join(dir, "address")))
	}
}

func quote(t *testing.T, address string) []byte {
	t.Helper()
	resp, err := http.Get(address + "/attest/" + strings.Repeat("01", 64))
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return b
}

func TestRestartKeepsTheRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	address, stop := started(t, dir)
	first := quote(t, address)
	root, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	require.NoError(t, err)
	stop()

	address, stop = started(t, dir)
	defer stop()
	require.Equal(t, first, quote(t, address))
	again, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	require.NoError(t, err)
	require.Equal(t, root, again)

	seed, err := os.Stat(filepath.Join(dir, "seed"))
	require.NoError(t, err)
	require.EqualValues(t, 0o600, seed.Mode().Perm())
}

func TestBundleIsWritten(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "bundle")
	require.NoError(t, run(t.Context(), []string{"bundle", "--dir", filepath.Join(dir, "lab"), out}))
	files, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Len(t, files, 7)
}

func TestWrongUseIsAnError(t *testing.T) {
	for _, args := range [][]string{{"bundle"}, {"sell"}, {"quote", "00"}, {"serve", "more"}, {"--nothing"}} {
		require.Error(t, run(t.Context(), append(args[:1:1], append([]string{"--dir", t.TempDir()}, args[1:]...)...)), args)
	}
}
