//go:build unix

package swtpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/telemark-otel/telemark/internal/tpm/private"
)

// StateFile is the name of the file that holds a TPM's state.
const StateFile = "tpm2-00.permall"

// Exists says whether dir holds the state of a TPM.
func Exists(dir string) (bool, error) {
	switch _, err := os.Stat(filepath.Join(dir, StateFile)); {
	case err == nil:
		return true, nil
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	default:
		return false, err
	}
}

// setupTimeout bounds swtpm_setup, which makes RSA keys.
const setupTimeout = 2 * time.Minute

// Manufacture makes a new TPM in dir with EK certificates of a certificate
// authority in dir/ca. It works in a directory aside and moves the finished
// state in, so that what a crash leaves behind is never taken for a TPM. When
// it fails, dir holds no state still, and swtpm makes a TPM without
// certificates when it is started.
//
// The tools outlive a caller that is killed, and keep the files in held open: a
// lock among them lasts until nobody writes to dir any more.
func Manufacture(ctx context.Context, dir string, held ...*os.File) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	tools := map[string]string{"swtpm_setup": "", "swtpm_localca": "", "certtool": ""}
	for name := range tools {
		if tools[name], err = exec.LookPath(name); err != nil {
			return fmt.Errorf("EK certificates need swtpm_setup, swtpm_localca and certtool (Debian, Ubuntu: apt install swtpm-tools gnutls-bin): %w", err)
		}
	}
	work := filepath.Join(dir, "setup.tmp")
	ca := filepath.Join(dir, "ca")
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	for _, d := range []string{work, ca} {
		if err := private.Dir(d); err != nil {
			return err
		}
	}
	setup, err := writeConfig(work, ca, tools["swtpm_localca"])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, tools["swtpm_setup"], //nolint:gosec // no shell, and the paths are ours
		"--tpm2", "--tpm-state", work, "--create-ek-cert", "--lock-nvram", "--config", setup)
	// It starts swtpm and others: one group, so that all of them can be ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.ExtraFiles = held
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("swtpm_setup: %w: %s", err, lastLine(out))
	}
	made := filepath.Join(work, StateFile)
	if err := os.Chmod(made, 0o600); err != nil {
		return err
	}
	return os.Rename(made, filepath.Join(dir, StateFile))
}

// writeConfig writes the three files that swtpm_setup and swtpm_localca read,
// since those of the system name a certificate authority that only root may use.
func writeConfig(work, ca, localca string) (string, error) {
	setup := filepath.Join(work, "setup.conf")
	authority := filepath.Join(work, "localca.conf")
	options := filepath.Join(work, "localca.options")
	for name, lines := range map[string][]string{
		setup: {
			"create_certs_tool=" + localca,
			"create_certs_tool_config=" + authority,
			"create_certs_tool_options=" + options,
			"active_pcr_banks=sha256",
		},
		authority: {
			"statedir=" + ca,
			"signingkey=" + filepath.Join(ca, "signkey.pem"),
			"issuercert=" + filepath.Join(ca, "issuercert.pem"),
			"certserial=" + filepath.Join(ca, "certserial"),
		},
		options: {},
	} {
		if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return "", err
		}
	}
	return setup, nil
}

func lastLine(out []byte) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	line := lines[len(lines)-1]
	return string(line[:min(len(line), 300)])
}
