package geo

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/paulmach/orb"
	"github.com/paulmach/orb/planar"
	"github.com/stretchr/testify/require"
)

func parse(t testing.TB, text string) *Area {
	t.Helper()
	a, err := Parse([]byte(text))
	require.NoError(t, err)
	return a
}

func polygonOf(rings ...string) string {
	return `{"type":"Polygon","coordinates":[` + strings.Join(rings, ",") + `]}`
}

// rectangle is drawn against the clock.
func rectangle(w, s, e, n float64) string {
	return fmt.Sprintf("[[%v,%v],[%v,%v],[%v,%v],[%v,%v],[%v,%v]]", w, s, e, s, e, n, w, n, w, s)
}

func at(lat, lon float64) Position { return Position{Latitude: lat, Longitude: lon} }

func TestWhatIsDrawnIsInside(t *testing.T) {
	const ring = `[[13,52],[14,52],[14,53],[13,53],[13,52]]`
	const hole = `[[13.4,52.4],[13.6,52.4],[13.6,52.6],[13.4,52.6],[13.4,52.4]]`
	withHole := polygonOf(ring, hole)
	two := `{"type":"MultiPolygon","coordinates":[[` + ring + `],[` + rectangle(0, 0, 1, 1) + `]]}`
	feature := `{"type":"Feature","id":7,"properties":{"name":"Berlin"},"geometry":` + withHole + `}`
	for name, c := range map[string]struct {
		text string
		at   Position
		want bool
	}{
		"inside":                       {withHole, at(52.2, 13.2), true},
		"in the hole":                  {withHole, at(52.5, 13.5), false},
		"on the outer ring":            {withHole, at(52, 13.5), true},
		"on a corner":                  {withHole, at(52, 13), true},
		"on the hole's ring":           {withHole, at(52.4, 13.5), false},
		"outside":                      {withHole, at(48, 11), false},
		"coordinates swapped":          {withHole, at(13.2, 52.2), false},
		"no number":                    {withHole, at(math.NaN(), 13), false},
		"second polygon":               {two, at(0.5, 0.5), true},
		"between polygons":             {two, at(30, 7), false},
		"feature":                      {feature, at(52.2, 13.2), true},
		"collection":                   {`{"type":"FeatureCollection","features":[` + feature + `,{"type":"Feature","properties":null,"geometry":` + two + `}]}`, at(0.5, 0.5), true},
		"clockwise":                    {polygonOf(`[[13,52],[13,53],[14,53],[14,52],[13,52]]`), at(52.5, 13.5), true},
		"a position that stands twice": {polygonOf(`[[13,52],[14,52],[14,52],[14,53],[13,53],[13,52]]`), at(52.5, 13.5), true},
		"with altitudes":               {polygonOf(`[[13,52,1],[14,52,2],[14,53,3],[13,53,4],[13,52,1]]`), at(52.5, 13.5), true},
		"hole outside its ring":        {polygonOf(ring, rectangle(20, 20, 21, 21)), at(20.5, 20.5), false},
		"bow tie, one loop":            {polygonOf(`[[0,0],[2,2],[2,0],[0,2],[0,0]]`), at(1, 0.2), true},
		"bow tie, between the loops":   {polygonOf(`[[0,0],[2,2],[2,0],[0,2],[0,0]]`), at(0.2, 1), false},
		"gone round twice":             {polygonOf(`[[0,0],[4,0],[4,4],[0,4],[0,0],[0,0],[2,0],[2,2],[0,2],[0,0]]`), at(1, 1), false},
		"hole gone round twice":        {polygonOf(rectangle(-1, -1, 5, 5), `[[0,0],[4,0],[4,4],[0,4],[0,0],[2,0],[2,2],[0,2],[0,0]]`), at(1, 1), false},
		"two holes over each other":    {polygonOf(rectangle(-1, -1, 5, 5), rectangle(0, 0, 3, 3), rectangle(1, 1, 4, 4)), at(2, 2), false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, parse(t, c.text).Contains(c.at))
		})
	}
	a := parse(t, `{"type":"FeatureCollection","features":[`+feature+`]}`)
	require.Equal(t, "Berlin", a.Label(a.Find(at(52.2, 13.2))))
	require.Equal(t, 1, a.Polygons())
	require.Equal(t, 10, a.Positions())
}

