package identity_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// openSSH is a command of OpenSSH, with a person's key, that trusts the host key
// that the instance says it has.
func (v *vm) openSSH(p *person, program string, args ...string) *exec.Cmd {
	v.Helper()
	host, err := ssh.NewPublicKey(ed25519.PublicKey(v.state().SSH.HostKey))
	require.NoError(v, err)
	known := filepath.Join(v.TempDir(), "known_hosts")
	line := fmt.Appendf(nil, "[127.0.0.1]:%d %s", v.Ports.SSH, ssh.MarshalAuthorizedKey(host))
	require.NoError(v, os.WriteFile(known, line, 0o600))
	options := []string{
		"-F", "/dev/null", "-o", "IdentityFile=" + p.file, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + known,
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", fmt.Sprint("Port=", v.Ports.SSH),
	}
	cmd := exec.CommandContext(v.Context(), program, append(options, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TERM=xterm"}
	return cmd
}

type result struct {
	out, errs string
	code      int
}

func (v *vm) run(cmd *exec.Cmd) result {
	v.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	exit, is := errors.AsType[*exec.ExitError](err)
	if is {
		return result{out.String(), errs.String(), exit.ExitCode()}
	}
	require.NoError(v, err)
	return result{out.String(), errs.String(), 0}
}

func (v *vm) ssh(args ...string) result {
	v.Helper()
	return v.run(v.openSSH(v.owner, "ssh", append([]string{"127.0.0.1"}, args...)...))
}

// copyIn copies a file with these words to a path in the container.
func (v *vm) copyIn(path, content string) {
	v.Helper()
	file := filepath.Join(v.TempDir(), "file")
	require.NoError(v, os.WriteFile(file, []byte(content), 0o600))
	got := v.run(v.openSSH(v.owner, "scp", file, "127.0.0.1:"+path))
	require.Zero(v, got.code, "%+v", got)
}

// inside is a file in the container, read from the host's side of Podman.
func (v *vm) inside(path string) string {
	v.Helper()
	return v.Podman.Output(v.T, "exec", "workload", "/program", "cat", path)
}

// knocks reports whether somebody answers as an SSH server.
func (v *vm) knocks() bool {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprint("127.0.0.1:", v.Ports.SSH))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	b := make([]byte, 4)
	_, _ = conn.Read(b)
	return strings.HasPrefix(string(b), "SSH-")
}
