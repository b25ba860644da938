package location

import (
	"math"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/internal/receipt"
)

// lastTimestamp is the last second that a receipt can name.
const lastTimestamp = 253402300799

// fix is a position as a receiver gave it.
type fix struct {
	latitude, longitude float64
	altitude, accuracy  *float64
	taken               time.Time // by the receiver
	arrived             time.Time // by the clocks of this machine
	source              string
}

// memory holds the last fix of a source that runs. Its zero value knows
// nothing.
type memory struct {
	maxAge time.Duration
	report func(problem string) // nil: nobody is told

	mu     sync.Mutex
	last   *fix // never changed
	status Status
}

// learn takes a fix over, if there is one, and changes the status.
func (m *memory) learn(f *fix, change func(*Status)) {
	m.mu.Lock()
	if f != nil {
		m.last = f
	}
	before := m.status.Problem
	change(&m.status)
	after := m.status.Problem
	m.mu.Unlock()
	if after != before && m.report != nil {
		m.report(after)
	}
}

func (m *memory) knows() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last != nil
}

// Location implements [Source].
func (m *memory) Location(now time.Time) *receipt.Location {
	m.mu.Lock()
	f := m.last
	m.mu.Unlock()
	if f == nil {
		return nil
	}
	age := f.age(now)
	if age > m.maxAge {
		return nil
	}
	return &receipt.Location{
		Latitude:  f.latitude,
		Longitude: f.longitude,
		Altitude:  clone(f.altitude),
		Accuracy:  clone(f.accuracy),
		Timestamp: new(f.taken.Unix()),
		Age:       new(int64(math.Ceil(age.Seconds()))),
		Source:    f.source,
	}
}

// Status implements [Live].
func (m *memory) Status(now time.Time) Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	if s.Problem == "" && (m.last == nil || m.last.age(now) > m.maxAge) {
		s.Problem = "there is no fix"
		if m.last != nil {
			s.Problem = "the last fix is " + m.last.age(now).Round(time.Second).String() + " old, at most " + m.maxAge.String() + " is claimed"
		}
	}
	return s
}

// age is what had passed when the fix arrived, and what has since by the clock
// that says more: the monotonic one stands still while a machine sleeps, the
// other one may be set.
func (f *fix) age(now time.Time) time.Duration {
	late := max(0, f.arrived.Round(0).Sub(f.taken))
	since := max(0, now.Sub(f.arrived), now.Round(0).Sub(f.arrived.Round(0)))
	if late > math.MaxInt64-since {
		return math.MaxInt64
	}
	return late + since
}

// validTime reports whether a receipt can carry the time.
func validTime(t time.Time) bool { return t.Unix() >= 0 && t.Unix() <= lastTimestamp }
