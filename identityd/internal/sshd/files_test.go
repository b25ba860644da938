package sshd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/require"
)

func TestFilesStayInThePersistedDirectories(t *testing.T) {
	l := newLab(t, nil)
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("secret"), 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(l.data, "absolute")))
	require.NoError(t, os.Symlink("../../../../../../../.."+outside, filepath.Join(l.data, "relative")))
	require.NoError(t, os.Symlink("/", filepath.Join(l.data, "root")))
	require.NoError(t, os.WriteFile(filepath.Join(l.data, "mine"), []byte("mine"), 0o600))
	files, err := sftp.NewClient(l.login(t))
	require.NoError(t, err)
	defer func() { _ = files.Close() }()

	for _, name := range []string{"/data/absolute", "/data/relative", "/data/root" + outside, outside, "/data/.." + outside, "/etc/passwd", "/data", "/"} {
		_, err := files.OpenFile(name, os.O_RDONLY)
		require.Error(t, err, name)
		_, err = files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		require.Error(t, err, name)
		require.Error(t, files.Chmod(name, 0o777), name)
		require.Error(t, files.Truncate(name, 0), name)
	}
	for name, try := range map[string]func() error{
		"symlink":               func() error { return files.Symlink("/etc/passwd", "/data/link") },
		"hard link":             func() error { return files.Link("/data/mine", "/data/link") },
		"chown":                 func() error { return files.Chown("/data/mine", 0, 0) },
		"rename out":            func() error { return files.Rename("/data/mine", "/mine") },
		"rename in":             func() error { return files.Rename(outside, "/data/secret") },
		"rename over":           func() error { return files.Rename("/data/mine", "/data/root") },
		"rename to the outside": func() error { return files.PosixRename("/data/mine", "/data/root/tmp/mine") },
		"remove the directory":  func() error { return files.RemoveDirectory("/data") },
		"make above":            func() error { return files.Mkdir("/other") },
		"make through a link":   func() error { return files.Mkdir("/data/root/tmp/made") },
	} {
		require.Error(t, try(), name)
	}
	content, err := os.ReadFile(outside)
	require.NoError(t, err)
	require.Equal(t, "secret", string(content))

	top, err := files.ReadDir("/")
	require.NoError(t, err)
	require.Len(t, top, 1)
	require.Equal(t, "data", top[0].Name())
	require.True(t, top[0].IsDir())
	where, err := files.Getwd()
	require.NoError(t, err)
	require.Equal(t, "/data", where)
	_, err = files.ReadDir("/etc")
	require.ErrorIs(t, err, os.ErrNotExist)

	require.NoError(t, files.Chmod("/data/mine", 0o6755))
	st, err := os.Stat(filepath.Join(l.data, "mine"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), st.Mode(), "no setuid")
}

func TestPipeAndDeviceDoNotHoldTheServer(t *testing.T) {
	l := newLab(t, nil)
	mkfifo(t, filepath.Join(l.data, "pipe"))
	files, err := sftp.NewClient(l.login(t))
	require.NoError(t, err)
	defer func() { _ = files.Close() }()
	_, err = files.Open("/data/pipe")
	require.ErrorIs(t, err, os.ErrPermission)
	_, err = files.OpenFile("/data/pipe", os.O_WRONLY)
	require.Error(t, err)
	require.Error(t, files.Truncate("/data/pipe", 0))
}

func TestOpenFilesAreBounded(t *testing.T) {
	l := newLab(t, nil)
	files, err := sftp.NewClient(l.login(t))
	require.NoError(t, err)
	defer func() { _ = files.Close() }()
	var last *sftp.File
	for range maxOpen {
		last, err = files.Create("/data/file")
		require.NoError(t, err)
	}
	_, err = files.Create("/data/file")
	require.Error(t, err)
	require.NoError(t, last.Close())
	_, err = files.Create("/data/file")
	require.NoError(t, err)
}
