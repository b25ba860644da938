package replay

import (
	"encoding/binary"
	"maps"
	"math/bits"
	"slices"
)

// header says which store this is.
//
//	store epoch 4 B | fingerprint key 32 B | uv index pages | uv scopes | (string scope | time since) …
type header struct {
	storeEpoch   [4]byte
	fingerprints fingerprintKey
	scopes       map[string]int64 // ms, since when each takes part
}

func (l *Local) appendHeader(b []byte) []byte {
	b = append(b, l.storeEpoch[:]...)
	b = append(b, l.fingerprints[:]...)
	b = binary.AppendUvarint(b, uint64(len(l.index.pages)))
	b = binary.AppendUvarint(b, uint64(len(l.scopes)))
	for _, scope := range slices.Sorted(maps.Keys(l.scopes)) {
		b = appendString(b, scope)
		b = appendTime(b, l.scopes[scope])
	}
	return b
}

// pageSize is how many keys stand on a page of the index.
const pageSize = 128

// index lists all keys, since a Persister cannot. Keys are never removed:
// their floors are kept for ever.
type index struct{ pages []page }

// page:
//
//	uv count | (string scope | string kid) …
type page []keyID

// add appends a key and returns the page that it stands on.
func (x *index) add(id keyID) (at int, isNew bool) {
	at = len(x.pages) - 1
	if at < 0 || len(x.pages[at]) == pageSize {
		x.pages = append(x.pages, make(page, 0, 8))
		at, isNew = at+1, true
	}
	x.pages[at] = append(x.pages[at], id)
	return at, isNew
}

func (p page) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	for _, id := range p {
		b = appendString(b, id.scope)
		b = appendString(b, id.kid)
	}
	return b
}

// Flags of an epoch.
const (
	epochSkipped = 1 << iota // reported that epochs are missing in front of it
	epochJoined              // was running before its scope took part
)

// append writes a key:
//
//	uv floor | uv forgot | time lastT | uv epochs | epoch …
//	epoch: uv number | time first | u8 flags | uv streams | string stream …
func (k *keyState) append(b []byte) []byte {
	b = binary.AppendUvarint(b, k.floor)
	b = binary.AppendUvarint(b, k.forgot)
	b = appendTime(b, k.lastT)
	b = binary.AppendUvarint(b, uint64(len(k.epochs)))
	for _, e := range k.epochs {
		b = binary.AppendUvarint(b, e.no)
		b = appendTime(b, e.first)
		var flags byte
		if e.skipped {
			flags |= epochSkipped
		}
		if e.joined {
			flags |= epochJoined
		}
		b = append(b, flags)
		b = binary.AppendUvarint(b, uint64(len(e.windows)))
		for _, w := range e.windows {
			b = appendString(b, w.stream)
		}
	}
	return b
}

