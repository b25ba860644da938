package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestKilledGocryptfsIsNoticedAndMountedAgain(t *testing.T) {
	d := open(t, place(t))
	v := mounted(t, d, 1)
	write(t, filepath.Join(v.Path(), "a"), "kept")
	_, err := v.Bind(t.Context(), []string{"/data"})
	require.NoError(t, err)
	signal(t, v.child.process.Pid, unix.SIGKILL)
	<-v.Done()
	refused(t, MountDead, v.Err())
	_, err = os.ReadDir(v.Path())
	require.ErrorIs(t, err, unix.ENOTCONN)
	_, err = v.Bind(t.Context(), []string{"/data"})
	refused(t, MountDead, err)
	require.NoError(t, v.Unmount(t.Context()))
	reads(t, filepath.Join(mounted(t, d, 1).Path(), "a"), "kept")
}

func TestKilledOwnerIsRecoveredFrom(t *testing.T) {
	path := place(t)
	owner, gocryptfs := owned(t, path)
	volume := filepath.Join(path, namePrivate, nameVolume)
	write(t, filepath.Join(volume, "a"), "kept")
	require.NoError(t, owner.Kill())
	// No gocryptfs outlives the one who watches it; its mount does, dead.
	require.Eventually(t, gone(gocryptfs), 5*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		_, err := os.ReadDir(volume)
		return errors.Is(err, unix.ENOTCONN)
	}, 5*time.Second, 5*time.Millisecond)

	v := mounted(t, open(t, path), 1)
	reads(t, filepath.Join(v.Path(), "a"), "kept")
	m, err := mountsUnder(v.Path())
	require.NoError(t, err)
	require.Len(t, m, 1)
}

func TestUnfinishedVolumeIsRemoved(t *testing.T) {
	path := place(t)
	require.NoError(t, os.MkdirAll(filepath.Join(path, nameNew, nameCipher), 0o700))
	precious := filepath.Join(t.TempDir(), "precious")
	write(t, precious, "x")
	require.NoError(t, os.Symlink(filepath.Dir(precious), filepath.Join(path, nameNew, "link")))
	d := open(t, path)
	_, err := d.Header()
	refused(t, VolumeMissing, err)
	require.NoDirExists(t, filepath.Join(path, nameNew))
	require.FileExists(t, precious)
	mounted(t, d, 1)
}
