package replay

// due does what time demands of one window and says whether it changed:
// report holes, report items of incomplete blocks, close holes.
func (w *window) due(c *call, r *SweepReport) (changed bool) {
	for i := 0; i < len(w.settled.spans); {
		s := &w.settled.spans[i]
		if s.flags == 0 && s.since+c.t.gap <= c.now {
			r.GapsReported += w.report(i, c.now)
			changed = true
		}
		lo, hi := w.settled.hole(i)
		if s.since+c.t.keep <= c.now && !w.busy(lo, hi, c.now) {
			r.GapsClosed += w.close(i)
			changed = true
			continue // what was span i+1 stands at i now
		}
		i++
	}
	for len(w.settled.spans) > c.lim.MaxRanges && w.closeLowest(c, 0) {
		changed = true
	}
	for i := 0; i < len(w.partials); {
		if p := w.partials[i]; p.since+c.t.keep > c.now || p.live(c.now) {
			i++
			continue
		}
		w.giveUpPart(c, i) // nothing that belongs to it can come any more
		changed = true
	}
	if w.owed > 0 || w.owedClosed > 0 {
		r.GapsReported += w.owed
		r.GapsClosed += w.owedClosed
		w.owed, w.owedClosed, changed = 0, 0, true
	}
	return w.overdue(c, r) || changed
}

// report marks the hole in front of span i as reported and counts what is missing in it.
func (w *window) report(i int, now int64) uint64 {
	lo, hi := w.settled.hole(i)
	w.settled.spans[i].flags |= holeReported
	missing := hi - lo + 1 - w.partialsIn(lo, hi)
	for at, _ := w.flights.at(lo); at < len(w.flights.list) && w.flights.list[at].no <= hi; at++ {
		f := &w.flights.list[at]
		switch {
		case f.flags&flightGone != 0:
		case f.lease > now:
			missing-- // its end decides
		default:
			f.flags |= flightCounted
		}
	}
	return missing
}

// overdue reports what claims without an end hold back: blocks in reported
// holes whose lease ran out, and items of incomplete blocks.
func (w *window) overdue(c *call, r *SweepReport) (changed bool) {
	for i := range w.flights.list {
		f := &w.flights.list[i]
		if f.flags&(flightGone|flightCounted) == 0 && f.lease <= c.now && w.reported(f.no) {
			f.flags |= flightCounted
			r.GapsReported++
			changed = true
		}
	}
	for _, p := range w.partials {
		if !p.reported && p.since+c.t.gap <= c.now && !p.live(c.now) {
			p.reported, changed = true, true
			r.ItemsMissing += uint64(p.missing(c.now))
		}
	}
	return changed
}

// busy says whether a delivery is under way between lo and hi.
func (w *window) busy(lo, hi uint64, now int64) bool {
	if w.flights.live(lo, hi, now) > 0 {
		return true
	}
	for _, p := range w.partials {
		if p.no >= lo && p.no <= hi && p.live(now) {
			return true
		}
	}
	return false
}

// close gives up the hole in front of span i and what was left in it, and
// returns how many blocks that are.
func (w *window) close(i int) uint64 {
	lo, hi := w.settled.hole(i)
	before := w.settled.spans[i].flags&holeBefore != 0
	missing := hi - lo + 1 - w.partialsIn(lo, hi)
	uncounted := w.flights.removeIn(lo, hi)
	for at, _ := w.partialAt(lo); at < len(w.partials) && w.partials[at].no <= hi; {
		w.dropPartial(at)
	}
	w.settled.giveUp(i)
	if before {
		return 0
	}
	w.gapsClosed += missing
	w.owed += uncounted // their leases ended after the report
	return missing
}

// abandon reports and closes whatever is open, for a window that is dropped.
func (w *window) abandon(c *call, r *SweepReport) {
	r.GapsReported += w.owed
	r.GapsClosed += w.owedClosed
	for i := range w.settled.spans {
		lo, hi := w.settled.hole(i)
		s := &w.settled.spans[i]
		if s.flags == 0 {
			r.GapsReported += w.report(i, c.now)
		}
		if s.flags&holeBefore == 0 {
			r.GapsClosed += hi - lo + 1 - w.partialsIn(lo, hi) - w.flights.live(lo, hi, c.now)
		}
	}
	for len(w.partials) > 0 {
		w.dropPartial(len(w.partials) - 1)
	}
}

// open counts the blocks missing now, and those of them that were reported.
func (w *window) open(now int64) (missing, reported uint64) {
	for i := range w.settled.spans {
		s := &w.settled.spans[i]
		if s.flags&holeBefore != 0 {
			continue
		}
		lo, hi := w.settled.hole(i)
		n := hi - lo + 1 - w.partialsIn(lo, hi) - w.flights.live(lo, hi, now)
		missing += n
		if s.flags&holeReported != 0 {
			reported += n
		}
	}
	return missing, reported
}
