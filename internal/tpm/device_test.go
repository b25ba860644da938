//go:build linux

package tpm

import (
	"context"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/tpmproxy"
	"github.com/telemark-otel/telemark/internal/tpm/tpmtest"
)

func TestParseDevice(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"/dev/tpmrm0", "/dev/tpm0", "./tpm.sock", "/run/odd:name", "unix:/run/tpm.sock", "unix:relative",
		"tcp:localhost:2321", "tcp:[::1]:2321", "swtpm:/var/lib/tpm", "swtpm:dir",
	} {
		require.NoError(t, ParseDevice(good), good)
	}
	for bad, why := range map[string]string{
		"":                   "is empty",
		"tpmrm0":             "no slash",
		"unix:":              "nothing follows",
		"swtpm:":             "nothing follows",
		"tcp:":               "nothing follows",
		"tcp:localhost":      "HOST:PORT",
		"tcp::2321":          "HOST:PORT",
		"tcp:localhost:0":    "between 1 and 65535",
		"tcp:localhost:http": "between 1 and 65535",
		"swtpm:/var/a,b":     "comma",
		"swptm:/var/lib/tpm": "swptm: is not known",
		"mssim:localhost:1":  "Microsoft simulator",
		"/dev/tpm\n0":        "control character",
	} {
		err := ParseDevice(bad)
		require.ErrorContains(t, err, why, bad)
		require.ErrorContains(t, err, "accepted are the path of a character device or socket (/dev/tpmrm0), unix:PATH, tcp:HOST:PORT and swtpm:DIR", bad)
	}
}

func TestDeviceThatIsNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, device := range []string{
		filepath.Join(dir, "none"), "unix:" + filepath.Join(dir, "none"), file, "tcp:127.0.0.1:1",
	} {
		_, err := Open(t.Context(), device, Options{})
		require.ErrorIs(t, err, ErrGone, device)
		require.Equal(t, Gone, Classify(err), device)
		require.ErrorContains(t, err, device)
	}
	_, err := Open(t.Context(), "nonsense", Options{})
	require.Equal(t, Permanent, Classify(err))
	_, err = Open(t.Context(), "/dev/null", Options{})
	require.Equal(t, Gone, Classify(err), "a character device that is no TPM: %v", err)
	_, err = Open(t.Context(), file, Options{CommandTimeout: -1})
	require.ErrorContains(t, err, "negative")
}

func TestEveryKindOfDevice(t *testing.T) {
	t.Parallel()
	use := func(t *testing.T, device string) {
		t.Helper()
		d := openDevice(t, device, Options{})
		require.Equal(t, device, d.String())
		k := openKey(t, d, KeyOptions{})
		requireSigns(t, k, k.PublicKey())
		p, err := d.Properties(t.Context())
		require.NoError(t, err)
		require.Equal(t, "IBM", p.Manufacturer)
		require.NotEmpty(t, p.Vendor)
		require.Regexp(t, `^\d+\.\d+\.\d+\.\d+$`, p.Firmware)
		require.Regexp(t, `^1\.\d\d$`, p.SpecRevision)
		require.False(t, p.InLockout)
		require.Equal(t, uint32(3), p.MaxAuthFail)
		require.Equal(t, 1000*time.Second, p.LockoutInterval)
		first, err := d.Clock(t.Context())
		require.NoError(t, err)
		second, err := d.Clock(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, second.Clock, first.Clock)
		require.Equal(t, first.ResetCount, second.ResetCount)
		require.True(t, first.Safe)
	}
	t.Run("unix", func(t *testing.T) {
		t.Parallel()
		use(t, tpmtest.New(t))
	})
	t.Run("path of a socket", func(t *testing.T) {
		t.Parallel()
		use(t, strings.TrimPrefix(tpmtest.New(t), "unix:"))
	})
	t.Run("character device", func(t *testing.T) {
		t.Parallel()
		use(t, characterDevice(t, tpmtest.New(t)))
	})
	t.Run("tcp", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		use(t, "tcp:"+serve(t, tpmtest.New(t), l))
	})
	t.Run("unix socket with a path too long for the system call", func(t *testing.T) {
		t.Parallel()
		long := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
		require.NoError(t, os.Mkdir(long, 0o700))
		dir, err := os.Open(long)
		require.NoError(t, err)
		defer func() { _ = dir.Close() }()
		l, err := net.Listen("unix", "/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/s")
		require.NoError(t, err)
		serve(t, tpmtest.New(t), l)
		use(t, "unix:"+filepath.Join(long, "s"))
	})
	t.Run("swtpm", func(t *testing.T) {
		t.Parallel()
		use(t, "swtpm:"+filepath.Join(t.TempDir(), "tpm"))
	})
	t.Run("swtpm in a directory with a path too long for a socket", func(t *testing.T) {
		t.Parallel()
		use(t, "swtpm:"+filepath.Join(t.TempDir(), strings.Repeat("d", 120), "with space"))
	})
}

