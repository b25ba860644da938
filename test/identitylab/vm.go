// Package identitylab makes what stands in for a confidential VM: a real identityd
// process with a disk, a memory and a Podman of its own, whose quotes a tdxlab
// forges. It can be killed, rebooted and have its disk set back, as the host does
// with a real one. Tests and the demonstration stand on it. It needs root.
package identitylab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/internal/podmantest"
	"github.com/telemark-otel/telemark/test/harness"
)

// VM is one.
type VM struct {
	*harness.Process
	Dir    string
	Disk   string // STORAGE_PATH: the host's
	Memory string // a tmpfs: gone with a reboot
	Podman *podmantest.Podman
	Quotes string // MOCK_TDX_URL
	Boot   string // its boot id

	URL     string // plain HTTP
	TLSURL  string
	Exposed string // where the workload is published
	Ports   struct{ HTTP, TLS, SSH, Publish, PublishTLS int }

	options Options
	service *podmantest.Service
}

// Options of New.
type Options struct {
	Lab      string // URL of a tdxlab server
	Registry string // URL
	Pin      string // file with the registry's public key
	Attested bool   // publish through the attested TLS proxy
	Args     []string
}

// New makes a VM, which is not started.
func New(o Options) (*VM, error) {
	program, err := harness.Bin("identityd")
	if err != nil {
		return nil, err
	}
	// Short: unix sockets lie in it.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		return nil, err
	}
	v := &VM{
		Dir: dir, Disk: filepath.Join(dir, "disk"), Memory: filepath.Join(dir, "memory"),
		Quotes: o.Lab + "/td/" + filepath.Base(dir), options: o,
	}
	podman := filepath.Join(dir, "podman")
	for _, d := range []string{v.Disk, v.Memory, podman} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	if v.Podman, err = podmantest.Install(podman); err != nil {
		return nil, err
	}
	ports, err := harness.FreePorts(5)
	if err != nil {
		return nil, err
	}
	v.Ports.HTTP, v.Ports.TLS, v.Ports.SSH, v.Ports.Publish, v.Ports.PublishTLS = ports[0], ports[1], ports[2], ports[3], ports[4]
	v.URL, v.TLSURL = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("https://127.0.0.1:%d", ports[1])
	v.Exposed = fmt.Sprintf("http://127.0.0.1:%d", v.Ports.Publish)
	if o.Attested {
		v.Exposed = fmt.Sprintf("https://127.0.0.1:%d", v.Ports.PublishTLS)
	}
	v.Process = &harness.Process{
		Name: "identityd", Path: program, Log: filepath.Join(dir, "log.jsonl"),
		Env: []string{"STORAGE_PATH=" + v.Disk, "REGISTRY_URL=" + o.Registry, "MOCK_TDX_URL=" + v.Quotes},
	}
	return v, v.power()
}

// power gives it a memory and a boot id.
func (v *VM) power() error {
	v.Boot = bootID()
	v.setArgs()
	if err := unix.Mount("memory", v.Memory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("mount a memory for the VM: %w", err)
	}
	var err error
	v.service, err = v.Podman.Serve()
	return err
}

// bootID is one as the kernel makes them (RFC 9562, version 4).
func bootID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Up starts identityd and waits until it serves.
func (v *VM) Up(ctx context.Context) error {
	if err := v.Start(); err != nil {
		return err
	}
	return v.Serves(ctx)
}

// Serves waits until identityd serves.
func (v *VM) Serves(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return v.Ready(ctx, nil, v.URL+"/health")
}

// Off ends the VM as its host can: at once, with all that was in memory.
func (v *VM) Off() error {
	v.Kill()
	v.service.Close()
	err := v.Podman.Clear()
	// The kernel of a VM that ends takes its mounts along.
	return errors.Join(err, detach(v.Disk), detach(v.Memory))
}

// On starts a VM that is off anew, without identityd: another boot id, nothing in
// memory, RTMR3 all zeros.
func (v *VM) On(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, v.Quotes+"/rtmr3", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	return v.power()
}

// Reboot is Off, On and Up.
func (v *VM) Reboot(ctx context.Context) error {
	if err := v.Off(); err != nil {
		return err
	}
	if err := v.On(ctx); err != nil {
		return err
	}
	return v.Up(ctx)
}

// Save copies the disk, as its host can at any time; what the VM mounted on it is
// not there for the host.
func (v *VM) Save(ctx context.Context, name string) error {
	return run(ctx, "cp", "--archive", "--one-file-system", v.Disk, v.saved(name))
}

// SetBack puts back what Save saved, under a VM that is off.
func (v *VM) SetBack(ctx context.Context, name string) error {
	if err := os.RemoveAll(v.Disk); err != nil {
		return err
	}
	return run(ctx, "cp", "--archive", v.saved(name), v.Disk)
}

func (v *VM) saved(name string) string { return filepath.Join(v.Dir, "saved-"+name) }

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// Remove takes away all of it.
func (v *VM) Remove() error {
	return errors.Join(v.Off(), v.Podman.Remove(), os.RemoveAll(v.Dir))
}

// detach takes every mount at dir and below it out of the tree, the uppermost
// first, which takes what hangs on it along.
func detach(dir string) error {
	for range 256 {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		top := ""
		for line := range strings.Lines(string(b)) {
			point := strings.Split(line, " ")[4]
			if (point == dir || strings.HasPrefix(point, dir+"/")) && (top == "" || len(point) <= len(top)) {
				top = point
			}
		}
		if top == "" {
			return nil
		}
		if err := unix.Unmount(top, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", top, err)
		}
	}
	return fmt.Errorf("mounts below %s do not go away", dir)
}
