package control

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/internal/podmantest"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
)

func TestCallsOutOfOrderAreRefused(t *testing.T) {
	l := newLab(t)
	l.start()
	refused(t, l.configure(app), reason.OperatorMissing)
	refused(t, l.expose(app), reason.OperatorMissing)
	refused(t, l.unlockWith([]byte{1}), reason.OwnerMissing)
	body := l.ownerBody(l.owner)
	_, err := l.c.RegisterOwner(t.Context(), "00", body)
	refused(t, err, reason.OperatorMissing)
	_, err = l.c.RenewOperator(t.Context(), state.Role{Pubkey: pubOf(l.operator), Signature: ed25519.Sign(l.operator, l.m.Instance())})
	refused(t, err, reason.OperatorMissing)

	token := l.registerOperator()
	_, err = l.c.RegisterOperator(t.Context(), &request.Operator{Pubkey: body.Pubkey, Signature: body.Signature})
	refused(t, err, reason.OperatorRegistered)
	refused(t, l.configure(app), reason.OwnerMissing)
	_, err = l.c.RegisterOwner(t.Context(), "", body)
	refused(t, err, reason.TokenMissing)
	l.registerOwner(token)
	refused(t, l.expose(app), reason.WorkloadMissing)
	refused(t, l.unlockWith([]byte{1}), reason.StateLinked)
	require.NoError(t, l.configure(app))
	refused(t, l.expose(other), reason.ImageMismatch)
	l.is(state.WorkloadConfigured)
	_, err = l.c.RegisterOwner(t.Context(), token, body)
	refused(t, err, reason.TokenUsed)

	// A service that ends takes nothing more.
	c := l.c
	require.NoError(t, c.Close(t.Context()))
	refused(t, l.configure(app), reason.Stopping)
}

func TestRegistryThatIsDownKeepsNoStepFromBeingDone(t *testing.T) {
	l := newLab(t)
	l.start()
	l.registry.down = reason.Refuse(reason.RegistryUnreachable, "it is down")
	out, err := l.c.RegisterOperator(t.Context(), &request.Operator{
		Pubkey: request.Hex(pubOf(l.operator)), Signature: ed25519.Sign(l.operator, l.m.Instance()),
	})
	require.NoError(t, err)
	refused(t, out.Registry, reason.RegistryUnreachable)
	require.NotEmpty(t, out.Token)
	out, err = l.c.RegisterOwner(t.Context(), out.Token, l.ownerBody(l.owner))
	require.NoError(t, err)
	refused(t, out.Registry, reason.RegistryUnreachable)
	l.is(state.OwnerRegistered)
}

func TestRacedTokenWorksOnce(t *testing.T) {
	l := newLab(t)
	l.start()
	token := l.registerOperator()
	sealed := l.ownerBody(l.owner).SealedKey
	results := make([]error, 100)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() { _, results[i] = l.c.RegisterOwner(t.Context(), token, l.ownerBodyWith(sealed)) })
	}
	all.Wait()
	done := 0
	for _, err := range results {
		if err == nil {
			done++
			continue
		}
		refused(t, err, reason.TokenUsed)
	}
	require.Equal(t, 1, done)
	l.is(state.OwnerRegistered)
}

func TestOwnerWhoseKeyDoesNotOpenMayTryAgainAndNobodyElse(t *testing.T) {
	l := newLab(t)
	l.start()
	token := l.registerOperator()
	good := l.ownerBody(l.owner)
	bad := l.ownerBodyWith(append([]byte{}, good.SealedKey...))
	bad.SealedKey[len(bad.SealedKey)-1] ^= 1
	_, err := l.c.RegisterOwner(t.Context(), token, bad)
	refused(t, err, reason.SignatureInvalid)
	_, err = l.c.RegisterOwner(t.Context(), token, l.ownerBodyWith(nil))
	refused(t, err, reason.SealedKeyMissing)
	l.is(state.OperatorRegistered)
	_, err = l.sealed(keyOf(3), l.key)
	refused(t, err, reason.OtherOwner)
	// What was asked before the counter rose is not taken any more.
	_, err = l.c.RegisterOwner(t.Context(), token, good)
	refused(t, err, reason.CounterMismatch)
	l.registerOwner(token)
	l.is(state.OwnerRegistered)
}

func TestTagThatMovedIsNotExposed(t *testing.T) {
	p := podmantest.New(t)
	p.Start(t)
	l := newLabWith(t, p)
	r := podmantest.NewRegistry(t)
	r.Username, r.Password = "owner", "very secret"
	r.Push(t, "org/app", "1", "as configured")
	name, port := r.Host+"/org/app:1", int64(8080)
	l.owned()
	refused(t, l.configure(name), reason.ImageDenied)
	l.is(state.OwnerRegistered)
	_, err := l.c.Configure(t.Context(), &request.Configure{
		Image: &name, PersistDirs: []string{"/data"}, Port: &port,
		Registry: &request.Credentials{Username: "owner", Password: "very secret"},
	}, l.auth())
	require.NoError(t, err)
	l.is(state.WorkloadConfigured)
	r.Push(t, "org/app", "1", "moved")
	require.NoError(t, l.expose(name))
	l.is(state.WorkloadExposed)
	l.serves("as configured")
	// Nor after a reboot, when the registry would give another.
	l.reboot()
	l.start()
	require.NoError(t, l.unlock())
	l.is(state.WorkloadExposed)
	l.serves("as configured")
}

