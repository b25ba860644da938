package storage

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

func TestDataSurviveUnmountAndRemount(t *testing.T) {
	path := place(t)
	d := open(t, path)
	v := mounted(t, d, 1)
	write(t, filepath.Join(v.Path(), "a"), "first")
	require.NoError(t, v.Unmount(t.Context()))
	require.NoError(t, v.Unmount(t.Context()))
	require.NoFileExists(t, filepath.Join(v.Path(), "a"))
	require.NoError(t, v.Err())

	v = mounted(t, d, 1)
	reads(t, filepath.Join(v.Path(), "a"), "first")
	require.NoError(t, d.Close(t.Context()))
	nothingMounted(t, path)

	// Nothing of it is readable below.
	out, err := exec.CommandContext(t.Context(), "grep", "-rl", "first", path).CombinedOutput()
	require.Error(t, err, "%s", out)

	v = mounted(t, open(t, path), 1)
	reads(t, filepath.Join(v.Path(), "a"), "first")
}

func TestOptionsOfTheMount(t *testing.T) {
	for _, exec := range []bool{false, true} {
		v := mounted(t, open(t, place(t), func(o *Options) { o.Exec = exec }), 1)
		binds, err := v.Bind(t.Context(), []string{"/data"})
		require.NoError(t, err)
		for _, p := range []string{v.Path(), binds[0].Host} {
			var s unix.Statfs_t
			require.NoError(t, unix.Statfs(p, &s))
			require.EqualValues(t, unix.FUSE_SUPER_MAGIC, s.Type)
			m, err := mountsUnder(p)
			require.NoError(t, err)
			require.Len(t, m, 1)
			require.Subset(t, m[0].options, []string{"nosuid", "nodev"})
			if exec {
				require.NotContains(t, m[0].options, "noexec")
			} else {
				require.Contains(t, m[0].options, "noexec")
			}
		}
	}
}

func TestWrongKeyCannotMount(t *testing.T) {
	path := place(t)
	d := open(t, path)
	require.NoError(t, d.Create(t.Context(), ID{1}, given(1)))
	_, err := d.Mount(t.Context(), ID{1}, given(2))
	refused(t, KeyWrong, err)
	_, err = d.Mount(t.Context(), ID{2}, given(1))
	refused(t, VolumeOther, err)
	l, err := Legacy(make([]byte, 32), make([]byte, 16))
	require.NoError(t, err)
	_, err = d.Mount(t.Context(), ID{1}, l)
	refused(t, SourceOther, err)

	// gocryptfs itself refuses it too.
	h, conf, cipher, err := d.header()
	require.NoError(t, err)
	k, err := NewKey(secret(2))
	require.NoError(t, err)
	v := &Volume{ID: h.ID, disk: d}
	refused(t, MountFailed, v.mount(t.Context(), k, conf, cipher))
	require.NoError(t, cipher.Close())

	v = mounted(t, d, 1)
	_, err = d.Mount(t.Context(), ID{1}, given(1))
	refused(t, VolumeMounted, err)
	refused(t, VolumeExists, d.Create(t.Context(), ID{3}, given(3)))
	require.NoError(t, v.Unmount(t.Context()))
}

func TestKeyIsGivenAwayOnce(t *testing.T) {
	d := open(t, place(t))
	s := given(1)
	require.NoError(t, d.Create(t.Context(), ID{1}, s))
	_, err := d.Mount(t.Context(), ID{1}, s)
	refused(t, KeyInvalid, err)
}

func TestSecondIdentitydIsRefused(t *testing.T) {
	path := place(t)
	v := mounted(t, open(t, path), 1)
	_, err := Open(t.Context(), Options{Path: path})
	refused(t, StorageInUse, err)
	write(t, filepath.Join(v.Path(), "a"), "still mounted")
}

