package identity_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMissingProgramsAreNamedAtStart: it says at once what to install, all of it.
func TestMissingProgramsAreNamedAtStart(t *testing.T) {
	t.Parallel()
	v := powered(t)
	start := func(path string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), v.Path, append(v.Args, args...)...)
		cmd.Env = append(v.Env, "PATH="+path)
		out, err := cmd.CombinedOutput()
		_, failed := errors.AsType[*exec.ExitError](err)
		require.True(t, failed, "%v: %s", err, out)
		return string(out)
	}
	said := start(t.TempDir())
	require.Contains(t, said, "apt-get install gocryptfs")
	require.Contains(t, said, "apt-get install fuse3")

	// gocryptfs is there, Podman is not: neither a service nor the program for one.
	some := t.TempDir()
	for _, name := range []string{"gocryptfs", "fusermount3"} {
		at, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(at, filepath.Join(some, name)))
	}
	require.Contains(t, start(some, "--podman-socket", ""), "podman")
	require.Contains(t, start(os.Getenv("PATH"), "--podman-socket", filepath.Join(some, "none.sock")), "podman")
}

// TestSecondServiceOfOneDiskIsRefused: two that serve one disk would destroy it.
func TestSecondServiceOfOneDiskIsRefused(t *testing.T) {
	t.Parallel()
	v, other := powered(t), powered(t)
	require.NoError(t, v.Up(t.Context()))
	other.Env = append(other.Env, "STORAGE_PATH="+v.Disk)
	cmd := exec.CommandContext(t.Context(), other.Path, other.Args...)
	cmd.Env = append(os.Environ(), other.Env...)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "storage_in_use")
	v.registerOwner(v.registerOperator())
}