func TestPortThatIsTakenLeavesTheDoorOpen(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", l.hostPort))
	require.NoError(t, err)
	refused(t, l.expose(app), reason.PortTaken)
	l.is(state.WorkloadConfigured)
	_, err = l.ssh("echo", nil)
	require.NoError(t, err)
	require.NoError(t, taken.Close())
	require.NoError(t, l.expose(app))
	l.is(state.WorkloadExposed)
}

func TestStepThatFailsLateGoesBackToTheWorkloadBefore(t *testing.T) {
	l := newLab(t)
	l.podman.Import(t, other, "second")
	l.owned()

	l.noSSH = true
	refused(t, l.configure(app, "/data"), reason.SSHUnavailable)
	l.is(state.OwnerRegistered)
	l.noSSH = false
	require.NoError(t, l.configure(app, "/data"))
	l.copyIn("kept", "/data/file")

	refused(t, l.configure(other, "/data/../etc"), reason.PersistDirsInvalid)
	refused(t, l.configure("No Image"), reason.ImageInvalid)
	refused(t, l.configure("localhost/none:1"), reason.ImageNotFound)
	l.is(state.WorkloadConfigured)

	// The container that stands is replaced, and then the port is not to be had.
	first := true
	listen := l.c.o.ListenSSH
	l.c.o.ListenSSH = func(ctx context.Context) (net.Listener, error) {
		if first {
			first = false
			return nil, fmt.Errorf("the port is taken")
		}
		return listen(ctx)
	}
	refused(t, l.configure(other, "/data"), reason.SSHUnavailable)
	v := l.is(state.WorkloadConfigured)
	require.Equal(t, app, v.State.Workload.Image)
	out, err := l.ssh("cat /data/file", nil)
	require.NoError(t, err)
	require.Equal(t, "kept", out)
	// No image of a workload that came to nothing fills the volume.
	names, err := filepath.Glob(filepath.Join(l.c.volume.Path(), "identity", imagePrefix+"*"))
	require.NoError(t, err)
	require.Len(t, names, 2)
}

func TestCallerWhoGoesAwayLeavesNothingHalfDone(t *testing.T) {
	l := newLab(t)
	l.owned()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	name, port := app, int64(8080)
	_, err := l.c.Configure(ctx, &request.Configure{Image: &name, PersistDirs: []string{}, Port: &port}, l.auth())
	require.Error(t, err)
	l.is(state.OwnerRegistered)
	require.NoError(t, l.configure(app))
	_, err = l.c.Expose(ctx, &request.Expose{Image: &name}, l.auth())
	require.Error(t, err)
	l.is(state.WorkloadConfigured)
}

// vault gives its key to whoever asks, as one does whose policy knows the
// machine and not the owner.
type vault struct{}

func (vault) Kind() storage.Kind { return storage.VaultKey }
func (vault) Warning() string    { return "" }

func (v vault) Create(ctx context.Context, id storage.ID) (*storage.Key, []byte, error) {
	k, err := v.Release(ctx, id, nil)
	return k, []byte("sealed"), err
}

func (vault) Release(context.Context, storage.ID, []byte) (*storage.Key, error) {
	return storage.NewKey([]byte("0123456789abcdef0123456789abcdef"))
}

func TestVolumeOfAnotherOwnerIsNotTakenOver(t *testing.T) {
	l := newLab(t)
	l.kind, l.vault = storage.VaultKey, vault{}
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	l.copyIn("secret of the owner", "/data/file")

	// A restart, and a reboot: the key is to be had again.
	l.kill()
	l.start()
	l.is(state.WorkloadConfigured)
	l.reboot()
	l.start()
	require.NoError(t, l.unlock())
	l.is(state.WorkloadConfigured)

	// The host removes the state and becomes operator and owner itself.
	l.reboot()
	require.NoError(t, os.Remove(filepath.Join(l.disk, "identityd.state")))
	l.start()
	owner := l.owner
	l.owner = keyOf(3)
	token := l.registerOperator()
	_, err := l.c.RegisterOwner(t.Context(), token, l.ownerBody(l.owner))
	refused(t, err, reason.VolumeOther)
	require.NotEqual(t, VolumeMounted, l.c.View(t.Context()).Volume)

	// Without the file that says whose it is it is nobody's.
	l.reboot()
	require.NoError(t, os.Remove(filepath.Join(l.disk, "identityd.state")))
	l.start()
	l.removeInVolume(nameOwner)
	l.owner = owner
	_, err = l.c.RegisterOwner(t.Context(), l.registerOperator(), l.ownerBody(l.owner))
	refused(t, err, reason.VolumeOther)
}

func TestLegacyKeyIsComplainedOf(t *testing.T) {
	l := newLab(t)
	l.kind = storage.LegacyKey
	l.owned()
	v := l.c.View(t.Context())
	require.Equal(t, "storage_key_public", v.Problems[0].Reason)
	_, _, err := l.c.StorageRequest(t.Context(), [32]byte{}, pubOf(l.owner))
	refused(t, err, reason.SealedKeyUnwanted)
	l.kill()
	l.start()
	require.Equal(t, VolumeMounted, l.c.View(t.Context()).Volume)
}

func TestForeignEventLeavesTheDoorOpenAndIsTold(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	td, err := guest.Open(t.Context(), guest.Options{Mock: l.platform.URL + "/td/" + l.bootID()})
	require.NoError(t, err)
	require.NoError(t, td.ExtendRTMR3(t.Context(), [48]byte{1}))
	refused(t, l.expose(app), reason.EventLogForeign)
	refused(t, l.configure(app, "/data"), reason.EventLogForeign)
	_, err = l.ssh("echo", nil)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(l.c.View(t.Context()).Problems, func(p Problem) bool {
		return p.Reason == string(reason.EventLogForeign)
	}))
}
