package tpm

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// characterDevice returns the path of a character device behind which a TPM
// answers: the far side of a pseudo terminal, which like the kernel's
// TPM driver knows write and read, and no deadlines.
func characterDevice(t *testing.T, device string) string {
	t.Helper()
	near, path := openTerminal(t)
	addr, err := wire.ParseAddress(device)
	require.NoError(t, err)
	conn, err := wire.Dial(t.Context(), addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		for {
			command, err := wire.ReadCommand(near)
			if err != nil {
				return
			}
			answer, err := conn.Exchange(command, time.Minute)
			if err != nil {
				return
			}
			if _, err := near.Write(answer); err != nil {
				return
			}
		}
	}()
	return path
}

func openTerminal(t *testing.T) (near *os.File, path string) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = near.Close() })
	fd := int(near.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	path = "/dev/pts/" + strconv.Itoa(n)
	// Kept open, so that the near side does not hang up between two users.
	far, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = far.Close() })
	mode, err := unix.IoctlGetTermios(int(far.Fd()), unix.TCGETS)
	require.NoError(t, err)
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
	require.NoError(t, unix.IoctlSetTermios(int(far.Fd()), unix.TCSETS, mode))
	return near, path
}

func TestCharacterDeviceThatHangsIsNotOpenedOverAndOver(t *testing.T) {
	t.Parallel()
	near, path := openTerminal(t)
	_, err := Open(t.Context(), path, impatient)
	require.ErrorIs(t, err, ErrTimeout)
	begun := time.Now()
	_, err = Open(t.Context(), path, Options{})
	require.ErrorIs(t, err, ErrTimeout)
	require.ErrorContains(t, err, "sent last")
	require.Less(t, time.Since(begun), time.Second, "without waiting")

	// The answer comes late, and frees it.
	command, err := wire.ReadCommand(near)
	require.NoError(t, err)
	require.NotEmpty(t, command)
	_, err = near.Write(wire.Response(0x101))
	require.NoError(t, err)
	addr, err := wire.ParseAddress(path)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		conn, err := wire.Dial(context.Background(), addr)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, 5*time.Second, 5*time.Millisecond)
}