func TestBusyVolumeIsTakenFromItsUsers(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	path := place(t)
	d := open(t, path, func(o *Options) { o.BusyTimeout = 200 * time.Millisecond; o.Logger = zap.New(core) })
	v := mounted(t, d, 1)
	binds, err := v.Bind(t.Context(), []string{"/data"})
	require.NoError(t, err)
	user := exec.CommandContext(t.Context(), "sleep", "60")
	user.Dir = binds[0].Host
	require.NoError(t, user.Start())
	t.Cleanup(func() { _ = user.Process.Kill(); _ = user.Wait() })
	f, err := os.Create(filepath.Join(v.Path(), "open"))
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // it cannot succeed

	began := time.Now()
	require.NoError(t, d.Close(t.Context()))
	require.Less(t, time.Since(began), 3*time.Second)
	nothingMounted(t, path)
	_, err = f.WriteString("too late")
	require.ErrorIs(t, err, unix.ENOTCONN)
	require.True(t, gone(v.child.process.Pid)())
	require.Len(t, logs.FilterMessageSnippet("detached").All(), 2)
	require.Len(t, logs.FilterMessage("gocryptfs was ended").All(), 1)
}

func TestBusyVolumeIsWaitedFor(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	d := open(t, place(t), func(o *Options) { o.Logger = zap.New(core) })
	v := mounted(t, d, 1)
	f, err := os.Create(filepath.Join(v.Path(), "open"))
	require.NoError(t, err)
	time.AfterFunc(100*time.Millisecond, func() { _ = f.Close() })
	require.NoError(t, d.Close(t.Context()))
	require.Empty(t, logs.All())
}

func TestGocryptfsThatHangsDoesNotHangUs(t *testing.T) {
	path := place(t)
	d := open(t, path, func(o *Options) { o.BusyTimeout = 300 * time.Millisecond; o.MountTimeout = 3 * time.Second })
	v := mounted(t, d, 1)
	signal(t, v.child.process.Pid, unix.SIGSTOP)
	began := time.Now()
	_, err := v.Bind(t.Context(), []string{"/data"})
	refused(t, MountTimeout, err)
	_, err = v.Identity(t.Context())
	refused(t, MountDead, err)
	require.NoError(t, v.Unmount(t.Context()))
	require.Less(t, time.Since(began), 10*time.Second)

	v = mounted(t, d, 1)
	signal(t, v.child.process.Pid, unix.SIGSTOP)
	require.NoError(t, d.Close(t.Context()))
	nothingMounted(t, path)
}

// fake puts a program in gocryptfs's place.
func fake(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	script = "#!/bin/sh\n[ \"$1\" = -version ] && { echo 'gocryptfs v2.3; fake'; exit; }\n" + script
	require.NoError(t, os.WriteFile(filepath.Join(dir, "gocryptfs"), []byte(script), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestGocryptfsThatNeverMountsIsEnded(t *testing.T) {
	path := place(t)
	d := open(t, path)
	require.NoError(t, d.Create(t.Context(), ID{1}, given(1)))
	require.NoError(t, d.Close(t.Context()))
	fake(t, "exec sleep 60")
	d = open(t, path, func(o *Options) { o.MountTimeout = 300 * time.Millisecond })
	_, err := d.Mount(t.Context(), ID{1}, given(1))
	refused(t, MountTimeout, err)

	d = open(t, place(t), func(o *Options) { o.MountTimeout = 300 * time.Millisecond })
	refused(t, InitFailed, d.Create(t.Context(), ID{1}, given(1)))
	_, err = d.Header()
	refused(t, VolumeMissing, err)
}

func TestWhatGocryptfsSaysIsQuotedAndBounded(t *testing.T) {
	fake(t, "head -c 100000 /dev/zero | tr '\\0' '\\033' >&2; exit 3")
	d := open(t, place(t))
	err := d.Create(t.Context(), ID{1}, given(1))
	refused(t, InitFailed, err)
	require.Less(t, len(err.Error()), 2000)
	require.NotContains(t, err.Error(), "\033")
}

func TestVolumeThatDoesNotEncryptNamesIsNotMade(t *testing.T) {
	real, err := exec.LookPath("gocryptfs")
	require.NoError(t, err)
	fake(t, "exec "+real+" -plaintextnames \"$@\"")
	d := open(t, place(t))
	refused(t, ConfUnsafe, d.Create(t.Context(), ID{1}, given(1)))
	_, err = d.Header()
	refused(t, VolumeMissing, err)
}

func TestMissingProgramsSayWhatToInstall(t *testing.T) {
	require.NoError(t, Check(t.Context(), ""))
	path := place(t)
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), Options{Path: path, Fuse: filepath.Join(path, "no-fuse")})
	for _, want := range []string{"apt-get install gocryptfs", "apt-get install fuse3", "modprobe fuse", string(GocryptfsMissing), string(FusermountMissing), string(FuseMissing)} {
		require.ErrorContains(t, err, want)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "gocryptfs"), []byte("#!/bin/sh\necho gocryptfs v1.8.0\n"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "fusermount3"), []byte("#!/bin/sh\n"), 0o700))
	t.Setenv("PATH", dir)
	err = Check(t.Context(), "")
	refused(t, GocryptfsTooOld, err)
	require.False(t, strings.Contains(err.Error(), "fuse3"))
	_, err = Open(t.Context(), Options{Path: filepath.Join(path, "none")})
	refused(t, GocryptfsTooOld, err)
}

