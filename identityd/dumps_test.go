package main

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryIsNotDumpedOntoTheHostsDisk(t *testing.T) {
	require.NoError(t, noDumps())
	out, err := exec.CommandContext(t.Context(), "cat", "/proc/self/limits").Output()
	require.NoError(t, err)
	require.Regexp(t, `Max core file size +1 +1 `, string(out), "nor that of what is started here")
}
