package location

import (
	"math"
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
