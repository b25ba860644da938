package storage

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func replace(t *testing.T, path, old, new string) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(b), old)
	require.NoError(t, os.Remove(path))
	write(t, path, string(bytes.Replace(b, []byte(old), []byte(new), 1)))
}

func TestChangedConfIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		want Reason
		edit func(t *testing.T, path, conf, header string)
	}{
		{"names no longer encrypted", ConfChanged, func(t *testing.T, _, conf, _ string) {
			replace(t, conf, `"DirIV",`, ``)
			replace(t, conf, `"EMENames",`, `"PlaintextNames",`)
		}},
		{"one byte", ConfChanged, func(t *testing.T, _, conf, _ string) { replace(t, conf, "\t", " ") }},
		{"no longer JSON", ConfChanged, func(t *testing.T, _, conf, _ string) { replace(t, conf, "{", "") }},
		{"of another volume of the same key", ConfChanged, func(t *testing.T, _, conf, _ string) {
			other := place(t)
			require.NoError(t, open(t, other).Create(t.Context(), ID{1}, given(1)))
			b, err := os.ReadFile(filepath.Join(other, nameVolume, nameCipher, nameConf))
			require.NoError(t, err)
			require.NoError(t, os.Remove(conf))
			write(t, conf, string(b))
		}},
		{"a link", Symlink, func(t *testing.T, _, conf, _ string) {
			require.NoError(t, os.Rename(conf, conf+"2"))
			require.NoError(t, os.Symlink(nameConf+"2", conf))
		}},
		{"a pipe", Symlink, func(t *testing.T, _, conf, _ string) {
			require.NoError(t, os.Remove(conf))
			require.NoError(t, unix.Mkfifo(conf, 0o600))
		}},
		{"gone", DiskFailed, func(t *testing.T, _, conf, _ string) { require.NoError(t, os.Remove(conf)) }},
		{"endless", Symlink, func(t *testing.T, _, conf, _ string) { require.NoError(t, os.Truncate(conf, 1<<40)) }},
		{"header: sealed key", ConfChanged, func(t *testing.T, _, _, h string) { replace(t, h, `"sealed":""`, `"sealed":"00"`) }},
		{"header: volume", VolumeOther, func(t *testing.T, _, _, h string) { replace(t, h, `"id":"01`, `"id":"02`) }},
		{"header: source", SourceOther, func(t *testing.T, _, _, h string) { replace(t, h, `"owner"`, `"legacy"`) }},
		{"header: twice", HeaderMalformed, func(t *testing.T, _, _, h string) { replace(t, h, `{`, `{"format":1,`) }},
		{"volume is a link", Symlink, func(t *testing.T, path, _, _ string) {
			require.NoError(t, os.Rename(filepath.Join(path, nameVolume), filepath.Join(path, "v")))
			require.NoError(t, os.Symlink("v", filepath.Join(path, nameVolume)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := place(t)
			d := open(t, path)
			require.NoError(t, d.Create(t.Context(), ID{1}, given(1)))
			volume := filepath.Join(path, nameVolume)
			c.edit(t, path, filepath.Join(volume, nameCipher, nameConf), filepath.Join(volume, nameHeader))
			_, err := d.Mount(t.Context(), ID{1}, given(1))
			refused(t, c.want, err)
		})
	}
}

func TestPlantedPrivateLinkIsRefused(t *testing.T) {
	path, elsewhere := place(t), t.TempDir()
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(path, namePrivate)))
	_, err := Open(t.Context(), Options{Path: path})
	refused(t, Symlink, err)
	nothingMounted(t, elsewhere)
}

func TestPlantedLinksInTheVolumeAreRefused(t *testing.T) {
	d := open(t, place(t))
	v := mounted(t, d, 1)
	binds, err := v.Bind(t.Context(), []string{"/data"})
	require.NoError(t, err)
	write(t, filepath.Join(binds[0].Host, "a"), "kept")

	// As the host does who moves an encrypted link of the container's.
	link := filepath.Join(v.Path(), namePersist, persistName("/data"))
	for _, to := range []string{"/etc", "..", "other"} {
		_, err = v.Bind(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, os.Rename(link, link+".kept"))
		require.NoError(t, os.Symlink(to, link))
		_, err = v.Bind(t.Context(), []string{"/x", "/data"})
		refused(t, Symlink, err)
		require.NoError(t, os.Remove(link))
		require.NoError(t, os.Rename(link+".kept", link))
	}
	persist := filepath.Join(v.Path(), namePersist)
	require.NoError(t, os.Rename(persist, persist+".kept"))
	require.NoError(t, os.Symlink("/etc", persist))
	_, err = v.Bind(t.Context(), []string{"/data"})
	refused(t, Symlink, err)
	require.NoError(t, os.Remove(persist))
	require.NoError(t, os.Rename(persist+".kept", persist))

	binds, err = v.Bind(t.Context(), []string{"/other", "/data"})
	require.NoError(t, err)
	require.Equal(t, "/data", binds[1].Container)
	reads(t, filepath.Join(binds[1].Host, "a"), "kept")
	require.NoError(t, os.Symlink("/etc", filepath.Join(v.Path(), nameIdentity)))
	_, err = v.Identity(t.Context())
	refused(t, Symlink, err)
}

// TestKeyIsNowhereToBeRead looks for the key, and the password made of it, in
// the arguments and environments of all processes and in every file that could
// hold it, while the volume is mounted and after.
func TestKeyIsNowhereToBeRead(t *testing.T) {
	path, tmp := place(t), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	d := open(t, path)
	key := randomKey()
	raw := bytes.Clone(key.b[:])
	password, err := key.password(ID{1})
	require.NoError(t, err)
	needles := [][]byte{raw, password[:64], []byte(hex.EncodeToString(raw)), []byte(base64.StdEncoding.EncodeToString(raw))}
	require.Equal(t, "[key] [key]", fmt.Sprintf("%v %x", key, *key))
	source := func() Source {
		k, err := NewKey(bytes.Clone(raw))
		require.NoError(t, err)
		return Owner(k)
	}
	require.NoError(t, d.Create(t.Context(), ID{1}, source()))
	v, err := d.Mount(t.Context(), ID{1}, source())
	require.NoError(t, err)

	files, own := 0, false
	look := func(name string) {
		b, err := os.ReadFile(name)
		if err != nil {
			return
		}
		files++
		for _, n := range needles {
			require.NotContains(t, string(b), string(n), name)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, p := range processes {
		own = own || p == fmt.Sprintf("/proc/%d", v.child.process.Pid)
		look(p + "/cmdline")
		look(p + "/environ")
	}
	require.True(t, own)
	for _, dir := range []string{path, tmp, "/run", "/dev/shm"} {
		require.NoError(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				look(p)
			}
			return nil
		}))
	}
	require.Greater(t, files, 10)
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", v.child.process.Pid))
	require.NoError(t, err)
	require.Equal(t, "PATH="+os.Getenv("PATH")+"\x00", string(env))
	var core unix.Rlimit
	require.NoError(t, unix.Prlimit(v.child.process.Pid, unix.RLIMIT_CORE, nil, &core))
	require.EqualValues(t, 1, core.Cur)
}
