package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemoryThatIsSwappedToTheHostsDiskIsToldOf(t *testing.T) {
	const heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	const zram = "/dev/zram0                              partition\t8388604\t\t0\t\t100\n"
	require.Empty(t, swapped(nil))
	require.Empty(t, swapped([]byte(heading)))
	require.Empty(t, swapped([]byte(heading+zram)))
	require.Equal(t, "/dev/vda2", swapped([]byte(heading+zram+"/dev/vda2                               partition\t2097148\t\t0\t\t-2\n")))
}
