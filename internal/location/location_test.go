package location

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStaticSaysWhatWasConfigured(t *testing.T) {
	s, err := NewStatic(46.948, -7.4474, new(540.0), new(10.0))
	require.NoError(t, err)
	got := s.Location(time.Unix(1, 0))
	require.Equal(t, 46.948, got.Latitude)
	require.Equal(t, -7.4474, got.Longitude)
	require.Equal(t, 540.0, *got.Altitude)
	require.Equal(t, 10.0, *got.Accuracy)
	require.Equal(t, SourceStatic, got.Source)
	require.Nil(t, got.Timestamp, "no fix was taken")
	require.Nil(t, got.Age)

	*got.Altitude = 0
	require.Equal(t, 540.0, *s.Location(time.Unix(2, 0)).Altitude, "the caller owns what it gets")
}

func TestStaticLeavesUnknownOut(t *testing.T) {
	s, err := NewStatic(0, 0, nil, nil)
	require.NoError(t, err)
	got := s.Location(time.Time{})
	require.Nil(t, got.Altitude)
	require.Nil(t, got.Accuracy)
}

func TestStaticRefusesPositionsThatCannotBe(t *testing.T) {
	for name, tc := range map[string]struct {
		lat, lon float64
		alt, acc *float64
		want     error
	}{
		"latitude over the pole":  {90.1, 0, nil, nil, ErrLatitude},
		"latitude NaN":            {math.NaN(), 0, nil, nil, ErrLatitude},
		"longitude past the line": {0, -180.5, nil, nil, ErrLongitude},
		"longitude infinite":      {0, math.Inf(1), nil, nil, ErrLongitude},
		"altitude in the core":    {0, 0, new(-1e6), nil, ErrAltitude},
		"accuracy negative":       {0, 0, nil, new(-1.0), ErrAccuracy},
		"accuracy NaN":            {0, 0, nil, new(math.NaN()), ErrAccuracy},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewStatic(tc.lat, tc.lon, tc.alt, tc.acc)
			require.ErrorIs(t, err, tc.want)
		})
	}
}

// TestPolicyCanWaitForNoSourceThatNobodyClaims has a typing error refused, which would
// otherwise keep every machine out, or the wrong ones in.
func TestPolicyCanWaitForNoSourceThatNobodyClaims(t *testing.T) {
	longest := "file:" + strings.Repeat("x", maxSensor)
	for _, src := range []string{SourceStatic, SourceGPSD, SourceFile, "file:modem-1", longest} {
		require.True(t, ValidSource(src), src)
	}
	for _, src := range []string{"", "gps", "GPSD", "gpsd ", "gpsd:/dev/ttyACM0", "static:1", "file:", "file: x", longest + "x", "geoip"} {
		require.False(t, ValidSource(src), src)
	}
}

func TestErrorsBeginWithTheKeyThatIsWrong(t *testing.T) {
	one := 1.0
	for key, o := range map[string]Options{
		"precision ":             {Precision: "rough"},
		"static needs ":          {Static: &StaticOptions{Latitude: &one}},
		"static::latitude ":      {Static: &StaticOptions{Latitude: new(91.0), Longitude: &one}},
		"static::longitude ":     {Static: &StaticOptions{Latitude: &one, Longitude: new(181.0)}},
		"static::altitude ":      {Static: &StaticOptions{Latitude: &one, Longitude: &one, Altitude: new(-1e6)}},
		"static::accuracy ":      {Static: &StaticOptions{Latitude: &one, Longitude: &one, Accuracy: new(-1.0)}},
		"gpsd::endpoint ":        {GPSD: &GPSDOptions{Endpoint: "localhost", MaxAge: time.Minute}},
		"gpsd::max_age ":         {GPSD: &GPSDOptions{Endpoint: DefaultEndpoint}},
		"file::path ":            {File: &FileOptions{Path: "position.json", MaxAge: time.Minute, Poll: time.Second}},
		"file::max_age ":         {File: &FileOptions{Path: "/x", MaxAge: 25 * time.Hour, Poll: time.Second}},
		"file::poll_interval ":   {File: &FileOptions{Path: "/x", MaxAge: time.Minute, Poll: time.Millisecond}},
		"more than one source: ": {Static: &StaticOptions{}, GPSD: &GPSDOptions{}},
	} {
		_, _, err := New(o)
		require.Error(t, err, key)
		require.True(t, strings.HasPrefix(err.Error(), key), err)
	}
}