// Fiji, drawn in the ways that are met: all say the same.
var acrossTheAntimeridian = map[string]string{
	"cut":               `{"type":"MultiPolygon","coordinates":[[` + rectangle(177, -20, 180, -15) + `],[` + rectangle(-180, -20, -178, -15) + `]]}`,
	"cut, other order":  `{"type":"MultiPolygon","coordinates":[[` + rectangle(-180, -20, -178, -15) + `],[` + rectangle(177, -20, 180, -15) + `]]}`,
	"beyond 180":        polygonOf(rectangle(177, -20, 182, -15)),
	"beyond -180":       polygonOf(rectangle(-183, -20, -178, -15)),
	"bbox":              `{"type":"Polygon","bbox":[177,-20,-178,-15],"coordinates":[` + rectangle(177, -20, -178, -15) + `]}`,
	"bbox of a feature": `{"type":"Feature","properties":{},"bbox":[177,-20,0,-178,-15,9],"geometry":` + polygonOf(rectangle(177, -20, -178, -15)) + `}`,
	"cut, features": `{"type":"FeatureCollection","features":[{"type":"Feature","properties":{},"geometry":` + polygonOf(rectangle(177, -20, 180, -15)) +
		`},{"type":"Feature","properties":{},"geometry":` + polygonOf(rectangle(-180, -20, -178, -15)) + `}]}`,
}

func TestAntimeridianIsNoEdge(t *testing.T) {
	for name, text := range acrossTheAntimeridian {
		t.Run(name, func(t *testing.T) {
			a := parse(t, text)
			for _, lon := range []float64{177.5, 179.999, 180, -180, -179.9, -178.1} {
				require.True(t, a.Contains(at(-17, lon)), "%v", lon)
			}
			for _, lon := range []float64{176.9, 0, -177.9, 90} {
				require.False(t, a.Contains(at(-17, lon)), "%v", lon)
			}
			require.True(t, a.ContainsCircle(at(-17, 179.99), 50_000), "the circle reaches across")
			require.True(t, a.ContainsCircle(at(-17, 180), 150_000))
			require.False(t, a.ContainsCircle(at(-17, -179), 120_000), "106 km from the east")
			require.True(t, a.ContainsCircle(at(-17, -179), 104_000))
			require.False(t, a.ContainsCircle(at(-15.1, 180), 12_000), "11 km from the north")
			require.InDelta(t, 111_195, a.ToEdge(at(-16, 179.5)), 50)
		})
	}
}

// TestHoleOfAnotherTurnIsAHole: also one that does not lie within its ring.
func TestHoleOfAnotherTurnIsAHole(t *testing.T) {
	for name, hole := range map[string]string{
		"as the ring": rectangle(184, -5, 188, 5), "other turn": rectangle(-176, -5, -172, 5),
		"sticks out": rectangle(184, -5, 195, 5), "sticks out in the other turn": rectangle(-176, -5, -165, 5),
	} {
		a := parse(t, polygonOf(rectangle(170, -20, 190, 20), hole))
		require.False(t, a.Contains(at(0, -174)), name)
		require.True(t, a.Contains(at(10, -174)), name)
		require.False(t, a.ContainsCircle(at(0, -177), 200_000), name)
		require.True(t, a.ContainsCircle(at(0, -177), 90_000), name)
	}
}

func TestACutWithNothingBehindItIsAnEdge(t *testing.T) {
	a := parse(t, `{"type":"MultiPolygon","coordinates":[[`+rectangle(177, -20, 180, -15)+`],[`+rectangle(-180, -18, -178, -17)+`]]}`)
	require.True(t, a.ContainsCircle(at(-17.5, 179.99), 20_000))
	require.False(t, a.ContainsCircle(at(-16, 179.99), 20_000))
	require.False(t, a.ContainsCircle(at(-18.1, 179.99), 20_000), "the corner of the narrower side")

	holed := parse(t, `{"type":"MultiPolygon","coordinates":[[`+rectangle(170, -20, 180, 20)+`,`+rectangle(175, -5, 180, 5)+`],[`+rectangle(-180, -20, -170, 20)+`]]}`)
	require.False(t, holed.Contains(at(0, 179)))
	require.False(t, holed.ContainsCircle(at(0, -179.99), 5_000), "behind the cut is the hole")
	require.True(t, holed.ContainsCircle(at(10, -179.99), 5_000))
}

