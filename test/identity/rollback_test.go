package identity_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/api"
	"github.com/telemark-otel/telemark/test/identitylab"
)

// mounts are those below the VM's disk.
func (v *vm) mounts() []string {
	v.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(v, err)
	var points []string
	for line := range strings.Lines(string(b)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, v.Disk+"/") {
			points = append(points, point)
		}
	}
	return points
}

// setBack lets the VM go on, and then puts the disk from before under it.
func (v *vm) setBack() (counter uint64) {
	v.Helper()
	v.configured("/data")
	alone(func() { require.NoError(v, v.Off()) })
	require.NoError(v, v.Save(v.Context(), "while SSH was open"))
	require.NoError(v, v.On(v.Context()))
	require.NoError(v, v.Up(v.Context()))
	v.accepted202(v.unlock(v.owner, volumeKey, v.state().Counter))
	v.accepted(v.second(v.operator, api.PathRenewOperator, &api.Renewal{Pubkey: v.operator.public(), Signature: v.operator.sign(v.instance())}))
	v.expose()
	v.registryShowsClosed()
	counter = v.state().Counter

	alone(func() { require.NoError(v, v.Off()) })
	require.NoError(v, v.SetBack(v.Context(), "while SSH was open"))
	require.NoError(v, v.On(v.Context()))
	require.NoError(v, v.Up(v.Context()))
	require.Less(v, v.state().Counter, counter)
	return counter
}

// shut: the disk is from before, and nothing of it is opened, now or later.
func (v *vm) shut() {
	v.Helper()
	for range 2 {
		s := v.state()
		require.True(v, s.RolledBack)
		require.NotEqual(v, api.SSHOpen, s.SSH.State)
		require.NotEqual(v, "mounted", s.Storage.Volume)
		require.False(v, v.knocks())
		v.unreachable()
		v.refused("state_rollback", v.second(v.owner, api.PathConfigure, v.configureBody(app, "/data")))
		v.refused("state_rollback", v.send("POST", api.PathStorageRequest, v.encode(api.StorageRequest{Owner: v.owner.public(), Nonce: make([]byte, 32)})))
		v.restart()
	}
}

func TestDiskThatWasSetBackIsSeenByTheRegistry(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	v.setBack()
	// An owner's tool that remembers nothing.
	v.refused("state_rollback", v.unlock(v.owner, volumeKey, 0))
	v.shut()
}

func TestDiskThatWasSetBackIsSeenByTheOwnersTool(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	counter := v.setBack()
	// The registry is out of reach for the VM: its host sees to that.
	v.Env = append(v.Env, "REGISTRY_URL=http://127.0.0.1:9")
	v.restart()
	v.refused("state_rollback", v.unlock(v.owner, volumeKey, counter))
	v.shut()
}

// TestDiskOfThisMomentIsTaken: without a registry the owner's tool alone says which
// counter was last, and it is the one on the disk.
func TestDiskOfThisMomentIsTaken(t *testing.T) {
	t.Parallel()
	v := newVM(t, func(o *identitylab.Options) { o.Registry, o.Pin = "off", "" })
	v.configured("/data")
	counter := v.state().Counter
	v.reboot()
	a := v.unlock(v.owner, volumeKey, counter)
	v.accepted(a)
	require.Equal(t, api.SSHOpen, v.state().SSH.State)
}

// TestVolumeThatTheHostExchangedIsRefused: the host swaps the disks of two VMs of one
// owner.
func TestVolumeThatTheHostExchangedIsRefused(t *testing.T) {
	t.Parallel()
	v, other := newVM(t), newVM(t)
	other.owner = v.owner
	v.configured("/data")
	other.configured("/data")
	counter := v.state().Counter
	require.NoError(t, v.Off())
	require.NoError(t, other.Off())
	require.NoError(t, os.RemoveAll(v.Disk+"/volume"))
	require.NoError(t, os.Rename(other.Disk+"/volume", v.Disk+"/volume"))
	require.NoError(t, other.On(t.Context()))
	require.NoError(t, v.On(t.Context()))
	require.NoError(t, v.Up(t.Context()))
	a := v.unlock(v.owner, volumeKey, counter)
	require.GreaterOrEqual(t, a.Code, 400, "%s", a)
	require.Contains(t, []string{"identity_invalid", "key_wrong", "state_forged", "volume_other"}, a.Reason, "%s", a)
	require.False(t, v.knocks())
}
