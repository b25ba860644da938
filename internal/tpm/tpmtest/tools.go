package tpmtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// relayEnv names the unix socket of a TPM that this process relays to.
const relayEnv = "TPMTEST_RELAY"

// tpm2-tools know no plain socket, but commands that speak for a TPM (TCTI cmd).
// The test binary is one of these.
func init() {
	socket := os.Getenv(relayEnv)
	if socket == "" {
		return
	}
	if err := relay(socket); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// relay ends when the tool has closed its side.
func relay(socket string) error {
	conn, err := net.Dial("unix", socket) //nolint:gosec // a test's own socket
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	go func() { _, _ = io.Copy(os.Stdout, conn) }()
	_, err = io.Copy(conn, os.Stdin)
	return err
}

// RunTools runs a shell script in dir whose tpm2-tools use a TPM that listens on a unix
// socket, which must have no other client. The script ends at its first error, and has a function
// "flush" that empties the TPM's memory of what tools leave in it.
func RunTools(socket, dir, script string) (string, error) {
	if _, err := exec.LookPath("tpm2_create"); err != nil {
		return "", errors.New("tpm2-tools are not installed (Debian, Ubuntu: apt install tpm2-tools)")
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("sh", "-eu", "-c", "flush() { tpm2_flushcontext -t; }\n"+script) //nolint:gosec // a test's own script
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=cmd:"+relayEnv+"='"+socket+"' exec '"+self+"'")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Tools runs a script as RunTools does.
func (s *TPM) Tools(dir, script string) string {
	s.t.Helper()
	out, err := RunTools(s.socket, dir, script)
	require(s.t, err)
	return out
}