func TestStoragePathThatIsNoDirectory(t *testing.T) {
	path := place(t)
	write(t, filepath.Join(path, "file"), "")
	for _, name := range []string{"file", "none"} {
		_, err := Open(t.Context(), Options{Path: filepath.Join(path, name)})
		refused(t, PathInvalid, err)
	}
}

func TestIdentityOutlivesTheMount(t *testing.T) {
	d := open(t, place(t))
	v := mounted(t, d, 1)
	root, err := v.Identity(t.Context())
	require.NoError(t, err)
	require.NoError(t, root.WriteFile("key", []byte("k"), 0o600))
	require.NoError(t, root.Close())
	require.NoError(t, v.Unmount(context.Background()))
	_, err = v.Identity(t.Context())
	refused(t, NotMounted, err)
	root, err = mounted(t, d, 1).Identity(t.Context())
	require.NoError(t, err)
	b, err := root.ReadFile("key")
	require.NoError(t, err)
	require.Equal(t, "k", string(b))
	require.NoError(t, root.Close())
}

func TestDerivedKeysAreOfTheVolumeAndThePurpose(t *testing.T) {
	path := place(t)
	d := open(t, path)
	v := mounted(t, d, 1)
	a, b := v.Derive("a"), v.Derive("b")
	require.NotEqual(t, a, b)
	require.NotEqual(t, [KeySize]byte(secret(1)), a)
	require.NoError(t, v.Unmount(t.Context()))
	require.NotEqual(t, a, v.Derive("a"), "forgotten with the mount")
	require.Equal(t, a, mounted(t, d, 1).Derive("a"))

	// Another volume of the same key.
	o := open(t, place(t))
	require.NoError(t, o.Create(t.Context(), ID{2}, given(1)))
	other, err := o.Mount(t.Context(), ID{2}, given(1))
	require.NoError(t, err)
	require.NotEqual(t, a, other.Derive("a"))
}

// TestVolumeIsUsedTheMomentItIsMounted: a file that is made while gocryptfs itself
// still opens one in its mount would hang, and gocryptfs with it.
func TestVolumeIsUsedTheMomentItIsMounted(t *testing.T) {
	d := open(t, place(t))
	for range 50 {
		v := mounted(t, d, 1)
		hangs := time.AfterFunc(10*time.Second, func() { abort(v.Path()) })
		write(t, filepath.Join(v.Path(), "a"), "x")
		require.True(t, hangs.Stop())
		require.NoError(t, os.Remove(filepath.Join(v.Path(), "a")))
		require.NoError(t, v.Unmount(t.Context()))
	}
}

func TestPhraseIsFoundInPieces(t *testing.T) {
	for _, pieces := range [][]string{{"x ready y"}, {"re", "ad", "y"}, {"rerea", "dy", "more"}, {"", "r", "e", "a", "d", "y"}} {
		p := newPhrase("ready")
		for _, piece := range pieces {
			_, err := p.Write([]byte(piece))
			require.NoError(t, err)
		}
		_, open := <-p.seen
		require.False(t, open)
	}
	p := newPhrase("ready")
	for range 1000 {
		_, err := p.Write([]byte("read, read and rea"))
		require.NoError(t, err)
	}
	require.Less(t, len(p.last), len("ready"))
	select {
	case <-p.seen:
		require.Fail(t, "not there")
	default:
	}
}
