// Package podmantest runs a Podman of its own for tests: images, containers,
// networks and the API's socket lie in a temporary directory, and nothing of
// the machine's Podman is read or changed. It needs root and Debian's packages
// podman, runc, netavark and iptables.
package podmantest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// Podman is a private installation.
type Podman struct {
	Dir    string // all of it
	Socket string // where the API may be served
	Config string // its containers.conf
	Root   string
	Run    string
	Tmp    string

	link      string // the bridge of its network
	addresses string // what the addresses on it begin with
}

// On machines without CAP_SYS_RESOURCE Podman's usual limits cannot be set, and
// with cgroups of both versions only runc works.
const config = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = %q
`

// network is a bridge of its own for each installation: on a shared one two of
// them would give out the same addresses.
const network = `{"name":"podman","id":"%064x","driver":"bridge","network_interface":"pmtest%04x","created":"2026-01-01T00:00:00Z",
"subnets":[{"subnet":"10.%d.%d.0/24","gateway":"10.%d.%d.1"}],"ipv6_enabled":false,"internal":false,"dns_enabled":false,"ipam_options":{"driver":"host-local"}}`

const registries = `[[registry]]
location = "127.0.0.1"
insecure = true
`

// New makes one. Its containers end with the test.
func New(tb testing.TB) *Podman {
	tb.Helper()
	// Not tb.TempDir: names of tests make paths too long for unix sockets, and
	// what Podman leaves mounted must be gone first.
	dir, err := os.MkdirTemp("", "podman") //nolint:usetesting // see above
	must(tb, err)
	p, err := Install(dir)
	must(tb, err)
	tb.Cleanup(func() {
		if err := p.Remove(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// endRest ends what Podman leaves behind for minutes: a monitor for each process
// that was started in a container, which would then clean up where nothing is
// any more. Each names the temporary directory in its arguments.
func (p *Podman) endRest() {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		args, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(args, []byte("conmon\x00")) || !bytes.Contains(args, []byte(p.Dir+"/")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Env is what a process that starts Podman needs in its environment.
func (p *Podman) Env() []string {
	return []string{"CONTAINERS_CONF=" + p.Config, "CONTAINERS_REGISTRIES_CONF=" + filepath.Join(p.Dir, "registries.conf")}
}

// Command is a podman command of this installation.
func (p *Podman) Command(args ...string) *exec.Cmd {
	cmd := exec.Command("podman", append([]string{"--root", p.Root, "--runroot", p.Run, "--tmpdir", p.Tmp}, args...)...) //nolint:gosec // tests say what
	cmd.Env = append(os.Environ(), p.Env()...)
	return cmd
}

// Start serves the API on the socket until the test ends.
func (p *Podman) Start(tb testing.TB) {
	tb.Helper()
	service, err := p.Serve()
	must(tb, err)
	tb.Cleanup(func() {
		service.Close()
		if tb.Failed() {
			tb.Logf("podman's service said:\n%s", service.Said())
		}
	})
}

// Import makes an image whose only program is ./program, as /bin/sh and
// /program, and which serves the words over HTTP on port 8080.
func (p *Podman) Import(tb testing.TB, name, words string) {
	tb.Helper()
	p.ImportCommand(tb, name, fmt.Sprintf(`["/program","serve",%q]`, words), "/bin/sh")
}

// ImportCommand makes an image with another command, in JSON, and with or
// without more names for the program.
func (p *Podman) ImportCommand(tb testing.TB, name, command string, links ...string) {
	tb.Helper()
	must(tb, p.ImportLayer(name, command, bytes.NewReader(Layer(tb, links...))))
}

// Output runs a podman command and returns what it prints.
func (p *Podman) Output(tb testing.TB, args ...string) string {
	tb.Helper()
	return p.try(tb, p.Command(args...))
}

func (p *Podman) try(tb testing.TB, cmd *exec.Cmd) string {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		tb.Errorf("%v: %v\n%s", cmd.Args, err, errs.Bytes())
	}
	return out.String()
}

// Layer is a tar archive with the program and links to it.
func Layer(tb testing.TB, links ...string) []byte {
	tb.Helper()
	content := program(tb)
	layer, err := LayerOf(content, links...)
	must(tb, err)
	return layer
}

var built struct {
	once    sync.Once
	content []byte
	err     error
}

// program builds the static binary, once in a test binary.
func program(tb testing.TB) []byte {
	tb.Helper()
	built.once.Do(func() {
		var dir string
		if dir, built.err = os.MkdirTemp("", "program"); built.err != nil { //nolint:usetesting // outlives the test
			return
		}
		defer func() { _ = os.RemoveAll(dir) }()
		name := filepath.Join(dir, "program")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", name, "github.com/telemark-otel/telemark/internal/podmantest/program") //nolint:gosec // a name in our own directory
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the program of the image: %w: %s", err, out)
			return
		}
		built.content, built.err = os.ReadFile(name)
	})
	must(tb, built.err)
	return built.content
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