// append writes a chain, ascending by slot:
//
//	8 B begin | uv statements | (uv seq | 8 B fingerprint | u8 0: chained, 1: + 8 B previous) …
//
// "chained" stands for: the previous fingerprint is the one of the statement
// with the number before.
func (c *chain) append(b []byte) []byte {
	n := 0
	for i := range c.slots {
		if c.slots[i].seq > 0 {
			n++
		}
	}
	b = binary.BigEndian.AppendUint64(b, uint64(c.begin))
	b = binary.AppendUvarint(b, uint64(n))
	for i := range c.slots {
		s := &c.slots[i]
		if s.seq == 0 {
			continue
		}
		b = binary.AppendUvarint(b, s.seq)
		b = binary.BigEndian.AppendUint64(b, uint64(s.self))
		if p := c.known(s.seq - 1); p != nil && p.self == s.previous {
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		b = binary.BigEndian.AppendUint64(b, uint64(s.previous))
	}
	return b
}

const (
	windowUntimed = 1 << iota
	windowRunning
	windowLocated

	allWindowFlags = windowUntimed | windowRunning | windowLocated
)

// append writes a window:
//
//	u8 flags | [latitude 8 B | longitude 8 B] | time lastT | time lastSeen
//	uv verified | uv duplicates | uv late | uv gaps closed | uv owed | uv farewell | uv low
//	uv spans    | (uv lo - end before | uv len-1 | time since | u8 flags) …
//	uv closed   | (uv lo - end before | uv len-1) …
//	uv runs in flight | (uv lo - end before | uv len-1 | u8 flags) …
//	uv partials | (uv no - no before | partial) …
//	uv reserved
//
// Tokens and leases are not written: after a restart their owners are dead.
func (w *window) append(b []byte) []byte {
	b = w.appendFacts(b)
	end := w.settled.low
	b = binary.AppendUvarint(b, end)
	b = binary.AppendUvarint(b, uint64(len(w.settled.spans)))
	for _, s := range w.settled.spans {
		b = appendRun(b, end, s.lo, s.hi)
		b = appendTime(b, s.since)
		b = append(b, byte(s.flags))
		end = s.hi
	}
	end = 0
	b = binary.AppendUvarint(b, uint64(len(w.settled.closed)))
	for _, r := range w.settled.closed {
		b = appendRun(b, end, r.lo, r.hi)
		end = r.hi
	}
	b = w.flights.append(b)
	end = 0
	b = binary.AppendUvarint(b, uint64(len(w.partials)))
	for _, p := range w.partials {
		b = binary.AppendUvarint(b, p.no-end)
		b = p.append(b)
		end = p.no
	}
	return binary.AppendUvarint(b, w.reserved)
}

func (w *window) appendFacts(b []byte) []byte {
	var flags byte
	if w.untimed {
		flags |= windowUntimed
	}
	if w.running {
		flags |= windowRunning
	}
	if w.location != nil {
		flags |= windowLocated
	}
	b = append(b, flags)
	if w.location != nil {
		b = appendFloat(b, w.location.Latitude)
		b = appendFloat(b, w.location.Longitude)
	}
	b = appendTime(b, w.lastT)
	b = appendTime(b, w.lastSeen)
	for _, v := range [...]uint64{w.verified, w.duplicates, w.lateFills, w.gapsClosed, w.owed, w.farewell} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func appendRun(b []byte, end, lo, hi uint64) []byte {
	b = binary.AppendUvarint(b, lo-end)
	return binary.AppendUvarint(b, hi-lo)
}

// append writes flights as runs of numbers with equal flags.
func (f *flights) append(b []byte) []byte {
	f.compact()
	runs := 0
	for i := range f.list {
		if i == 0 || !f.continues(i) {
			runs++
		}
	}
	b = binary.AppendUvarint(b, uint64(runs))
	end := uint64(0)
	for i := 0; i < len(f.list); {
		j := i + 1
		for j < len(f.list) && f.continues(j) {
			j++
		}
		b = appendRun(b, end, f.list[i].no, f.list[j-1].no)
		b = append(b, byte(f.list[i].flags&savedFlightFlags))
		end = f.list[j-1].no
		i = j
	}
	return b
}

// continues says whether flight i continues the run of flight i-1.
func (f *flights) continues(i int) bool {
	a, b := &f.list[i-1], &f.list[i]
	return b.no == a.no+1 && (a.flags^b.flags)&savedFlightFlags == 0
}

const (
	partialCounted = 1 << iota
	partialReported

	allPartialFlags = partialCounted | partialReported
)

// Forms of a set of items.
const (
	itemsInRuns = iota
	itemsRaw
)

// append writes what is kept of an incomplete block:
//
//	uv total | time since | u8 flags | items done | items claimed
//	items: u8 0 | uv runs | (uv lo - end before | uv len-1) …, numbered from 1
//	       u8 1 | 8 B for each 64 items, where runs would take more
func (p *partial) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.total))
	b = appendTime(b, p.since)
	var flags byte
	if p.counted {
		flags |= partialCounted
	}
	if p.reported {
		flags |= partialReported
	}
	b = append(b, flags)
	b = p.done.append(b)
	claimed := newBitset(p.total)
	for i := range p.fragments {
		for j, w := range p.fragments[i].items {
			claimed[j] |= w
		}
	}
	return claimed.append(b)
}

func (s bitset) append(b []byte) []byte {
	runs := s.runs()
	if 2*runs > s.bytes() {
		b = append(b, itemsRaw)
		for _, w := range s {
			b = binary.BigEndian.AppendUint64(b, w)
		}
		return b
	}
	b = append(b, itemsInRuns)
	b = binary.AppendUvarint(b, uint64(runs))
	for i, end := 0, uint64(0); runs > 0; runs-- { // indices are bounded by maxTotal
		for !s.has(uint32(i)) {
			if s[i/64]>>(i%64) == 0 { // nothing more in this word
				i = (i/64 + 1) * 64
				continue
			}
			i++
		}
		j := i
		for j < 64*len(s) && s.has(uint32(j)) {
			j++
		}
		b = appendRun(b, end, uint64(i)+1, uint64(j))
		end = uint64(j)
		i = j
	}
	return b
}

// runs counts the runs of items: the places where one begins.
func (s bitset) runs() int {
	n, carry := 0, uint64(0)
	for _, w := range s {
		n += bits.OnesCount64(w &^ (w<<1 | carry))
		carry = w >> 63
	}
	return n
}
