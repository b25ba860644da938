package workload

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/podmantest"
)

func TestReferences(t *testing.T) {
	hash := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"nginx":                      "docker.io/library/nginx:latest",
		"org/app:v1":                 "docker.io/org/app:v1",
		"ghcr.io/org/app":            "ghcr.io/org/app:latest",
		"localhost/app:1":            "localhost/app:1",
		"127.0.0.1:5000/a/b:1":       "127.0.0.1:5000/a/b:1",
		"nginx@" + hash:              "docker.io/library/nginx@" + hash,
		"ghcr.io/org/app:v1@" + hash: "ghcr.io/org/app@" + hash,
		// Not one of the transports that Podman knows by such names.
		"containers-storage:x": "docker.io/library/containers-storage:x",
	} {
		got, err := ParseReference(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got.String())
	}
	for _, in := range []string{
		"", ":", "/", "a:", "a@", "a@sha256:00", "a@sha512:" + strings.Repeat("a", 128), "A/b", "a b", "../a", "a//b", "a/../b", "a:b:c",
		"http://ghcr.io/a", "dir:/etc", "docker-archive:/etc/passwd", "a\n", "a@" + strings.ToUpper(hash), "-a", "a/-b", "host:99999999/a",
		strings.Repeat("a", maxReference+1), "a?policy=never", "a&tlsVerify=false",
	} {
		_, err := ParseReference(in)
		require.Equal(t, ReferenceInvalid, ReasonOf(err), in)
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"nginx", "ghcr.io/org/app:v1", "localhost:5000/a@sha256:" + strings.Repeat("0", 64), "a/b/c:d@e", "../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
		require.NotContains(t, r.String(), "..")
		require.False(t, strings.ContainsAny(r.String(), " \t\n?#&%\\\"'"))
	})
}

func TestImagesOfARegistry(t *testing.T) {
	p := podmantest.New(t)
	p.Start(t)
	m := open(t, p)
	r := podmantest.NewRegistry(t)
	r.Username, r.Password = "owner", "very secret"
	index, manifest := r.Push(t, "org/app", "1", "first")
	name := r.Host + "/org/app"
	good := &Credentials{"owner", "very secret"}

	t.Run("credentials", func(t *testing.T) {
		_, err := m.Resolve(t.Context(), name+":1", nil)
		require.Equal(t, ImageDenied, ReasonOf(err), err)
		_, err = m.Resolve(t.Context(), name+":1", &Credentials{"owner", "wrong"})
		require.Equal(t, ImageDenied, ReasonOf(err), err)
		require.NotContains(t, err.Error(), "wrong")
	})
	t.Run("by tag, by digest of the index and of the manifest", func(t *testing.T) {
		tagged, err := m.Resolve(t.Context(), name+":1", good)
		require.NoError(t, err)
		for _, digest := range []string{index, manifest} {
			pinned, err := m.Resolve(t.Context(), name+"@"+digest, good)
			require.NoError(t, err)
			require.Equal(t, Image{name + "@" + digest, digest, tagged.ID}, pinned)
			require.NoError(t, m.present(t.Context(), pinned))
		}
		require.Contains(t, []string{index, manifest}, tagged.Digest)
	})
	t.Run("credentials are kept nowhere", func(t *testing.T) {
		out, err := exec.Command("grep", "-rlE", "very secret|b3duZXI6dmVyeSBzZWNyZXQ", p.Dir).Output()
		exit, ok := err.(*exec.ExitError) //nolint:errorlint // of our own command
		require.True(t, ok && exit.ExitCode() == 1, "%s", out)
	})
	t.Run("tag that moved", func(t *testing.T) {
		before, err := m.Resolve(t.Context(), name+":1", good)
		require.NoError(t, err)
		r.Push(t, "org/app", "1", "second")
		after, err := m.Resolve(t.Context(), name+":1", good)
		require.NoError(t, err)
		require.NotEqual(t, before.ID, after.ID)
		require.NoError(t, m.present(t.Context(), before), "still here, by its digest")
	})
	t.Run("registry that lies about a digest", func(t *testing.T) {
		honest, _ := r.Push(t, "org/app", "3", "third")
		evil, _ := r.Push(t, "org/app", "4", "evil")
		r.Swap(honest, evil)
		_, err := m.Resolve(t.Context(), name+"@"+honest, good)
		require.Equal(t, ImageMismatch, ReasonOf(err), err)
	})
	t.Run("not there", func(t *testing.T) {
		_, err := m.Resolve(t.Context(), name+":nothing", good)
		require.Equal(t, ImageNotFound, ReasonOf(err), err)
		_, err = m.Resolve(t.Context(), "localhost/nothing:1", nil)
		require.Equal(t, ImageNotFound, ReasonOf(err), err)
		_, err = m.Resolve(t.Context(), "127.0.0.1:1/org/app:1", nil)
		require.Equal(t, ImageUnreachable, ReasonOf(err), err)
	})
}

func TestMissingPodmanSaysWhatToInstall(t *testing.T) {
	_, err := Open(t.Context(), Options{Socket: filepath.Join(t.TempDir(), "none.sock")})
	require.Equal(t, PodmanMissing, ReasonOf(err))
	require.ErrorContains(t, err, "install podman, netavark")

	t.Setenv("PATH", t.TempDir())
	_, err = StartService(t.Context(), ServiceOptions{Socket: filepath.Join(t.TempDir(), "podman.sock")})
	require.Equal(t, PodmanMissing, ReasonOf(err))
	require.ErrorContains(t, err, "install podman, netavark")
}

func TestServiceOfOurOwn(t *testing.T) {
	p := podmantest.New(t)
	p.Import(t, app, "hello")
	opts := ServiceOptions{Socket: filepath.Join(p.Dir, "own", "podman.sock"), Root: p.Root, RunRoot: p.Run, TmpDir: p.Tmp, Config: p.Config}
	s, err := StartService(t.Context(), opts)
	require.NoError(t, err)
	m, err := Open(t.Context(), Options{Socket: opts.Socket})
	require.NoError(t, err)
	defer m.Close()
	_, err = m.Resolve(t.Context(), app, nil)
	require.NoError(t, err)
	st, err := os.Stat(filepath.Dir(opts.Socket))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), st.Mode().Perm())
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	_, err = m.Inspect(t.Context())
	require.Equal(t, PodmanMissing, ReasonOf(err))
	// A socket that a crash left is not in the way.
	require.NoError(t, os.WriteFile(opts.Socket, nil, 0o600))
	s, err = StartService(t.Context(), opts)
	require.NoError(t, err)
	_, err = m.Inspect(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Close())
}
