package storage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/killtest"
)

// create is the process that makes a volume and is killed at it.
func create(path string) {
	ctx := context.Background()
	d, err := Open(ctx, Options{Path: path})
	if err == nil {
		err = d.Create(ctx, ID{1}, given(1))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestVolumeIsThereAsAWholeOrNotAtAllAfterAKill(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	there, not := 0, 0
	for n := 1; ; n++ {
		path := place(t)
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), "STORAGE_TEST_CREATE="+path)
		cmd.Stdout = os.Stderr
		p := killtest.Start(t, cmd, n)
		code := p.Wait()
		if !p.Killed() {
			require.Zero(t, code)
			t.Logf("durable writes: %q", p.Writes())
			break
		}
		d := open(t, path)
		require.NoDirExists(t, filepath.Join(path, nameNew), "at write %d", n)
		_, err := d.Header()
		switch ReasonOf(err) {
		case "":
			there++
		case VolumeMissing:
			not++
		default:
			require.NoError(t, err, "at write %d: %q", n, p.Writes())
		}
		// Made by now, by it or by us, it holds data.
		v := mounted(t, d, 1)
		write(t, filepath.Join(v.Path(), "a"), "kept")
		require.NoError(t, v.Unmount(t.Context()))
		reads(t, filepath.Join(mounted(t, d, 1).Path(), "a"), "kept")
		require.NoError(t, d.Close(t.Context()))
	}
	require.Greater(t, not, 5)
	require.Equal(t, 1, there, "the last write is the rename, and it is one when that is over")
}
