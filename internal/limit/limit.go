// Package limit holds token buckets by key in a bounded table, by the generic
// cell rate algorithm (ITU-T I.371): a bucket is one point in time, at which it
// will be full again. It reads no clock.
//
// A bucket that had to make room is full when its key comes back. Whoever owns
// more keys than the table has places is therefore not limited by it; limit
// him by something that he has less of, such as the /64 of his addresses.
package limit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Rate is so many events in a time, with a burst. The zero Rate does not limit.
type Rate struct {
	Events int
	Per    time.Duration
	Burst  int // Events when 0
}

// IsZero reports whether the rate does not limit.
func (r Rate) IsZero() bool { return r.Events <= 0 || r.Per <= 0 }

// String is the form that ParseRate reads.
func (r Rate) String() string {
	if r.IsZero() {
		return "off"
	}
	per := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h"}[r.Per]
	if per == "" {
		per = r.Per.String()
	}
	if r.Burst == 0 || r.Burst == r.Events {
		return fmt.Sprintf("%d/%s", r.Events, per)
	}
	return fmt.Sprintf("%d/%s:%d", r.Events, per, r.Burst)
}

// ParseRate reads EVENTS/PER[:BURST], such as 100/s, 10/m:50 or 5/10s, and
// "off".
func ParseRate(s string) (Rate, error) {
	if s == "off" {
		return Rate{}, nil
	}
	bad := fmt.Errorf("rate %.64q: want EVENTS/PER[:BURST] such as 100/s or 10/m:50, or off", s)
	rate, burst, hasBurst := strings.Cut(s, ":")
	events, per, ok := strings.Cut(rate, "/")
	if !ok || per == "" {
		return Rate{}, bad
	}
	if per[0] < '0' || per[0] > '9' {
		per = "1" + per
	}
	var r Rate
	var err error
	if r.Events, err = strconv.Atoi(events); err != nil || r.Events < 1 || r.Events > 1_000_000_000 {
		return Rate{}, bad
	}
	if r.Per, err = time.ParseDuration(per); err != nil || r.Per < time.Millisecond || r.Per > 24*time.Hour {
		return Rate{}, bad
	}
	if hasBurst {
		if r.Burst, err = strconv.Atoi(burst); err != nil || r.Burst < 1 || r.Burst > 1_000_000_000 {
			return Rate{}, bad
		}
	}
	return r, nil
}

// Table holds one bucket for each key, and forgets the ones used longest ago
// when there are too many. It serves any number of goroutines.
type Table struct {
	every time.Duration // between two events; 0 does not limit
	burst int
	depth time.Duration // how long an empty bucket takes to fill

	mu   sync.Mutex
	full *simplelru.LRU[string, time.Time] // when the bucket is full again
}

// NewTable returns a Table of at most size buckets, at least one.
func NewTable(rate Rate, size int) *Table {
	t := &Table{}
	if rate.IsZero() {
		return t
	}
	t.every = max(rate.Per/time.Duration(rate.Events), 1)
	t.burst = rate.Burst
	if t.burst <= 0 {
		t.burst = rate.Events
	}
	// The depth has to stay a duration.
	t.burst = int(min(int64(t.burst), math.MaxInt64/4/int64(t.every)))
	t.depth = t.every * time.Duration(t.burst)
	t.full, _ = simplelru.NewLRU[string, time.Time](max(size, 1), nil) // fails for sizes below 1 only
	return t
}

// Allow takes n events from the bucket of key, or says when to come again. More
// events than the burst are never allowed; they are told to come when the bucket
// is full.
func (t *Table) Allow(key string, n int, now time.Time) (ok bool, retry time.Duration) {
	if t.every == 0 || n <= 0 {
		return true, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	full, known := t.full.Get(key)
	if !known || full.Before(now) {
		full = now
	}
	// Farther ahead than an empty bucket is a clock that went back.
	if latest := now.Add(t.depth); full.After(latest) {
		full = latest
	}
	if n > t.burst {
		return false, max(full.Sub(now), t.every)
	}
	next := full.Add(time.Duration(n) * t.every)
	if late := next.Sub(now) - t.depth; late > 0 {
		t.full.Add(key, full)
		return false, late
	}
	t.full.Add(key, next)
	return true, 0
}

// Len returns how many buckets there are.
func (t *Table) Len() int {
	if t.every == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.full.Len()
}
