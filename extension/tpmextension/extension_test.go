package tpmextension

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/extension/extensiontest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/tpm"
)

func TestReceiptsOfASoftwareTPMVerify(t *testing.T) {
	nonces := newNonceStub(t)
	lat, lon, accuracy := 46.948, 7.4474, 10.0
	host := withStorage(t, t.TempDir())
	a := startAgent(t, host, testConfig("swtpm:"+shortDir(t), t.TempDir(), stored, noncesFrom(nonces), func(c *Config) {
		c.Audience, c.Deployment = "bank-eu", "bank-eu-prod"
		c.Location.Static = configoptional.Some(StaticLocationConfig{Latitude: &lat, Longitude: &lon, Accuracy: &accuracy})
	}))

	logs, traces := leaves("tpmsign:logs", 20), leaves("tpmsign:traces", 7)
	first := a.sign(t, logs)
	second := a.sign(t, traces)
	third := a.sign(t, logs)
	for i, r := range first {
		require.Equal(t, uint64(i+1), r.BlockNo)
	}
	require.Equal(t, uint64(7), second[6].BlockNo, "streams are numbered apart")
	require.Equal(t, uint64(21), third[0].BlockNo)

	s := first[0].Statement
	require.Equal(t, "bank-eu", s.Audience)
	require.Equal(t, receipt.UEID("bank-eu-prod", a.KID()), s.UEID)
	require.Equal(t, uint64(1), s.Epoch)
	require.Equal(t, uint64(1), s.Seq)
	require.Equal(t, block.Digest{}, s.Prev)
	require.Len(t, s.Nonce, 32)
	require.InDelta(t, time.Now().Unix(), s.IssuedAt, 60)
	require.Equal(t, "static", s.Location.Source)
	require.Equal(t, lat, s.Location.Latitude)
	require.Equal(t, accuracy, *s.Location.Accuracy)

	require.True(t, a.CanSign())
	require.NoError(t, host.waitFor(t, componentstatus.StatusOK))
	status := a.Status()
	require.Equal(t, "ready", status.State)
	require.Equal(t, uint64(1), status.Epoch)
	require.Equal(t, third[0].Statement.Seq, status.Seq)
	require.Equal(t, map[string]uint64{"tpmsign:logs": 40, "tpmsign:traces": 7}, status.Streams)
	require.Zero(t, status.Waiting)
	require.NotNil(t, status.NonceAgeSeconds)
	require.Positive(t, status.LastSigningSeconds)
	require.Contains(t, status.PublicKey, "BEGIN PUBLIC KEY")
}

func TestKeyBlobsOfAnotherTPMArePermanent(t *testing.T) {
	keys := t.TempDir()
	a := startAgent(t, withStorage(t, t.TempDir()), testConfig("swtpm:"+shortDir(t), keys, stored))
	a.sign(t, leaves("s", 1))
	require.NoError(t, a.Shutdown(t.Context()))

	host := withStorage(t, t.TempDir())
	b := startAgent(t, host, testConfig("swtpm:"+shortDir(t), keys, stored))
	require.Error(t, host.waitFor(t, componentstatus.StatusPermanentError))
	pending(t, b.submit(t, leaves("s", 1)), "the key is another TPM's")
	require.Equal(t, "failed", b.Status().State)
	require.NoError(t, b.Shutdown(t.Context()))
}

func TestKeyAtAPersistentHandleIsFoundAgainAndAForeignOneLeftAlone(t *testing.T) {
	device, keys := "swtpm:"+shortDir(t), t.TempDir()
	atHandle := func(c *Config) { c.Key.Handle = 0x81010042 }
	var kid []byte
	for range 2 {
		a := startAgent(t, &testHost{}, testConfig(device, keys, atHandle))
		got := a.sign(t, leaves("s", 1))[0].Statement.KID
		if kid != nil {
			require.Equal(t, kid, got)
		}
		kid = got
		require.NoError(t, a.Shutdown(t.Context()))
	}
	host := &testHost{}
	startAgent(t, host, testConfig(device, t.TempDir(), atHandle))
	require.ErrorIs(t, host.waitFor(t, componentstatus.StatusPermanentError), tpm.ErrHandleTaken)
}

func TestTwoAgentsNeverUseOneKey(t *testing.T) {
	soft := newSoftware(t)
	soft.start(t)
	keys := t.TempDir()
	a := startAgent(t, &testHost{}, testConfig(soft.device(), keys))
	a.sign(t, leaves("s", 1))

	other := newSoftware(t)
	other.start(t)
	host := &testHost{}
	b := startAgent(t, host, testConfig(other.device(), keys))
	require.Eventually(t, func() bool {
		_, err := host.status()
		return errors.Is(err, tpm.ErrInUse)
	}, patience, 5*time.Millisecond)
	require.False(t, b.CanSign())
}

