package tpmverifyprocessor

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/policy"
)

func load(t *testing.T, id string) *Config {
	t.Helper()
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := conf.Sub(id)
	require.NoError(t, err)
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	return cfg
}

func TestConfigurationsAreRead(t *testing.T) {
	want := createDefaultConfig().(*Config)
	want.Keys.File = "/etc/telemark/keys.json"
	require.Equal(t, want, load(t, "tpmverify"))
	require.Equal(t, ModeStrip, load(t, "tpmverify/strip").Mode)

	want = createDefaultConfig().(*Config)
	reg := want.Keys.Registry.GetOrInsertDefault()
	reg.Endpoint, reg.PinFile, reg.Cache = "https://registry:3000", "/etc/telemark/registry.pub", "/var/lib/telemark/registry.cache"
	reg.TLS.CAFile = "/etc/telemark/certs/ca.crt"
	reg.Timeout, reg.Refresh, reg.MaxStale, reg.Skew = 3*time.Second, 2*time.Second, 10*time.Minute, time.Minute
	require.Equal(t, want, load(t, "tpmverify/registry"))

	all := load(t, "tpmverify/all")
	second, no := component.MustNewIDWithName("nonce", "second"), false
	file := component.MustNewID("file_storage")
	keys := defaultKeys()
	keys.File, keys.RefreshInterval = "keys.json", 30*time.Second
	within := all.Location.Within
	all.Location.Within = nil
	require.Equal(t, &Config{
		Mode:         ModeObserve,
		Emit:         EmitAll,
		Nonce:        &second,
		Keys:         keys,
		Unsigned:     UnsignedTag,
		Receipts:     ReceiptsKeep,
		Heartbeats:   HeartbeatsDrop,
		Bind:         map[string]string{"host.name": "name", "site": "label:site"},
		BindRequired: []string{"host.name"},
		Freshness:    FreshnessConfig{Require: "live", LiveWithin: 2 * time.Minute},

		RequireEvidence: "genuine",
		Location:        &LocationConfig{Required: &no, Sources: []string{"gpsd", "static"}, MaxAge: 10 * time.Minute, MaxAccuracy: 100, Mode: "strict", Regions: []string{"berlin"}, MaxSpeed: 900},
		Regions:         map[string]string{"berlin": "/etc/telemark/berlin.geojson"},
		RegionsDir:      "/etc/telemark/regions",
		Enrich:          EnrichConfig{Action: EnrichPrefix, Prefix: "gateway."},
		Attributes:      AttributesConfig{Verdict: true, ID: true, KID: true, Freshness: true, Location: true},
		Scope:           "audit",
		Park:            ParkConfig{Storage: &file, MaxBytes: 1_000_000, Wait: time.Hour},
		InFlightWait:    time.Second,
		RefusalLog:      RefusalLogConfig{Burst: 1, Interval: 10 * time.Second},
	}, all)
	all.Location.Within = within
	p, err := all.policy(policy.AnyRegions())
	require.NoError(t, err)
	require.Equal(t, policy.Live, p.Freshness)
	require.True(t, p.Genuine)
	require.Len(t, p.Bind, 2)
	require.Equal(t, "host.name", p.Bind[0].Attribute)
	require.Equal(t, "site", p.Bind[1].Attribute)
	require.False(t, p.Location.Required)
	require.Equal(t, "berlin", p.Location.Regions[0].Name)
	require.InDelta(t, 250, p.Location.MaxSpeed, 1e-9)
	require.True(t, p.Location.Within.Contains(geo.Position{Latitude: 52.2, Longitude: 13.8}))
	require.False(t, p.Location.Within.Contains(geo.Position{Latitude: 53.4, Longitude: 13.1}))
}

