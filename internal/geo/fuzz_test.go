package geo

import (
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParse: whatever is read is bounded, and its answers agree with each other
// however the Earth is turned.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte, latitude, longitude, radius float64) {
		a, err := Parse(text)
		if err != nil {
			require.Less(t, len(err.Error()), 1000)
			return
		}
		require.LessOrEqual(t, a.Positions(), MaxPositions)
		require.Positive(t, a.Polygons())
		p := at(latitude, longitude)
		inside, circle := a.Contains(p), a.ContainsCircle(p, radius)
		require.Equal(t, inside, a.Find(p) >= 0)
		if circle {
			require.True(t, inside, "a circle is inside with its middle")
			require.True(t, a.ContainsCircle(p, radius/2), "and so is a smaller one")
			require.GreaterOrEqual(t, a.ToEdge(p), radius*0.99-1)
		}
		if inside {
			require.True(t, p.Valid())
			require.True(t, a.ContainsCircle(p, 0))
			require.False(t, math.IsNaN(a.ToEdge(p)))
		}
		require.False(t, a.ContainsCircle(p, math.NaN()))
		require.False(t, a.ContainsCircle(p, -1))
		if math.Abs(longitude) == 180 {
			require.Equal(t, inside, a.Contains(at(latitude, -longitude)), "the antimeridian is one line")
		}
	})
}

func TestSeedsAreThere(t *testing.T) {
	seeds, err := os.ReadDir("testdata/fuzz/FuzzParse")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(seeds), 10)
}
