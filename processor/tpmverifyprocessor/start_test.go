package tpmverifyprocessor

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/signtest"
)

func TestStartFailsClosedAndSaysWhy(t *testing.T) {
	other := component.MustNewID("other")
	for name, c := range map[string]struct {
		change func(*rig)
		want   string
	}{
		"no nonce extension":      {func(r *rig) { delete(r.host.extensions, nonceID) }, "there is no nonce extension"},
		"two nonce extensions":    {func(r *rig) { r.host.extensions[other] = &nonces{} }, "name one under nonce"},
		"named one is not there":  {func(r *rig) { r.cfg.Nonce = &other }, `no extension "other"`},
		"named one is another":    {func(r *rig) { r.cfg.Nonce, r.host.extensions[other] = &other, &registryless{} }, "is not a nonce extension"},
		"nonce extension relays":  {func(r *rig) { r.host.extensions[nonceID] = &nonces{} }, "mode check"},
		"no key file":             {func(r *rig) { require.NoError(t, os.Remove(r.keyFile)) }, "keys.json"},
		"key file is a directory": {func(r *rig) { r.cfg.Keys.File = t.TempDir() }, "not a regular file"},
		"key file broken":         {func(r *rig) { require.NoError(t, os.WriteFile(r.keyFile, []byte("{"), 0o600)) }, "keys.json"},
		"storage not there":       {func(r *rig) { r.cfg.Park.Storage = &other }, `no extension "other"`},
		"storage is none": {func(r *rig) {
			r.cfg.Park.Storage = &nonceID
		}, "is not a storage extension"},
	} {
		t.Run(name, func(t *testing.T) {
			r := prepareRig(t, block.Logs)
			c.change(r)
			err := r.p.Start(t.Context(), r.host)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "tpmverify")
			require.NoError(t, r.p.Shutdown(t.Context()))
			require.NoError(t, r.p.Shutdown(t.Context()))
		})
	}
}

type registryless struct {
	component.StartFunc
	component.ShutdownFunc
}

func TestTwoInstancesWithOneScopeDoNotStart(t *testing.T) {
	one := newRig(t, block.Logs)
	two := prepareRig(t, block.Logs, withWindows(one.windows))
	err := two.p.Start(t.Context(), two.host)
	require.ErrorContains(t, err, "tpmverify:logs")
	require.ErrorContains(t, err, "tpmverify/NAME")
	require.NoError(t, two.p.Shutdown(t.Context()))

	three := newRig(t, block.Logs, withWindows(one.windows), withConfig(func(c *Config) { c.Scope = "quarantine" }))
	four := newRig(t, block.Traces, withWindows(one.windows))
	d := one.signed(0)
	require.NoError(t, one.send(d))
	require.Equal(t, "quarantine", three.p.scope)
	require.Equal(t, "tpmverify:traces", four.p.scope)
}

func TestFailedStartDoesNotKeepAnothersScopeNorGiveItAway(t *testing.T) {
	one := newRig(t, block.Logs)
	two := prepareRig(t, block.Logs, withWindows(one.windows))
	require.Error(t, two.p.Start(t.Context(), two.host))
	require.NoError(t, two.p.Shutdown(t.Context()))
	three := prepareRig(t, block.Logs, withWindows(one.windows))
	require.Error(t, three.p.Start(t.Context(), three.host), "the first one still has it")
	require.NoError(t, three.p.Shutdown(t.Context()))
}

func TestInstanceStartsAgainAfterShutdown(t *testing.T) {
	one := newRig(t, block.Logs)
	one.shutdown()
	two := newRig(t, block.Logs, withWindows(one.windows))
	require.NoError(t, two.send(two.signed(0)))
	require.Equal(t, 1, two.take().Len())
}

// look does what the watch does at each interval.
func (r *rig) look() {
	r.p.keys.(*fileKeys).look(r.t.Context(), func(e *componentstatus.Event) { r.host.Report(e) })
}

