package travel

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/geo"
)

const (
	start = int64(1_700_000_000)
	kmh   = 1 / 3.6
	day   = 24 * time.Hour
)

var (
	berlin  = geo.Position{Latitude: 52.52, Longitude: 13.405}
	paris   = geo.Position{Latitude: 48.8566, Longitude: 2.3522}
	potsdam = geo.Position{Latitude: 52.3906, Longitude: 13.0645}
)

func fix(at int64, p geo.Position) Fix { return Fix{At: start + at, Position: p} }

func track(t *testing.T, fixes ...Fix) *Track {
	t.Helper()
	out := &Track{}
	for _, f := range fixes {
		require.True(t, out.Learn(f, day))
	}
	return out
}

func TestImpossibleTravelIsNoticed(t *testing.T) {
	far := fix(600, paris)
	coarse := far
	coarse.Accuracy = 900_000
	for name, c := range map[string]struct {
		track *Track
		fix   Fix
		kmh   float64
		want  bool // impossible
	}{
		"first fix":                     {track(t), far, 1, false},
		"Berlin to Paris in 10 minutes": {track(t, fix(0, berlin)), far, 1000, true},
		"Berlin to Paris in 2 hours":    {track(t, fix(0, berlin)), fix(7200, paris), 1000, false},
		"back in time":                  {track(t, fix(0, berlin)), fix(-600, paris), 1000, true},
		"back far enough":               {track(t, fix(0, berlin)), fix(-7200, paris), 1000, false},
		"same second":                   {track(t, fix(0, berlin)), fix(0, paris), 1000, true},
		"same second, same place":       {track(t, fix(0, berlin)), fix(0, berlin), 0.001, false},
		"accuracy explains it":          {track(t, fix(0, berlin)), coarse, 1000, false},
		"commuter":                      {track(t, fix(0, berlin)), fix(1800, potsdam), 100, false},
		"too fast a commuter":           {track(t, fix(0, berlin)), fix(600, potsdam), 100, true},
		"between two, possible":         {track(t, fix(0, berlin), fix(3600, berlin)), fix(1800, potsdam), 100, false},
		"between two, not back again":   {track(t, fix(0, berlin), fix(3600, berlin)), fix(3300, potsdam), 100, true},
		"within tolerance":              {track(t, fix(0, berlin)), fix(0, geo.Position{Latitude: 52.5207, Longitude: 13.405}), 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.track.Len()
			bad := c.track.Check(c.fix, c.kmh*kmh)
			require.Equal(t, c.want, bad != nil, "%+v", bad)
			require.Equal(t, before, c.track.Len(), "judging changes nothing")
			if bad != nil {
				require.Greater(t, bad.Speed, c.kmh*kmh)
			}
		})
	}
}

func TestFixesArriveInAnyOrder(t *testing.T) {
	inOrder, shuffled := track(t), track(t)
	r := rand.New(rand.NewPCG(1, 1))
	fixes := make([]Fix, 10)
	for i := range fixes {
		fixes[i] = fix(int64(i)*60, geo.Position{Latitude: 50 + float64(i)*0.01, Longitude: 8})
	}
	for _, f := range fixes {
		inOrder.Learn(f, day)
	}
	r.Shuffle(len(fixes), func(i, k int) { fixes[i], fixes[k] = fixes[k], fixes[i] })
	for _, f := range fixes {
		require.Nil(t, shuffled.Check(f, 100*kmh))
		shuffled.Learn(f, day)
	}
	require.Equal(t, inOrder, shuffled)
	latest, ok := shuffled.Latest()
	require.True(t, ok)
	require.Equal(t, start+540, latest.At)
}

func TestTrackIsBoundedAndReachesBack(t *testing.T) {
	tr := track(t)
	for i := range int64(100_000) {
		tr.Learn(fix(i, geo.Position{Latitude: float64(i) / 10_000, Longitude: 1}), day)
		require.LessOrEqual(t, tr.Len(), MaxFixes)
	}
	require.Greater(t, tr.fixes[0].At, start+13_000, "what is older than a day is dropped")
	require.Less(t, tr.fixes[0].At, start+100_000-40_000, "what is younger is thinned out")
	require.Equal(t, start+99_999, tr.fixes[tr.Len()-1].At)
	for i := 1; i < tr.Len(); i++ {
		require.Greater(t, tr.fixes[i].At, tr.fixes[i-1].At)
	}
}

func TestMachineThatRestsIsNotWrittenEverySecond(t *testing.T) {
	tr := track(t, fix(0, berlin))
	changes := 0
	for i := range int64(300) {
		if tr.Learn(fix(i, berlin), day) {
			changes++
		}
	}
	require.InDelta(t, 10, changes, 2)
}

func TestCheckAllocatesNothing(t *testing.T) {
	tr := track(t, fix(0, berlin), fix(600, potsdam))
	require.Zero(t, testing.AllocsPerRun(100, func() { tr.Check(fix(1200, berlin), 1000*kmh) }))
}

func TestTrackIsReadAsWritten(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 200 {
		tr := &Track{}
		for range r.IntN(30) {
			tr.Learn(Fix{At: r.Int64N(1 << 33), Position: geo.Position{Latitude: 180*r.Float64() - 90, Longitude: 360*r.Float64() - 180}, Accuracy: 100 * r.Float64()}, math.MaxInt64)
		}
		b := tr.Append(nil)
		got := &Track{}
		require.NoError(t, got.Read(b))
		require.Equal(t, b, got.Append(nil))
		for i := range b {
			_ = (&Track{}).Read(b[:i])
		}
		require.ErrorIs(t, got.Read(append(b, 0)), ErrDamaged)
	}
}

func FuzzRead(f *testing.F) {
	tr := &Track{}
	f.Add(tr.Append(nil))
	tr.Learn(Fix{At: start, Position: berlin, Accuracy: 5}, day)
	tr.Learn(Fix{At: start + 60, Position: potsdam}, day)
	f.Add(tr.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr := &Track{}
		if tr.Read(b) != nil {
			return
		}
		again := &Track{}
		require.NoError(t, again.Read(tr.Append(nil)))
		require.Equal(t, tr.Append(nil), again.Append(nil))
		tr.Check(Fix{At: start, Position: paris}, 1)
		tr.Learn(Fix{At: start, Position: paris}, day)
		require.LessOrEqual(t, tr.Len(), MaxFixes)
	})
}
