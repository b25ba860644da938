// Package identity_test runs identityd with the real things around it: the daemon as
// a process, registryd, podman with an image made here, gocryptfs, OpenSSH's client,
// HTTP clients and the telemark command. Quotes are a tdxlab's. It needs root, and
// what scripts/setup.sh installs; the binaries are those of `make build`.
package identity_test

import (
	"context"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/test/harness"
	"github.com/telemark-otel/telemark/test/identitylab"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// soon is how long anything may take that is not waited for by design.
const soon = 30 * time.Second

// world is what all tests share: who forges quotes, and a registry that takes it
// for Intel.
var world struct {
	dir      string
	forger   *tdxlab.Lab
	lab      string // URL, of collateral
	root     string // file
	registry *harness.Registry
}

func TestMain(m *testing.M) {
	// They wait for processes more than they compute.
	_ = flag.Set("test.parallel", "4")
	code, err := within(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func within(m *testing.M) (code int, err error) {
	if world.dir, err = os.MkdirTemp("", "identity"); err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(world.dir) }()
	world.forger = tdxlab.New("identity")
	server := httptest.NewServer(world.forger.Handler())
	defer server.Close()
	world.lab, world.root = server.URL, filepath.Join(world.dir, "root.pem")
	if err := os.WriteFile(world.root, world.forger.RootPEM(), 0o600); err != nil {
		return 1, err
	}
	if world.registry, err = newRegistry(filepath.Join(world.dir, "registry")); err != nil {
		return 1, err
	}
	defer world.registry.Kill()
	return m.Run(), nil
}

// newRegistry starts a registry of its own.
func newRegistry(dir string) (*harness.Registry, error) {
	r, err := harness.NewRegistry(dir, harness.RegistryOptions{
		Untrusted: true, Args: []string{"--dev", "--tdx-roots", world.root, "--pccs-url", world.lab, "--rate-address", "off"},
	})
	if err != nil {
		return nil, err
	}
	if err := r.Start(); err != nil {
		return nil, err
	}
	return r, up(r)
}

func up(r *harness.Registry) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	return r.Ready(ctx, nil, r.URL+"/ready")
}

// vm is a VM in a test.
type vm struct {
	*identitylab.VM
	*testing.T
	operator, owner *person
	sends           bool // the owner sends the volume's key
	removed         bool
}

const (
	app   = "localhost/app:1"
	app2  = "localhost/app:2"
	words = "hello from the workload"
)

// newVM starts a VM with its image at hand.
func newVM(t *testing.T, edits ...func(*identitylab.Options)) *vm {
	t.Helper()
	v := powered(t, edits...)
	v.Podman.Import(t, app, words)
	require.NoError(t, v.Up(t.Context()))
	return v
}

// powered is a VM without its identityd, and without an image.
func powered(t *testing.T, edits ...func(*identitylab.Options)) *vm {
	t.Helper()
	o := identitylab.Options{
		Lab: serve(t, world.forger.Handler()), Registry: world.registry.URL, Pin: world.registry.Pin,
		Args: []string{"--rate-address", "off", "--rate-token", "off", "--rate-quote", "off"},
	}
	for _, edit := range edits {
		edit(&o)
	}
	made, err := identitylab.New(o)
	require.NoError(t, err)
	v := &vm{VM: made, T: t, operator: newPerson(t, "operator"), owner: newPerson(t, "owner"), sends: true}
	t.Cleanup(v.gone)
	return v
}

// publishing is held while a port is published or taken back: all Podmans write
// the same chains of iptables, and do not wait for one another.
var publishing sync.Mutex

func alone(do func()) {
	publishing.Lock()
	defer publishing.Unlock()
	do()
}

// gone takes the VM away. It may be called again.
func (v *vm) gone() {
	if v.removed {
		return
	}
	v.removed = true
	if v.Failed() {
		v.Logf("identityd's log:\n%s", v.Tail(60))
	}
	alone(func() { require.NoError(v, v.Remove()) })
}

// flags adds to the daemon's.
func flags(args ...string) func(*identitylab.Options) {
	return func(o *identitylab.Options) { o.Args = append(o.Args, args...) }
}

// restart starts the service anew after a SIGKILL, in the same boot.
func (v *vm) restart() {
	v.Helper()
	v.Kill()
	alone(func() { require.NoError(v, v.Up(v.Context())) })
}

func (v *vm) reboot() {
	v.Helper()
	alone(func() { require.NoError(v, v.Reboot(v.Context())) })
	v.Podman.Import(v.T, app, "another image of the same name")
}

// eventually tries until there is no error.
func (v *vm) eventually(try func() error) {
	v.Helper()
	deadline := time.Now().Add(soon)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			require.NoError(v, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
