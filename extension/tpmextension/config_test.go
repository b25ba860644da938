package tpmextension

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/telemark-otel/telemark/internal/location"
	"github.com/telemark-otel/telemark/internal/tpm"
)

func loadConfig(t *testing.T, id string) *Config {
	t.Helper()
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := conf.Sub(id)
	require.NoError(t, err)
	return unmarshal(t, sub)
}

func unmarshal(t *testing.T, conf *confmap.Conf) *Config {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, conf.Unmarshal(cfg))
	return cfg
}

func TestDefaultsAreEnough(t *testing.T) {
	for _, id := range []string{"tpm", "tpm/design"} {
		cfg := loadConfig(t, id)
		require.NoError(t, confmap.Validate(cfg))
		require.Equal(t, "/dev/tpmrm0", cfg.Device)
		require.Equal(t, defaultKeyDir, cfg.keyDir())
		require.Equal(t, "telemark", cfg.deployment())
		require.Equal(t, 4096, cfg.MaxGroup)
		require.False(t, cfg.Location.Static.HasValue())
		require.Equal(t, id == "tpm/design", cfg.Nonce.HasValue())
	}
	nonce := loadConfig(t, "tpm/design").Nonce.Get()
	require.Equal(t, "https://gateway:8443", nonce.Endpoint)
	require.Equal(t, 30*time.Second, nonce.RenewInterval)
	require.Equal(t, 24*time.Hour, nonce.MaxAge)
	require.Equal(t, 10*time.Second, nonce.Timeout)
}

func TestEveryKeyIsRead(t *testing.T) {
	cfg := loadConfig(t, "tpm/all")
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, "tcp:127.0.0.1:2321", cfg.Device)
	require.Equal(t, KeyConfig{Dir: "/var/lib/telemark/edge", Algorithm: "PS256", Handle: 0x81010042, AuthFile: "/etc/telemark/key.auth"}, cfg.Key)
	require.Equal(t, "bank-eu", cfg.Audience)
	require.Equal(t, "bank-eu-prod", cfg.deployment())
	require.Equal(t, 512, cfg.MaxGroup)
	require.Equal(t, 8192, cfg.MaxWaiting)
	require.Equal(t, 10*time.Second, cfg.CommandTimeout)
	require.Equal(t, RetryConfig{InitialInterval: time.Second, MaxInterval: time.Minute, Multiplier: 1.5}, cfg.Retry)
	require.Equal(t, component.MustNewIDWithName("file_storage", "state"), *cfg.Storage)
	require.Equal(t, uint32(0x01800042), cfg.NVIndex)
	nonce := cfg.Nonce.Get()
	require.Equal(t, time.Minute, nonce.RenewInterval)
	require.Equal(t, 12*time.Hour, nonce.MaxAge)
	require.Equal(t, 3*time.Second, nonce.Timeout)

	source, live, err := cfg.Location.open(nil)
	require.NoError(t, err)
	require.Nil(t, live)
	require.Equal(t, location.SourceStatic, source.Location(time.Now()).Source)
}

func TestKeysOfASoftwareTPMStayWithIt(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Device = "swtpm:/srv/tpm"
	require.Equal(t, "/srv/tpm/keys", cfg.keyDir())
	cfg.Key.Dir = "/srv/keys"
	require.Equal(t, "/srv/keys", cfg.keyDir())
}

