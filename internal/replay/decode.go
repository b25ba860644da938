package replay

import "encoding/binary"

// run reads a range of numbers that begins above end.
func (r *reader) run(end uint64) (lo, hi uint64) {
	lo = r.number(end)
	length := r.uv()
	if length >= maxNumber || lo+length >= maxNumber {
		r.fail("range out of bounds")
		return 0, 0
	}
	return lo, lo + length
}

func (r *reader) flags(all byte) byte {
	f := r.byte()
	if f&^all != 0 {
		r.fail("unknown flags")
	}
	return f
}

func (l *Local) readHeader(r *reader) (pages int, err error) {
	copy(l.storeEpoch[:], r.bytes(len(l.storeEpoch)))
	copy(l.fingerprints[:], r.bytes(len(l.fingerprints)))
	n := r.uv()
	if n > 1<<20 {
		r.fail("too many index pages")
	}
	l.scopes = make(map[string]int64)
	last := ""
	for i := range r.count(2) {
		scope := r.string()
		if i > 0 && scope <= last {
			r.fail("scopes out of order")
		}
		last, l.scopes[scope] = scope, r.time()
	}
	return int(n), r.finish()
}

func readPage(r *reader) (page, error) {
	n := r.count(2)
	if n > pageSize {
		r.fail("page too long")
	}
	p := make(page, 0, pageSize)
	for range n {
		p = append(p, keyID{r.string(), r.string()})
	}
	return p, r.finish()
}

// storedEpoch is an epoch as a key lists it.
type storedEpoch struct {
	no      uint64
	first   int64
	skipped bool
	joined  bool
	streams []string
}

func (k *keyState) read(r *reader) ([]storedEpoch, error) {
	k.floor, k.forgot, k.lastT = r.uv(), r.uv(), r.time()
	var out []storedEpoch
	last := uint64(0)
	for range r.count(4) {
		e := storedEpoch{no: r.uv(), first: r.time()}
		if e.no <= last || e.no < k.floor {
			r.fail("epochs out of order")
		}
		last = e.no
		flags := r.flags(epochSkipped | epochJoined)
		e.skipped, e.joined = flags&epochSkipped != 0, flags&epochJoined != 0
		for range r.count(1) {
			e.streams = append(e.streams, r.string())
		}
		out = append(out, e)
	}
	return out, r.finish()
}

func (c *chain) read(r *reader) error {
	var chained [chainLen]bool
	c.begin = r.fingerprint()
	for range r.count(10) {
		seq := r.uv()
		s := &c.slots[seq%chainLen]
		if seq == 0 || s.seq != 0 {
			r.fail("statement twice")
			break
		}
		s.seq = seq
		s.self = r.fingerprint()
		switch r.byte() {
		case 0:
			chained[seq%chainLen] = true
		case 1:
			s.previous = r.fingerprint()
		default:
			r.fail("unknown flags")
		}
	}
	for i := range c.slots {
		if !chained[i] {
			continue
		}
		p := c.known(c.slots[i].seq - 1)
		if p == nil {
			r.fail("statement chained to an unknown one")
			break
		}
		c.slots[i].previous = p.self
	}
	return r.finish()
}

func (r *reader) fingerprint() fingerprint { return fingerprint(r.word()) }

func (r *reader) word() uint64 {
	if b := r.bytes(8); len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (w *window) read(r *reader) error {
	w.readFacts(r)
	end := r.uv()
	if end >= maxNumber {
		r.fail("watermark out of bounds")
	}
	w.settled.low = end
	for range r.count(4) {
		before := end
		s := span{}
		s.lo, s.hi = r.run(end)
		if s.lo == before+1 {
			r.fail("adjacent ranges")
		}
		s.since, s.flags = r.time(), holeFlags(r.flags(byte(allHoleFlags)))
		w.settled.spans = append(w.settled.spans, s)
		end = s.hi
	}
	end = 0
	for range r.count(2) {
		var c run
		c.lo, c.hi = r.run(end)
		w.settled.closed = append(w.settled.closed, c)
		end = c.hi
	}
	w.readFlights(r)
	end = 0
	for range r.count(6) {
		p := &partial{no: r.number(end)}
		end = p.no
		p.read(r)
		if r.err != nil {
			break
		}
		w.partials = append(w.partials, p)
		w.key.partialBytes += p.bytes()
	}
	if r.format > formatOld {
		reserved := r.uv()
		if reserved >= maxNumber {
			r.fail("reserved out of bounds")
		}
		w.restore(reserved)
	}
	return r.finish()
}

func (w *window) readFacts(r *reader) {
	flags := r.flags(allWindowFlags)
	w.untimed, w.running = flags&windowUntimed != 0, flags&windowRunning != 0
	if flags&windowLocated != 0 {
		w.location = &LatLon{r.float(), r.float()}
	}
	w.lastT, w.lastSeen = r.time(), r.time()
	w.nonceTimesOn = w.nonceTimes
	for _, v := range [...]*uint64{&w.verified, &w.duplicates, &w.lateFills, &w.gapsClosed, &w.owed, &w.farewell} {
		*v = r.uv()
	}
}

// readFlights reads what was in flight: nobody owns it any more.
func (w *window) readFlights(r *reader) {
	end := uint64(0)
	for range r.count(3) {
		lo, hi := r.run(end)
		flags := flightFlags(r.flags(byte(savedFlightFlags)))
		if hi-lo >= 1<<24 {
			r.fail("too much in flight")
		}
		if r.err != nil {
			return
		}
		for no := lo; no <= hi; no++ {
			if w.settled.has(no) {
				r.fail("settled and in flight")
				return
			}
			w.flights.put(flight{no: no, flags: flags})
		}
		end = hi
	}
}

func (p *partial) read(r *reader) {
	total := r.uv()
	if total == 0 || total > maxTotal {
		r.fail("items out of bounds")
		return
	}
	p.total = int(total)
	p.since = r.time()
	flags := r.flags(allPartialFlags)
	p.counted, p.reported = flags&partialCounted != 0, flags&partialReported != 0
	p.done = r.items(p.total)
	if claimed := r.items(p.total); !claimed.empty() {
		p.fragments = []fragment{{items: claimed}}
	}
}

func (r *reader) items(total int) bitset {
	s := newBitset(total)
	switch r.byte() {
	case itemsInRuns:
	case itemsRaw:
		for i := range s {
			s[i] = r.word()
		}
		if rest := total % 64; rest > 0 && s[len(s)-1]>>rest != 0 {
			r.fail("item out of bounds")
		}
		return s
	default:
		r.fail("unknown form of items")
	}
	end := uint64(0)
	for range r.count(2) {
		lo, hi := r.run(end)
		if r.err != nil || hi > uint64(total) {
			r.fail("item out of bounds")
			return s
		}
		s.setRange(uint32(lo-1), uint32(hi-lo+1))
		end = hi
	}
	return s
}
