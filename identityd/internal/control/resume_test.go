package control

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
)

func TestDataSurvivesReconfigureRestartAndReboot(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	l.copyIn("kept", "/data/file")
	keeps := func() {
		t.Helper()
		out, err := l.ssh("cat /data/file", nil)
		require.NoError(t, err)
		require.Equal(t, "kept", out)
	}
	l.podman.Import(t, other, "second")
	require.NoError(t, l.configure(other, "/data", "/more"))
	l.is(state.WorkloadConfigured)
	keeps()

	l.stop()
	require.False(t, l.sshOpen())
	l.start()
	l.is(state.WorkloadConfigured)
	keeps()

	l.kill()
	l.start()
	l.is(state.WorkloadConfigured)
	keeps()

	origin := l.m.View().Origin
	l.reboot()
	l.start()
	v := l.c.View(t.Context())
	require.Equal(t, VolumeLocked, v.Volume)
	require.False(t, v.State.Linked)
	require.Equal(t, string(reason.StateUnlinked), v.Problems[0].Reason)
	require.Equal(t, "never_opened", l.attests().SSH)
	require.False(t, l.sshOpen())
	refused(t, l.configure(app), reason.StateUnlinked)
	require.NoError(t, l.unlock())
	l.is(state.WorkloadConfigured)
	require.Equal(t, origin, l.m.View().Origin)
	require.NotEqual(t, origin, l.m.View().Instance)
	keeps()
	refused(t, l.unlock(), reason.StateLinked)

	require.NoError(t, l.expose(other))
	l.is(state.WorkloadExposed)
	l.serves("second")
	l.kill()
	l.start()
	l.is(state.WorkloadExposed)
	l.serves("second")

	l.reboot()
	l.start()
	_, err := l.get()
	require.Error(t, err, "nothing runs before the owner has spoken")
	require.NoError(t, l.unlock())
	l.is(state.WorkloadExposed)
	l.serves("second")
	require.Equal(t, "closed", l.attests().SSH)
	// And what was written is still there, though nobody can go and look.
	b, err := os.ReadFile(filepath.Join(l.c.volume.Path(), "persist", "%data", "file"))
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
}

func TestWrongKeyDoesNotMount(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	l.reboot()
	l.start()
	right := l.key
	l.key = make([]byte, 32)
	l.key[0] = 1
	refused(t, l.unlock(), reason.KeyWrong)
	require.Equal(t, VolumeLocked, l.c.View(t.Context()).Volume)
	// Not even for the time of a restart is it taken for the right one.
	l.kill()
	l.start()
	require.False(t, l.m.View().Linked)

	_, err := l.sealed(keyOf(3), right)
	refused(t, err, reason.OtherOwner)
	l.owner, l.key = keyOf(3), right
	refused(t, l.unlock(), reason.OtherOwner)
	require.False(t, l.sshOpen())
	l.owner = keyOf(2)
	require.NoError(t, l.unlock())
	l.is(state.WorkloadConfigured)
}

func TestDiskThatWasSetBackOpensNothing(t *testing.T) {
	for name, witness := range map[string]func(*lab){
		"the owner's tool knows": func(*lab) {},
		"the registry knows": func(l *lab) {
			l.registry.speaks, l.last = true, 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.owned()
			require.NoError(t, l.configure(app, "/data"))
			l.stop()
			before := filepath.Join(t.TempDir(), "disk")
			copyTree(t, l.disk, before)
			l.start()
			require.NoError(t, l.expose(app))
			l.last = l.m.Counter()
			l.reboot()
			require.NoError(t, os.RemoveAll(l.disk))
			copyTree(t, before, l.disk)
			l.start()
			witness(l)
			// The tool would not answer; somebody made it.
			last := l.last
			l.last = 0
			sealed, err := l.sealed(l.owner, l.key)
			require.NoError(t, err)
			l.last = last
			refused(t, l.unlockWith(sealed), reason.StateRollback)
			v := l.c.View(t.Context())
			require.True(t, v.State.RolledBack)
			require.Equal(t, string(reason.StateRollback), v.Problems[0].Reason)
			require.Equal(t, "absent", string(v.Container.Phase))
			require.NotEqual(t, VolumeMounted, v.Volume)
			require.False(t, l.sshOpen())
			refused(t, l.configure(app), reason.StateRollback)
			l.attests()
			l.kill()
			l.start()
			require.False(t, l.sshOpen())
			require.Equal(t, "absent", string(l.c.View(t.Context()).Container.Phase))
		})
	}
}

