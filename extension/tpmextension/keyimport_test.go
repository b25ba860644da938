package tpmextension

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/confmap"

	"github.com/telemark-otel/telemark/internal/tpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

const importable = `
tpm2_createprimary -Q -C o -G ecc -c p.ctx; flush
tpm2_create -Q -C p.ctx -G ecc256:ecdsa-sha256 -p secret -u app.pub -r app.priv; flush
tpm2_load -Q -C p.ctx -u app.pub -r app.priv -c app.ctx; flush
`

// deployment is what one with tpm2-tools leaves behind: a TPM, and in a directory
// app.ctx, app.pub, app.priv and the auth value in auth.
func deployment(t *testing.T, more string) (soft *tpmtest.TPM, dir string) {
	t.Helper()
	soft, dir = tpmtest.Start(t), t.TempDir()
	soft.Tools(dir, importable+more)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "auth"), []byte("secret\n"), 0o600))
	soft.Restart()
	return soft, dir
}

func imports(i ImportConfig) configure { return func(c *Config) { c.Key.Import = i } }

func TestConfigurationOfAnImport(t *testing.T) {
	for id, want := range map[string]ImportConfig{
		"tpm/import-context": {Context: "/etc/tpm/app.ctx"},
		"tpm/import-blobs":   {Public: "/etc/tpm/key.pub", Private: "/etc/tpm/key.priv", Parent: 0x81000001, AuthFile: "/etc/tpm/key.auth"},
		"tpm/import-adopt":   {Adopt: true},
		"tpm/import-none":    {},
	} {
		cfg := loadConfig(t, id)
		require.NoError(t, confmap.Validate(cfg), id)
		require.Equal(t, want, cfg.Key.Import)
		require.Equal(t, id != "tpm/import-none", cfg.Key.Import.wanted())
	}
	for name, tc := range map[string]struct {
		yaml map[string]any
		want error
	}{
		"context and blobs":     {map[string]any{"context": "a", "public": "b", "private": "c"}, errImportBlobs},
		"public alone":          {map[string]any{"public": "b"}, errImportBlobs},
		"private alone":         {map[string]any{"private": "b"}, errImportBlobs},
		"adopt and blobs":       {map[string]any{"context": "a", "adopt": true}, errImportBlobs},
		"auth file of nothing":  {map[string]any{"auth_file": "a"}, errImportBlobs},
		"parent of nothing":     {map[string]any{"parent": 0x81000001}, errImportBlobs},
		"transient parent":      {map[string]any{"context": "a", "parent": 0x80000001}, errImportParent},
		"parent of the adopted": {map[string]any{"adopt": true, "parent": 0x81000001}, errImportParent},
		"adopt without handle":  {map[string]any{"adopt": true}, errImportAdopt},
	} {
		cfg := unmarshal(t, confmap.NewFromStringMap(map[string]any{"key": map[string]any{"import": tc.yaml}}))
		err := confmap.Validate(cfg)
		require.ErrorIs(t, err, tc.want, name)
		require.ErrorContains(t, err, "`key::import::", name)
	}
}

func TestKeyOfAnEarlierDeploymentSignsOn(t *testing.T) {
	soft, dir := deployment(t, "")
	keys := filepath.Join(t.TempDir(), "keys")
	from := imports(ImportConfig{Context: filepath.Join(dir, "app.ctx"), AuthFile: filepath.Join(dir, "auth")})
	a := startAgent(t, withStorage(t, t.TempDir()), testConfig(soft.Device(), keys, stored, from))
	first := a.sign(t, leaves("s", 3))[0].Statement
	require.NotZero(t, a.logs.FilterMessageSnippet("dictionary attack").Len())
	b, err := tpm.ReadBlobs(filepath.Join(dir, "app.pub"), filepath.Join(dir, "app.priv"))
	require.NoError(t, err)
	require.Equal(t, b.KID(), first.KID)
	require.Greater(t, first.Epoch, uint64(time.Now().Add(-time.Hour).Unix()), "what it has signed before, from another directory, is not known")
	require.NoError(t, a.Shutdown(t.Context()))

	// The import is used once: its files may go.
	require.NoError(t, os.RemoveAll(dir))
	soft.Restart()
	again := startAgent(t, &testHost{}, testConfig(soft.Device(), keys, from))
	require.Equal(t, first.KID, again.sign(t, leaves("s", 1))[0].Statement.KID)
}

