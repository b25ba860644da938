package nonceextension

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/extension/nonceextension/internal/metadatatest"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/replay"
)

var storageID = component.MustNewID("file_storage")

func withStorage(c *Config) { c.Storage = &storageID }

// fileStorage is the real extension over dir.
func fileStorage(t *testing.T, dir string) extension.Extension {
	t.Helper()
	f := filestorage.NewFactory()
	cfg := f.CreateDefaultConfig().(*filestorage.Config)
	cfg.Directory, cfg.FSync = dir, true
	e, err := f.Create(t.Context(), extensiontest.NewNopSettings(f.Type()), cfg)
	require.NoError(t, err)
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()))
	return e
}

func TestReplayedBlockAfterRestartIsDuplicate(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, withStorage)
	files := fileStorage(t, dir)
	e := start(t, hostWith(storageID, files), cfg)
	kid, err := hex.DecodeString(kid1)
	require.NoError(t, err)
	old, err := e.Nonces().Mint(kid, time.Now(), 32, random)
	require.NoError(t, err)
	accept(t, e.Windows(), block(1, "tpmsign:logs"), block(2, "tpmsign:logs"))
	unconfirmed, err := e.Windows().Claim(t.Context(), time.Now(), []replay.Block{block(3, "tpmsign:logs")})
	require.NoError(t, err)
	require.Empty(t, unconfirmed[0].Reason)
	require.NoError(t, e.Shutdown(t.Context()))
	require.NoError(t, files.Shutdown(t.Context()))

	files = fileStorage(t, dir)
	defer func() { require.NoError(t, files.Shutdown(context.Background())) }()
	e = start(t, hostWith(storageID, files), cfg)
	require.Equal(t, 1, e.logs.FilterMessage("Replay windows loaded.").Len())
	out, err := e.Windows().Claim(t.Context(), time.Now(), []replay.Block{
		block(1, "tpmsign:logs"), block(2, "tpmsign:logs"), block(3, "tpmsign:logs"),
	})
	require.NoError(t, err)
	require.Equal(t, reason.Duplicate, out[0].Reason)
	require.Equal(t, reason.Duplicate, out[1].Reason)
	require.Empty(t, out[2].Reason)
	require.True(t, out[2].Redelivery)
	_, err = e.Nonces().Check(old, kid)
	require.NoError(t, err, "nonces outlive a restart, with secret and windows")
	require.NoError(t, e.Shutdown(t.Context()))
}

func TestDamagedWindowsAreReplacedLoudlyAndKillOldNonces(t *testing.T) {
	st := newMemoryStorage()
	cfg := testConfig(t, withStorage)
	e := start(t, hostWith(storageID, st), cfg)
	kid, err := hex.DecodeString(kid1)
	require.NoError(t, err)
	old, err := e.Nonces().Mint(kid, time.Now(), 32, random)
	require.NoError(t, err)
	accept(t, e.Windows(), block(1, "tpmsign:logs"))
	require.NoError(t, e.Shutdown(t.Context()))
	for k, v := range st.values {
		if strings.Contains(k, "/w/") {
			v[len(v)/2] ^= 1
		}
	}
	_, err = e.tel.GetMetric("otelcol_nonce_store_lost")
	require.Error(t, err, "a new store is not a lost one")
	e = start(t, hostWith(storageID, st), cfg)
	require.Equal(t, 1, e.logs.FilterLevelExact(zap.ErrorLevel).Len())
	metadatatest.AssertEqualNonceStoreLost(t, e.tel, points(point(1)), metricdatatest.IgnoreTimestamp())
	_, err = e.Nonces().Check(old, kid)
	require.Equal(t, reason.NonceStoreLost, reason.Of(err))
}

