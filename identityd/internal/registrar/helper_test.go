package registrar_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

var program string // registryd

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "registrar")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "registryd")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", program, "github.com/telemark-otel/telemark/registryd")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building registryd: %v\n%s", err, out))
	}
	return m.Run()
}

// memDir is a directory of a VM.
type memDir struct {
	mu    sync.Mutex
	files map[string][]byte
}

func newDir() *memDir { return &memDir{files: map[string][]byte{}} }

func (d *memDir) clone() *memDir {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &memDir{files: maps.Clone(d.files)}
}

func (d *memDir) ReadFile(name string, _ int64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	content, ok := d.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(content), nil
}

func (d *memDir) Create(name string) (state.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[name] = nil
	return &memFile{d, name}, nil
}

func (d *memDir) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[to] = d.files[from]
	delete(d.files, from)
	return nil
}

func (d *memDir) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.files[name]; !ok {
		return fs.ErrNotExist
	}
	delete(d.files, name)
	return nil
}

func (d *memDir) Sync() error { return nil }

type memFile struct {
	d    *memDir
	name string
}

func (f *memFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.files[f.name] = append(slices.Clone(f.d.files[f.name]), b...)
	return len(b), nil
}

func (f *memFile) Sync() error  { return nil }
func (f *memFile) Close() error { return nil }

var (
	t0          = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	imageDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

const image = "registry.example/app:1"

func person(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "person %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func role(m *state.Machine, n int) state.Role {
	return state.Role{Pubkey: person(n).Public().(ed25519.PublicKey), Signature: ed25519.Sign(person(n), m.Instance())}
}

// vm is a VM with its disk, its volume and its register.
type vm struct {
	t         *testing.T
	lab       *tdxlab.Lab
	disk, run *memDir
	boot      int
	m         *state.Machine
	volume    []byte // what lies encrypted on the disk

	mu       sync.Mutex
	log      statement.Log
	register [48]byte
	quotes   int
}

func newVM(t *testing.T) *vm {
	v := &vm{t: t, lab: tdxlab.New("registrar"), disk: newDir(), run: newDir()}
	v.start()
	return v
}

func (v *vm) start() {
	v.t.Helper()
	var err error
	v.m, err = state.Open(state.Options{Dir: v.disk, RunDir: v.run, BootID: fmt.Sprintf("boot-%d", v.boot)})
	require.NoError(v.t, err)
}

// reboot starts the VM anew from a disk; the owner unlocks it.
func (v *vm) reboot(disk *memDir, volume []byte) *vm {
	v.t.Helper()
	next := &vm{t: v.t, lab: v.lab, disk: disk, run: newDir(), boot: v.boot + 1}
	next.start()
	require.NoError(v.t, next.m.Link(t0, volume, role(next.m, 2)))
	next.remember()
	return next
}

func (v *vm) remember() {
	v.t.Helper()
	var err error
	v.volume, err = v.m.Identity()
	require.NoError(v.t, err)
}

func (v *vm) operator() string {
	v.t.Helper()
	token, err := v.m.RegisterOperator(role(v.m, 1), nil)
	require.NoError(v.t, err)
	return token
}

func (v *vm) owned() {
	v.t.Helper()
	p, err := v.m.RegisterOwner(t0, v.operator(), role(v.m, 2))
	require.NoError(v.t, err)
	require.NoError(v.t, p.Finish())
	v.remember()
}

func (v *vm) record(e statement.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.log.Events = append(slices.Clone(v.log.Events), e)
	v.register = statement.Extend(v.register, e.Digest())
}

func (v *vm) configured() {
	v.t.Helper()
	p, err := v.m.Configure(t0, state.Auth{V1: true, Counter: v.m.Counter()}, state.Workload{Image: image, Port: 80})
	require.NoError(v.t, err)
	require.NoError(v.t, p.Resolve(imageDigest))
	v.record(statement.Event{Name: statement.Image, Data: statement.ImageData(image, imageDigest)})
	v.record(statement.Event{Name: statement.SSHOpen, Data: fmt.Sprintf("%x", person(9).Public())})
	require.NoError(v.t, p.Note(t0, state.SSHOpened))
	require.NoError(v.t, p.Finish())
	v.remember()
}

func (v *vm) exposed() {
	v.t.Helper()
	p, err := v.m.Expose(t0, state.Auth{V1: true, Counter: v.m.Counter()}, image)
	require.NoError(v.t, err)
	require.NoError(v.t, p.Note(t0, state.SSHListenerClosed))
	require.NoError(v.t, p.Note(t0, state.SSHSessionsEnded))
	v.record(statement.Event{Name: statement.SSHClosed, Data: statement.ImageData(image, imageDigest)})
	require.NoError(v.t, p.Finish())
	v.remember()
}

// statement is what the VM says, as package control has it.
func (v *vm) statement() (*statement.Statement, error) {
	s := v.m.View()
	out := &statement.Statement{
		Version: 1, Instance: s.Instance, Origin: s.Origin, Boot: s.Boot, State: string(s.State), Counter: s.Counter,
		SSHHostKey: []byte(person(9).Public().(ed25519.PublicKey)),
		SSH:        statement.SSH{Opened: s.SSH.Opened, ListenerClosed: s.SSH.ListenerClosed, SessionsEnded: s.SSH.SessionsEnded},
	}
	if s.Link != nil {
		out.Link = &statement.Link{At: s.Link.At, Counter: s.Link.Counter, Signature: s.Link.Signature}
	}
	if s.Operator != nil {
		out.Operator = s.Operator.Pubkey
	}
	if s.Owner != nil {
		out.Owner = s.Owner.Pubkey
	}
	if s.Step != nil {
		out.Step = string(s.Step.Kind)
	}
	if s.Workload != nil {
		out.Workload = &statement.Workload{Image: s.Workload.Image, Digest: s.Workload.Digest, Port: s.Workload.Port}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	out.Log = statement.Log{Register: statement.RTMR3, Base: make([]byte, 48), Events: v.log.Events}
	return out, nil
}

func (v *vm) quote(_ context.Context, data [64]byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.quotes++
	return v.lab.Quote(data, func(q *tdxlab.Quote) { q.RTMR[3] = v.register }), nil
}

func (v *vm) ppid(context.Context) ([]byte, error) {
	p := v.lab.Platform().PPID
	return p[:], nil
}
