package tpmsignprocessor

import (
	"context"
	"errors"
	"fmt"
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

// flight is what of the pending store is being signed, in order of submission.
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
		if !r.awaitPending(&f, waiting) {
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
			refused = !r.tpm.Ready()
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
			f.add(e)
		}
	}
	return false
}

// adoptNumbered takes over requests whose callers had no time to wait for the
// signature that is under way.
func (r *run) adoptNumbered(f *flight) {
	for e := r.queue.takeNumbered(); e != nil; e = r.queue.takeNumbered() {
		f.add(e)
	}
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
		r.forget([]*entry{e})
		return false, false
	}
	// Blocks that cannot be signed were dropped before the record was written.
	// A heartbeat that a crash left behind is dropped here: it is nobody's data.
	req := r.prepare(r.ctx, batch, digest.Block.Prepare)
	if req.len() == 0 {
		r.forget([]*entry{e})
		return false, false
	}
	ticket, err := r.tpm.Submit(req.leaves(r.stream, r.tolerances))
	if errors.Is(err, group.ErrLeaf) {
		r.refuseAll(r.ctx, req, err)
		r.forget([]*entry{e})
		return false, false
	}
	if err != nil {
		r.logger.Debug("The tpm extension does not take pending blocks now", zap.Error(err))
		return false, true
	}
	e.req, e.ticket = req, ticket
	return true, false
}

// awaitPending waits for the oldest signature or for new work, false when the
// run ends.
func (r *run) awaitPending(f *flight, waiting bool) bool {
	var signed <-chan struct{}
	if len(f.entries) > 0 {
		signed = f.entries[0].ticket.Done()
	}
	var poll <-chan time.Time
	if waiting {
		timer := time.NewTimer(readyPoll)
		defer timer.Stop()
		poll = timer.C
	}
	select {
	case <-signed:
	case <-poll:
	case <-r.queue.unsignedReady:
	case <-r.ctx.Done():
		return false
	}
	return true
}

// landed takes out of f what has its result, in order.
func (r *run) landed(f *flight) []*entry {
	n := 0
	for n < len(f.entries) && done(f.entries[n].ticket) {
		n++
	}
	out := f.entries[:n]
	f.entries = f.entries[n:]
	for _, e := range out {
		f.blocks -= e.blocks
		f.bytes -= e.bytes
	}
	return out
}

// finish attaches receipts and records the signed form, all in one write, so
// that after a crash the very same blocks are sent again.
func (r *run) finish(entries []*entry) {
	var ready, again []*entry
	var recs []stored
	for _, e := range entries {
		req := e.req
		signed, err := e.ticket.Result()
		unsigned := req.attach(signed)
		e.req, e.ticket = nil, nil
		if unsigned != nil && !errors.Is(err, group.ErrClosed) {
			r.refuseAll(r.ctx, unsigned, err)
			unsigned = nil
		}
		if unsigned != nil && req.len() == 0 {
			r.logger.Debug("Pending blocks were not signed and wait again", zap.Error(err))
			again = append(again, e)
			continue
		}
		if unsigned != nil {
			r.pendRest(unsigned)
		}
		if req.len() == 0 {
			r.forget([]*entry{e})
			continue
		}
		rec, err := req.record(stateSigned)
		if err != nil { // pdata that was decoded here always encodes
			r.corrupt(r.ctx, fmt.Errorf("record %d: %w", e.id, err))
			r.forget([]*entry{e})
			continue
		}
		r.meters.signed(r.ctx, req.len(), req.items)
		r.queue.grow(e, req.len(), int64(len(rec.payload)))
		e.held = &rec
		ready = append(ready, e)
		recs = append(recs, stored{id: e.id, rec: rec})
	}
	r.queue.putBack(again)
	if len(ready) == 0 {
		return
	}
	if err := r.queue.store.replace(context.WithoutCancel(r.ctx), recs); err != nil {
		// Delivering is what frees space, so it goes on from memory.
		r.complain("The signed form of pending blocks cannot be recorded; should the process die now, they will be signed again and come twice", err)
	} else {
		for _, e := range ready {
			e.held = nil
		}
	}
	for _, e := range ready {
		r.queue.push(e, stateSigned)
	}
}

// pendRest keeps the part of a request that was not signed when the committer
// closed in the middle of it.
func (r *run) pendRest(unsigned *request) {
	rec, err := unsigned.record(stateUnsigned)
	if err == nil {
		err = r.queue.put(r.ctx, rec, placing{must: true})
	}
	if err != nil {
		r.logger.Error("Blocks that were not signed cannot be kept and are lost", zap.Int("blocks", unsigned.len()), zap.Error(err))
	}
}

// forget removes entries from store and accounts.
func (r *run) forget(entries []*entry) {
	if len(entries) == 0 {
		return
	}
	ids := make([]uint64, len(entries))
	for i, e := range entries {
		ids[i] = e.id
	}
	if err := r.queue.store.remove(context.WithoutCancel(r.ctx), ids); err != nil {
		r.complain("Pending requests that are done cannot be removed; after a restart they will be sent again, and recognised", err)
	}
	for _, e := range entries {
		r.queue.release(e)
	}
}
