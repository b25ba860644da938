// Package limit holds token buckets by key in a bounded table, by the generic
// cell rate algorithm (ITU-T I.371): a bucket is one point in time, at which it
// will be full again. It reads no clock.
//
// A bucket that had to make room is full when its key comes back. Whoever owns
// more keys than the table has places is therefore not limited by it; limit
// him by something that he has less of, such as the /64 of his addresses.
//
// Allow is for events that may be refused one by one. Lend and Take are for
// those that come in pieces, such as the bytes of a request: a piece larger than
// the burst would be refused for ever, so it overdraws the bucket instead, and
// what comes after it waits.
package limit

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
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

// Table is a table whose keys are text.
type Table = TableOf[string]

// TableOf holds one bucket for each key, and forgets the ones used longest ago
// when there are too many. It serves any number of goroutines.
type TableOf[K comparable] struct {
	rate  Rate // zero does not limit
	burst int
	depth time.Duration // how long an empty bucket takes to fill
	debt  time.Duration // how long an overdrawn one may take to be empty

	mu   sync.Mutex
	full *simplelru.LRU[K, time.Time] // when the bucket is full again
}

// longest is the longest time that a bucket takes to fill; sums of a few of
// them are durations still.
const longest = time.Duration(math.MaxInt64 / 8)

// NewTable returns a Table of at most size buckets, at least one.
func NewTable(rate Rate, size int) *Table { return NewTableOf[string](rate, size, 0) }

// NewTableOf returns a table of at most size buckets, at least one, of which
// each may be overdrawn by what comes back in the time debt.
func NewTableOf[K comparable](rate Rate, size int, debt time.Duration) *TableOf[K] {
	t := &TableOf[K]{rate: rate, debt: min(max(debt, 0), longest)}
	if rate.IsZero() {
		return t
	}
	t.burst = rate.Burst
	if t.burst <= 0 {
		t.burst = rate.Events
	}
	// The depth has to stay a duration.
	t.burst = int(min(int64(t.burst), max(int64(longest/max(t.cost(1), 1)), 1)))
	t.depth = t.cost(t.burst)
	t.full, _ = simplelru.NewLRU[K, time.Time](max(size, 1), nil) // fails for sizes below 1 only
	return t
}

// cost is the time in which n events come back, one nanosecond at least.
func (t *TableOf[K]) cost(n int) time.Duration {
	hi, lo := bits.Mul64(uint64(max(n, 0)), uint64(t.rate.Per))
	if hi >= uint64(t.rate.Events) {
		return longest
	}
	d, _ := bits.Div64(hi, lo, uint64(t.rate.Events))
	return time.Duration(min(max(d, 1), uint64(longest)))
}

// Allow takes n events from the bucket of key, or says when to come again. More
// events than the burst are never allowed; they are told to come when the bucket
// is full.
func (t *TableOf[K]) Allow(key K, n int, now time.Time) (ok bool, retry time.Duration) {
	if t.rate.IsZero() || n <= 0 {
		return true, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	full := t.fullAt(key, now)
	if n > t.burst {
		return false, max(full.Sub(now), t.cost(1))
	}
	next := full.Add(t.cost(n))
	if late := next.Sub(now) - t.depth; late > 0 {
		t.full.Add(key, full)
		return false, late
	}
	t.full.Add(key, next)
	return true, 0
}

// Lend takes n events from the bucket of key when anything is left in it, and
// more than is left when n asks for more: for events that come in one piece
// whose size nobody can choose. With an n of 0 it only asks.
func (t *TableOf[K]) Lend(key K, n int, now time.Time) (ok bool, retry time.Duration) {
	if t.rate.IsZero() {
		return true, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	full := t.fullAt(key, now)
	if late := full.Sub(now) - t.depth; late >= 0 {
		t.full.Add(key, full)
		return false, late + t.cost(1)
	}
	t.overdraw(key, full, n, now)
	return true, 0
}

// Take takes n events from the bucket of key, whether they are left in it or
// not: for events that have happened already.
func (t *TableOf[K]) Take(key K, n int, now time.Time) {
	if t.rate.IsZero() || n <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.overdraw(key, t.fullAt(key, now), n, now)
}

// overdraw is called under the lock.
func (t *TableOf[K]) overdraw(key K, full time.Time, n int, now time.Time) {
	if n <= 0 {
		return
	}
	full = full.Add(t.cost(n))
	if latest := now.Add(t.depth + t.debt); full.After(latest) {
		full = latest
	}
	t.full.Add(key, full)
}

// fullAt returns when the bucket of key is full again. It is called under the lock.
func (t *TableOf[K]) fullAt(key K, now time.Time) time.Time {
	full, known := t.full.Get(key)
	if !known || full.Before(now) {
		return now
	}
	// Farther ahead than the emptiest bucket is a clock that went back.
	if latest := now.Add(t.depth + t.debt); full.After(latest) {
		return latest
	}
	return full
}

// Len returns how many buckets there are.
func (t *TableOf[K]) Len() int {
	if t.rate.IsZero() {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.full.Len()
}

// Use is how much of a bucket is used.
type Use[K comparable] struct {
	Key  K
	Used float64 // share of the burst; above 1 when it is overdrawn
}

// Used returns the share of the burst that is used of the bucket of key, above
// 1 when it is overdrawn.
func (t *TableOf[K]) Used(key K, now time.Time) float64 {
	if t.rate.IsZero() {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	full, _ := t.full.Peek(key)
	return t.used(full, now)
}

func (t *TableOf[K]) used(full, now time.Time) float64 {
	return float64(max(full.Sub(now), 0)) / float64(t.depth)
}

// Fullest returns the at most n buckets of which most is used, in no order.
func (t *TableOf[K]) Fullest(n int, now time.Time) []Use[K] {
	if t.rate.IsZero() || n <= 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var uses []Use[K]
	for _, key := range t.full.Keys() {
		if full, _ := t.full.Peek(key); full.After(now) {
			uses = append(uses, Use[K]{Key: key, Used: t.used(full, now)})
		}
		if len(uses) >= 2*n { // each is looked at about twice
			uses = fullest(uses, n)
		}
	}
	return fullest(uses, n)
}

func fullest[K comparable](uses []Use[K], n int) []Use[K] {
	slices.SortFunc(uses, func(a, b Use[K]) int { return cmp.Compare(b.Used, a.Used) })
	return uses[:min(n, len(uses))]
}