func TestRegistryThatFindsOutLaterEndsEverything(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	refused(t, l.m.Witness(state.Registry, l.m.Counter()+1), reason.StateRollback)
	require.Eventually(t, func() bool { return !l.sshOpen() }, eventually, tick)
	require.Eventually(t, func() bool {
		v := l.c.View(t.Context())
		return v.Container.Phase == "absent" && v.Volume != VolumeMounted
	}, eventually, tick)
}

func TestVolumeThatEndsIsMountedAgain(t *testing.T) {
	for _, exposed := range []bool{false, true} {
		l := newLab(t)
		l.owned()
		require.NoError(t, l.configure(app, "/data"))
		l.copyIn("kept", "/data/file")
		want := state.WorkloadConfigured
		if exposed {
			want = state.WorkloadExposed
			require.NoError(t, l.expose(app))
		}
		require.Equal(t, 1, l.killGocryptfs())
		require.Eventually(t, func() bool { return len(l.c.View(t.Context()).Problems) != 0 }, eventually, tick)
		require.Eventually(t, func() bool {
			v := l.c.View(t.Context())
			return len(v.Problems) == 0 && v.Volume == VolumeMounted
		}, eventually, tick)
		l.is(want)
		if !exposed {
			out, err := l.ssh("cat /data/file", nil)
			require.NoError(t, err)
			require.Equal(t, "kept", out)
		}
	}
}

func TestWhatDoesNotComeBackIsToldAndTriedAgain(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	l.stop()
	l.noSSH = true
	l.start()
	v := l.c.View(t.Context())
	require.Equal(t, string(reason.SSHUnavailable), v.Problems[0].Reason)
	l.noSSH = false
	require.Eventually(t, l.sshOpen, eventually, tick)
	l.is(state.WorkloadConfigured)
}

func TestFilesThatTheHostMovedAreNotTaken(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	dir := filepath.Join(l.c.volume.Path(), "identity")
	identity, err := l.m.Identity()
	require.NoError(t, err)
	// What the workload wrote, in the place of the identity: authentic to
	// gocryptfs, and of identityd's own shape.
	l.copyIn(string(identity), "/data/forged")
	require.NoError(t, os.Rename(filepath.Join(l.c.volume.Path(), "persist", "%data", "forged"), filepath.Join(dir, "identity")))
	l.reboot()
	l.start()
	refused(t, l.unlock(), reason.IdentityInvalid)
	require.False(t, l.m.View().Linked)
	require.Equal(t, VolumeLocked, l.c.View(t.Context()).Volume)
}

func TestArchiveThatWasChangedIsNotRun(t *testing.T) {
	l := newLab(t)
	l.owned()
	require.NoError(t, l.configure(app, "/data"))
	archive := filepath.Join(l.c.volume.Path(), "identity", imageName(l.m.View().Workload.Digest)+archiveSuffix)
	f, err := os.OpenFile(archive, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 100)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	l.reboot()
	l.start()
	require.NoError(t, l.unlock(), "the storage is unlocked all the same")
	v := l.c.View(t.Context())
	require.Equal(t, VolumeMounted, v.Volume)
	require.Equal(t, string(reason.ImageMismatch), v.Problems[0].Reason)
	require.Equal(t, "absent", string(v.Container.Phase))
	require.Empty(t, strings.TrimSpace(l.podman.Output(t, "images", "--quiet")))
	// The owner configures it again.
	l.podman.Import(t, app, "hello")
	require.NoError(t, l.configure(app, "/data"))
	l.is(state.WorkloadConfigured)
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to, 0o700))
	out, err := exec.CommandContext(t.Context(), "cp", "-a", from+"/.", to).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
