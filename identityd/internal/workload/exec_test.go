package workload

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestProcessesInTheContainer(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	_, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)

	t.Run("terminal that changes its size", func(t *testing.T) {
		p, err := m.Exec(t.Context(), Command{Argv: []string{"/bin/sh"}, Env: []string{"WHO=owner"}, TTY: true, Cols: 80, Rows: 24})
		require.NoError(t, err)
		require.Nil(t, p.Stderr())
		lines := bufio.NewScanner(p.Stdout())
		next := func(want string) {
			t.Helper()
			for lines.Scan() {
				if strings.Contains(lines.Text(), want) {
					return
				}
			}
			t.Fatalf("the terminal never said %q", want)
		}
		next("shell ready")
		require.NoError(t, p.Resize(t.Context(), 132, 50))
		next("resized 132x50")
		_, err = io.WriteString(p, "env WHO\nexit 9\n")
		require.NoError(t, err)
		next("owner")
		for lines.Scan() {
			continue
		}
		code, err := p.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, 9, code)
		require.NoError(t, p.Close())
	})
	sleeper := func(t *testing.T) *Process {
		t.Helper()
		p, err := m.Exec(t.Context(), Command{Argv: []string{"/program", "sleep", "10m"}})
		require.NoError(t, err)
		b := make([]byte, 8)
		_, err = io.ReadFull(p.Stdout(), b)
		require.NoError(t, err)
		return p
	}
	t.Run("signal", func(t *testing.T) {
		p := sleeper(t)
		require.NoError(t, p.Signal(t.Context(), unix.SIGTERM))
		_, code := finish(t, p)
		require.NotZero(t, code)
		require.NoError(t, p.Signal(t.Context(), unix.SIGTERM), "one that has ended")
		require.NoError(t, p.Close())
	})
	t.Run("closed while it runs", func(t *testing.T) {
		p := sleeper(t)
		start := time.Now()
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		require.Less(t, time.Since(start), 5*time.Second)
		require.NotContains(t, m.Output(t, "top", Name), "sleep 10m")
	})
	t.Run("closed while nobody reads", func(t *testing.T) {
		p, err := m.Exec(t.Context(), Command{Argv: []string{"/program", "cat", "/dev/zero"}})
		require.NoError(t, err)
		require.NoError(t, p.Close())
		require.NotContains(t, m.Output(t, "top", Name), "/dev/zero")
	})
	t.Run("program that is not there", func(t *testing.T) {
		out, code := m.run(t, "/nonexistent")
		require.NotZero(t, code)
		require.Contains(t, out, "no such file")
	})
	t.Run("container that is replaced under it", func(t *testing.T) {
		p := sleeper(t)
		spec.Revision++
		_, err := m.EnsureConfigured(t.Context(), spec)
		require.NoError(t, err)
		_, err = io.ReadAll(p.Stdout())
		require.NoError(t, err)
		require.NoError(t, p.Close())
	})
}
