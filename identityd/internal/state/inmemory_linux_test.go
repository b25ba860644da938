package state

import (
	"crypto/rand"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// inMemoryPath is a directory that is not there yet, on a tmpfs.
func inMemoryPath(t *testing.T) string {
	path := filepath.Join("/dev/shm", "telemark-test-"+rand.Text())
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(path)) })
	return path
}

func openReal(t *testing.T, disk, run string) (*Machine, error) {
	t.Helper()
	d, err := OpenDir(disk)
	require.NoError(t, err)
	r, err := OpenRunDir(run, false)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close(); _ = r.Close() })
	m, err := Open(Options{Dir: d, RunDir: r, BootID: "boot-0"})
	require.NoError(t, r.Close())
	return m, err
}

func TestRealFilesSurviveARestartAndAreOurs(t *testing.T) {
	disk, path := t.TempDir(), inMemoryPath(t)
	d, err := OpenDir(disk)
	require.NoError(t, err)
	r, err := OpenRunDir(path, false)
	require.NoError(t, err)
	m, err := Open(Options{Dir: d, RunDir: r, BootID: "boot-0"})
	require.NoError(t, err)
	owned(t, m)
	configured(t, m, body(1), "app:1", digestA)
	_, err = OpenRunDir(path, false)
	refused(t, err, reason.RunDirBusy)
	require.NoError(t, r.Close())
	require.NoError(t, d.Close())

	for _, dir := range []string{disk, path} {
		require.NoError(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			require.NoError(t, err)
			if info, err := e.Info(); !e.IsDir() {
				require.NoError(t, err)
				require.Equal(t, fs.FileMode(0o600), info.Mode(), p)
			}
			return nil
		}))
	}
	again, err := openReal(t, disk, path)
	require.NoError(t, err)
	require.Equal(t, m.View(), again.View())
}

func TestRunDirectoryThatOthersMayReadIsRefused(t *testing.T) {
	for path, want := range map[string]bool{"/dev/shm": true, "/proc": false} {
		f, err := os.Open(path)
		require.NoError(t, err)
		got, err := isInMemory(f)
		require.NoError(t, err)
		require.Equal(t, want, got, path)
		require.NoError(t, f.Close())
	}
	d, err := OpenRunDir(filepath.Join(t.TempDir(), "run"), true)
	require.NoError(t, err)
	require.NoError(t, d.Close())

	path := inMemoryPath(t)
	require.NoError(t, os.Mkdir(path, 0o700))
	for _, mode := range []fs.FileMode{0o755, 0o750, 0o701, 0o500} {
		require.NoError(t, os.Chmod(path, mode))
		_, err = OpenRunDir(path, false)
		refused(t, err, reason.RunDirUnsafe)
	}
	require.NoError(t, os.Chmod(path, 0o700))
	_, err = OpenRunDir(filepath.Join(path, "not", "there"), false)
	refused(t, err, reason.RunDirUnsafe)
}

func TestWhatIsPutInPlaceOfTheStateDoesNotHangOrLeadAway(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"pipe":           func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"directory":      func(p string) error { return os.Mkdir(p, 0o700) },
		"link to itself": func(p string) error { return os.Symlink(stateFile, p) },
		"link away":      func(p string) error { return os.Symlink("/etc/passwd", p) },
		"link to device": func(p string) error { return os.Symlink("/dev/zero", p) },
		"huge":           func(p string) error { return os.WriteFile(p, make([]byte, maxFile+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			disk := t.TempDir()
			require.NoError(t, plant(filepath.Join(disk, stateFile)))
			_, err := openReal(t, disk, inMemoryPath(t))
			require.Contains(t, []reason.Reason{reason.StateMalformed, reason.StateUnavailable}, reason.Of(err), "%v", err)
		})
	}
	t.Run("link in place of the temporary file", func(t *testing.T) {
		disk, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
		require.NoError(t, os.WriteFile(outside, []byte("kept"), 0o600))
		require.NoError(t, os.Symlink(outside, filepath.Join(disk, stateFile+".new")))
		m, err := openReal(t, disk, inMemoryPath(t))
		require.NoError(t, err)
		_, err = m.RegisterOperator(role(m, operator), nil)
		require.Error(t, err, "the run directory is closed, so that the token is not kept")
		content, err := os.ReadFile(outside)
		require.NoError(t, err)
		require.Equal(t, "kept", string(content))
	})
}
