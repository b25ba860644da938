package tpmsignprocessor

import (
	"errors"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/digest"
)

const (
	// removeBatch is how many delivered requests are removed from the store in
	// one write. After a crash the verifier recognises what comes again.
	removeBatch = 32

	// A request that is refused this often while others get through, or this
	// often at all, has to let the others pass.
	maxVain     = 3
	maxPatience = 20
)

// deliverPending is the goroutine that hands signed pending requests to the
// next consumer, in order, until they are accepted.
func (r *run) deliverPending() {
	pause := newBackoff()
	for {
		r.blocked.Store(!r.deliverRound())
		var retry <-chan time.Time
		if r.blocked.Load() {
			retry = time.After(pause.take())
		} else {
			pause.reset()
		}
		select {
		case <-retry:
		case <-r.queueSignal(retry != nil):
		case <-r.ctx.Done():
			return
		}
	}
}

// queueSignal is the channel that tells of new entries. While the next
// consumer refuses, new ones change nothing.
func (r *run) queueSignal(refusing bool) <-chan struct{} {
	if refusing {
		return nil
	}
	return r.queue.signedReady
}

// deliverRound delivers until nothing is left or something is refused, and
// says whether it got to the end.
func (r *run) deliverRound() bool {
	var done []*entry
	defer func() { r.forget(done) }()
	for r.ctx.Err() == nil {
		e := r.queue.firstSigned()
		if e == nil {
			return true
		}
		if !r.deliverEntry(e) {
			return false
		}
		r.queue.dropSigned()
		if done = append(done, e); len(done) >= removeBatch {
			r.forget(done)
			done = nil
		}
	}
	return false
}

// deliverEntry tries one request and says whether it is done with.
func (r *run) deliverEntry(e *entry) bool {
	rec, err := r.signedForm(e)
	if err != nil && !errors.Is(err, errRecordCorrupt) {
		r.complain("A signed pending request cannot be read now", err)
		return false
	}
	var batch digest.Batch
	if err == nil {
		batch, err = digest.UnmarshalBatch(rec.signal, rec.payload)
	}
	if err != nil {
		r.corrupt(r.ctx, fmt.Errorf("record %d: %w", e.id, err))
		e.fate = fateRefused
		return true
	}
	err = r.next(r.ctx, batch)
	switch {
	case err == nil:
		r.emitted(r.ctx, e.own)
		return true
	case permanent(err):
		r.refusedDownstream(r.ctx, rec.blocks, err)
		return true
	}
	r.meters.TpmsignDownstreamRetries.Add(r.ctx, 1, r.meters.plain)
	r.putOff(e)
	return false
}

// signedForm reads a request. One that stands in memory only and has to wait for
// the next component is recorded as soon as the storage takes it.
func (r *run) signedForm(e *entry) (record, error) {
	if e.held == nil {
		return r.queue.store.get(r.ctx, e.id)
	}
	rec := *e.held
	if e.attempts > 0 {
		if err := r.recordHeld([]*entry{e}); err != nil {
			r.complain("The signed form of a pending request still cannot be recorded", err)
		}
	}
	return rec, nil
}

// putOff notes a refusal, and moves a request behind the others that alone is
// to blame.
func (r *run) putOff(e *entry) {
	delivered := r.delivered.Load()
	if e.attempts > 0 && delivered != e.deliveredWas {
		e.vain++
	}
	e.deliveredWas = delivered
	e.attempts++
	if e.vain >= maxVain || e.attempts >= maxPatience {
		e.vain, e.attempts = 0, 0
		r.queue.rotateSigned()
	}
}
