package killtest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/killtest"
)

// TestMain is also the process that is killed: its writes come from many threads.
func TestMain(m *testing.M) {
	dir := os.Getenv("KILLTEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	for i := range 10 {
		done := make(chan error)
		go func() {
			_ = os.Mkdir(dir, 0o700) // it is there: this changes nothing
			temporary := filepath.Join(dir, fmt.Sprint(i, ".new"))
			done <- errors.Join(os.Mkdir(temporary, 0o700), os.Rename(temporary, filepath.Join(dir, fmt.Sprint(i))))
		}()
		if err := <-done; err != nil {
			os.Exit(1)
		}
		if err := exec.Command("mkdir", filepath.Join(dir, fmt.Sprint("child", i))).Run(); err != nil {
			os.Exit(2)
		}
	}
	os.Exit(7)
}

func start(t *testing.T, n int) (*killtest.Process, string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "KILLTEST_DIR="+dir)
	return killtest.Start(t, cmd, n), dir
}

// names are those in the directory when it was killed at write n: each round makes
// one, renames it, and has a child make another; the writes are after the making,
// before and after the renaming.
func names(n int) int { return 2*((n-1)/3) + 1 }

func TestProcessIsKilledAtItsWrite(t *testing.T) {
	for n := 1; n <= 20; n++ {
		p, dir := start(t, n)
		require.Equal(t, -1, p.Wait())
		require.True(t, p.Killed())
		require.Len(t, p.Writes(), n)
		made, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, made, names(n), "killed at the %dth", n)
	}
}

func TestProcessThatIsNotKilledIsCounted(t *testing.T) {
	for _, n := range []int{0, 31} {
		p, dir := start(t, n)
		require.Equal(t, 7, p.Wait())
		require.False(t, p.Killed())
		require.Len(t, p.Writes(), 30)
		made, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, made, 20, "ten of its own, ten of its children")
	}
}
