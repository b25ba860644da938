package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/telemark-otel/telemark/configs"
)

// Options say what runs and where.
type Options struct {
	Dir    string // made by the caller, with certs in it
	Bin    string // directory of the binaries; "": beside this program, then PATH
	Agents int    // 1 to MaxAgents
	// Offset is added to every port.
	Offset int
	// EKHash reads the EK hash of a device; it makes a software TPM that is not
	// there.
	EKHash func(ctx context.Context, device string) (string, error)
}

// Bounds of Options.
const (
	MaxAgents = 16
	MaxOffset = 40_000
)

// The ports without offset. Agents take theirs from the first one's upwards.
const (
	portRegistry      = 3000
	portAgentHTTP     = 8442 // and 18442, 18452 … for further agents
	portGatewayHTTP   = 8443
	portCollectorHTTP = 8444
	portAdmin         = 8445
	portGatewayAdmin  = 8446
	portMetricsHTTP   = 4319
	portAgentGRPC     = 4317
	portAgentOTLP     = 4318
	portCollectorGRPC = 5317
	portCollectorOTLP = 5318
	portGatewayGRPC   = 6317
	portGatewayOTLP   = 6318
	portTelemetry     = 8888 // agent, 8889 gateway, 8890 collector

	further = 10_000 // between the ports of the first agent and the second; then 10
)

func (o *Options) port(p int) int { return p + o.Offset }

func (o *Options) address(p int) string {
	return net.JoinHostPort("localhost", strconv.Itoa(o.port(p)))
}

func (o *Options) path(parts ...string) string {
	return filepath.Join(append([]string{o.Dir}, parts...)...)
}

// agentPort is the port of agent i, from 0, that corresponds to p of the first.
func agentPort(p, i int) int {
	if i == 0 {
		return p
	}
	return further + p + 10*(i-1)
}

func agentName(i int) string { return "edge-" + strconv.Itoa(i+1) }

// binary finds a program of the distribution.
func (o *Options) binary(name string) (string, error) {
	dirs := []string{o.Bin}
	if o.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("where this program lies: %w", err)
		}
		dirs = []string{filepath.Dir(self)}
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return filepath.Abs(path)
		}
	}
	if path, err := exec.LookPath(name); o.Bin == "" && err == nil {
		return filepath.Abs(path)
	}
	return "", fmt.Errorf("%s is neither in %s nor in PATH: 'make build' builds it, --bin DIR says where it is", name, dirs[0])
}

// ErrDirInUse says that another stack runs in the directory.
var ErrDirInUse = errors.New("another 'telemark up' runs in this directory: end it, or give this one a directory of its own with --dir, and --port-offset")

// lock takes the directory: two registries on one database, or two agents on one
// key, are what the rest of the distribution is there to refuse. Closing the
// file, or the end of this process, gives it back.
func (o *Options) lock() (*os.File, error) {
	f, err := os.OpenFile(o.path("up.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", o.Dir, ErrDirInUse)
		}
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return f, nil
}

// tools finds what software TPMs need, before anything is started.
func tools() error {
	for _, name := range []string{"swtpm", "swtpm_setup"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("the agents need software TPMs, and %s is not in PATH (Debian, Ubuntu: apt install swtpm swtpm-tools; Fedora: dnf install swtpm swtpm-tools)", name)
		}
	}
	return nil
}

// free finds ports that somebody listens on, before anything is started.
func (o *Options) free(ports []int) error {
	for _, p := range ports {
		ln, err := net.Listen("tcp", o.address(p))
		if err != nil {
			return fmt.Errorf("port %d is taken (%w): end what listens there, or move all ports with --port-offset", o.port(p), err)
		}
		_ = ln.Close()
	}
	return nil
}

func (o *Options) ports() []int {
	ports := []int{
		portRegistry, portGatewayHTTP, portCollectorHTTP, portAdmin, portGatewayAdmin, portMetricsHTTP,
		portCollectorGRPC, portCollectorOTLP, portGatewayGRPC, portGatewayOTLP, portTelemetry + 1, portTelemetry + 2,
	}
	for i := range o.Agents {
		for _, p := range []int{portAgentHTTP, portAgentGRPC, portAgentOTLP, portTelemetry} {
			ports = append(ports, agentPort(p, i))
		}
	}
	return ports
}

// writeConfigs puts the shipped configurations where people can read and change
// them; changed ones stay.
func (o *Options) writeConfigs() error {
	dir := o.path("configs")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return fs.WalkDir(configs.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		to := filepath.Join(dir, name)
		if _, err := os.Lstat(to); err == nil {
			return nil
		}
		content, err := configs.Files.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o600)
	})
}
