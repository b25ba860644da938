package tpmverifyprocessor

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/processor/tpmverifyprocessor/internal/metadata"
)

func fenced(t *testing.T, keys string) *Config {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "berlin.geojson"), []byte(`{"type":"Polygon","coordinates":[[[13,52],[14,52],[14,53],[13,53],[13,52]]]}`), 0o600))
	cfg := createDefaultConfig().(*Config)
	cfg.Mode, cfg.RegionsDir = ModeCheck, dir
	cfg.Keys.File = filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(cfg.Keys.File, []byte(keys), 0o600))
	return cfg
}

func startWith(t *testing.T, cfg *Config) error {
	t.Helper()
	p, err := NewFactory().CreateLogs(t.Context(), processortest.NewNopSettings(metadata.Type), cfg, consumertest.NewNop())
	require.NoError(t, err)
	err = p.Start(t.Context(), componenttest.NewNopHost())
	require.NoError(t, p.Shutdown(t.Context()))
	return err
}

func TestRegionsAreReadFromFilesAtTheStart(t *testing.T) {
	cfg := fenced(t, `{"keys":[],"policies":[{"scope":"default","location":{"regions":["berlin"]}}]}`)
	cfg.Location = &LocationConfig{Regions: []string{"berlin"}, Mode: "strict"}
	require.NoError(t, cfg.Validate())
	require.NoError(t, startWith(t, cfg))
	named, err := cfg.regions()
	require.NoError(t, err)
	p, err := cfg.policy(named)
	require.NoError(t, err)
	require.True(t, p.Location.Regions[0].Area.Contains(geo.Position{Latitude: 52.5, Longitude: 13.5}))

	cfg.Location.Regions = []string{"paris"}
	require.NoError(t, cfg.Validate(), "files are read at the start")
	require.ErrorIs(t, startWith(t, cfg), policy.ErrNoRegion)
	require.ErrorIs(t, startWith(t, fenced(t, `{"keys":[],"policies":[{"scope":"default","location":{"regions":["paris"]}}]}`)), policy.ErrNoRegion)
	cfg = fenced(t, `{"keys":[]}`)
	cfg.Regions = map[string]string{"paris": filepath.Join(t.TempDir(), "none")}
	require.ErrorIs(t, startWith(t, cfg), fs.ErrNotExist)
}
