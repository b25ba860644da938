package shell

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/podmantest"
)

// door is a running workload with SSH in front of it, and OpenSSH's settings
// for coming in.
type door struct {
	podman  *podmantest.Podman
	manager *workload.Manager
	server  *sshd.Server
	data    string // the persisted directory /data on the host
	dir     string
	port    int
}

func newDoor(t *testing.T, image string, setUp func(*podmantest.Podman)) *door {
	t.Helper()
	d := &door{podman: podmantest.New(t), data: t.TempDir(), dir: t.TempDir()}
	d.podman.Start(t)
	setUp(d.podman)
	var err error
	d.manager, err = workload.Open(t.Context(), workload.Options{Socket: d.podman.Socket, LogPath: filepath.Join(d.podman.Dir, "log")})
	require.NoError(t, err)
	t.Cleanup(d.manager.Close)
	resolved, err := d.manager.Resolve(t.Context(), image, nil)
	require.NoError(t, err)
	_, err = d.manager.EnsureConfigured(t.Context(), workload.Spec{
		Image: resolved, Port: 8080, HostPort: 1, Mounts: []workload.Mount{{Source: d.data, Target: "/data"}},
	})
	require.NoError(t, err)

	hostPublic, host := key(t)
	public, private := key(t)
	d.write(t, "owner", private)
	_, stranger := key(t)
	d.write(t, "stranger", stranger)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d.port = l.Addr().(*net.TCPAddr).Port
	known, err := ssh.NewPublicKey(hostPublic)
	require.NoError(t, err)
	line := fmt.Appendf(nil, "[127.0.0.1]:%d %s", d.port, ssh.MarshalAuthorizedKey(known))
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, "known_hosts"), line, 0o600))
	d.server, err = sshd.New(l, sshd.Config{
		HostKey: host, Owner: public, Container: Container{d.manager},
		Directories: []sshd.Directory{{Inside: "/data", Host: d.data}},
	})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- d.server.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, d.server.Close(ctx))
		require.ErrorIs(t, <-served, sshd.ErrClosed)
	})
	return d
}

func key(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	return public, private
}

func (d *door) write(t *testing.T, name string, private ed25519.PrivateKey) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(d.dir, name), pem.EncodeToMemory(block), 0o600))
}

