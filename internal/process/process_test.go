package process

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLastLinesAreOfTheLastStart(t *testing.T) {
	p := &Process{Name: "echo", Path: "/bin/sh", Log: filepath.Join(t.TempDir(), "log")}
	require.NotPanics(t, func() { p.Last(3) }, "before the start")
	for _, says := range []string{"first", "second"} {
		p.Args = []string{"-c", "echo one; echo " + says}
		require.NoError(t, p.Start())
		require.NoError(t, p.Wait(t.Context()))
		require.Equal(t, "one\n"+says, p.Last(3))
	}
	require.Equal(t, "first\none\nsecond", p.Tail(3))
}
