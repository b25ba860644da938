package podmantest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Install makes a Podman in dir, an existing directory of a short name, for those
// who have no test at hand. Remove takes it away again.
func Install(dir string) (_ *Podman, err error) {
	if err := take(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, give())
		}
	}()
	number := rand.IntN(1 << 15) //nolint:gosec // need not be secret
	p := &Podman{
		Dir: dir, Socket: filepath.Join(dir, "podman.sock"), Config: filepath.Join(dir, "containers.conf"),
		Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), Tmp: filepath.Join(dir, "tmp"),
		link: fmt.Sprintf("pmtest%04x", number),
	}
	high, low := 128+number>>8, number&0xff
	p.addresses = fmt.Sprintf("10.%d.%d.", high, low)
	networks := filepath.Join(dir, "networks")
	if err := os.Mkdir(networks, 0o700); err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{
		p.Config:                               fmt.Appendf(nil, config, networks),
		filepath.Join(networks, "podman.json"): fmt.Appendf(nil, network, number, number, high, low, high, low),
		filepath.Join(dir, "registries.conf"):  []byte(registries),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Clear takes away all containers and images, as the end of a VM does whose Podman
// kept them in memory.
func (p *Podman) Clear() error {
	err := p.removeContainers()
	p.endRest()
	// Gone with the last container, unless that was being cleared away just then.
	_ = exec.Command("ip", "link", "delete", p.link).Run() //nolint:gosec // a name of our own
	// The storage driver keeps a mount on its own directory.
	_ = exec.Command("umount", "--lazy", filepath.Join(p.Root, "overlay")).Run() //nolint:gosec // our own directory
	return errors.Join(err, p.removeRules(), remove(p.Root), remove(p.Run), remove(p.Tmp))
}

// remove removes a tree that Podman may be clearing away too just now.
func remove(dir string) error {
	var err error
	for range 20 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func (p *Podman) removeContainers() error {
	var out []byte
	var err error
	// Podman's own cleaning up after a container can be in the way for a moment.
	for range 10 {
		if out, err = p.Command("rm", "--all", "--force", "--time", "0").CombinedOutput(); err == nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return fmt.Errorf("remove the containers: %w: %s", err, out)
}

// Remove takes away all of it.
func (p *Podman) Remove() error { return errors.Join(p.Clear(), os.RemoveAll(p.Dir), give()) }

// Service is Podman's API, served.
type Service struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
}

// Write takes what the service says.
func (s *Service) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

// Said is what the service said.
func (s *Service) Said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// Close ends the service; containers go on.
func (s *Service) Close() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Serve serves the API on the socket.
func (p *Podman) Serve() (*Service, error) {
	s := &Service{cmd: p.Command("system", "service", "--time=0", "unix://"+p.Socket)}
	s.cmd.Stdout, s.cmd.Stderr = s, s
	s.cmd.WaitDelay = time.Second
	if err := os.Remove(p.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(p.Socket); err == nil {
			return s, nil
		}
		if time.Now().After(deadline) {
			s.Close()
			return nil, fmt.Errorf("podman's service did not start: %s", s.Said())
		}
	}
}

// ImportLayer makes an image of one layer, a tar archive, that runs the command,
// which is JSON.
func (p *Podman) ImportLayer(name, command string, layer io.Reader) error {
	cmd := p.Command("import", "--quiet", "--change", "CMD "+command, "-", name)
	cmd.Stdin = layer
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w: %s", name, err, out)
	}
	return nil
}

// LayerOf is a tar archive with a program as /program, and links to it.
func LayerOf(program []byte, links ...string) ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	for _, link := range links {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: link[1:], Linkname: "/program", Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	return layer.Bytes(), w.Close()
}
