package workload

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/podmantest"
)

const app = "localhost/app:1"

// machine is a Podman with an image, and a manager for it.
type machine struct {
	*podmantest.Podman
	*Manager
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	p := podmantest.New(t)
	p.Start(t)
	p.Import(t, app, "hello")
	return &machine{p, open(t, p)}
}

func open(t *testing.T, p *podmantest.Podman) *Manager {
	t.Helper()
	m, err := Open(t.Context(), Options{Socket: p.Socket, Limits: Limits{Memory: 256 << 20, Pids: 64}, LogPath: filepath.Join(p.Dir, "log")})
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

// spec is of the image, with a persisted directory /data.
func (m *machine) spec(t *testing.T, image string) Spec {
	t.Helper()
	resolved, err := m.Resolve(t.Context(), image, nil)
	require.NoError(t, err)
	return Spec{
		Revision: 1, Image: resolved, Port: 8080, HostPort: freePort(t), HostAddress: netip.MustParseAddr("127.0.0.1"),
		Mounts: []Mount{{Source: t.TempDir(), Target: "/data"}},
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// run runs a command in the container and returns both outputs and the code.
func (m *machine) run(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	p, err := m.Exec(t.Context(), Command{Argv: argv})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	require.NoError(t, p.CloseWrite())
	return finish(t, p)
}

func finish(t *testing.T, p *Process) (string, int) {
	t.Helper()
	errs := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(p.Stderr())
		errs <- b
	}()
	out, err := io.ReadAll(p.Stdout())
	require.NoError(t, err)
	code, err := p.Wait(t.Context())
	require.NoError(t, err)
	return string(out) + string(<-errs), code
}

func get(t *testing.T, port uint16) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// answer waits for the workload's web server.
func answer(t *testing.T, port uint16) string {
	t.Helper()
	var got string
	require.Eventually(t, func() bool {
		var err error
		got, err = get(t, port)
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	return got
}

func TestFromConfiguredToPublishedToGone(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	now, err := m.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, Absent, now.Phase)

	configured, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, Configured, configured.Phase)
	require.True(t, configured.Running)
	require.Equal(t, spec.Image.Digest, configured.ImageDigest)
	_, err = get(t, spec.HostPort)
	require.Error(t, err, "no port before it is published")

	again, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, configured.ContainerID, again.ContainerID, "a step that was done is not done again")

	out, code := m.run(t, "/bin/sh", "-c", "write /data/kept")
	require.Zero(t, code, out)
	spec.Revision++
	replaced, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	require.NotEqual(t, configured.ContainerID, replaced.ContainerID)

	require.NoError(t, m.CanPublish(t.Context(), spec))
	published, err := m.EnsurePublished(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, Published, published.Phase)
	require.NotEqual(t, replaced.ContainerID, published.ContainerID, "made anew, since somebody was inside")
	require.Equal(t, "hello\n", answer(t, spec.HostPort))
	out, code = m.run(t, "/bin/sh", "-c", "cat /data/kept")
	require.Equal(t, "written\n", out)
	require.Zero(t, code)
	require.NoError(t, m.CanPublish(t.Context(), spec), "its own port is not in its way")
	again, err = m.EnsurePublished(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, published.ContainerID, again.ContainerID)

	log, err := m.Logs(t.Context(), 10)
	require.NoError(t, err)
	require.Contains(t, string(log), "serving hello\n")
	require.Contains(t, string(log), "to stderr\n")

	require.NoError(t, m.EnsureGone(t.Context()))
	require.NoError(t, m.EnsureGone(t.Context()))
	_, err = get(t, spec.HostPort)
	require.Error(t, err)
	_, err = m.Logs(t.Context(), 10)
	require.Equal(t, NotRunning, ReasonOf(err))
	_, err = m.Exec(t.Context(), Command{Argv: []string{"/program"}})
	require.Equal(t, NotRunning, ReasonOf(err))
}

func TestContainerIsConfined(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	_, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)

	t.Run("capabilities, seccomp and new privileges", func(t *testing.T) {
		out, _ := m.run(t, "/bin/sh", "-c", "cat /proc/1/status")
		// CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10
		for _, want := range []string{"CapPrm:\t00000000000004eb", "CapEff:\t00000000000004eb", "CapBnd:\t00000000000004eb", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			require.Contains(t, out, want)
		}
		// A process of SSH has no more than the workload.
		out, _ = m.run(t, "/bin/sh", "-c", "cat /proc/self/status")
		for _, want := range []string{"CapBnd:\t00000000000004eb", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			require.Contains(t, out, want)
		}
	})
	t.Run("root in it is nobody outside", func(t *testing.T) {
		out, _ := m.run(t, "/bin/sh", "-c", "cat /proc/self/uid_map")
		require.Equal(t, []string{"0", strconv.Itoa(idBase), strconv.Itoa(idCount)}, strings.Fields(out))
	})
	t.Run("read-only root", func(t *testing.T) {
		out, code := m.run(t, "/bin/sh", "-c", "write /planted")
		require.Equal(t, 1, code)
		require.Contains(t, out, "read-only file system")
	})
	t.Run("writable places", func(t *testing.T) {
		for _, place := range []string{"/tmp/x", "/run/x", "/data/x"} {
			out, code := m.run(t, "/bin/sh", "-c", "write "+place)
			require.Zero(t, code, out)
		}
	})
	t.Run("nothing persisted can be run", func(t *testing.T) {
		content, err := os.ReadFile("/proc/self/exe")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(spec.Mounts[0].Source, "planted"), content, 0o755))
		out, code := m.run(t, "/bin/sh", "-c", "run /data/planted")
		require.Equal(t, 1, code)
		require.Contains(t, out, "permission denied")
	})
	t.Run("own namespaces", func(t *testing.T) {
		out, _ := m.run(t, "/bin/sh", "-c", "cat /proc/sys/kernel/hostname")
		require.Equal(t, "workload\n", out)
		out, _ = m.run(t, "/bin/sh", "-c", "cat /proc/1/cmdline")
		require.Equal(t, "/program\x00serve\x00hello\x00", out)
	})
	t.Run("limits", func(t *testing.T) {
		found, err := m.inspect(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 256<<20, found.HostConfig.Memory)
		require.EqualValues(t, 256<<20, found.HostConfig.MemorySwap, "no swap")
		require.EqualValues(t, 64, found.HostConfig.PidsLimit)
	})
}