func TestAdoptedKeySigns(t *testing.T) {
	soft, dir := deployment(t, "tpm2_evictcontrol -Q -C o -c app.ctx 0x81010042; flush")
	adopt := func(c *Config) {
		c.Key.Handle = 0x81010042
		c.Key.Import = ImportConfig{Adopt: true, AuthFile: filepath.Join(dir, "auth")}
	}
	a := startAgent(t, &testHost{}, testConfig(soft.Device(), t.TempDir(), adopt))
	a.sign(t, leaves("s", 1))
}

// In place of a key that cannot be imported, no other is made.
func TestImportThatFailsMakesNoOtherKey(t *testing.T) {
	soft, dir := deployment(t, "tpm2_create -Q -C p.ctx -G ecc -u unfit.pub -r unfit.priv; flush; mkdir alone; cp app.ctx alone/app.ctx")
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, tc := range map[string]struct {
		i    ImportConfig
		want error
	}{
		"unfit":              {ImportConfig{Context: at("unfit")}, tpm.ErrUnfit},
		"context alone":      {ImportConfig{Context: at("alone/app.ctx")}, tpm.ErrContext},
		"handle for context": {ImportConfig{Context: "0x81010042"}, tpm.ErrReference},
		"no blobs":           {ImportConfig{Public: at("auth"), Private: at("app.priv")}, tpm.ErrBlobs},
		"wrong auth value":   {ImportConfig{Context: at("app.ctx")}, tpm.ErrWrongAuth},
		"wrong parent":       {ImportConfig{Context: at("app.ctx"), Parent: 0x81000001, AuthFile: at("auth")}, tpm.ErrNoParent},
	} {
		t.Run(name, func(t *testing.T) {
			host, keys := &testHost{}, filepath.Join(t.TempDir(), "keys")
			a := startAgent(t, host, testConfig(soft.Device(), keys, imports(tc.i)))
			require.ErrorIs(t, host.waitFor(t, componentstatus.StatusPermanentError), tc.want)
			pending(t, a.submit(t, leaves("s", 1)), "the key cannot be imported")
			require.NoError(t, a.Shutdown(t.Context()))
			require.NoFileExists(t, filepath.Join(keys, publicKeyFile))
		})
	}
	t.Run("files that come later", func(t *testing.T) {
		host, keys := &testHost{}, filepath.Join(t.TempDir(), "keys")
		a := startAgent(t, host, testConfig(soft.Device(), keys, imports(ImportConfig{Context: at("late.ctx"), AuthFile: at("auth")})))
		require.Eventually(t, func() bool {
			status, err := host.status()
			return status == componentstatus.StatusRecoverableError && errors.Is(err, os.ErrNotExist)
		}, patience, 5*time.Millisecond)
		require.NoError(t, os.Rename(at("app.priv"), at("late.priv")))
		require.NoError(t, os.Rename(at("app.pub"), at("late.pub")))
		a.sign(t, leaves("s", 1))
	})
}

func TestOtherKeyThanTheImportedOneIsSaid(t *testing.T) {
	soft, dir := deployment(t, "")
	keys := t.TempDir()
	a := startAgent(t, &testHost{}, testConfig(soft.Device(), keys))
	kid := a.sign(t, leaves("s", 1))[0].Statement.KID
	require.NoError(t, a.Shutdown(t.Context()))
	a = startAgent(t, &testHost{}, testConfig(soft.Device(), keys, imports(ImportConfig{Context: filepath.Join(dir, "app.ctx")})))
	require.Equal(t, kid, a.sign(t, leaves("s", 1))[0].Statement.KID)
	require.Equal(t, 1, a.logs.FilterMessageSnippet("names another key").Len())
}