const northernCap = `{"type":"Polygon","coordinates":[[[-180,80],[180,80],[180,90],[-180,90],[-180,80]]]}`

func TestPolesAreInside(t *testing.T) {
	a := parse(t, northernCap)
	require.True(t, a.Contains(at(90, 0)))
	require.True(t, a.Contains(at(85, 179)))
	require.False(t, a.Contains(at(79.9, 0)))
	require.False(t, a.Contains(at(-85, 0)))
	require.True(t, a.ContainsCircle(at(90, 33), 1_100_000), "a cap of 10 degrees is 1,112 km wide")
	require.False(t, a.ContainsCircle(at(90, 33), 1_113_000))
	require.True(t, a.ContainsCircle(at(89.99, 180), 500_000))
	require.True(t, a.ContainsCircle(at(85, -180), 540_000))
	require.False(t, a.ContainsCircle(at(85, -180), 560_000))
	require.InDelta(t, 10*111_195, a.ToEdge(at(90, 0)), 100)

	quarter := parse(t, polygonOf(rectangle(0, 80, 90, 90)))
	require.True(t, quarter.Contains(at(89.999, 45)))
	require.False(t, quarter.ContainsCircle(at(89.999, 45), 200), "80 m from its sides")
	require.True(t, quarter.ContainsCircle(at(89.999, 45), 70))

	south := parse(t, `{"type":"Polygon","coordinates":[[[-180,-90],[-180,-70],[0,-65],[180,-70],[180,-90],[-180,-90]]]}`)
	require.True(t, south.ContainsCircle(at(-90, 0), 2_000_000))
	require.False(t, south.ContainsCircle(at(-90, 0), 2_300_000))

	world := parse(t, polygonOf(rectangle(-180, -90, 180, 90)))
	require.True(t, world.ContainsCircle(at(12, 34), 20_100_000))
	require.True(t, math.IsInf(world.ToEdge(at(12, 34)), 1))
}

// TestEdgesFollowParallels: a great circle from 60° N to 60° N passes far to
// the north of the parallel.
func TestEdgesFollowParallels(t *testing.T) {
	a := parse(t, polygonOf(rectangle(-60, 40, 60, 60)))
	require.False(t, a.Contains(at(60.5, 0)))
	require.True(t, a.Contains(at(59.5, 0)))
	require.False(t, a.ContainsCircle(at(59.5, 0), 56_500), "half a degree from the parallel")
	require.True(t, a.ContainsCircle(at(59.5, 0), 54_000))
}

func TestWhatCanBeMeantTwoWaysIsRefused(t *testing.T) {
	_, err := Parse([]byte(polygonOf(rectangle(170, 0, -170, 10))))
	require.ErrorIs(t, err, ErrLongEdge)
	require.ErrorContains(t, err, "bbox")
	_, err = Parse([]byte(polygonOf(rectangle(-100, 0, 100, 10))))
	require.ErrorIs(t, err, ErrLongEdge)
	wide := parse(t, polygonOf(`[[-100,0],[0,0],[100,0],[100,10],[0,10],[-100,10],[-100,0]]`))
	require.True(t, wide.Contains(at(5, 0)))
	require.False(t, wide.Contains(at(5, 180)))
	_, err = Parse([]byte(polygonOf(`[[0,80],[120,80],[240,80],[360,80],[0,80]]`)))
	require.ErrorIs(t, err, ErrFlat)
	_, err = Parse([]byte(`{"type":"Polygon","bbox":[170,0,-170,90],"coordinates":[[[0,80],[120,80],[-120,80],[0,80]]]}`))
	require.ErrorIs(t, err, ErrTurn)
}