func TestContainerThatIsLessConfinedIsNotStarted(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	_, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	want := m.request(&spec, Configured, "")
	for name, change := range map[string]func(*containerInspect){
		"image":             func(c *containerInspect) { c.Image = strings.Repeat("0", 64) },
		"privileged":        func(c *containerInspect) { c.HostConfig.Privileged = true },
		"capabilities":      func(c *containerInspect) { c.BoundingCaps = append(c.BoundingCaps, "CAP_SYS_ADMIN") },
		"read-only root":    func(c *containerInspect) { c.HostConfig.ReadonlyRootfs = false },
		"no-new-privileges": func(c *containerInspect) { c.HostConfig.SecurityOpt = nil },
		"seccomp": func(c *containerInspect) {
			c.HostConfig.SecurityOpt = append(c.HostConfig.SecurityOpt, "seccomp=unconfined")
		},
		"memory limit":   func(c *containerInspect) { c.HostConfig.Memory = 0 },
		"pids limit":     func(c *containerInspect) { c.HostConfig.PidsLimit = 0 },
		"devices":        func(c *containerInspect) { c.HostConfig.Devices = []any{"/dev/mem"} },
		"tmpfs":          func(c *containerInspect) { c.HostConfig.Tmpfs = nil },
		"namespaces":     func(c *containerInspect) { c.HostConfig.PidMode = "host" },
		"user namespace": func(c *containerInspect) { c.HostConfig.IDMappings = nil },
		"mounts":         func(c *containerInspect) { c.Mounts = nil },
		"ports": func(c *containerInspect) {
			c.HostConfig.PortBindings = map[string][]struct {
				HostIP   string `json:"HostIp"`
				HostPort string
			}{"8080/tcp": {{}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := m.inspect(t.Context())
			require.NoError(t, err)
			require.NoError(t, m.verify(found, want))
			change(found)
			err = m.verify(found, want)
			require.Equal(t, NotHardened, ReasonOf(err))
			require.ErrorContains(t, err, name)
		})
	}
}

func TestTagMovedBetweenConfigureAndExposeChangesNothing(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	_, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	m.Podman.Import(t, app, "another")
	moved, err := m.Resolve(t.Context(), app, nil)
	require.NoError(t, err)
	require.NotEqual(t, spec.Image, moved)
	now, err := m.EnsurePublished(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, spec.Image.ID, now.ImageID)
	require.Equal(t, "hello\n", answer(t, spec.HostPort))
}

func TestPortThatIsTakenIsRefusedBeforeAnythingIsUndone(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	configured, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", spec.HostPort))
	require.NoError(t, err)
	require.Equal(t, PortTaken, ReasonOf(m.CanPublish(t.Context(), spec)))
	now, err := m.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, configured, now)

	// Without asking first: the container is gone, and nothing half made stays.
	_, err = m.EnsurePublished(t.Context(), spec)
	require.Equal(t, PortTaken, ReasonOf(err))
	now, err = m.Inspect(t.Context())
	require.NoError(t, err)
	require.Equal(t, Absent, now.Phase)
	require.NoError(t, l.Close())
	_, err = m.EnsurePublished(t.Context(), spec)
	require.NoError(t, err)
}

