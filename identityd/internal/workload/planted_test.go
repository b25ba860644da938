package workload

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPersistedProgramRunsOnlyWhereThatWasAllowed(t *testing.T) {
	m := newMachine(t)
	m.opts.Exec = true
	spec := m.spec(t, app)
	_, err := m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(spec.Mounts[0].Source, "planted"), []byte("no program"), 0o755))
	out, _ := m.run(t, "/bin/sh", "-c", "run /data/planted")
	require.NotContains(t, out, "permission denied")
	require.Contains(t, out, "exec format error")

	// It is another container.
	m.opts.Exec = false
	_, err = m.EnsureConfigured(t.Context(), spec)
	require.NoError(t, err)
	out, _ = m.run(t, "/bin/sh", "-c", "run /data/planted")
	require.Contains(t, out, "permission denied")
}

func TestPortOnAnotherAddressIsNotTaken(t *testing.T) {
	m := newMachine(t)
	spec := m.spec(t, app)
	_, err := m.EnsurePublished(t.Context(), spec)
	require.NoError(t, err)
	found, err := m.inspect(t.Context())
	require.NoError(t, err)
	want := m.request(&spec, Published, "")
	require.NoError(t, m.verify(found, want))
	for inside, bindings := range found.HostConfig.PortBindings {
		for i := range bindings {
			found.HostConfig.PortBindings[inside][i].HostIP = ""
		}
	}
	require.Equal(t, NotHardened, ReasonOf(m.verify(found, want)))
}
