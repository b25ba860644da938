package tpmextension

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"

	"github.com/telemark-otel/telemark/internal/location"
)

func TestSourcesOfLocationAreRead(t *testing.T) {
	cfg := loadConfig(t, "tpm/gpsd")
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, GPSDLocationConfig{Endpoint: "localhost:2947", Device: "/dev/ttyACM0", MaxAge: 30 * time.Second}, *cfg.Location.GPSD.Get())
	source, live, err := cfg.Location.open(nil)
	require.NoError(t, err)
	require.IsType(t, location.Coarse{}, source)
	require.NotNil(t, live)

	cfg = loadConfig(t, "tpm/gpsd-default")
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, GPSDLocationConfig{Endpoint: "localhost:2947", MaxAge: time.Minute}, *cfg.Location.GPSD.Get())

	cfg = loadConfig(t, "tpm/file")
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, FileLocationConfig{Path: "/run/modem/position.json", MaxAge: 5 * time.Minute, PollInterval: time.Second}, *cfg.Location.File.Get())
	require.Nil(t, loadConfig(t, "tpm").Location.GPSD.Get())
}

func TestLocationThatIsNotKnownIsNotSigned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "position.json")
	a := startAgent(t, withStorage(t, t.TempDir()), testConfig("swtpm:"+shortDir(t), t.TempDir(), stored, func(c *Config) {
		c.Location.File = configoptional.Some(FileLocationConfig{Path: path, MaxAge: 4 * time.Second, PollInterval: 100 * time.Millisecond})
	}))
	require.Nil(t, a.sign(t, leaves("s", 1))[0].Statement.Location, "there is no file yet")

	written := time.Now()
	content := fmt.Sprintf(`{"latitude":46.948,"longitude":7.4474,"accuracy":12,"time":%q,"sensor":"modem-1"}`, written.UTC().Format(time.RFC3339Nano))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	require.Eventually(t, func() bool {
		l := a.sign(t, leaves("s", 1))[0].Statement.Location
		if l == nil {
			return false
		}
		untrue := time.Since(written) - time.Duration(*l.Age)*time.Second
		return l.Source == "file:modem-1" && l.Latitude == 46.948 && *l.Accuracy == 12 && untrue.Abs() <= 2*time.Second
	}, 5*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool { return a.sign(t, leaves("s", 1))[0].Statement.Location == nil }, 10*time.Second, 50*time.Millisecond,
		"the fix is too old")
}