// command is one of OpenSSH's, with the owner's key unless another is named.
func (d *door) command(ctx context.Context, program, identity string, args ...string) *exec.Cmd {
	options := []string{
		"-F", "/dev/null", "-o", "IdentityFile=" + filepath.Join(d.dir, identity), "-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(d.dir, "known_hosts"), "-o", "StrictHostKeyChecking=yes",
		"-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", fmt.Sprintf("Port=%d", d.port),
	}
	cmd := exec.CommandContext(ctx, program, append(options, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "LD_PRELOAD_X=1"}
	cmd.Dir = d.dir
	return cmd
}

type result struct {
	out, errs string
	code      int
}

func run(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok {
		require.NoError(t, err)
	} else {
		return result{out.String(), errs.String(), exit.ExitCode()}
	}
	return result{out.String(), errs.String(), 0}
}

const app = "localhost/app:1"

func withShell(t *testing.T) func(*podmantest.Podman) {
	return func(p *podmantest.Podman) { p.Import(t, app, "hello") }
}

func TestOwnerWithOpenSSH(t *testing.T) {
	d := newDoor(t, app, withShell(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	t.Run("command, outputs and exit code", func(t *testing.T) {
		require.Equal(t, result{"hello\n", "", 0}, run(t, d.command(ctx, "ssh", "owner", "127.0.0.1", "echo hello")))
		require.Equal(t, result{"", "oh\n", 0}, run(t, d.command(ctx, "ssh", "owner", "127.0.0.1", "complain oh")))
		require.Equal(t, 42, run(t, d.command(ctx, "ssh", "owner", "127.0.0.1", "end 42")).code)
		require.Equal(t, 127, run(t, d.command(ctx, "ssh", "owner", "127.0.0.1", "nonsense")).code)
	})
	t.Run("input to its end", func(t *testing.T) {
		cmd := d.command(ctx, "ssh", "owner", "127.0.0.1", "cat")
		content := strings.Repeat("0123456789abcdef", 64<<10)
		cmd.Stdin = strings.NewReader(content)
		got := run(t, cmd)
		require.Zero(t, got.code)
		require.True(t, got.out == content, "%d bytes of %d", len(got.out), len(content))
	})
	t.Run("terminal", func(t *testing.T) {
		cmd := d.command(ctx, "ssh", "owner", "-tt", "127.0.0.1")
		cmd.Stdin = strings.NewReader("size\nenv TERM\nexit 7\n")
		cmd.Env = append(cmd.Env, "TERM=xterm-256color")
		got := run(t, cmd)
		require.Contains(t, got.out, "shell ready ")
		require.NotContains(t, got.out, "no terminal")
		require.Contains(t, got.out, "xterm-256color\r\n")
		require.Equal(t, 7, got.code)
	})
	t.Run("variables of the language and no others", func(t *testing.T) {
		got := run(t, d.command(ctx, "ssh", "owner", "-o", "SendEnv=*", "127.0.0.1", "env LC_ALL"))
		require.Equal(t, "C.UTF-8\n", got.out)
		got = run(t, d.command(ctx, "ssh", "owner", "-o", "SendEnv=*", "127.0.0.1", "env LD_PRELOAD_X"))
		require.Equal(t, "\n", got.out)
	})
	t.Run("scp and sftp", func(t *testing.T) {
		content := bytes.Repeat([]byte("telemark"), 1<<18)
		require.NoError(t, os.WriteFile(filepath.Join(d.dir, "model"), content, 0o600))
		got := run(t, d.command(ctx, "scp", "owner", "model", "127.0.0.1:/data/model"))
		require.Zero(t, got.code, got.errs)
		copied, err := os.ReadFile(filepath.Join(d.data, "model"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, copied))
		// The container's root owns it, so the workload can use it.
		got = run(t, d.command(ctx, "ssh", "owner", "127.0.0.1", "write /data/model"))
		require.Zero(t, got.code, got.errs)
		// A relative path is one in the only persisted directory.
		got = run(t, d.command(ctx, "scp", "owner", "127.0.0.1:model", "back"))
		require.Zero(t, got.code, got.errs)
		copied, err = os.ReadFile(filepath.Join(d.dir, "back"))
		require.NoError(t, err)
		require.Equal(t, "written\n", string(copied))

		cmd := d.command(ctx, "sftp", "owner", "-b", "-", "127.0.0.1")
		cmd.Stdin = strings.NewReader("mkdir sub\nput model sub/one\nrename sub/one sub/two\nls -l sub\nrm sub/two\nrmdir sub\n")
		got = run(t, cmd)
		require.Zero(t, got.code, got.errs)
		require.Contains(t, got.out, "two")
		got = run(t, d.command(ctx, "scp", "owner", "model", "127.0.0.1:/etc/model"))
		require.NotZero(t, got.code)
	})
	t.Run("stranger", func(t *testing.T) {
		got := run(t, d.command(ctx, "ssh", "stranger", "127.0.0.1", "echo hello"))
		require.Equal(t, 255, got.code)
		require.Contains(t, got.errs, "Permission denied (publickey)")
	})
	t.Run("remote forwarding", func(t *testing.T) {
		got := run(t, d.command(ctx, "ssh", "owner", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1", "127.0.0.1", "echo hello"))
		require.Equal(t, 255, got.code)
		require.NotContains(t, got.out, "hello")
	})
	t.Run("local forwarding", func(t *testing.T) {
		got := run(t, d.command(ctx, "ssh", "owner", "-W", fmt.Sprintf("127.0.0.1:%d", d.port), "127.0.0.1"))
		require.Equal(t, 255, got.code)
		require.Contains(t, got.errs, "forwarding failed")
	})
}

func TestCloseEndsARunningSession(t *testing.T) {
	d := newDoor(t, app, withShell(t))
	for _, terminal := range []string{"-T", "-tt"} {
		cmd := d.command(t.Context(), "ssh", "owner", terminal, "127.0.0.1", "sleep 10m")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line := make([]byte, 8)
		_, err = io.ReadFull(out, line)
		require.NoError(t, err)
		require.Equal(t, "sleeping", string(line))
		defer func() { _ = cmd.Wait() }()
	}
	require.Equal(t, 2, d.server.Facts().Active)
	require.Contains(t, d.podman.Output(t, "top", workload.Name), "sleep 10m")

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, d.server.Close(ctx))
	require.NotContains(t, d.podman.Output(t, "top", workload.Name), "sleep 10m", "gone when Close returns")
	facts := d.server.Facts()
	require.Zero(t, facts.Active)
	require.EqualValues(t, 2, facts.Sessions)
	require.False(t, facts.ClosedAt.IsZero())
	got := run(t, d.command(t.Context(), "ssh", "owner", "127.0.0.1", "echo hello"))
	require.Equal(t, 255, got.code)
	require.Contains(t, got.errs, "refused")
}

func TestClientThatIsKilledLeavesNoProcess(t *testing.T) {
	d := newDoor(t, app, withShell(t))
	cmd := d.command(t.Context(), "ssh", "owner", "127.0.0.1", "sleep 10m")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 8))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		return d.server.Facts().Active == 0 && !strings.Contains(d.podman.Output(t, "top", workload.Name), "sleep 10m")
	}, 15*time.Second, 50*time.Millisecond)
}

func TestImageWithoutShell(t *testing.T) {
	d := newDoor(t, app, func(p *podmantest.Podman) { p.ImportCommand(t, app, `["/program","serve","hello"]`) })
	require.Equal(t, result{"a b\n", "", 0}, run(t, d.command(t.Context(), "ssh", "owner", "127.0.0.1", "/program echo a b")))
	got := run(t, d.command(t.Context(), "ssh", "owner", "127.0.0.1", "/program echo $HOME"))
	require.Equal(t, 126, got.code)
	require.Contains(t, got.errs, "no shell")
	require.Equal(t, 126, run(t, d.command(t.Context(), "ssh", "owner", "127.0.0.1")).code)
	got = run(t, d.command(t.Context(), "ssh", "owner", "127.0.0.1", "/nonexistent"))
	require.NotZero(t, got.code)
}
