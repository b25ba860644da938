package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/identityd/internal/attest"
	"github.com/telemark-otel/telemark/identityd/internal/measure"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/request"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
	"github.com/telemark-otel/telemark/internal/podmantest"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

// The tests are of the real parts: they need root, gocryptfs, fuse3, podman and
// openssh-client, and fail without. Only the registry is none, and quotes are not
// Intel's: quotes are forged by a lab, with a register for each boot.

const (
	app   = "localhost/app:1"
	other = "localhost/app:2"
)

// registrar is a registry that may be down, and that remembers a counter.
type registrar struct {
	mu     sync.Mutex
	told   int
	down   error
	seen   uint64
	speaks bool
	m      *state.Machine
}

func (r *registrar) Tell(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told++
	if r.down == nil {
		r.seen = r.m.Counter()
	}
	return r.down
}

func (r *registrar) Witness(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.speaks {
		return reason.Refuse(reason.RegistryUnreachable, "it does not speak")
	}
	return r.m.Witness(state.Registry, r.seen)
}

// lab is a VM: its disk, its memory, its people.
type lab struct {
	t        testing.TB
	podman   *podmantest.Podman
	disk     string
	run      string
	boot     int
	platform *httptest.Server
	kind     storage.Kind
	vault    storage.Source
	operator ed25519.PrivateKey
	owner    ed25519.PrivateKey
	key      []byte // of the volume, as the owner's tool keeps it
	volume   *[16]byte
	registry *registrar
	sshPort  int
	hostPort uint16
	last     uint64                                 // the counter that the owner's tool saw last
	dirs     func(disk, run state.Dir) [2]state.Dir // between the machine and its directories
	noSSH    bool                                   // the port cannot be had

	// Of the service that runs.
	c       *Control
	m       *state.Machine
	d       *storage.Disk
	w       *workload.Manager
	closers []io.Closer
}

func newLab(t testing.TB) *lab {
	t.Helper()
	p := podmantest.New(t)
	p.Start(t)
	p.Import(t, app, "hello")
	return newLabWith(t, p)
}

func newLabWith(t testing.TB, p *podmantest.Podman) *lab {
	t.Helper()
	disk, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	l := &lab{
		t: t, podman: p, disk: disk, run: filepath.Join(t.TempDir(), "run"), kind: storage.OwnerKey,
		operator: keyOf(1), owner: keyOf(2), key: unlock.NewKey(), registry: &registrar{}, platform: httptest.NewServer((&tdxlab.Server{Lab: tdxlab.New("control")}).Handler()),
		sshPort: int(freePort(t)), hostPort: freePort(t),
	}
	t.Cleanup(func() {
		if l.c != nil {
			l.stop()
		}
		l.platform.Close()
	})
	return l
}

func keyOf(n int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "key %d", n))
	return ed25519.NewKeyFromSeed(seed[:])
}

