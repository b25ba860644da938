package location

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/geo"
)

func coarse(t *testing.T, latitude, longitude float64, accuracy *float64) (geo.Position, *float64) {
	t.Helper()
	source, live, err := New(Options{
		Static:    &StaticOptions{Latitude: &latitude, Longitude: &longitude, Altitude: new(35.0), Accuracy: accuracy},
		Precision: PrecisionCoarse,
	})
	require.NoError(t, err)
	require.Nil(t, live)
	l := source.Location(time.Now())
	require.Nil(t, l.Altitude)
	require.Equal(t, "static", l.Source)
	require.NoError(t, check(l.Latitude, l.Longitude, nil, l.Accuracy))
	return geo.Position{Latitude: l.Latitude, Longitude: l.Longitude}, l.Accuracy
}

// TestTruthStaysInsideTheCoarseCircle also at the poles and at 180°.
func TestTruthStaysInsideTheCoarseCircle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 20_000 {
		p := geo.Position{Latitude: 180*r.Float64() - 90, Longitude: 360*r.Float64() - 180}
		switch i % 10 {
		case 0:
			p.Latitude = math.Copysign(90-r.Float64()/5, p.Latitude)
		case 1:
			p.Longitude = math.Copysign(180-r.Float64()/5, p.Longitude)
		case 2:
			p.Latitude = math.Floor(p.Latitude*10)/10 + 0.05 // a corner of a cell
			p.Longitude = math.Floor(p.Longitude*10)/10 + 0.05
		}
		accuracy := 500 * r.Float64()
		got, radius := coarse(t, p.Latitude, p.Longitude, &accuracy)
		// No way on the ellipsoid is longer than this.
		require.LessOrEqual(t, geo.Angle(p, got)*6_399_593.7+accuracy, *radius, "%v", p)
		require.LessOrEqual(t, *radius, 9000.0)
	}
}

// TestCoarseCircleTellsNothingOfWhere: all positions of a cell look alike.
func TestCoarseCircleTellsNothingOfWhere(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	first, radius := coarse(t, 52.52, 13.41, new(10.0))
	require.Equal(t, geo.Position{Latitude: 52.5, Longitude: 13.4}, first)
	require.Equal(t, 7000.0, *radius)
	for range 1000 {
		p, size := coarse(t, 52.4501+0.0998*r.Float64(), 13.3501+0.0998*r.Float64(), new(20*r.Float64()))
		require.Equal(t, first, p)
		require.Equal(t, *radius, *size)
	}
	_, none := coarse(t, 52.52, 13.41, nil)
	require.Nil(t, none, "what was not known is not known better")
	zero, _ := coarse(t, -0.01, -0.01, nil)
	require.False(t, math.Signbit(zero.Latitude))
}

func TestPrecisionNoneClaimsNothing(t *testing.T) {
	source, live, err := New(Options{Static: &StaticOptions{Latitude: new(1.0), Longitude: new(1.0)}, Precision: PrecisionNone})
	require.NoError(t, err)
	require.Nil(t, source)
	require.Nil(t, live)
	_, _, err = New(Options{Precision: "rough"})
	require.ErrorContains(t, err, "exact, coarse or none")
	_, _, err = New(Options{Static: &StaticOptions{}, Precision: PrecisionNone})
	require.ErrorIs(t, err, ErrMissing, "what is wrong is wrong all the same")
	source, live, err = New(Options{})
	require.NoError(t, err)
	require.Nil(t, source)
	require.Nil(t, live)
}