func TestValidateNamesTheKeyAndTheWayOut(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   error
		key    string
	}{
		"mode":                  {func(c *Config) { c.Mode = "enforced" }, ErrMode, "mode"},
		"no key file":           {func(c *Config) { c.Keys.File = "" }, ErrKeys, "keys::file"},
		"refresh too often":     {func(c *Config) { c.Keys.RefreshInterval = time.Millisecond }, ErrRefresh, "keys::refresh_interval"},
		"unsigned":              {func(c *Config) { c.Unsigned = "allow" }, ErrUnsigned, "unsigned"},
		"unsigned, no verdict":  {func(c *Config) { c.Unsigned, c.Attributes.Verdict = UnsignedPass, false }, ErrUnsignedTag, "attributes::verdict"},
		"tag, no verdict":       {func(c *Config) { c.Unsigned, c.Attributes.Verdict = UnsignedTag, false }, ErrUnsignedTag, "attributes::verdict"},
		"check tags nothing":    {func(c *Config) { c.Mode, c.Unsigned = ModeCheck, UnsignedTag }, ErrCheckTag, "unsigned"},
		"check drops no beats":  {func(c *Config) { c.Mode, c.Heartbeats = ModeCheck, HeartbeatsDrop }, ErrCheckBeats, "heartbeats"},
		"observe, no verdict":   {func(c *Config) { c.Mode, c.Attributes.Verdict = ModeObserve, false }, ErrObserve, "attributes::verdict"},
		"receipts":              {func(c *Config) { c.Receipts = "drop" }, ErrReceipts, "receipts"},
		"emit":                  {func(c *Config) { c.Emit = "some" }, ErrEmit, "emit"},
		"emit, unsigned":        {func(c *Config) { c.Mode, c.Emit, c.Unsigned = ModeObserve, EmitRefused, UnsignedTag }, ErrEmitUnsigned, "unsigned"},
		"emit refused, enforce": {func(c *Config) { c.Emit = EmitRefused }, ErrEmitMode, "emit"},
		"heartbeats":            {func(c *Config) { c.Heartbeats = "yes" }, ErrHeartbeats, "heartbeats"},
		"bind":                  {func(c *Config) { c.Bind = map[string]string{"host.name": "hostname"} }, ErrBind, "bind"},
		"bind required":         {func(c *Config) { c.BindRequired = []string{"host.name"} }, ErrBind, "host.name"},
		"file and registry":     {func(c *Config) { c.Keys.Registry.GetOrInsertDefault() }, ErrKeysTwice, "keys::registry"},
		"evidence":              {func(c *Config) { c.RequireEvidence = "none" }, ErrEvidence, "require_evidence"},
		"freshness":             {func(c *Config) { c.Freshness.Require = "new" }, ErrRequire, "freshness::require"},
		"live within":           {func(c *Config) { c.Freshness.LiveWithin = 0 }, ErrLiveWithin, "freshness::live_within"},
		"location":              {func(c *Config) { no := false; c.Location = &LocationConfig{Required: &no} }, ErrLocation, "location"},
		"location within":       {func(c *Config) { c.Location = &LocationConfig{Within: map[string]any{"type": "Point"}} }, ErrLocation, "within"},
		"location speed":        {func(c *Config) { c.Location = &LocationConfig{MaxSpeed: -1} }, ErrLocation, "max_speed"},
		"location region":       {func(c *Config) { c.Location = &LocationConfig{Regions: []string{"a/b"}} }, ErrLocation, "regions"},
		"location not JSON":     {func(c *Config) { c.Location = &LocationConfig{Within: map[string]any{"type": func() {}}} }, ErrLocation, "within"},
		"location mode":         {func(c *Config) { c.Location = &LocationConfig{Mode: "near"} }, ErrLocation, "centre"},
		"enrich":                {func(c *Config) { c.Enrich.Action = "keep" }, ErrEnrich, "enrich::action"},
		"prefix missing":        {func(c *Config) { c.Enrich.Action = EnrichPrefix }, ErrPrefix, "enrich::prefix"},
		"prefix unused":         {func(c *Config) { c.Enrich.Prefix = "gw." }, ErrPrefix, "enrich::prefix"},
		"park bytes":            {func(c *Config) { c.Park.MaxBytes = 0 }, ErrParkBytes, "park::max_bytes"},
		"park wait":             {func(c *Config) { c.Park.Wait = 0 }, ErrParkWait, "park::wait"},
		"in flight":             {func(c *Config) { c.InFlightWait = time.Hour }, ErrInFlightWait, "in_flight_wait"},
		"log":                   {func(c *Config) { c.RefusalLog.Interval = 0 }, ErrRefusalLog, "refusal_log"},
		"scope":                 {func(c *Config) { c.Scope = strings.Repeat("x", maxScope+1) }, ErrScope, "scope"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			cfg.Keys.File = "keys.json"
			require.NoError(t, cfg.Validate())
			c.change(cfg)
			err := cfg.Validate()
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.key)
		})
	}
}