func pubOf(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func (l *lab) bootID() string { return fmt.Sprintf("boot-%d", l.boot) }

// open starts the service.
func (l *lab) open() error {
	ctx := l.t.Context()
	log := zaptest.NewLogger(l.t, zaptest.Level(zap.WarnLevel))
	run, err := state.OpenRunDir(l.run, true)
	if err != nil {
		return err
	}
	dir, err := state.OpenDir(l.disk)
	if err != nil {
		return errors.Join(err, run.Close())
	}
	l.closers = []io.Closer{run, dir}
	dirs := [2]state.Dir{dir, run}
	if l.dirs != nil {
		dirs = l.dirs(dir, run)
	}
	if l.m, err = state.Open(state.Options{Dir: dirs[0], RunDir: dirs[1], BootID: l.bootID()}); err != nil {
		return errors.Join(err, l.release())
	}
	l.registry.m = l.m
	if l.d, err = storage.Open(ctx, storage.Options{Path: l.disk, BusyTimeout: 3 * time.Second, MountTimeout: time.Minute, Logger: log}); err != nil {
		return errors.Join(err, l.release())
	}
	td, err := guest.Open(ctx, guest.Options{Mock: l.platform.URL + "/td/" + l.bootID()})
	if err != nil {
		return errors.Join(err, l.release())
	}
	events, err := measure.Open(ctx, measure.Options{Guest: td, RunDir: run, BootID: l.bootID()})
	if err != nil {
		return errors.Join(err, l.release())
	}
	if l.w, err = workload.Open(ctx, workload.Options{
		Socket: l.podman.Socket, Limits: workload.Limits{Memory: 256 << 20, Pids: 64}, LogPath: filepath.Join(l.podman.Dir, "log"),
	}); err != nil {
		return errors.Join(err, l.release())
	}
	seed := l.m.Derive("ssh-host-key")
	l.c, err = Open(ctx, Options{
		Machine: l.m, RunDir: dirs[1], Disk: l.d, Workload: l.w, Events: events, Registrar: l.registry,
		Source: l.kind, Vault: l.vault, Quotes: attest.New(attest.Options{Guest: td, Now: time.Now}),
		ListenSSH: func(ctx context.Context) (net.Listener, error) {
			if l.noSSH {
				return nil, errors.New("the port is taken")
			}
			return new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", l.sshPort))
		},
		SSHHostKey: ed25519.NewKeyFromSeed(seed[:]), HostPort: l.hostPort, HostAddress: netip.MustParseAddr("127.0.0.1"),
		Logger: log,
	})
	if err != nil {
		return errors.Join(err, l.release())
	}
	return nil
}

func (l *lab) release() error {
	var errs []error
	if l.w != nil {
		l.w.Close()
	}
	if l.d != nil {
		errs = append(errs, l.d.Close(context.Background()))
	}
	for _, c := range l.closers {
		errs = append(errs, c.Close())
	}
	l.c, l.d, l.w, l.closers = nil, nil, nil, nil
	return errors.Join(errs...)
}

func (l *lab) start() *Control {
	l.t.Helper()
	require.NoError(l.t, l.open())
	return l.c
}

// stop ends the service in order.
func (l *lab) stop() {
	l.t.Helper()
	require.NoError(l.t, l.c.Close(context.Background()))
	require.NoError(l.t, l.c.Close(context.Background()), "again")
	require.NoError(l.t, l.release())
}

// kill ends the service without giving it the time to do anything: gocryptfs
// ends with it, the container stays.
func (l *lab) kill() {
	l.t.Helper()
	l.c.end()
	l.killGocryptfs()
	if l.c.door != nil {
		l.c.closeDoor(context.Background()) // the kernel would
	}
	l.c.work.Wait()
	require.NoError(l.t, l.release())
}

func (l *lab) killGocryptfs() int {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(l.t, err)
	killed := 0
	for _, name := range names {
		args, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(args, []byte("gocryptfs")) || !bytes.Contains(args, []byte(l.disk+"/")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		require.NoError(l.t, err)
		require.NoError(l.t, unix.Kill(pid, unix.SIGKILL))
		killed++
	}
	return killed
}

// reboot is a new boot of the VM: all that was in memory is gone, Podman's
// storage too.
func (l *lab) reboot() {
	l.t.Helper()
	if l.c != nil {
		l.kill()
	}
	l.boot++
	l.run = filepath.Join(l.t.TempDir(), "run")
	l.gone("rm", "--all", "--force", "--time", "0")
	l.gone("rmi", "--all", "--force")
}

// gone repeats what Podman's own cleaning up after a container can be in the way
// of.
func (l *lab) gone(args ...string) {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return l.podman.Command(args...).Run() == nil }, eventually, 10*tick)
}

// The people.

func (l *lab) registerOperator() string {
	l.t.Helper()
	out, err := l.c.RegisterOperator(l.t.Context(), &request.Operator{
		Pubkey: request.Hex(pubOf(l.operator)), Signature: ed25519.Sign(l.operator, l.m.Instance()),
	})
	require.NoError(l.t, err)
	return out.Token
}

