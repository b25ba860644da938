package replay

import (
	"context"
	"time"
)

// maxSilentReport bounds the streams that one report names.
const maxSilentReport = 100

// Sweep implements Store.
func (l *Local) Sweep(ctx context.Context, now time.Time) (SweepReport, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return SweepReport{}, unavailable(ErrClosed)
	}
	c := l.begin(now)
	r := l.owed
	l.owed = SweepReport{}
	for _, k := range l.keys {
		r.EpochsSkipped += l.skippedEpochs(c, k)
		l.retireDue(c, k, &r)
		for _, e := range k.epochs {
			for _, w := range e.windows {
				if w.due(c, &r) {
					l.touch(w)
				}
				l.listen(c, w, &r)
			}
			r.LiveEpochs++
		}
	}
	r.Streams = l.streams
	l.settle()
	wait := l.flush()
	l.mu.Unlock()
	if err := l.wait(ctx, wait); err != nil {
		return r, unavailable(err)
	}
	return r, nil
}

// listen marks w as silent when nothing was accepted for too long, it did not
// say goodbye and its machine did not begin anew with the same stream.
func (l *Local) listen(c *call, w *window, r *SweepReport) {
	quiet := c.t.silent > 0 && max(w.lastSeen, l.started)+c.t.silent <= c.now && !w.gone() && !w.superseded()
	if quiet && !w.silent && len(r.Silent) < maxSilentReport {
		w.silent = true
		r.Silent = append(r.Silent, w.status(c.now))
	}
	w.silent = w.silent && quiet
	if quiet {
		r.SilentNow++
	}
}

// flush returns the batch that carries all that is unsaved, nil when nothing is.
func (l *Local) flush() *batch {
	if l.persister == nil || l.unsaved.empty() && l.unsaved.next == nil {
		return nil
	}
	return l.join()
}

// Cleanup implements Store.
func (l *Local) Cleanup(ctx context.Context, now time.Time) (removed int, err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, unavailable(ErrClosed)
	}
	c := l.begin(now)
	for _, k := range l.keys {
		removed += l.retireDue(c, k, &l.owed)
		removed += l.forget(c, k, &l.owed)
	}
	wait := l.flush()
	l.mu.Unlock()
	if err := l.wait(ctx, wait); err != nil {
		return removed, unavailable(err)
	}
	return removed, nil
}
