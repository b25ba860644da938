package tpmsignprocessor

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/telemark-otel/telemark/internal/block"
)

func TestConfigIsRead(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	second := component.MustNewIDWithName("tpm", "second")
	files, agent := component.MustNewID("file_storage"), component.MustNewIDWithName("file_storage", "agent")
	stored := createDefaultConfig().(*Config)
	stored.Pending.Storage = &files
	for id, want := range map[string]*Config{
		"tpmsign":        createDefaultConfig().(*Config),
		"tpmsign/stored": stored,
		"tpmsign/all": {
			TPM: &second, Stream: "edge-a", Tolerate: []string{"split", "enrich"}, Coalesce: true,
			Pending: PendingConfig{Storage: &agent, MaxBytes: 1 << 20, Wait: 500 * time.Millisecond, Copy: "never"},
		},
	} {
		t.Run(id, func(t *testing.T) {
			sub, err := conf.Sub(id)
			require.NoError(t, err)
			cfg := createDefaultConfig()
			require.NoError(t, sub.Unmarshal(cfg))
			require.NoError(t, cfg.(*Config).Validate())
			require.Equal(t, want, cfg)
		})
	}
}

func TestConfigErrorsNameTheKeyAndTheValue(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   error
		says   string
	}{
		"unknown tolerance": {func(c *Config) { c.Tolerate = []string{"drop"} }, errTolerateUnknown, `"drop"`},
		"tolerance twice":   {func(c *Config) { c.Tolerate = []string{"split", "split"} }, errTolerateTwice, `"split"`},
		"stream too long":   {func(c *Config) { c.Stream = strings.Repeat("x", 53) }, errStream, "53 bytes"},
		"stream unprintable": {
			func(c *Config) { c.Stream = "edge a" }, errStream, `"edge a"`,
		},
		"items negative":     {func(c *Config) { c.MaxBlockItems = -1 }, errMaxBlockItems, "-1"},
		"items too many":     {func(c *Config) { c.MaxBlockItems = 1<<16 + 1 }, errMaxBlockItems, "65537"},
		"heartbeat too fast": {func(c *Config) { c.Heartbeat.Interval = time.Millisecond }, errHeartbeat, "1ms"},
		"heartbeat negative": {func(c *Config) { c.Heartbeat.Interval = -time.Second }, errHeartbeat, "-1s"},
		"bytes too few":      {func(c *Config) { c.Pending.MaxBytes = 0 }, errMaxBytes, " 0,"},
		"blocks negative":    {func(c *Config) { c.Pending.MaxBlocks = -1 }, errMaxBlocks, "-1"},
		"copy unknown":       {func(c *Config) { c.Pending.Copy = "always" }, errCopy, `"always"`},
		"wait zero":          {func(c *Config) { c.Pending.Wait = 0 }, errWait, "0s"},
		"wait too long":      {func(c *Config) { c.Pending.Wait = time.Hour }, errWait, "1h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			tt.change(cfg)
			err := cfg.Validate()
			require.ErrorIs(t, err, tt.want)
			require.ErrorContains(t, err, tt.says)
		})
	}
	cfg := &Config{MaxBlockItems: -1}
	err := cfg.Validate()
	for _, want := range []error{errMaxBlockItems, errMaxBytes, errWait} {
		require.ErrorIs(t, err, want, "all are told at once")
	}
}

func TestLongestStreamLeavesRoomForItsSuffixes(t *testing.T) {
	cfg := testConfig(func(c *Config) { c.Stream = strings.Repeat("x", maxStreamBase) })
	require.NoError(t, cfg.Validate())
	for _, signal := range allSignals {
		name, err := cfg.streamName(component.MustNewID("tpmsign"), signal)
		require.NoError(t, err)
		require.NoError(t, block.CheckStream(name+"#999"))
	}
}