// sealed is what the owner's tool sends for a transcript.
func (l *lab) sealed(owner ed25519.PrivateKey, key []byte) ([]byte, error) {
	nonce := unlock.NewNonce()
	raw, quote, err := l.c.StorageRequest(l.t.Context(), nonce, pubOf(owner))
	if err != nil {
		return nil, err
	}
	t, err := unlock.ParseTranscript(raw)
	if err != nil {
		return nil, err
	}
	if l.volume == nil {
		l.volume = &t.Volume
	}
	data, err := tdx.ReportData(quote)
	if err != nil {
		return nil, err
	}
	return unlock.Wrap(data, t, unlock.Mine{Nonce: nonce, Signer: owner, Volume: l.volume, Counter: l.last}, key)
}

func (l *lab) ownerBody(owner ed25519.PrivateKey) *request.Owner {
	l.t.Helper()
	body := &request.Owner{Pubkey: request.Hex(pubOf(owner)), Signature: ed25519.Sign(owner, l.m.Instance())}
	if l.kind == storage.OwnerKey {
		sealed, err := l.sealed(owner, l.key)
		require.NoError(l.t, err)
		body.SealedKey = sealed
	}
	return body
}

func (l *lab) registerOwner(token string) {
	l.t.Helper()
	_, err := l.c.RegisterOwner(l.t.Context(), token, l.ownerBody(l.owner))
	require.NoError(l.t, err)
}

func (l *lab) auth() request.Auth {
	l.last = l.m.Counter()
	return request.Auth{V1: true, Counter: l.last}
}

func (l *lab) configure(image string, dirs ...string) error {
	port := int64(8080)
	_, err := l.c.Configure(l.t.Context(), &request.Configure{Image: &image, PersistDirs: append([]string{}, dirs...), Port: &port}, l.auth())
	return err
}

func (l *lab) expose(image string) error {
	_, err := l.c.Expose(l.t.Context(), &request.Expose{Image: &image}, l.auth())
	return err
}

func (l *lab) unlock() error {
	l.t.Helper()
	if l.kind != storage.OwnerKey {
		return l.unlockWith(nil)
	}
	sealed, err := l.sealed(l.owner, l.key)
	if err != nil {
		return err
	}
	return l.unlockWith(sealed)
}

func (l *lab) unlockWith(sealed []byte) error {
	l.t.Helper()
	_, err := l.c.Unlock(l.t.Context(), &request.Unlock{
		Signature: ed25519.Sign(l.owner, l.m.Instance()), LastCounter: &l.last, SealedKey: sealed,
	})
	return err
}

// owned is a service with an owner.
func (l *lab) owned() {
	l.t.Helper()
	l.start()
	l.registerOwner(l.registerOperator())
}

// What can be seen from outside.

// ssh runs a command in the workload as the owner, by OpenSSH.
func (l *lab) ssh(command string, input io.Reader) (string, error) {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), "ssh", append(l.sshArgs("-p"), "owner@127.0.0.1", command)...)
	cmd.Stdin = input
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%w: %s", err, errs.Bytes())
	}
	return string(out), nil
}

func (l *lab) sshArgs(port string) []string {
	l.t.Helper()
	dir := l.t.TempDir()
	block, err := ssh.MarshalPrivateKey(l.owner, "")
	require.NoError(l.t, err)
	key := filepath.Join(dir, "key")
	require.NoError(l.t, os.WriteFile(key, pem.EncodeToMemory(block), 0o600))
	host, err := ssh.NewPublicKey(pubOf(l.c.o.SSHHostKey))
	require.NoError(l.t, err)
	known := filepath.Join(dir, "known")
	line := fmt.Sprintf("[127.0.0.1]:%d %s", l.sshPort, ssh.MarshalAuthorizedKey(host))
	require.NoError(l.t, os.WriteFile(known, []byte(line), 0o600))
	return []string{
		"-F", "none", "-i", key, "-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
		"-o", "ConnectTimeout=5", port, strconv.Itoa(l.sshPort),
	}
}

