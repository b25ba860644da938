package stack

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// empty are options whose programs are there, and do nothing.
func empty(t *testing.T) Options {
	t.Helper()
	o := Options{Dir: t.TempDir(), Bin: t.TempDir(), Agents: 1}
	for _, name := range []string{"otelcol-telemark", "registryd", "swtpm", "swtpm_setup"} {
		require.NoError(t, os.WriteFile(filepath.Join(o.Bin, name), []byte("#!/bin/false\n"), 0o700))
	}
	return o
}

func nothingStarts(t *testing.T) func(string) {
	return func(step string) { require.Fail(t, "started: "+step) }
}

func TestSecondStackInOneDirectoryIsRefused(t *testing.T) {
	o := empty(t)
	t.Setenv("PATH", o.Bin)
	first, err := o.lock()
	require.NoError(t, err)
	_, err = Start(context.Background(), o, nothingStarts(t))
	require.ErrorIs(t, err, ErrDirInUse)
	require.ErrorContains(t, err, o.Dir)

	require.NoError(t, first.Close())
	again, err := o.lock()
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestMissingToolIsNamedBeforeAnythingStarts(t *testing.T) {
	for _, name := range []string{"swtpm", "swtpm_setup", "otelcol-telemark", "registryd"} {
		o := empty(t)
		t.Setenv("PATH", o.Bin)
		require.NoError(t, os.Remove(filepath.Join(o.Bin, name)))
		_, err := Start(context.Background(), o, nothingStarts(t))
		require.ErrorContains(t, err, name+" is n")
	}
}

func TestDirectoryIsFreeAfterAFailedStart(t *testing.T) {
	o := empty(t)
	t.Setenv("PATH", o.Bin)
	_, err := Start(context.Background(), o, nothingStarts(t)) // there are no certificates
	require.Error(t, err)
	f, err := o.lock()
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestPortsOfAgentsAreTheirOwn(t *testing.T) {
	o := Options{Agents: MaxAgents, Offset: MaxOffset}
	seen := map[int]bool{}
	for _, p := range o.ports() {
		require.False(t, seen[p], p)
		seen[p] = true
		require.Less(t, o.port(p), 65_536)
	}
}