// serve relays a listener to a device and returns the listener's address.
func serve(t *testing.T, device string, l net.Listener) string {
	t.Helper()
	p, err := tpmproxy.New(device)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return l.Addr().String()
}

func TestTPMThatNobodyStartedUpIsStarted(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.Proxy(t, tpmtest.New(t), tpmproxy.Fault{
		Command: uint32(tpm2.TPMCCGetCapability), Action: tpmproxy.Code, Code: uint32(tpm2.TPMRCInitialize), Times: 1,
	})
	// This one was started, so it refuses a second time; what counts is that it was asked.
	_, err := Open(t.Context(), proxy.Device(), Options{})
	require.ErrorIs(t, err, tpm2.TPMRCInitialize)
	require.Equal(t, 1, proxy.Commands(uint32(tpm2.TPMCCStartup)))
	require.Equal(t, Gone, Classify(err))
}

func TestSecondClientOfAnswersIsToldWhyItWaits(t *testing.T) {
	t.Parallel()
	device := tpmtest.New(t)
	openDevice(t, device, Options{})
	_, err := Open(t.Context(), device, impatient)
	require.ErrorIs(t, err, ErrTimeout)
	require.ErrorContains(t, err, "another program may hold the TPM")
}

func TestTwoOwnersOfOneSoftwareTPMAreRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tpm")
	openDevice(t, "swtpm:"+dir, Options{})
	_, err := Open(t.Context(), "swtpm:"+dir, Options{})
	require.ErrorIs(t, err, ErrInUse)
	require.Equal(t, Permanent, Classify(err))
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "give each collector a directory of its own")
}

func TestSoftwareTPMKeepsStatePrivateAndAcrossProcesses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tpm")
	keys := filepath.Join(t.TempDir(), "key")
	var kid []byte
	var counter uint64
	for i := range 3 {
		d := openDevice(t, "swtpm:"+dir, Options{})
		k := openKey(t, d, KeyOptions{Dir: keys})
		if i == 0 {
			kid = k.KID()
		}
		require.Equal(t, kid, k.KID())
		requireSigns(t, k, k.PublicKey())
		n, err := d.Increment(t.Context(), 0)
		require.NoError(t, err)
		require.Greater(t, n, counter)
		counter = n
		require.NoError(t, k.Close())
		require.NoError(t, d.Close())
		select {
		case <-d.proc.Done():
		default:
			t.Fatal("swtpm still runs")
		}
	}
	fi, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), fi.Mode().Perm())
	fi, err = os.Stat(filepath.Join(dir, "tpm2-00.permall"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
	require.NoDirExists(t, filepath.Join(dir, "setup.tmp"))
}

func TestMissingSWTPMSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), "swtpm:"+filepath.Join(t.TempDir(), "tpm"), Options{})
	require.ErrorIs(t, err, ErrSWTPMMissing)
	require.ErrorContains(t, err, "apt install swtpm")
	require.Equal(t, Permanent, Classify(err))
}

