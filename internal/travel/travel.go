// Package travel notices that a machine cannot have come from one place to the
// next: it keeps a few of the positions that a key asserted, by the time of
// their fix, and holds a new one against its neighbours in time.
//
// A way is possible when
//
//	distance ≤ speed · (time between + 2 s) + both accuracies + 100 m
//
// where distance is a bound below that on the WGS 84 ellipsoid. The two
// seconds are there since times are whole seconds, the hundred metres since what says no
// accuracy has one all the same.
//
// Fixes may arrive in any order: one that was taken between two others is held
// against both. What was kept is thinned out so that it reaches back, and
// dropped when it is too old for anything to arrive from before it.
//
// It is pure and keeps no lock. It leaves out where tracks are stored, and
// whether anybody should be believed.
package travel

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/geo"
)

// Tolerances of a way, see the package comment.
const (
	slackTime   = 2 // seconds
	slackMetres = 100
)

// MaxFixes is how many fixes a Track keeps.
const MaxFixes = 12

// Fix is one asserted position.
type Fix struct {
	At       int64 // Unix seconds when it was taken
	Position geo.Position
	Accuracy float64 // metres, 0 when unknown
}

// Impossible is a way that no machine goes.
type Impossible struct {
	From, To Fix
	Metres   float64 // at least
	Speed    float64 // metres per second, at least
}

// Track is what is kept of one key, ascending by time. Its zero value is empty.
type Track struct{ fixes []Fix }

// Len returns how many fixes are kept.
func (t *Track) Len() int { return len(t.fixes) }

// Latest returns the fix that was taken last.
func (t *Track) Latest() (Fix, bool) {
	if len(t.fixes) == 0 {
		return Fix{}, false
	}
	return t.fixes[len(t.fixes)-1], true
}

// Check returns nil when f is possible at speed, in metres per second, beside
// what is kept. It allocates only where it refuses.
func (t *Track) Check(f Fix, speed float64) *Impossible {
	i := t.place(f.At)
	// A fix of the same second stands at i.
	for _, k := range [...]int{i - 1, i, i + 1} {
		if k < 0 || k >= len(t.fixes) || k == i+1 && t.fixes[i].At != f.At {
			continue
		}
		if bad := between(&t.fixes[k], &f, speed); bad != nil {
			return bad
		}
	}
	return nil
}

func between(a, b *Fix, speed float64) *Impossible {
	if a.Position == b.Position {
		return nil
	}
	metres := geo.AtLeast(a.Position, b.Position) - a.Accuracy - b.Accuracy - slackMetres
	seconds := math.Abs(float64(b.At-a.At)) + slackTime
	if !(metres > speed*seconds) {
		return nil
	}
	return &Impossible{From: *a, To: *b, Metres: metres, Speed: metres / seconds}
}

// place returns where a fix of that time belongs.
func (t *Track) place(at int64) int {
	i := len(t.fixes)
	for i > 0 && t.fixes[i-1].At >= at { // nearly always at the end
		i--
	}
	return i
}

// Learn keeps a fix that was believed, and drops what was taken longer than keep
// before the latest. It reports whether anything changed: what stands still for
// a while changes nothing.
func (t *Track) Learn(f Fix, keep time.Duration) bool {
	i := t.place(f.At)
	if i < len(t.fixes) && t.fixes[i].At == f.At {
		return false // one for each second is enough
	}
	if n := len(t.fixes); i == n && n > 0 && t.fixes[n-1].Position == f.Position && f.At-t.fixes[n-1].At < restFor {
		return false
	}
	t.fixes = slices.Insert(t.fixes, i, f)
	oldest := t.fixes[len(t.fixes)-1].At - int64(keep/time.Second)
	for len(t.fixes) > 1 && t.fixes[0].At < oldest {
		t.fixes = slices.Delete(t.fixes, 0, 1)
	}
	if len(t.fixes) > MaxFixes {
		t.thin()
	}
	return true
}

// restFor is how often a machine that does not move is noted, in seconds. When
// it begins to move it is believed to have begun that much earlier.
const restFor = 30

// thin drops the fix that is missed least: the one whose neighbours are close
// for how long ago it was. First and last stay.
func (t *Track) thin() {
	latest := t.fixes[len(t.fixes)-1].At
	least, at := math.Inf(1), 1
	for i := 1; i < len(t.fixes)-1; i++ {
		gap := float64(t.fixes[i+1].At - t.fixes[i-1].At)
		if missed := gap / float64(latest-t.fixes[i].At+1); missed < least {
			least, at = missed, i
		}
	}
	t.fixes = slices.Delete(t.fixes, at, at+1)
}

// Append writes a track:
//
//	uv fixes | (svarint seconds since the one before | 8 B latitude | 8 B longitude | 8 B accuracy) …
func (t *Track) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.fixes)))
	last := int64(0)
	for i := range t.fixes {
		f := &t.fixes[i]
		b = binary.AppendVarint(b, f.At-last)
		last = f.At
		for _, v := range [...]float64{f.Position.Latitude, f.Position.Longitude, f.Accuracy} {
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
		}
	}
	return b
}

// ErrDamaged says that bytes are no track.
var ErrDamaged = errors.New("damaged track")

const fixLen = 3 * 8

// Read reads what Append wrote, and refuses anything behind it.
func (t *Track) Read(b []byte) error {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > MaxFixes {
		return ErrDamaged
	}
	b = b[used:]
	fixes := make([]Fix, 0, n)
	last := int64(0)
	for i := range n {
		step, used := binary.Varint(b)
		if used <= 0 || len(b)-used < fixLen || i > 0 && step <= 0 || last > 0 && step > math.MaxInt64-last {
			return ErrDamaged
		}
		b = b[used:]
		last += step
		f := Fix{At: last}
		for k, into := range [...]*float64{&f.Position.Latitude, &f.Position.Longitude, &f.Accuracy} {
			*into = math.Float64frombits(binary.BigEndian.Uint64(b[8*k:]))
		}
		if !f.Position.Valid() || !(f.Accuracy >= 0) || math.IsInf(f.Accuracy, 0) {
			return ErrDamaged
		}
		b = b[fixLen:]
		fixes = append(fixes, f)
	}
	if len(b) > 0 {
		return ErrDamaged
	}
	t.fixes = fixes
	return nil
}