func TestSpecsThatAreRefused(t *testing.T) {
	m := newMachine(t)
	good := m.spec(t, app)
	for name, c := range map[string]struct {
		reason Reason
		change func(*Spec)
	}{
		"port 0":             {PortInvalid, func(s *Spec) { s.Port = 0 }},
		"host port 0":        {PortInvalid, func(s *Spec) { s.HostPort = 0 }},
		"unresolved image":   {SpecInvalid, func(s *Spec) { s.Image.ID = "" }},
		"image that is gone": {ImageNotFound, func(s *Spec) { s.Image.ID = strings.Repeat("0", 64) }},
		"digest of no shape": {SpecInvalid, func(s *Spec) { s.Image.Digest = "sha256:0" }},
		"relative target":    {MountInvalid, func(s *Spec) { s.Mounts[0].Target = "data" }},
		"dots in target":     {MountInvalid, func(s *Spec) { s.Mounts[0].Target = "/data/../etc" }},
		"root":               {MountInvalid, func(s *Spec) { s.Mounts[0].Target = "/" }},
		"proc":               {MountInvalid, func(s *Spec) { s.Mounts[0].Target = "/proc/sys" }},
		"run":                {MountInvalid, func(s *Spec) { s.Mounts[0].Target = "/run" }},
		"target twice": {MountInvalid, func(s *Spec) {
			s.Mounts = append(s.Mounts, Mount{Source: "/elsewhere", Target: s.Mounts[0].Target})
		}},
		"source that is not there": {MountInvalid, func(s *Spec) { s.Mounts[0].Source = "/nonexistent/directory" }},
	} {
		t.Run(name, func(t *testing.T) {
			spec := good
			spec.Mounts = append([]Mount(nil), good.Mounts...)
			c.change(&spec)
			_, err := m.EnsureConfigured(t.Context(), spec)
			require.Equal(t, c.reason, ReasonOf(err), err)
			now, err := m.Inspect(t.Context())
			require.NoError(t, err)
			require.Equal(t, Absent, now.Phase)
		})
	}
	t.Run("source that is a link", func(t *testing.T) {
		spec := good
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink("/etc", link))
		spec.Mounts = []Mount{{Source: link, Target: "/data"}}
		_, err := m.EnsureConfigured(t.Context(), spec)
		require.Equal(t, MountInvalid, ReasonOf(err))
	})
}

func TestContainerOfAnotherOriginIsNotTouched(t *testing.T) {
	m := newMachine(t)
	m.Output(t, "create", "--name", Name, app)
	_, err := m.EnsureConfigured(t.Context(), m.spec(t, app))
	require.Equal(t, NameTaken, ReasonOf(err))
	require.Equal(t, NameTaken, ReasonOf(m.EnsureGone(t.Context())))
	require.Contains(t, m.Output(t, "ps", "--all", "--format", "{{.Names}}"), Name)
}

func TestWorkloadThatEndedIsStartedAgain(t *testing.T) {
	m := newMachine(t)
	m.ImportCommand(t, "localhost/short:1", `["/program","end","3"]`)
	spec := m.spec(t, "localhost/short:1")
	first, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		now, err := m.Inspect(t.Context())
		return err == nil && !now.Running && now.ExitCode == 3
	}, 10*time.Second, 20*time.Millisecond)
	_, err = m.Exec(t.Context(), Command{Argv: []string{"/program"}})
	require.Equal(t, NotRunning, ReasonOf(err))
	require.ErrorContains(t, err, "code 3")
	again, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, first.ContainerID, again.ContainerID)
	require.True(t, again.StartedAt.After(first.StartedAt))
	require.NoError(t, m.EnsureGone(t.Context()))
}

func TestContainerThatWasMadeAndNotStartedIsFinished(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	hash, err := spec.hash(Published, &m.opts)
	require.NoError(t, err)
	// The crash came between create and start.
	require.NoError(t, m.api.call(t.Context(), http.MethodPost, "/containers/create", nil, m.request(&spec, Published, hash), nil))
	restarted := open(t, m.Podman)
	now, err := restarted.EnsurePublished(t.Context(), spec)
	require.NoError(t, err)
	require.True(t, now.Running)
	require.Equal(t, "hello\n", answer(t, spec.HostPort))
}
