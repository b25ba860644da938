package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/test/harness"
)

// Time limits of what is polled for. They are long since machines are slow;
// nothing waits for them when all is well.
const (
	patience = 90 * time.Second
	pause    = 50 * time.Millisecond
)

type worldKey struct{}

// world is what one script has: its processes, what it has sent, and what it
// knows to have been refused.
type world struct {
	dir   string
	certs *certificates // nil: no TLS
	keys  string        // the key file
	way   *way

	nodes    map[string]*node
	services map[string]*service
	items    int64          // numbered so far
	expected map[string]int // refused blocks, by reason
}

// service is what was sent under one name.
type service struct {
	machine string
	signal  block.Signal
	first   int64 // the items are numbered from here
	n       int
	payload string // of metrics that the agent made; their items have no numbers
}

// newWorld makes the places that every script has; nothing runs yet but the
// network.
func newWorld(dir string, certs *certificates) (*world, error) {
	w := &world{
		dir: dir, certs: certs, keys: filepath.Join(dir, "keys.json"),
		nodes: map[string]*node{}, services: map[string]*service{}, expected: map[string]int{},
	}
	c, err := w.add(string(collector), collector)
	if err != nil {
		return nil, err
	}
	if w.way, err = newWay(w, c.grpc); err != nil {
		return nil, err
	}
	for _, role := range []role{gateway, stock} {
		if _, err := w.add(string(role), role); err != nil {
			return nil, err
		}
	}
	if certs == nil { // the admin token is needed without TLS too
		if err := os.WriteFile(filepath.Join(dir, "admin.token"), []byte(adminToken), 0o600); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// certificates returns the directory that TELEMARK_CERTS names.
func (w *world) certificates() string {
	if w.certs == nil {
		return w.dir
	}
	return w.certs.dir
}

func (w *world) scheme() string {
	if w.certs == nil {
		return "http"
	}
	return "https"
}

// end ends every process; none may outlive the script.
func (w *world) end() {
	w.way.close()
	for _, n := range w.nodes {
		n.Kill()
		if n.tpm != nil {
			n.tpm.Kill()
		}
	}
}

// report is what helps to find out why a script failed.
func (w *world) report() string {
	var b strings.Builder
	for name, n := range w.nodes {
		if _, err := os.Stat(n.Log); err != nil {
			continue
		}
		worse := slices.DeleteFunc(strings.Split(n.Tail(200), "\n"), unremarkable)
		fmt.Fprintf(&b, "last lines of %s (running: %t):\n", name, n.Running())
		for _, line := range worse[max(0, len(worse)-12):] {
			fmt.Fprintf(&b, "  %.600s\n", line)
		}
	}
	return b.String()
}

func unremarkable(line string) bool {
	return strings.Contains(line, `"level":"info"`) || strings.Contains(line, "\tinfo\t")
}

func (w *world) node(name string) (*node, error) {
	n := w.nodes[name]
	if n == nil {
		return nil, fmt.Errorf("nobody is called %q", name)
	}
	return n, nil
}

// start starts nodes side by side and waits until they are ready.
func (w *world) start(names ...string) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		n, err := w.node(name)
		if err != nil {
			return err
		}
		wg.Go(func() { errs[i] = w.run(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// enrol makes the keys of machines and, unless they are to stay unknown, writes
// them into the key file.
func (w *world) enrol(unknown bool, names ...string) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		n := w.nodes[name]
		wg.Go(func() {
			errs[i] = w.command("key", "create", "--device", n.device(), "--dir", n.keyDir(), "--name", name)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	file, err := w.readKeys()
	if err != nil {
		return err
	}
	for _, name := range names {
		var own keyFile
		content, err := os.ReadFile(filepath.Join(w.nodes[name].keyDir(), "key.json"))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(content, &own); err != nil || len(own.Keys) != 1 {
			return fmt.Errorf("key.json of %s: %w", name, err)
		}
		w.nodes[name].kid, _ = own.Keys[0]["kid"].(string)
		if !unknown {
			file.Keys = append(file.Keys, own.Keys[0])
		}
	}
	return w.writeKeys(file)
}

// keyFile is the key file, as little of it as has to be known.
type keyFile struct {
	Keys []map[string]any `json:"keys"`
}

func (w *world) readKeys() (file keyFile, err error) {
	content, err := os.ReadFile(w.keys)
	if errors.Is(err, os.ErrNotExist) {
		return keyFile{Keys: []map[string]any{}}, nil
	}
	if err != nil {
		return file, err
	}
	return file, json.Unmarshal(content, &file)
}

// writeKeys replaces the file at once, as an operator's tool does.
func (w *world) writeKeys(file keyFile) error {
	content, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.keys+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(w.keys+".new", w.keys)
}

// command runs the command line.
func (w *world) command(args ...string) error {
	bin, err := harness.Bin("telemark")
	if err != nil {
		return err
	}
	if out, err := exec.Command(bin, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("telemark %v: %w\n%s", args, err, out)
	}
	return nil
}

// eventually polls until check returns nil, and returns its last error.
func eventually(check func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", patience, err)
		}
	}
}