func TestWithoutSetupToolsATPMWithoutCertificatesIsMade(t *testing.T) {
	path, err := osexec.LookPath("swtpm")
	require.NoError(t, err)
	bin := t.TempDir()
	require.NoError(t, os.Symlink(path, filepath.Join(bin, "swtpm")))
	t.Setenv("PATH", bin)
	var seen events
	d := openDevice(t, "swtpm:"+filepath.Join(t.TempDir(), "tpm"), Options{Report: seen.report})
	require.Equal(t, 1, seen.count())
	require.Contains(t, seen.all[0].Message, "without EK certificates")
	require.ErrorContains(t, seen.all[0].Err, "apt install swtpm-tools")
	certs, err := d.EKCertificates(t.Context())
	require.NoError(t, err)
	require.Empty(t, certs)
	k := openKey(t, d, KeyOptions{})
	requireSigns(t, k, k.PublicKey())
}

func TestInterruptedFirstStartLeavesNoTPMWithoutCertificates(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tpm")
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() {
		_, err := Open(ctx, "swtpm:"+dir, Options{})
		opened <- err
	}()
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "setup.tmp", "setup.conf"))
		return err == nil
	}, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-opened, context.Canceled)
	require.NoFileExists(t, filepath.Join(dir, swtpm.StateFile))

	d := openDevice(t, "swtpm:"+dir, Options{})
	certs, err := d.EKCertificates(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, certs)
}

const ownerEnv = "TELEMARK_TEST_SWTPM_OWNER"

// TestMain lets the test binary be the process that is killed below.
func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerEnv); dir != "" {
		d, err := Open(context.Background(), "swtpm:"+dir, Options{})
		if err != nil {
			_, _ = os.Stdout.WriteString("error " + err.Error() + "\n")
			os.Exit(1)
		}
		_, _ = os.Stdout.WriteString("pid " + strconv.Itoa(d.proc.PID()) + "\n")
		runtime.KeepAlive(d)
		select {}
	}
	os.Exit(m.Run())
}

func TestSoftwareTPMDiesWithItsOwnerAndIsFreeAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tpm")
	self, err := os.Executable()
	require.NoError(t, err)
	owner := osexec.Command(self)
	owner.Env = append(os.Environ(), ownerEnv+"="+dir)
	out, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	line := make([]byte, 200)
	n, err := out.Read(line)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "pid ")))
	require.NoError(t, err, "%s", line[:n])
	require.NoError(t, syscall.Kill(pid, 0), "swtpm runs")

	_, err = Open(t.Context(), "swtpm:"+dir, Options{})
	require.ErrorIs(t, err, ErrInUse)
	require.ErrorContains(t, err, strconv.Itoa(owner.Process.Pid))

	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())
	d := openDevice(t, "swtpm:"+dir, Options{})
	k := openKey(t, d, KeyOptions{})
	requireSigns(t, k, k.PublicKey())
	require.Eventually(t, func() bool { return gone(pid) }, 5*time.Second, 10*time.Millisecond)
}

// What makes the certificates outlives an owner that is killed, and goes on
// writing: a second one beside it fails, and a TPM without certificates would stand there for ever.
func TestSetupOfAKilledOwnerOwnsTheDirectoryUntilItEnds(t *testing.T) {
	t.Parallel()
	dir, bin := filepath.Join(t.TempDir(), "tpm"), t.TempDir()
	setup := "#!/bin/sh\n: > " + bin + "/begun\nuntil [ -e " + bin + "/end ]; do sleep 0.01; done\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "swtpm_setup"), []byte(setup), 0o700))
	t.Cleanup(func() { _ = os.WriteFile(filepath.Join(bin, "end"), nil, 0o600) })
	self, err := os.Executable()
	require.NoError(t, err)
	owner := osexec.Command(self)
	owner.Env = append(os.Environ(), ownerEnv+"="+dir, "PATH="+bin+":"+os.Getenv("PATH"))
	require.NoError(t, owner.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(bin, "begun"))
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())

	_, err = Open(t.Context(), "swtpm:"+dir, Options{})
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "end"), nil, 0o600))
	d := openDevice(t, "swtpm:"+dir, Options{})
	certs, err := d.EKCertificates(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, certs)
}

// gone says whether a process has ended; in a container nobody may reap it.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}
