package control

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/state"
)

func TestFreshToExposed(t *testing.T) {
	l := newLab(t)
	l.start()
	l.is(state.Fresh)
	token := l.registerOperator()
	l.is(state.OperatorRegistered)
	l.registerOwner(token)
	v := l.is(state.OwnerRegistered)
	require.Equal(t, VolumeMounted, v.Volume)
	require.Nil(t, v.SSH)

	require.NoError(t, l.configure(app, "/data"))
	l.is(state.WorkloadConfigured)
	_, err := l.get()
	require.Error(t, err, "not published yet")
	out, err := l.ssh("echo in the container", nil)
	require.NoError(t, err)
	require.Equal(t, "in the container\n", out)
	l.copyIn("kept", "/data/file")
	out, err = l.ssh("cat /data/file", nil)
	require.NoError(t, err)
	require.Equal(t, "kept", out)
	require.Equal(t, "open", l.attests().SSH)

	// A session is under way as the door closes.
	in, _ := blocking(t)
	ended := make(chan error, 1)
	go func() {
		_, err := l.ssh("cat", in)
		ended <- err
	}()
	require.Eventually(t, func() bool { return l.c.View(t.Context()).SSH.Active == 1 }, eventually, tick)
	require.NoError(t, l.expose(app))
	require.Error(t, <-ended)
	v = l.is(state.WorkloadExposed)
	require.False(t, v.SSH.ClosedAt.IsZero())
	l.serves("hello")
	facts := l.attests()
	require.Equal(t, "closed", facts.SSH)
	require.True(t, strings.HasPrefix(facts.Image, app+"@sha256:"))
	require.Equal(t, 4, l.registry.told)
	refused(t, l.configure(app), "workload_exposed")
}
