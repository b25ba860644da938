package identity_test

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	registryapi "github.com/telemark-otel/telemark/internal/registry/api"
)

func TestDataSurviveReconfigureAndRestart(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured("/data", "/other")
	v.copyIn("/data/a", "kept\n")
	v.copyIn("/other/b", "kept too\n")

	// Another image, in another order, with one directory less.
	v.Podman.Import(t, app2, "second")
	v.accepted(v.second(v.owner, api.PathConfigure, v.configureBody(app2, "/new", "/data")))
	require.Equal(t, "kept\n", v.inside("/data/a"))
	require.Equal(t, result{"kept\n", "", 0}, v.ssh("cat /data/a"))
	v.accepted(v.second(v.owner, api.PathConfigure, v.configureBody(app, "/data", "/other")))
	require.Equal(t, "kept too\n", v.inside("/other/b"))

	before, key := v.state(), v.instance()
	v.restart()
	s := v.state()
	require.Equal(t, key, v.instance(), "a restart of the service is no reboot")
	require.Equal(t, before.Counter, s.Counter)
	require.Equal(t, api.SSHOpen, s.SSH.State)
	require.Equal(t, before.SSH.HostKey, s.SSH.HostKey)
	require.Equal(t, before.TLS.Key, s.TLS.Key)
	require.Equal(t, "kept\n", v.inside("/data/a"))
	require.Equal(t, result{"kept too\n", "", 0}, v.ssh("cat /other/b"))

	v.expose()
	v.reachable(words)
	v.restart()
	require.Equal(t, "workload_exposed", v.state().State)
	require.Equal(t, api.SSHClosed, v.state().SSH.State)
	require.False(t, v.knocks())
	v.reachable(words)
	require.Equal(t, "kept\n", v.inside("/data/a"))
	v.registryShowsClosed()
}

// TestRebootNeedsItsOwner: everything in memory is gone; the host has the disk,
// and an image of the same name that is another.
func TestRebootNeedsItsOwner(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured("/data")
	v.copyIn("/data/a", "kept\n")
	v.expose()
	v.reachable(words)
	before, key := v.state(), v.instance()

	v.reboot()
	s := v.state()
	require.NotEqual(t, key, v.instance())
	require.False(t, s.Linked)
	require.Equal(t, "locked", s.Storage.Volume)
	v.unreachable()
	require.False(t, v.knocks())
	v.refused("state_unlinked", v.second(v.owner, api.PathExpose, v.exposeBody(app)))

	// The volume's key in another's hand, or another key in the owner's.
	stranger := newPerson(t, "stranger")
	a := v.send("POST", api.PathStorageRequest, v.encode(api.StorageRequest{Owner: stranger.public(), Nonce: make([]byte, 32)}))
	v.refused("other_owner", a)
	wrong := append([]byte(nil), volumeKey...)
	wrong[0] ^= 1
	v.refused("key_wrong", v.unlock(v.owner, wrong, before.Counter))
	require.Equal(t, "locked", v.state().Storage.Volume)

	v.accepted202(v.unlock(v.owner, volumeKey, before.Counter))
	s = v.state()
	require.True(t, s.Linked)
	require.True(t, s.Witnessed)
	require.Equal(t, before.Origin, s.Origin)
	require.Equal(t, "workload_exposed", s.State)
	require.Equal(t, before.Workload.Digest, s.Workload.Digest)
	require.False(t, v.knocks())
	v.reachable(words) // not what the host calls by its name
	require.Equal(t, "kept\n", v.inside("/data/a"))
	v.refused("state_linked", v.unlock(v.owner, volumeKey, before.Counter))

	// The registry has to hear of the new key from the operator.
	require.True(t, s.OperatorRenewal)
	a = v.second(v.operator, api.PathRenewOperator, &api.Renewal{Pubkey: v.operator.public(), Signature: v.operator.sign(v.instance())})
	v.accepted(a)
	v.registryShowsClosed()
	f := v.facts(func(*registryapi.InstanceFacts) error { return nil })
	require.Equal(t, []byte(before.Origin), []byte(f.Origin))
	old, err := world.registry.Client.Instance(t.Context(), hex.EncodeToString(key))
	require.NoError(t, err)
	require.Equal(t, registryapi.TDXSuperseded, old.State)
}

func TestRebootOfAConfiguredInstanceOpensSSHAgain(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured("/data")
	v.copyIn("/data/a", "kept\n")
	host := v.state().SSH.HostKey
	counter := v.state().Counter
	v.reboot()
	require.False(t, v.knocks())
	v.accepted202(v.unlock(v.owner, volumeKey, counter))
	require.NotEqual(t, host, v.state().SSH.HostKey, "host keys live in memory")
	require.Equal(t, result{"kept\n", "", 0}, v.ssh("cat /data/a"))
	v.expose202()
	v.reachable(words)
	require.False(t, v.knocks())
}

// accepted202 is a step that was taken, of which the registry may not have heard
// yet: it waits for the operator.
func (v *vm) accepted202(a *answer) {
	v.Helper()
	require.Equal(v, 202, a.Code, "%s", a)
	require.Equal(v, api.StatusSuccess, a.Status, "%s", a)
	require.Equal(v, api.RegistryPending, a.Registry, "%s", a)
	require.Equal(v, "operator_renewal_needed", a.Reason, "%s", a)
}

func (v *vm) expose202() {
	v.Helper()
	alone(func() { v.accepted202(v.second(v.owner, api.PathExpose, v.exposeBody(app))) })
}

// TestShutdownLeavesNothingMounted: SIGTERM ends it in order.
func TestShutdownLeavesNothingMounted(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.configured("/data")
	require.NoError(t, v.Stop(20*time.Second))
	require.Empty(t, v.mounts())
	require.False(t, v.knocks())
	require.NoError(t, v.Up(t.Context()))
	require.Equal(t, api.SSHOpen, v.state().SSH.State)
}
