package workload

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/podmantest"
)

func TestImageSurvivesByItsArchive(t *testing.T) {
	p := podmantest.New(t)
	p.Start(t)
	m := open(t, p)
	r := podmantest.NewRegistry(t)
	index, _ := r.Push(t, "org/app", "1", "pulled")
	p.Import(t, app, "imported")
	p.Output(t, "create", "--name", "base", app)
	p.Output(t, "commit", "--format", "docker", "--quiet", "base", "localhost/docker:1")
	p.Output(t, "rm", "base")
	for _, name := range []string{r.Host + "/org/app:1", r.Host + "/org/app@" + index, app, "localhost/docker:1"} {
		t.Run(name, func(t *testing.T) {
			image, err := m.Resolve(t.Context(), name, nil)
			require.NoError(t, err)
			var archive bytes.Buffer
			require.NoError(t, m.Export(t.Context(), image, &archive))

			p.Output(t, "rmi", "--force", image.ID)
			has, err := m.Has(t.Context(), image)
			require.NoError(t, err)
			require.False(t, has)
			require.Equal(t, ImageNotFound, ReasonOf(m.Export(t.Context(), image, io.Discard)))

			// One that breaks off is not taken.
			broken := iotest.TimeoutReader(bytes.NewReader(archive.Bytes()))
			require.ErrorIs(t, m.Import(t.Context(), broken, image), iotest.ErrTimeout)
			has, err = m.Has(t.Context(), image)
			require.NoError(t, err)
			require.False(t, has)

			require.NoError(t, m.Import(t.Context(), &archive, image))
			has, err = m.Has(t.Context(), image)
			require.NoError(t, err)
			require.True(t, has)
			status, err := m.EnsureConfigured(t.Context(), Spec{Revision: 1, Image: image, Port: 8080, HostPort: freePort(t)})
			require.NoError(t, err)
			require.True(t, status.Running)
			require.Equal(t, image.ID, status.ImageID)
			require.NoError(t, m.EnsureGone(t.Context()))
		})
	}
}

func TestArchiveOfAnotherImageIsRefused(t *testing.T) {
	p := podmantest.New(t)
	p.Start(t)
	m := open(t, p)
	p.Import(t, app, "one")
	p.Import(t, "localhost/app:2", "two")
	one, err := m.Resolve(t.Context(), app, nil)
	require.NoError(t, err)
	two, err := m.Resolve(t.Context(), "localhost/app:2", nil)
	require.NoError(t, err)
	var archive bytes.Buffer
	require.NoError(t, m.Export(t.Context(), two, &archive))
	p.Output(t, "rmi", "--force", one.ID)
	require.Equal(t, ImageMismatch, ReasonOf(m.Import(t.Context(), bytes.NewReader(archive.Bytes()), one)))
	err = m.Import(t.Context(), strings.NewReader("no archive"), one)
	require.Equal(t, ImageFailed, ReasonOf(err), err)

	m.opts.MaxArchive = 1024
	require.Equal(t, ImageTooLarge, ReasonOf(m.Export(t.Context(), two, io.Discard)))
	require.Error(t, m.Import(t.Context(), bytes.NewReader(archive.Bytes()), two))
	full := errors.New("no space left")
	m.opts.MaxArchive = defaultMaxArchive
	require.ErrorIs(t, m.Export(t.Context(), two, failing{full}), full)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
