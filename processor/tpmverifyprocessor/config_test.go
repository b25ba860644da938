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
		"refresh too often":     {func(c *Config) { c.Keys.RefreshInterval = time.Millisecond }, ErrRefresh, "keys::refresh_interval must be 100ms or more, not 1ms"},
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
		"bind":                  {func(c *Config) { c.Bind = map[string]string{"host.name": "hostname"} }, ErrBind, "bind must tie attributes to name or to label:KEY: host.name"},
		"bind nothing":          {func(c *Config) { c.Bind = map[string]string{"": "name"} }, ErrBind, "bind must"},
		"bind required":         {func(c *Config) { c.BindRequired = []string{"host.name"} }, ErrBindRequired, `bind_required must name attributes of bind: "host.name"`},
		"file and registry":     {func(c *Config) { c.Keys.Registry.GetOrInsertDefault() }, ErrKeysTwice, "keys::registry"},
		"evidence":              {func(c *Config) { c.RequireEvidence = "none" }, ErrEvidence, "require_evidence"},
		"freshness":             {func(c *Config) { c.Freshness.Require = "new" }, ErrRequire, "freshness::require"},
		"live within":           {func(c *Config) { c.Freshness.LiveWithin = 0 }, ErrLiveWithin, "freshness::live_within"},
		"location of nothing":   {func(c *Config) { no := false; c.Location = &LocationConfig{Required: &no} }, policy.ErrNothing, "location: "},
		"location source":       {func(c *Config) { c.Location = &LocationConfig{Sources: []string{"gpsd", "gps"}} }, ErrLocationSources, `location::sources must be static, gpsd, file or file:SENSOR, not "gps"`},
		"location no source":    {func(c *Config) { c.Location = &LocationConfig{Sources: []string{""}} }, ErrLocationSources, "location::sources"},
		"location sensor":       {func(c *Config) { c.Location = &LocationConfig{Sources: []string{"file:"}} }, ErrLocationSources, "location::sources"},
		"location age":          {func(c *Config) { c.Location = &LocationConfig{MaxAge: -time.Second} }, policy.ErrMaxAge, "location::max_age"},
		"location accuracy":     {func(c *Config) { c.Location = &LocationConfig{MaxAccuracy: -1} }, policy.ErrMaxAccuracy, "location::max_accuracy"},
		"location within":       {func(c *Config) { c.Location = &LocationConfig{Within: map[string]any{"type": "Point"}} }, ErrLocationWithin, "location::within"},
		"location speed":        {func(c *Config) { c.Location = &LocationConfig{MaxSpeed: -1} }, policy.ErrMaxSpeed, "location::max_speed"},
		"location region":       {func(c *Config) { c.Location = &LocationConfig{Regions: []string{"a/b"}} }, ErrLocationRegions, "location::regions"},
		"location not JSON":     {func(c *Config) { c.Location = &LocationConfig{Within: map[string]any{"type": func() {}}} }, ErrLocationWithin, "location::within"},
		"location mode":         {func(c *Config) { c.Location = &LocationConfig{Mode: "near"} }, ErrLocationMode, "location::mode must be centre or strict"},
		"location strict":       {func(c *Config) { c.Location = &LocationConfig{Mode: "strict"} }, policy.ErrMode, "location::mode: strict needs an area"},
		"enrich":                {func(c *Config) { c.Enrich.Action = "keep" }, ErrEnrich, "enrich::action"},
		"prefix missing":        {func(c *Config) { c.Enrich.Action = EnrichPrefix }, ErrPrefix, "enrich::prefix"},
		"prefix unused":         {func(c *Config) { c.Enrich.Prefix = "gw." }, ErrPrefix, "enrich::prefix"},
		"park bytes":            {func(c *Config) { c.Park.MaxBytes = 0 }, ErrParkBytes, "park::max_bytes"},
		"park wait":             {func(c *Config) { c.Park.Wait = 0 }, ErrParkWait, "park::wait"},
		"in flight":             {func(c *Config) { c.InFlightWait = time.Hour }, ErrInFlightWait, "in_flight_wait"},
		"in flight, negative":   {func(c *Config) { c.InFlightWait = -1 }, ErrInFlightWait, "in_flight_wait"},
		"log burst":             {func(c *Config) { c.RefusalLog.Burst = -1 }, ErrLogBurst, "refusal_log::burst must be 0 (no lines) or more, not -1"},
		"log interval":          {func(c *Config) { c.RefusalLog.Interval = 0 }, ErrLogInterval, "refusal_log::interval must be above 0, not 0s"},
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

