package regions

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/policy"
)

const square = `{"type":"Feature","properties":{"name":"Square"},"geometry":{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,1],[0,0]]]}}`

func write(t *testing.T, path, text string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestLoadTakesFilesByNameAndByFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "berlin.geojson"), square)
	write(t, filepath.Join(dir, "DE-BE.json"), square)
	write(t, filepath.Join(dir, "README.md"), "about")
	write(t, filepath.Join(dir, ".hidden.json"), "{")
	own := write(t, filepath.Join(t.TempDir(), "x"), square)
	r, err := Load(dir, map[string]string{"own": own})
	require.NoError(t, err)
	var names []string
	for _, region := range r.All() {
		names = append(names, region.Name)
		require.True(t, region.Area.Contains(geo.Position{Latitude: 0.5, Longitude: 0.5}))
	}
	require.Equal(t, []string{"DE-BE", "berlin", "own"}, names)

	r, err = Load("", nil)
	require.NoError(t, err)
	require.Empty(t, r.All())
}

func TestMissingOrUnreadableRegionIsAnError(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(dir, nil)
	require.ErrorIs(t, err, ErrNone)
	_, err = Load(filepath.Join(dir, "none"), nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Load("", map[string]string{"a": filepath.Join(dir, "none")})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Load("", map[string]string{"a": dir})
	require.ErrorIs(t, err, ErrNoFile)
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err = Load("", map[string]string{"a": pipe})
	require.ErrorIs(t, err, ErrNoFile, "and it does not hang")
	_, err = Load("", map[string]string{"a/b": write(t, filepath.Join(dir, "good.geojson"), square)})
	require.ErrorIs(t, err, policy.ErrRegionName)
	_, err = Load(dir, map[string]string{"good": filepath.Join(dir, "good.geojson")})
	require.ErrorIs(t, err, policy.ErrRegionTwice)
	_, err = Load("", map[string]string{"a": write(t, filepath.Join(dir, "bad"), `{"type":"Point"}`)})
	require.ErrorIs(t, err, geo.ErrType)
	_, err = Load("", map[string]string{"a": write(t, filepath.Join(dir, "huge"), strings.Repeat(" ", geo.MaxGeoJSON+1))})
	require.ErrorIs(t, err, ErrTooLarge)
}
