//go:build unix

package private

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDirIsClosedToOthers(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	mode := func(path string) os.FileMode {
		fi, err := os.Stat(path)
		require.NoError(t, err)
		return fi.Mode().Perm()
	}
	deep := filepath.Join(base, "a", "b")
	require.NoError(t, Dir(deep))
	require.Equal(t, os.FileMode(0o700), mode(deep))

	open := filepath.Join(base, "open")
	require.NoError(t, os.Mkdir(open, 0o755))
	require.NoError(t, Dir(open))
	require.Equal(t, os.FileMode(0o700), mode(open))

	file := filepath.Join(base, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, Dir(file))
	require.Error(t, Dir(filepath.Join(file, "below")))
}

func TestFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	old, young := strings.Repeat("o", 1<<16), strings.Repeat("y", 1<<15)
	require.NoError(t, WriteFile(path, []byte(old)))
	var writer sync.WaitGroup
	done := make(chan struct{})
	writer.Go(func() {
		defer close(done)
		for i := range 100 {
			content := old
			if i%2 == 0 {
				content = young
			}
			if err := WriteFile(path, []byte(content)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		b, err := ReadSecret(path, 1<<20)
		require.NoError(t, err)
		require.Contains(t, []string{old, young}, string(b))
	}
	writer.Wait()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file stays")

	require.Error(t, WriteFile(filepath.Join(dir, "none", "f"), nil))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	require.Error(t, WriteFile(filepath.Join(dir, "d"), []byte("x")), "a directory is in the way")
	entries, err = os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)
}

func TestSecretThatOthersCanReadIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, WriteFile(path, []byte("secret")))
	b, err := ReadSecret(path, 6)
	require.NoError(t, err)
	require.Equal(t, "secret", string(b))
	_, err = ReadSecret(path, 5)
	require.ErrorContains(t, err, "at most 5")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o666} {
		require.NoError(t, os.Chmod(path, mode))
		_, err = ReadSecret(path, 6)
		require.ErrorIs(t, err, ErrExposed)
	}
	_, err = ReadSecret(filepath.Dir(path), 6)
	require.ErrorContains(t, err, "regular")
	_, err = ReadSecret(path+"none", 6)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestLockHasOneOwner(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	l, err := LockDir(t.Context(), dir, "lock")
	require.NoError(t, err)
	begun := time.Now()
	_, err = LockDir(t.Context(), dir, "lock")
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, "this process already")
	require.GreaterOrEqual(t, time.Since(begun), lockPatience)
	b, err := os.ReadFile(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(os.Getpid())+"\n", string(b))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = LockDir(ctx, dir, "lock")
	require.ErrorIs(t, err, context.Canceled)

	time.AfterFunc(100*time.Millisecond, func() { _ = l.Unlock() })
	second, err := LockDir(t.Context(), dir, "lock")
	require.NoError(t, err, "it waits a little")
	require.NoError(t, second.Unlock())
	require.NoError(t, second.Unlock())
}

func TestDirectoryOfManyUsersIsLeftAlone(t *testing.T) {
	t.Parallel()
	shared := filepath.Join(t.TempDir(), "tmp")
	require.NoError(t, os.Mkdir(shared, 0o700))
	require.NoError(t, os.Chmod(shared, 0o777|os.ModeSticky))
	require.ErrorContains(t, Dir(shared), "many users")
	require.NoError(t, os.WriteFile(filepath.Join(shared, "x"), nil, 0o600))
	_, err := LockDir(t.Context(), shared, "lock")
	require.ErrorContains(t, err, "many users")
	fi, err := os.Stat(shared)
	require.NoError(t, err)
	require.Equal(t, 0o777|os.ModeSticky|os.ModeDir, fi.Mode())
	require.NoError(t, Dir(filepath.Join(shared, "own")))
}

// As root, closing /etc to others would go well.
func TestDirectoryWithThingsOfOthersIsNotClosedToThem(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "etc")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "passwd"), nil, 0o600))
	_, err := LockDir(t.Context(), dir, "lock")
	require.ErrorContains(t, err, "chmod 700 "+dir)
	fi, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), fi.Mode().Perm())
	require.NoFileExists(t, filepath.Join(dir, "lock"))

	// What was ours before is closed again, and what we know.
	l, err := LockDir(t.Context(), dir, "lock", "state", "passwd")
	require.NoError(t, err)
	require.NoError(t, l.Unlock())
	require.NoError(t, os.Chmod(dir, 0o755))
	l, err = LockDir(t.Context(), dir, "lock")
	require.NoError(t, err)
	require.NoError(t, l.Unlock())
	fi, err = os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
}

func TestPipeInPlaceOfASecretDoesNotHoldTheStartUp(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	refused := make(chan error, 1)
	go func() {
		_, err := ReadSecret(pipe, 6)
		refused <- err
	}()
	select {
	case err := <-refused:
		require.ErrorContains(t, err, "regular")
	case <-time.After(5 * time.Second):
		require.FailNow(t, "it waits for somebody to write")
	}
}