func TestWithoutStorageARestartKillsOldNonces(t *testing.T) {
	cfg := testConfig(t)
	e := start(t, componenttest.NewNopHost(), cfg)
	require.Equal(t, 1, e.logs.FilterLevelExact(zap.WarnLevel).Len())
	kid, err := hex.DecodeString(kid1)
	require.NoError(t, err)
	old, err := e.Nonces().Mint(kid, time.Now(), 32, random)
	require.NoError(t, err)
	require.NoError(t, e.Shutdown(t.Context()))
	require.NoError(t, e.Shutdown(t.Context()), "twice")
	require.NoError(t, e.Start(t.Context(), componenttest.NewNopHost()), "restart of the same instance")
	_, err = e.Nonces().Check(old, kid)
	require.Equal(t, reason.NonceForged, reason.Of(err))
	accept(t, e.Windows(), block(1, "tpmsign:logs"))
}

func TestStorageMustExistAndBeOne(t *testing.T) {
	set, _ := settings()
	cfg := testConfig(t, withStorage)
	e, err := newExtension(set, cfg)
	require.NoError(t, err)
	require.Equal(t, []component.ID{storageID}, e.Dependencies())
	err = e.Start(t.Context(), componenttest.NewNopHost())
	require.ErrorContains(t, err, "`storage`")
	require.ErrorContains(t, err, `"file_storage"`)
	require.ErrorContains(t, err, "service::extensions")
	err = e.Start(t.Context(), hostWith(storageID, passwordAuth{}))
	require.ErrorContains(t, err, "`storage`")
	require.ErrorContains(t, err, "no storage extension")
	require.NoError(t, e.Shutdown(t.Context()))
}

func TestFailedStartLeavesNothingOpen(t *testing.T) {
	set, _ := settings()
	cfg := testConfig(t, func(c *Config) { c.Admin.NetAddr.Endpoint = c.ServerConfig.NetAddr.Endpoint })
	e, err := newExtension(set, cfg)
	require.NoError(t, err)
	require.ErrorContains(t, e.Start(t.Context(), componenttest.NewNopHost()), "`admin::endpoint`")
	cfg.Admin.NetAddr.Endpoint = freePort(t)
	start(t, componenttest.NewNopHost(), cfg) // the first listener was given back
}

