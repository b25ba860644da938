package storage

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// The tests mount for real: they need root, gocryptfs, fuse3 and /dev/fuse, and
// fail without.

// TestMain is also the process that makes a volume, or owns a mounted one, and is
// killed.
func TestMain(m *testing.M) {
	if path := os.Getenv("STORAGE_TEST_OWNER"); path != "" {
		own(path)
	}
	if path := os.Getenv("STORAGE_TEST_CREATE"); path != "" {
		create(path)
	}
	os.Exit(m.Run())
}

func own(path string) {
	ctx := context.Background()
	d, err := Open(ctx, Options{Path: path})
	if err == nil {
		if _, missing := d.Header(); missing != nil {
			err = d.Create(ctx, ID{1}, given(1))
		}
	}
	var v *Volume
	if err == nil {
		v, err = d.Mount(ctx, ID{}, given(1))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("mounted", v.child.process.Pid)
	select {}
}

// owned starts a process that owns path; it returns gocryptfs's process too.
func owned(t *testing.T, path string) (owner *os.Process, gocryptfs int) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "STORAGE_TEST_OWNER="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscanf(line, "mounted %d", &gocryptfs)
	require.NoError(t, err, "%s", line)
	return cmd.Process, gocryptfs
}

func secret(seed byte) []byte { return bytes.Repeat([]byte{seed}, KeySize) }

// given is a source of a key, once.
func given(seed byte) Source {
	k, err := NewKey(secret(seed))
	if err != nil {
		panic(err)
	}
	return Owner(k)
}

func open(t *testing.T, path string, edits ...func(*Options)) *Disk {
	t.Helper()
	o := Options{Path: path, BusyTimeout: 2 * time.Second, Logger: zap.NewNop()}
	for _, edit := range edits {
		edit(&o)
	}
	d, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	return d
}

// place is a STORAGE_PATH that is empty of mounts when the test ends.
func place(t *testing.T) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() {
		private := filepath.Join(path, namePrivate)
		_, err := killOrphans(filepath.Join(private, nameCipher), filepath.Join(private, nameVolume))
		require.NoError(t, err)
		_, err = detachAll(private)
		require.NoError(t, err)
	})
	return path
}

func mounted(t *testing.T, d *Disk, seed byte) *Volume {
	t.Helper()
	if _, err := d.Header(); ReasonOf(err) == VolumeMissing {
		require.NoError(t, d.Create(t.Context(), ID{seed}, given(seed)))
	}
	v, err := d.Mount(t.Context(), ID{seed}, given(seed))
	require.NoError(t, err)
	return v
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

func reads(t *testing.T, path, want string) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(b))
}

func refused(t *testing.T, want Reason, err error) {
	t.Helper()
	require.Equal(t, want, ReasonOf(err), "%v", err)
}

func nothingMounted(t *testing.T, path string) {
	t.Helper()
	left, err := mountsUnder(filepath.Join(path, namePrivate))
	require.NoError(t, err)
	require.Empty(t, left)
}

func gone(pid int) func() bool {
	return func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || len(b) == 0 // empty: ended, not yet waited for
	}
}

func signal(t *testing.T, pid int, s unix.Signal) {
	t.Helper()
	require.NoError(t, unix.Kill(pid, s))
}
