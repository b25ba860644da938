package geo

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/paulmach/orb"
	"github.com/paulmach/orb/planar"
	"github.com/stretchr/testify/require"
)

// coast is a country of as many corners as an area may have, with lakes.
func coast(t testing.TB) (orb.Polygon, *Area) {
	r := rand.New(rand.NewPCG(9, 9))
	shore := make(orb.Ring, 0, MaxPositions-900)
	for i := range MaxPositions - 900 {
		a := 2 * math.Pi * float64(i) / float64(MaxPositions-900)
		d := 0.8 + 0.1*math.Sin(7*a) + 0.05*math.Sin(97*a) + 0.001*r.Float64()
		shore = append(shore, orb.Point{10 + 8*d*math.Cos(a), 50 + 6*d*math.Sin(a)})
	}
	polygon := orb.Polygon{append(shore, shore[0])}
	for i := range 8 {
		polygon = append(polygon, star(r, 100, 10+float64(i%4)/2, 50+float64(i/4)/2, 0.1, 0.1))
	}
	a, err := Parse([]byte(textOf(t, polygon)))
	require.NoError(t, err)
	return polygon, a
}

func TestJudgingAPositionAllocatesNothing(t *testing.T) {
	_, a := coast(t)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		a.Contains(at(50.2, 10.2))
		a.ContainsCircle(at(50.2, 10.2), 5000)
	}))
}

func BenchmarkContains(b *testing.B) {
	polygon, a := coast(b)
	for name, p := range map[string]Position{"inside": at(50.3, 10.3), "outside": at(20, 10.3), "near": at(54, 10.3)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.Contains(p)
			}
		})
		b.Run(name+"/edge-by-edge", func(b *testing.B) {
			for b.Loop() {
				planar.PolygonContains(polygon, orb.Point{p.Longitude, p.Latitude})
			}
		})
	}
}

func BenchmarkContainsCircle(b *testing.B) {
	_, a := coast(b)
	for name, radius := range map[string]float64{"10m": 10, "1km": 1000, "50km": 50_000} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.ContainsCircle(at(50.3, 10.3), radius)
			}
		})
	}
}