// TestPrefixCannotMakeAReservedAttribute tries prefixes that would make
// telemark.verdict out of a key that a gateway may choose freely.
func TestPrefixCannotMakeAReservedAttribute(t *testing.T) {
	for prefix, refused := range map[string]bool{
		"t": true, "tele": true, "TELE": true, "telemark": true, "Telemark.": true, "telemark.gw.": true,
		"telemar\u212a.": true, "gw.": false, "x.telemark.": false, "tel.": false,
	} {
		cfg := createDefaultConfig().(*Config)
		cfg.Keys.File = "keys.json"
		cfg.Enrich = EnrichConfig{Action: EnrichPrefix, Prefix: prefix}
		err := cfg.Validate()
		if refused {
			require.ErrorIs(t, err, ErrPrefixTaken, "%q", prefix)
		} else {
			require.NoError(t, err, "%q", prefix)
		}
	}
}

func TestValidateNamesTheKeyOfTheRegistry(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*RegistryConfig)
		want   error
		key    string
	}{
		"no endpoint":          {func(c *RegistryConfig) { c.Endpoint = "" }, ErrRegistryEndpoint, "endpoint"},
		"endpoint is a host":   {func(c *RegistryConfig) { c.Endpoint = "registry:3000" }, ErrRegistryEndpoint, "https://"},
		"endpoint with query":  {func(c *RegistryConfig) { c.Endpoint += "?a=b" }, ErrRegistryEndpoint, "endpoint"},
		"endpoint with secret": {func(c *RegistryConfig) { c.Endpoint = "https://u:secret@registry" }, ErrRegistryEndpoint, "endpoint"},
		"no pin":               {func(c *RegistryConfig) { c.PinFile = "" }, ErrRegistryPin, "pin_file"},
		"refresh too often":    {func(c *RegistryConfig) { c.Refresh = time.Millisecond }, ErrRegistryRefresh, "refresh"},
		"refresh too rare":     {func(c *RegistryConfig) { c.Refresh = time.Hour }, ErrRegistryRefresh, "refresh"},
		"max_stale too short":  {func(c *RegistryConfig) { c.MaxStale = time.Second }, ErrRegistryMaxStale, "max_stale"},
		"max_stale too long":   {func(c *RegistryConfig) { c.MaxStale = 48 * time.Hour }, ErrRegistryMaxStale, "max_stale"},
		"no skew":              {func(c *RegistryConfig) { c.Skew = 0 }, ErrRegistrySkew, "skew"},
		"skew of an hour":      {func(c *RegistryConfig) { c.Skew = time.Hour }, ErrRegistrySkew, "skew"},
		"no timeout":           {func(c *RegistryConfig) { c.Timeout = 0 }, ErrRegistryTimeout, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			reg := cfg.Keys.Registry.GetOrInsertDefault()
			reg.Endpoint, reg.PinFile = "https://registry:3000", "registry.pub"
			require.NoError(t, cfg.Validate())
			c.change(reg)
			err := cfg.Validate()
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, "keys::registry::")
			require.ErrorContains(t, err, c.key)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}