// star is a random ring around a middle, in whole numbers so that turning it
// is free of rounding.
func star(r *rand.Rand, corners int, x, y, width, height float64) orb.Ring {
	ring := make(orb.Ring, 0, corners+1)
	for i := range corners {
		a, d := 2*math.Pi*float64(i)/float64(corners), 0.3+0.7*r.Float64()
		ring = append(ring, orb.Point{math.Round((x+width*d*math.Cos(a))*1024) / 1024, math.Round((y+height*d*math.Sin(a))*1024) / 1024})
	}
	return append(ring, ring[0])
}

func textOf(t testing.TB, polygons ...orb.Polygon) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"type": "MultiPolygon", "coordinates": polygons})
	require.NoError(t, err)
	return string(b)
}

func turned(p orb.Polygon, by float64) orb.Polygon {
	out := p.Clone()
	for _, ring := range out {
		for i := range ring {
			ring[i][0] += by
		}
	}
	return out
}

// byAngles is point in polygon by the sum of angles: slow, and nothing in it is
// like the product's.
func byAngles(r orb.Ring, x, y float64) bool {
	sum := 0.0
	for i := range len(r) - 1 {
		ax, ay, bx, by := r[i][0]-x, r[i][1]-y, r[i+1][0]-x, r[i+1][1]-y
		sum += math.Atan2(ax*by-ay*bx, ax*bx+ay*by)
	}
	return math.Abs(sum) > math.Pi
}

func TestContainsAgreesWithTwoOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		x, y := -90+180*r.Float64(), -50+100*r.Float64()
		polygon := orb.Polygon{star(r, 3+r.IntN(200), x, y, 60, 35), star(r, 3+r.IntN(20), x, y, 8, 5)}
		a := parse(t, textOf(t, polygon))
		for range 200 {
			px, py := x+140*(r.Float64()-0.5), max(-90, min(90, y+80*(r.Float64()-0.5)))
			if math.Abs(px) > 180 {
				continue
			}
			want := byAngles(polygon[0], px, py) && !byAngles(polygon[1], px, py)
			require.Equal(t, planar.PolygonContains(polygon, orb.Point{px, py}), want)
			require.Equal(t, want, a.Contains(at(py, px)), "%v, %v in %s", px, py, textOf(t, polygon))
		}
	}
}

// TestTurningTheEarthChangesNothing turns area and positions together, across
// the antimeridian and by whole turns.
func TestTurningTheEarthChangesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		x, y := -60+120*r.Float64(), -80+160*r.Float64()
		height := min(20, 89-math.Abs(y))
		polygon := orb.Polygon{star(r, 3+r.IntN(60), x, y, 30, height), star(r, 8, x, y, 5, height/6)}
		a := parse(t, textOf(t, polygon))
		turns := []float64{-240, -180, -90, 90, 137, 180, 225}
		others := make([]*Area, len(turns))
		for i, by := range turns {
			others[i] = parse(t, textOf(t, turned(polygon, by)))
		}
		for range 30 {
			p := at(y+2*height*(r.Float64()-0.5), math.Round((x+80*(r.Float64()-0.5))*1024)/1024)
			radius := math.Pow(10, 6.3*r.Float64())
			inside, circle := a.Contains(p), a.ContainsCircle(p, radius)
			edge := a.ToEdge(p)
			for i, by := range turns {
				q := at(p.Latitude, wrapped(p.Longitude+by))
				require.Equal(t, inside, others[i].Contains(q), "%v turned by %v", p, by)
				if math.Abs(radius*meanRadius/leastRadius-edge) > 1 { // rounding at the very edge
					require.Equal(t, circle, others[i].ContainsCircle(q, radius), "%v, %v m, turned by %v", p, radius, by)
				}
				require.InDelta(t, edge, others[i].ToEdge(q), 0.5)
			}
		}
	}
}

// onCircle returns the position at a bearing and an angle.
func onCircle(c Position, bearing, angle float64) Position {
	lat, lon := c.Latitude*degree, c.Longitude*degree
	y := math.Asin(math.Sin(lat)*math.Cos(angle) + math.Cos(lat)*math.Sin(angle)*math.Cos(bearing))
	x := lon + math.Atan2(math.Sin(bearing)*math.Sin(angle)*math.Cos(lat), math.Cos(angle)-math.Sin(lat)*math.Sin(y))
	return at(y/degree, wrapped(x/degree))
}