func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, n int, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, make([]byte, n), mode))
		require.NoError(t, os.Chmod(p, mode))
		return p
	}
	good := write("good", 32, 0o600)
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(good, link))
	for _, p := range []string{good, write("readonly", 64, 0o400), link} {
		s, err := readSecret(p)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(s), nonce.MinSecretLen)
	}
	for name, tc := range map[string]struct{ path, want string }{
		"absent":         {filepath.Join(dir, "absent"), "no such file"},
		"group readable": {write("group", 32, 0o640), "mode 0640; make it 0600"},
		"world readable": {write("world", 32, 0o604), "mode 0604"},
		"short":          {write("short", 31, 0o600), "31 bytes"},
		"long":           {write("long", maxSecretFile+1, 0o600), "4097 bytes"},
		"directory":      {dir, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			set, _ := settings()
			e, err := newExtension(set, testConfig(t, func(c *Config) { c.SecretFile = tc.path }))
			require.NoError(t, err)
			err = e.Start(t.Context(), componenttest.NewNopHost())
			require.ErrorContains(t, err, "`secret_file`")
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestServersWithOneSecretFileAndAudienceAcceptNoForeignStore(t *testing.T) {
	p := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(p, make([]byte, 32), 0o600))
	a := start(t, componenttest.NewNopHost(), testConfig(t, func(c *Config) { c.SecretFile = p }))
	b := start(t, componenttest.NewNopHost(), testConfig(t, func(c *Config) { c.SecretFile = p }))
	kid, err := hex.DecodeString(kid1)
	require.NoError(t, err)
	n, err := a.Nonces().Mint(kid, time.Now(), 32, random)
	require.NoError(t, err)
	_, err = b.Nonces().Check(n, kid)
	require.Equal(t, reason.NonceStoreLost, reason.Of(err))
}

func TestDamagedSecretIsNotReplacedSilently(t *testing.T) {
	st := newMemoryStorage()
	st.values[secretKey] = []byte("short")
	set, _ := settings()
	e, err := newExtension(set, testConfig(t, withStorage))
	require.NoError(t, err)
	require.ErrorContains(t, e.Start(t.Context(), hostWith(storageID, st)), "damaged")
	require.NotContains(t, st.values, "replay/head")
}

func TestStorageOutageIsToldAndHeals(t *testing.T) {
	st := newMemoryStorage()
	host := hostWith(storageID, st)
	e := start(t, host, testConfig(t, withStorage))
	first, second := block(1, "tpmsign:logs"), block(2, "tpmsign:logs")
	second.Issued = first.Issued // the same nonce
	accept(t, e.Windows(), first)
	st.breakDown(true)
	out, err := e.Windows().Claim(t.Context(), time.Now(), []replay.Block{second})
	require.NoError(t, err, "it was reserved before")
	_, err = e.Windows().Confirm(t.Context(), time.Now(), []replay.Claim{out[0].Claim})
	require.Equal(t, reason.StoreUnavailable, reason.Of(err))
	for range 3 {
		for no := range uint64(2) { // the one that was not confirmed durably, and one that was never seen
			_, err := e.Windows().Claim(t.Context(), time.Now(), []replay.Block{block(2+no, "tpmsign:logs")})
			require.Equal(t, reason.StoreUnavailable, reason.Of(err))
		}
	}
	requireRefused(t, plainClient(t), "POST", e.adm+"/nonces/cleanup", "", 503, codeStoreUnavailable)
	var h healthAnswer
	require.Equal(t, 503, get(t, e.url+"/health", &h).StatusCode)
	require.Equal(t, healthAnswer{Status: healthDegraded, Role: roleIssuer, Reason: codeStoreUnavailable}, h)
	require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, host.reported())

	st.breakDown(false)
	require.Eventually(t, func() bool { return len(host.reported()) == 2 }, 5*time.Second, 20*time.Millisecond,
		"the sweep finds out by itself")
	require.Equal(t, componentstatus.StatusOK, host.reported()[1])
	accept(t, e.Windows(), block(3, "tpmsign:logs"))
	out, err = e.Windows().Claim(t.Context(), time.Now(), []replay.Block{block(2, "tpmsign:logs")})
	require.NoError(t, err)
	require.Equal(t, reason.Duplicate, out[0].Reason)
}

func TestStorageThatCannotBeReadStopsTheStart(t *testing.T) {
	st := newMemoryStorage()
	st.breakDown(true)
	set, _ := settings()
	e, err := newExtension(set, testConfig(t, withStorage))
	require.NoError(t, err)
	err = e.Start(t.Context(), hostWith(storageID, st))
	require.ErrorIs(t, err, errStorage)
}

func TestGapsAndSilenceAreLogged(t *testing.T) {
	e := start(t, componenttest.NewNopHost(), testConfig(t))
	accept(t, e.Windows(), block(1, "tpmsign:logs"), block(4, "tpmsign:logs"))
	e.sweep(t.Context(), time.Now().Add(time.Hour))
	silent := e.logs.FilterMessage("A stream fell silent.").All()
	require.Len(t, silent, 1)
	require.Equal(t, kid1, silent[0].ContextMap()["kid"])
	require.Equal(t, 1, e.logs.FilterField(zap.Uint64("gaps_reported", 2)).Len())
	accept(t, e.Windows(), block(3, "tpmsign:logs"))
	e.sweep(t.Context(), time.Now().Add(time.Hour))
	require.Equal(t, 1, e.logs.FilterField(zap.Uint64("late_fills", 1)).Len())
}

func TestSecretsAreNotLogged(t *testing.T) {
	st := newMemoryStorage()
	e := start(t, hostWith(storageID, st), testConfig(t, withStorage))
	secret := hex.EncodeToString(st.values[secretKey][1:])
	require.Len(t, secret, 64)
	for _, entry := range e.logs.All() {
		for _, f := range entry.Context {
			require.NotContains(t, f.String, secret)
		}
		require.NotContains(t, entry.Message, secret)
	}
}