// TestStripRefusesWhatItWouldNotDo: what stands in a configuration and has no effect
// is believed to have one.
func TestStripRefusesWhatItWouldNotDo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   error
	}{
		"keeps receipts":  {func(c *Config) { c.Receipts = ReceiptsKeep }, ErrStripKeep},
		"quarantines":     {func(c *Config) { c.Emit = EmitRefused }, ErrEmitMode},
		"tags":            {func(c *Config) { c.Unsigned = UnsignedTag }, ErrCheckTag},
		"binds":           {func(c *Config) { c.BindRequired = []string{"host.name"} }, ErrBindRequired},
		"any freshness":   {func(c *Config) { c.Freshness.LiveWithin = -time.Second }, ErrLiveWithin},
		"knows no source": {func(c *Config) { c.Location = &LocationConfig{Sources: []string{"gps"}} }, ErrLocationSources},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			cfg.Mode = ModeStrip
			require.NoError(t, cfg.Validate(), "nothing else is needed")
			c.change(cfg)
			require.ErrorIs(t, cfg.Validate(), c.want)
		})
	}
}

func TestBoundsOfTheFileHoldBesideARegistryToo(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	reg := cfg.Keys.Registry.GetOrInsertDefault()
	reg.Endpoint, reg.PinFile = "https://registry:3000", "registry.pub"
	require.NoError(t, cfg.Validate())
	cfg.Keys.RefreshInterval = -time.Second
	require.ErrorIs(t, cfg.Validate(), ErrRefresh)
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
		"no endpoint":          {func(c *RegistryConfig) { c.Endpoint = "" }, ErrRegistryEndpoint, "keys::registry::endpoint"},
		"endpoint is a host":   {func(c *RegistryConfig) { c.Endpoint = "registry:3000" }, ErrRegistryEndpoint, "https://"},
		"endpoint with query":  {func(c *RegistryConfig) { c.Endpoint += "?a=b" }, ErrRegistryEndpoint, "keys::registry::endpoint"},
		"endpoint with secret": {func(c *RegistryConfig) { c.Endpoint = "https://u:secret@registry" }, ErrRegistryEndpoint, "keys::registry::endpoint"},
		"no pin":               {func(c *RegistryConfig) { c.PinFile = "" }, ErrRegistryPin, "keys::registry::pin_file"},
		"refresh too often":    {func(c *RegistryConfig) { c.Refresh = time.Millisecond }, ErrRegistryRefresh, "keys::registry::refresh"},
		"refresh too rare":     {func(c *RegistryConfig) { c.Refresh = time.Hour }, ErrRegistryRefresh, "keys::registry::refresh"},
		"max_stale too short":  {func(c *RegistryConfig) { c.MaxStale = time.Second }, ErrRegistryMaxStale, "keys::registry::max_stale"},
		"max_stale too long":   {func(c *RegistryConfig) { c.MaxStale = 48 * time.Hour }, ErrRegistryMaxStale, "keys::registry::max_stale"},
		"no skew":              {func(c *RegistryConfig) { c.Skew = 0 }, ErrRegistrySkew, "keys::registry::skew"},
		"skew of an hour":      {func(c *RegistryConfig) { c.Skew = time.Hour }, ErrRegistrySkew, "keys::registry::skew"},
		"no timeout":           {func(c *RegistryConfig) { c.Timeout = 0 }, ErrRegistryTimeout, "keys::registry::timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			reg := cfg.Keys.Registry.GetOrInsertDefault()
			reg.Endpoint, reg.PinFile = "https://registry:3000", "registry.pub"
			require.NoError(t, cfg.Validate())
			c.change(reg)
			err := cfg.Validate()
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.key)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}
