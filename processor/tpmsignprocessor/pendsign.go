package tpmsignprocessor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
)

const (
	// What of the pending store is being signed at once: enough to fill big
	// groups, and a bound on what is decoded at the same time.
	maxSigningBlocks = 2048
	maxSigningBytes  = 16 << 20

	// readyPoll is how often a TPM that was not ready is looked at again.
	readyPoll = 100 * time.Millisecond
)

// flight is what of the pending store is being signed. What was numbered before
// it came here stands behind what was submitted from here, so the order says
// nothing about which signature comes first.
type flight struct {
	entries []*entry
	blocks  int
	bytes   int64
}

func (f *flight) add(e *entry) {
	f.entries = append(f.entries, e)
	f.blocks += e.blocks
	f.bytes += e.bytes
}

// room says whether e may be decoded and submitted too.
func (f *flight) room(e *entry) bool {
	return len(f.entries) == 0 || f.blocks+e.blocks <= maxSigningBlocks && f.bytes+e.bytes <= maxSigningBytes
}

// leave keeps what is not numbered yet from being numbered after the end of the
// run; it stays in the store, unsigned. What is signed by now is recorded.
func (r *run) leave(f *flight) {
	r.adoptNumbered(f)
	var signed []*entry
	for _, e := range f.entries {
		if !e.ticket.Cancel() && done(e.ticket) {
			signed = append(signed, e)
		}
	}
	r.finish(signed)
}

// signPending is the goroutine that gets pending requests signed, many at
// once so that they share groups, and records their signed form before it can
// be delivered.
func (r *run) signPending() {
	var f flight
	defer r.leave(&f)
	for r.ctx.Err() == nil {
		waiting := r.submitPending(&f)
		r.signing.Store(int64(len(f.entries)))
		if !r.awaitPending(waiting) {
			return
		}
		r.finish(r.landed(&f))
		r.signing.Store(int64(len(f.entries)))
	}
}

// submitPending submits unsigned requests while there is room. It says whether
// some had to stay because the TPM does not take them now.
func (r *run) submitPending(f *flight) (waiting bool) {
	for r.ctx.Err() == nil {
		r.adoptNumbered(f)
		refused := false
		e := r.queue.takeUnsigned(func(e *entry) bool {
			refused = !r.tpm.CanSign()
			return !refused && f.room(e)
		})
		if e == nil {
			return refused
		}
		ok, again := r.submit(e)
		if again {
			r.queue.putBack([]*entry{e})
			return true
		}
		if ok {
			r.watch(e)
			f.add(e)
		}
	}
	return false
}

// adoptNumbered takes over requests whose callers had no time to wait for the
// signature that is under way.
func (r *run) adoptNumbered(f *flight) {
	for e := r.queue.takeNumbered(); e != nil; e = r.queue.takeNumbered() {
		r.watch(e)
		f.add(e)
	}
}

// watch has the signing goroutine woken when e has its result.
func (r *run) watch(e *entry) {
	signed := e.ticket.Done()
	r.goroutines.Go(func() {
		select {
		case <-signed:
			notify(r.landing)
		case <-r.ctx.Done():
		}
	})
}

// submit reads a pending request and submits it. With again it has to be tried
// later; otherwise, without ok, nothing of it was left.
func (r *run) submit(e *entry) (ok, again bool) {
	rec, err := r.queue.store.get(r.ctx, e.id)
	if err != nil && !errors.Is(err, errRecordCorrupt) {
		r.complain("A pending request cannot be read now", err)
		return false, true
	}
	var batch digest.Batch
	if err == nil {
		batch, err = digest.UnmarshalBatch(rec.signal, rec.payload)
	}
	if err != nil {
		r.corrupt(r.ctx, fmt.Errorf("record %d: %w", e.id, err))
		r.discard(e)
		return false, false
	}
	// Blocks that cannot be signed were dropped before the record was written.
	// A heartbeat that a crash left behind is dropped here: it is nobody's data.
	req := r.prepare(r.ctx, batch, rec.tolerancesFor(batch), digest.Block.Prepare)
	if req.len() == 0 {
		r.discard(e)
		return false, false
	}
	ticket, err := r.tpm.Submit(req.leaves(r.stream))
	if errors.Is(err, group.ErrLeaf) {
		r.refuseAll(r.ctx, req, err)
		r.discard(e)
		return false, false
	}
	if err != nil {
		r.logger.Debug("The tpm extension does not take pending blocks now", zap.Error(err))
		return false, true
	}
	e.req, e.ticket = req, ticket
	return true, false
}

// awaitPending waits for a signature, whichever comes first, or for new work,
// false when the run ends.
func (r *run) awaitPending(waiting bool) bool {
	var poll <-chan time.Time
	if waiting {
		timer := time.NewTimer(readyPoll)
		defer timer.Stop()
		poll = timer.C
	}
	select {
	case <-r.landing:
	case <-poll:
	case <-r.queue.unsignedReady:
	case <-r.ctx.Done():
		return false
	}
	return true
}

// landed takes out of f what has its result. It looks again until it finds
// nothing more: of what is signed while it looks, it would else take a later
// request and leave an earlier one.
func (r *run) landed(f *flight) []*entry {
	r.adoptNumbered(f)
	var out []*entry
	for before := -1; before < len(out); {
		before = len(out)
		f.entries = slices.DeleteFunc(f.entries, func(e *entry) bool {
			if !done(e.ticket) {
				return false
			}
			out = append(out, e)
			return true
		})
	}
	for _, e := range out {
		f.blocks -= e.blocks
		f.bytes -= e.bytes
	}
	return out
}
