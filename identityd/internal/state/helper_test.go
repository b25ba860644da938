package state

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

var (
	t0      = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	errDisk = errors.New("injected fault")

	digestA = "sha256:" + strings.Repeat("a", 64)
	digestB = "sha256:" + strings.Repeat("b", 64)
)

// faults counts what is done to both directories and lets one go wrong.
type faults struct {
	ops, at int
	kill    bool // nothing happens after it: the process is gone
	after   bool // the operation takes effect all the same
	dead    bool
}

// hit reports whether the operation takes effect, and its error.
func (f *faults) hit() (bool, error) {
	if f.dead {
		return false, errDisk
	}
	f.ops++
	if f.ops != f.at {
		return true, nil
	}
	f.dead = f.kill
	return f.after, errDisk
}

type inode struct{ content, synced []byte }

// memDir is a directory that knows what of it is durable.
type memDir struct {
	f             *faults
	live, durable map[string]*inode
}

func newDir(f *faults) *memDir {
	return &memDir{f, map[string]*inode{}, map[string]*inode{}}
}

// crash is what the next process finds: everything, or what was durable.
func (d *memDir) crash(f *faults, lose bool) *memDir {
	out := newDir(f)
	entries := d.live
	if lose {
		entries = d.durable
	}
	for name, i := range entries {
		content := i.content
		if lose {
			content = i.synced
		}
		content = slices.Clone(content)
		n := &inode{content, content}
		out.live[name], out.durable[name] = n, n
	}
	return out
}

func (d *memDir) ReadFile(name string, limit int64) ([]byte, error) {
	i := d.live[name]
	switch {
	case i == nil:
		return nil, fs.ErrNotExist
	case int64(len(i.content)) > limit:
		return nil, errTooLarge
	}
	return slices.Clone(i.content), nil
}

func (d *memDir) Create(name string) (File, error) {
	ok, err := d.f.hit()
	if !ok {
		return nil, err
	}
	if d.live[name] != nil {
		return nil, fs.ErrExist
	}
	i := &inode{}
	d.live[name] = i
	return &memFile{d.f, i}, err
}

func (d *memDir) Rename(from, to string) error {
	ok, err := d.f.hit()
	if ok {
		d.live[to] = d.live[from]
		delete(d.live, from)
	}
	return err
}

func (d *memDir) Remove(name string) error {
	if d.live[name] == nil {
		return fs.ErrNotExist
	}
	ok, err := d.f.hit()
	if ok {
		delete(d.live, name)
	}
	return err
}

func (d *memDir) Sync() error {
	ok, err := d.f.hit()
	if ok {
		d.durable = maps.Clone(d.live)
	}
	return err
}

type memFile struct {
	f *faults
	i *inode
}

func (w *memFile) Write(b []byte) (int, error) {
	ok, err := w.f.hit()
	if !ok {
		w.i.content = append(w.i.content, b[:len(b)/2]...) // torn
		return len(b) / 2, err
	}
	w.i.content = append(w.i.content, b...)
	return len(b), err
}

func (w *memFile) Sync() error {
	ok, err := w.f.hit()
	if ok {
		w.i.synced = slices.Clone(w.i.content)
	}
	return err
}

func (w *memFile) Close() error { return nil }

// vm is a VM with its disk.
type vm struct {
	t         *testing.T
	f         *faults
	disk, run *memDir
	boot      int
	m         *Machine
}

func newVM(t *testing.T) *vm {
	f := &faults{}
	return &vm{t: t, f: f, disk: newDir(f), run: newDir(f)}
}

func (v *vm) open() error {
	var err error
	v.m, err = Open(Options{Dir: v.disk, RunDir: v.run, BootID: fmt.Sprintf("boot-%d", v.boot)})
	return err
}

func (v *vm) start() *Machine {
	v.t.Helper()
	require.NoError(v.t, v.open())
	return v.m
}

// restart kills the service; what it was doing may be lost on the disk, and is
// not in memory.
func (v *vm) restart(lose bool) {
	v.f = &faults{}
	v.disk, v.run = v.disk.crash(v.f, lose), v.run.crash(v.f, false)
}

func (v *vm) reboot(lose bool) {
	v.restart(lose)
	v.run = newDir(v.f)
	v.boot++
}

func (v *vm) file() []byte { return slices.Clone(v.disk.live[stateFile].content) }

func (v *vm) setFile(b []byte) {
	i := &inode{b, b}
	v.disk.live[stateFile], v.disk.durable[stateFile] = i, i
}

func keyOf(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "test key %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func role(m *Machine, n int) Role {
	k := keyOf(n)
	return Role{k.Public().(ed25519.PublicKey), ed25519.Sign(k, m.Instance())}
}

func body(n int) Auth { return Auth{Body: sha256.Sum256(fmt.Appendf(nil, "body %d", n))} }

func work(image string) Workload {
	return Workload{Image: image, PersistDirs: []string{"/data"}, Port: 8080}
}

const operator, owner, stranger = 1, 2, 3

func refused(t *testing.T, err error, r reason.Reason) {
	t.Helper()
	require.Equal(t, r, reason.Of(err), "%v", err)
}

// owned brings a fresh machine to owner_registered and returns its identity.
func owned(t *testing.T, m *Machine) []byte {
	t.Helper()
	token, err := m.RegisterOperator(role(m, operator), nil)
	require.NoError(t, err)
	p, err := m.RegisterOwner(t0, token, role(m, owner))
	require.NoError(t, err)
	id, err := m.Identity()
	require.NoError(t, err)
	require.NoError(t, p.Finish())
	return id
}

func configured(t *testing.T, m *Machine, auth Auth, image, digest string) {
	t.Helper()
	p, err := m.Configure(t0, auth, work(image))
	require.NoError(t, err)
	require.NoError(t, p.Resolve(digest))
	require.NoError(t, p.Note(t0, SSHOpened))
	require.NoError(t, p.Finish())
}

func exposed(t *testing.T, m *Machine, auth Auth, image string) {
	t.Helper()
	p, err := m.Expose(t0, auth, image)
	require.NoError(t, err)
	require.NoError(t, p.Note(t0, SSHListenerClosed))
	require.NoError(t, p.Note(t0, SSHSessionsEnded))
	require.NoError(t, p.Finish())
}

func sshAllowed(m *Machine) bool {
	v := m.View()
	return v.SSHAllowed()
}