// TestCirclesHoldNothingThatIsOutside samples circles: what is called inside
// holds no position that is outside, and what is called outside holds one
// within a margin.
func TestCirclesHoldNothingThatIsOutside(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	insides, outsides := 0, 0
	for range 150 {
		x, y := -180+360*r.Float64(), -85+170*r.Float64()
		height := min(25, 90-math.Abs(y))
		polygon := orb.Polygon{star(r, 4+r.IntN(30), x, y, 40, height), star(r, 6, x, y, 3, height/10)}
		a := parse(t, textOf(t, polygon))
		for range 40 {
			p := at(max(-90, min(90, y+2*height*(r.Float64()-0.5))), wrapped(x+60*(r.Float64()-0.5)))
			if !a.Contains(p) {
				require.False(t, a.ContainsCircle(p, 0))
				continue
			}
			radius := math.Pow(10, 3+3.5*r.Float64())
			angle := radius / leastRadius
			if a.ContainsCircle(p, radius) {
				insides++
				require.True(t, sampled(a, p, angle*0.999999), "%v, %v m, %s", p, radius, textOf(t, polygon))
				continue
			}
			outsides++
			// The nearest boundary is within the circle; a step beyond it is outside.
			require.LessOrEqual(t, a.ToEdge(p), radius*meanRadius/leastRadius+1, "%v, %v m, %s", p, radius, textOf(t, polygon))
			require.False(t, a.ContainsCircle(p, radius*1.01))
		}
	}
	require.Greater(t, insides, 500)
	require.Greater(t, outsides, 500)
}

func sampled(a *Area, p Position, angle float64) bool {
	for ring := range 4 {
		for i := range 90 {
			if !a.Contains(onCircle(p, float64(i)*4*degree, angle*float64(ring+1)/4)) {
				return false
			}
		}
	}
	return true
}

// TestDistanceToAnEdgeAgreesWithWalkingAlongIt.
func TestDistanceToAnEdgeAgreesWithWalkingAlongIt(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for i := range 600 {
		e := edge{x1: -180 + 360*r.Float64(), y1: -90 + 180*r.Float64()}
		e.x2, e.y2 = e.x1+360*(r.Float64()-0.5), -90+180*r.Float64()
		switch i % 4 {
		case 0:
			e.y2 = e.y1
		case 1:
			e.x2 = e.x1
		}
		c := newCentre(at(-90+180*r.Float64(), -180+360*r.Float64()))
		got := e.reach(&c, math.Inf(1), 0, tolerance)
		least := math.Inf(1)
		const steps = 4_000
		for k := range steps + 1 {
			s := float64(k) / steps
			least = min(least, c.angle(e.x1+s*(e.x2-e.x1), e.y1+s*(e.y2-e.y1)))
		}
		require.LessOrEqual(t, got, least+2*tolerance, "%+v from %v, %v", e, c.y, c.x)
		require.GreaterOrEqual(t, got, least-2e-3, "%+v from %v, %v", e, c.y, c.x)
		require.Equal(t, least < 0.3, e.reach(&c, 0.3, 0.3, tolerance) < 0.3, "%+v from %v, %v: %v", e, c.y, c.x, least)
	}
}

func TestDistanceOnTheSphere(t *testing.T) {
	require.InDelta(t, 878_000, Distance(at(52.52, 13.405), at(48.8566, 2.3522)), 2_000) // Berlin to Paris
	require.InDelta(t, math.Pi*meanRadius, Distance(at(0, 0), at(0, 180)), 1)
	require.InDelta(t, 0, Distance(at(90, 0), at(90, 120)), 1e-6)
	require.InDelta(t, 1.1, Distance(at(10, 180), at(10.00001, -180)), 0.02)
	require.Less(t, AtLeast(at(52.52, 13.405), at(48.8566, 2.3522)), 879_000.0)
}