func (l *lab) copyIn(content, to string) {
	l.t.Helper()
	from := filepath.Join(l.t.TempDir(), "file")
	require.NoError(l.t, os.WriteFile(from, []byte(content), 0o600))
	out, err := exec.CommandContext(l.t.Context(), "scp", append(l.sshArgs("-P"), from, "owner@127.0.0.1:"+to)...).CombinedOutput()
	require.NoError(l.t, err, "%s", out)
}

func (l *lab) sshOpen() bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", l.sshPort), time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// get asks the exposed port.
func (l *lab) get() (string, error) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", l.hostPort))
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(b)), err
}

func (l *lab) serves(words string) {
	l.t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got, err = l.get(); err == nil {
			break
		}
	}
	require.NoError(l.t, err)
	require.Equal(l.t, words, got)
}

// is holds everything that can be seen against the state.
func (l *lab) is(want state.State) View {
	l.t.Helper()
	// Podman on a busy machine fails now and then: it is tried again.
	v := l.c.View(l.t.Context())
	for deadline := time.Now().Add(eventually); len(v.Problems) != 0 && time.Now().Before(deadline); time.Sleep(tick) {
		v = l.c.View(l.t.Context())
	}
	require.Empty(l.t, v.Problems)
	require.Equal(l.t, want, v.State.State)
	require.Nil(l.t, v.State.Step)
	require.Equal(l.t, want == state.WorkloadConfigured, l.sshOpen(), "SSH")
	phase := workload.Absent
	switch want {
	case state.WorkloadConfigured:
		phase = workload.Configured
	case state.WorkloadExposed:
		phase = workload.Published
	case state.Fresh, state.OperatorRegistered, state.OwnerRegistered:
	}
	require.Equal(l.t, phase, v.Container.Phase)
	if phase != workload.Absent {
		require.True(l.t, v.Container.Running)
		require.Equal(l.t, v.State.Workload.Digest, v.Container.ImageDigest)
	}
	l.attests()
	return v
}

// attests makes the instance say what it is and believes it only if nothing in it
// contradicts anything.
func (l *lab) attests() *statement.Facts {
	l.t.Helper()
	nonce := []byte("sixteen bytes of")
	raw, quote, err := l.c.Attest(l.t.Context(), nonce)
	require.NoError(l.t, err)
	data, err := tdx.ReportData(quote)
	require.NoError(l.t, err)
	require.Equal(l.t, statement.AttestData(nonce, raw), data)
	s, err := statement.Parse(raw)
	require.NoError(l.t, err)
	register, err := tdx.RTMR3(quote)
	require.NoError(l.t, err)
	facts, err := s.Judge(register)
	require.NoError(l.t, err, "%s", raw)
	return facts
}

func refused(t testing.TB, err error, want reason.Reason) {
	t.Helper()
	require.Error(t, err)
	e, ok := err.(*reason.Error) //nolint:errorlint // what leaves is one
	require.True(t, ok, "%T", err)
	require.Equal(t, want, e.Reason, "%v", err)
}

const (
	eventually = 20 * time.Second
	tick       = 20 * time.Millisecond
)

// blocking is an input that does not end before the test.
func blocking(t testing.TB) (io.Reader, func()) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.Close(); _ = r.Close() })
	return r, func() { _ = w.Close() }
}

// ownerBodyWith is the owner's registration with a key that was sealed before.
func (l *lab) ownerBodyWith(sealed []byte) *request.Owner {
	return &request.Owner{Pubkey: request.Hex(pubOf(l.owner)), Signature: ed25519.Sign(l.owner, l.m.Instance()), SealedKey: sealed}
}

// removeInVolume removes what is in the volume of a vault, as a host can who
// removes encrypted files.
func (l *lab) removeInVolume(name string) {
	l.t.Helper()
	v, err := l.d.Mount(l.t.Context(), storage.ID{}, l.vault)
	require.NoError(l.t, err)
	require.NoError(l.t, os.Remove(filepath.Join(v.Path(), "identity", name)))
	require.NoError(l.t, v.Unmount(l.t.Context()))
}