func TestValidateNamesTheKey(t *testing.T) {
	for name, tc := range map[string]struct {
		yaml map[string]any
		want error
		key  string
	}{
		"device without form":        {map[string]any{"device": "tpmrm0"}, errDevice, "`device`"},
		"device empty":               {map[string]any{"device": ""}, errDevice, "`device`"},
		"device tcp without port":    {map[string]any{"device": "tcp:localhost"}, errDevice, "`device`"},
		"key of another algorithm":   {map[string]any{"key": map[string]any{"algorithm": "RS256"}}, errKeyAlgorithm, "`key::algorithm`"},
		"handle transient":           {map[string]any{"key": map[string]any{"handle": 0x80000001}}, errKeyHandle, "`key::handle`"},
		"handle of the platform":     {map[string]any{"key": map[string]any{"handle": 0x81800000}}, errKeyHandle, "`key::handle`"},
		"audience empty":             {map[string]any{"audience": ""}, errAudience, "`audience`"},
		"audience with blank":        {map[string]any{"audience": "a b"}, errAudience, "`audience`"},
		"max_group zero":             {map[string]any{"max_group": 0}, errMaxGroup, "`max_group`"},
		"max_group too large":        {map[string]any{"max_group": 1 << 17, "max_waiting": 1 << 18}, errMaxGroup, "`max_group`"},
		"max_waiting below group":    {map[string]any{"max_waiting": 1}, errMaxWaiting, "`max_waiting`"},
		"command_timeout too short":  {map[string]any{"command_timeout": "100ms"}, errCommandTimeout, "`command_timeout`"},
		"retry initial zero":         {map[string]any{"retry": map[string]any{"initial_interval": 0}}, errRetryInitial, "`retry::initial_interval`"},
		"retry initial above max":    {map[string]any{"retry": map[string]any{"initial_interval": "1m"}}, errRetryInitial, "`retry::initial_interval`"},
		"retry max too long":         {map[string]any{"retry": map[string]any{"max_interval": "2h"}}, errRetryMax, "`retry::max_interval`"},
		"retry multiplier shrinks":   {map[string]any{"retry": map[string]any{"multiplier": 0.5}}, errRetryMult, "`retry::multiplier`"},
		"nv_index of the platform":   {map[string]any{"nv_index": 0x01400001}, errNVIndex, "`nv_index`"},
		"nonce without endpoint":     {map[string]any{"nonce": map[string]any{"max_age": "1h"}}, errNonceEndpoint, "`nonce::endpoint`"},
		"nonce endpoint not http":    {map[string]any{"nonce": map[string]any{"endpoint": "gateway:8443"}}, errNonceEndpoint, "`nonce::endpoint`"},
		"nonce endpoint with query":  {map[string]any{"nonce": map[string]any{"endpoint": "https://a?kid=1"}}, errNonceEndpoint, "`nonce::endpoint`"},
		"nonce renewed all the time": {map[string]any{"nonce": map[string]any{"endpoint": "https://a", "renew_interval": "1ms"}}, errNonceRenew, "`nonce::renew_interval`"},
		"nonce max_age too short":    {map[string]any{"nonce": map[string]any{"endpoint": "https://a", "max_age": "1s"}}, errNonceMaxAge, "`nonce::max_age`"},
		"nonce without timeout":      {map[string]any{"nonce": map[string]any{"endpoint": "https://a", "timeout": 0}}, errNonceTimeout, "`nonce::timeout`"},
		"static without longitude":   {map[string]any{"location": map[string]any{"static": map[string]any{"latitude": 1}}}, location.ErrMissing, "location::static"},
		"static off the globe":       {map[string]any{"location": map[string]any{"static": map[string]any{"latitude": 91, "longitude": 0}}}, location.ErrLatitude, "location::static::latitude"},
		"two sources":                {map[string]any{"location": map[string]any{"static": map[string]any{"latitude": 1, "longitude": 0}, "gpsd": map[string]any{}}}, location.ErrSources, "location: more than one"},
		"precision":                  {map[string]any{"location": map[string]any{"precision": "rough"}}, location.ErrPrecision, "location::precision"},
		"gpsd without port":          {map[string]any{"location": map[string]any{"gpsd": map[string]any{"endpoint": "localhost"}}}, location.ErrEndpoint, "location::gpsd::endpoint"},
		"gpsd of any age":            {map[string]any{"location": map[string]any{"gpsd": map[string]any{"max_age": 0}}}, location.ErrMaxAge, "location::gpsd::max_age"},
		"file without path":          {map[string]any{"location": map[string]any{"file": map[string]any{"max_age": "5m"}}}, location.ErrPath, "location::file::path"},
		"file polled all the time":   {map[string]any{"location": map[string]any{"file": map[string]any{"path": "/x", "poll_interval": "1ms"}}}, location.ErrPoll, "location::file::poll_interval"},
		"deployment too long":        {map[string]any{"deployment": strings.Repeat("x", 257)}, errDeployment, "`deployment`"},
		"group_interval negative":    {map[string]any{"group_interval": "-1ms"}, errGroupInterval, "`group_interval`"},
		"group_interval too long":    {map[string]any{"group_interval": "2s"}, errGroupInterval, "`group_interval`"},
		"retry max zero":             {map[string]any{"retry": map[string]any{"max_interval": 0}}, errRetryMax, "`retry::max_interval`"},
		"nonce max_age too long":     {map[string]any{"nonce": map[string]any{"endpoint": "https://a", "max_age": "169h"}}, errNonceMaxAge, "`nonce::max_age`"},
		"static across the line":     {map[string]any{"location": map[string]any{"static": map[string]any{"latitude": 1, "longitude": 181}}}, location.ErrLongitude, "location::static::longitude"},
		"static in space":            {map[string]any{"location": map[string]any{"static": map[string]any{"latitude": 1, "longitude": 1, "altitude": 1e9}}}, location.ErrAltitude, "location::static::altitude"},
		"static accuracy negative":   {map[string]any{"location": map[string]any{"static": map[string]any{"latitude": 1, "longitude": 1, "accuracy": -1}}}, location.ErrAccuracy, "location::static::accuracy"},
		"file of any age":            {map[string]any{"location": map[string]any{"file": map[string]any{"path": "/x", "max_age": "-1s"}}}, location.ErrMaxAge, "location::file::max_age"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := unmarshal(t, confmap.NewFromStringMap(tc.yaml))
			err := confmap.Validate(cfg)
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.key)
		})
	}
}

func TestPasswordInTheEndpointIsNotInTheError(t *testing.T) {
	for _, endpoint := range []string{"htps://edge:s3cret@gateway", "https://edge:s3cret@gateway/?a", "https://edge:s3cret@gateway:port"} {
		cfg := createDefaultConfig().(*Config).Nonce.GetOrInsertDefault()
		cfg.Endpoint = endpoint
		err := cfg.Validate()
		require.ErrorIs(t, err, errNonceEndpoint)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestDefaultCounterIndexIsValid(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	require.Equal(t, tpm.DefaultCounterIndex, cfg.NVIndex)
	require.NoError(t, confmap.Validate(cfg))
}
