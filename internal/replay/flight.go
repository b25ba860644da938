package replay

import "slices"

// flight is a block that was claimed as a whole and is not confirmed. One
// whose lease is over may be overtaken. Token and lease are 0 when nobody owns
// it: it was loaded from disk and its owner is dead, or its delivery failed.
type flight struct {
	no    uint64
	token uint64
	lease int64 // ms, when it ends
	flags flightFlags
}

type flightFlags uint8

const (
	flightCounted   flightFlags = 1 << iota // its number was reported as missing
	flightIsolated                          // counted in flights.isolated
	flightGone                              // removed, waits for compact
	flightAttempted                         // given back after a delivery that failed

	savedFlightFlags = flightCounted | flightAttempted
)

// flights are sorted by number. Removal only marks, so that confirming a
// large request does not move memory once per block.
type flights struct {
	list     []flight
	gone     int
	isolated int // of those claimed without a neighbour: spans they may become
}

func (f *flights) len() int { return len(f.list) - f.gone }

// at returns where number no stands or would stand.
func (f *flights) at(no uint64) (int, bool) {
	if l := len(f.list); l == 0 || no > f.list[l-1].no {
		return l, false
	}
	return slices.BinarySearchFunc(f.list, no, func(e flight, no uint64) int {
		switch {
		case e.no < no:
			return -1
		case e.no > no:
			return 1
		default:
			return 0
		}
	})
}

// get returns the flight of number no, nil when there is none. The pointer is
// valid until the next put or compact.
func (f *flights) get(no uint64) *flight {
	if i, ok := f.at(no); ok && f.list[i].flags&flightGone == 0 {
		return &f.list[i]
	}
	return nil
}

// put adds e, whose number must not be in flight.
func (f *flights) put(e flight) {
	if e.flags&flightIsolated != 0 {
		f.isolated++
	}
	i, ok := f.at(e.no)
	if ok { // a removed one
		f.list[i] = e
		f.gone--
		return
	}
	f.list = slices.Insert(f.list, i, e)
}

func (f *flights) remove(e *flight) {
	if e.flags&flightIsolated != 0 {
		f.isolated--
	}
	e.flags = flightGone
	f.gone++
}

// abandon leaves e to whoever comes next, who is told that it may have been
// delivered.
func (f *flights) abandon(e *flight) {
	if e.flags&flightIsolated != 0 {
		f.isolated--
	}
	e.token, e.lease = 0, 0
	e.flags &^= flightIsolated
}

// owned counts the flights that are not given back.
func (f *flights) owned() (n uint64) {
	for i := range f.list {
		if f.list[i].flags&(flightGone|flightAttempted) == 0 {
			n++
		}
	}
	return n
}

// removeIn removes the flights between lo and hi and counts those of them that
// were not reported as missing.
func (f *flights) removeIn(lo, hi uint64) (uncounted uint64) {
	for i, _ := f.at(lo); i < len(f.list) && f.list[i].no <= hi; i++ {
		e := &f.list[i]
		if e.flags&flightGone != 0 {
			continue
		}
		if e.flags&flightCounted == 0 {
			uncounted++
		}
		f.remove(e)
	}
	return uncounted
}

// live counts the flights between lo and hi whose lease runs.
func (f *flights) live(lo, hi uint64, now int64) uint64 {
	var n uint64
	for i, _ := f.at(lo); i < len(f.list) && f.list[i].no <= hi; i++ {
		if e := &f.list[i]; e.flags&flightGone == 0 && e.lease > now {
			n++
		}
	}
	return n
}

// compact drops what was removed.
func (f *flights) compact() {
	if f.gone == 0 {
		return
	}
	f.list = slices.DeleteFunc(f.list, func(e flight) bool { return e.flags&flightGone != 0 })
	f.gone = 0
	if len(f.list) == 0 && cap(f.list) > 64 {
		f.list = nil
	}
}