func TestShutdownSignsWhatIsInFlight(t *testing.T) {
	a := startAgent(t, &testHost{}, testConfig("swtpm:"+shortDir(t), t.TempDir()))
	l := leaves("s", 50)
	ticket := a.submit(t, l)
	require.Eventually(t, func() bool { return a.signer.committer.Stats().Seq > 0 }, patience, time.Microsecond)
	require.NoError(t, a.Shutdown(t.Context()))
	require.Len(t, signed(t, ticket), len(l))
	_, err := a.Submit(leaves("s", 1))
	require.ErrorIs(t, err, group.ErrClosed)
}

func TestLifecycle(t *testing.T) {
	cfg := testConfig("swtpm:"+shortDir(t), t.TempDir())
	ext, _, _ := newTestExtension(t, cfg)
	require.NoError(t, ext.Shutdown(t.Context()), "before start")
	require.NoError(t, ext.NotReady())
	_, err := ext.Submit(leaves("s", 1))
	require.ErrorIs(t, err, group.ErrClosed)
	require.Equal(t, "stopped", ext.Status().State)
	for range 2 {
		require.NoError(t, ext.Start(t.Context(), componenttest.NewNopHost()))
		require.ErrorIs(t, ext.Start(t.Context(), componenttest.NewNopHost()), errStarted)
		a := &agent{tpmExtension: ext}
		a.sign(t, leaves("s", 1))
		stopping := ext.Stopping()
		require.NoError(t, ext.Ready())
		select {
		case <-stopping:
			t.Fatal("nobody has said that the pipelines are to stop")
		default:
		}
		require.NoError(t, ext.NotReady())
		<-stopping
		require.NoError(t, ext.Shutdown(t.Context()))
		require.NoError(t, ext.Shutdown(t.Context()), "twice")
	}
}

func TestStartRefusesWhatNoWaitingMends(t *testing.T) {
	storage := component.MustNewID("nowhere")
	loose := filepath.Join(t.TempDir(), "auth")
	require.NoError(t, os.WriteFile(loose, []byte("x"), 0o600))
	require.NoError(t, os.Chmod(loose, 0o644))
	nop, err := extensiontest.NewNopFactory().Create(t.Context(), extensiontest.NewNopSettings(extensiontest.NopType), nil)
	require.NoError(t, err)
	host := &testHost{extensions: map[component.ID]component.Component{component.NewID(extensiontest.NopType): nop}}
	nopID := component.NewID(extensiontest.NopType)

	for name, tc := range map[string]struct {
		configure configure
		want      error
	}{
		"storage missing":     {func(c *Config) { c.Storage = &storage }, errNoStorage},
		"storage stores not":  {func(c *Config) { c.Storage = &nopID }, errNotStorage},
		"auth file readable":  {func(c *Config) { c.Key.AuthFile = loose }, errAuthFile},
		"nonce TLS not there": {func(c *Config) { n := newNonceStub(t).config(); n.Get().TLS.CAFile = loose + "none"; c.Nonce = n }, os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			ext, _, _ := newTestExtension(t, testConfig("swtpm:"+shortDir(t), t.TempDir(), tc.configure))
			require.ErrorIs(t, ext.Start(t.Context(), host), tc.want)
			require.NoError(t, ext.Shutdown(t.Context()))
		})
	}
}

func TestStorageIsStartedFirst(t *testing.T) {
	ext, _, _ := newTestExtension(t, testConfig("swtpm:x", "y", stored))
	require.Equal(t, []component.ID{storageID}, ext.Dependencies())
	ext, _, _ = newTestExtension(t, testConfig("swtpm:x", "y"))
	require.Empty(t, ext.Dependencies())
}

func TestAuthValueIsNeverLogged(t *testing.T) {
	const secret = "correct-horse-battery"
	file := filepath.Join(t.TempDir(), "auth")
	require.NoError(t, os.WriteFile(file, []byte(secret), 0o600))
	soft := newSoftware(t)
	soft.start(t)
	host := &testHost{}
	a := startAgent(t, host, testConfig(soft.device(), t.TempDir(), func(c *Config) { c.Key.AuthFile = file }))
	a.sign(t, leaves("s", 1))
	soft.kill()
	a.submit(t, leaves("s", 1))
	require.Error(t, host.waitFor(t, componentstatus.StatusRecoverableError))

	entries := a.logs.All()
	ready := a.logs.FilterMessage("signing key is ready").All()
	require.Len(t, ready, 1)
	require.FileExists(t, ready[0].ContextMap()["public_key_file"].(string))
	for _, e := range entries {
		text, err := json.Marshal(e.ContextMap())
		require.NoError(t, err)
		require.NotContains(t, e.Message+string(text), secret)
	}
	status, err := json.Marshal(a.Status())
	require.NoError(t, err)
	require.NotContains(t, string(status), secret)
}