func TestChangedKeyFileIsTakenAndABrokenOneIsNot(t *testing.T) {
	r := newRig(t, block.Logs)
	send := func() {
		t.Helper()
		require.NoError(t, r.send(r.signed(0)))
	}
	send()
	require.Equal(t, 1, r.take().Len())
	require.EqualValues(t, 2, r.count("tpmverify_keys"))

	require.NoError(t, os.WriteFile(r.keyFile, []byte(`{"keys":[`), 0o600))
	r.look()
	r.look()
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.lastStatus())
	require.EqualValues(t, 1, r.count("tpmverify_key_reload_failures"), "said once, not at every look")
	require.Equal(t, 1, r.logs.FilterMessageSnippet("stay in force").Len())
	send()
	require.Equal(t, 1, r.take().Len(), "the old keys stay in force")

	require.NoError(t, os.Remove(r.keyFile))
	r.look()
	require.EqualValues(t, 2, r.count("tpmverify_key_reload_failures"))
	send()
	require.Equal(t, 1, r.take().Len())

	revoked := entryOf(t, r.machines[0])
	revoked.Revoked = "stolen"
	r.writeKeys(keyfile.File{Keys: []keyfile.Entry{revoked}})
	r.look()
	require.Equal(t, componentstatus.StatusOK, r.host.lastStatus())
	require.EqualValues(t, 1, r.count("tpmverify_keys"))
	send()
	require.Zero(t, r.take().Len())
	require.EqualValues(t, 1, r.refused(reason.KeyRevoked))
}

func TestKeyFileOfEqualSizeAndTimeIsStillNoticed(t *testing.T) {
	r := newRig(t, block.Logs)
	info, err := os.Stat(r.keyFile)
	require.NoError(t, err)
	content, err := os.ReadFile(r.keyFile)
	require.NoError(t, err)
	swapped := strings.NewReplacer("edge-a", "edge-b", "edge-b", "edge-a").Replace(string(content))
	require.NoError(t, os.WriteFile(r.keyFile+".next", []byte(swapped), 0o600))
	require.NoError(t, os.Chtimes(r.keyFile+".next", info.ModTime(), info.ModTime()))
	require.NoError(t, os.Rename(r.keyFile+".next", r.keyFile))
	r.look()
	d := signtest.Data(block.Logs, "x", 1)
	r.machines[0].Sign(t, stream, 0, d)
	require.NoError(t, r.send(d))
	require.Equal(t, "edge-b", attr(r.take().At(0), block.AttrName))
}

func TestKeyFileIsWatched(t *testing.T) {
	r := newRig(t, block.Logs, withConfig(func(c *Config) { c.Keys.RefreshInterval = minRefresh }))
	r.trust(r.machines[1])
	require.Eventually(t, func() bool { return r.count("tpmverify_keys") == 1 }, 10*time.Second, 20*time.Millisecond)
}

func TestMachinesThatAKeyFileTrustsNoMoreAreNamed(t *testing.T) {
	r := newRig(t, block.Logs)
	r.trust(r.machines[1])
	r.look()
	gone := r.logs.FilterMessageSnippet("gone from the key file").AllUntimed()
	require.Len(t, gone, 1)
	require.EqualValues(t, 1, gone[0].ContextMap()["gone"])
	require.Equal(t, []any{"edge-a"}, gone[0].ContextMap()["names"])

	r.trust(r.machines...)
	r.look()
	require.Equal(t, 1, r.logs.FilterMessageSnippet("gone from the key file").Len(), "nothing is gone when one is added")
	require.Zero(t, r.logs.FilterMessageSnippet("holds no key").Len())

	r.trust()
	r.look()
	require.Equal(t, 2, r.logs.FilterMessageSnippet("gone from the key file").Len())
	require.Equal(t, 1, r.logs.FilterMessageSnippet("holds no key").Len())
}

func TestKeyFileThatEverybodyMayWriteIsWarnedAbout(t *testing.T) {
	r := prepareRig(t, block.Logs)
	require.NoError(t, os.Chmod(r.keyFile, 0o666))
	require.NoError(t, r.p.Start(t.Context(), r.host))
	defer r.shutdown()
	require.Equal(t, 1, r.logs.FilterMessageSnippet("everybody").Len())
}

func TestStripNeedsNothing(t *testing.T) {
	r := prepareRig(t, block.Logs, withConfig(func(c *Config) { c.Mode, c.Keys = ModeStrip, KeysConfig{} }))
	require.NoError(t, r.cfg.Validate())
	require.NoError(t, r.p.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, r.p.consume(t.Context(), digest.NewBatch(block.Logs)))
	r.shutdown()
}
