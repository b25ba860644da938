package tpmsignprocessor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/group"
)

// recordPatience is how long the signed form of pending requests waits for a
// storage that does not take it. What is delivered without it comes twice when
// the process ends before the storage works again.
const recordPatience = 30 * time.Second

// errUnrecorded is for signed blocks that neither the next component nor the
// storage took until the end.
var errUnrecorded = errors.New("the signed form of blocks could not be recorded: the next start signs them again under new numbers, and those they had are missing")

// finish attaches receipts and records the signed form, all in one write, so
// that after a crash the very same blocks are sent again. They are delivered in
// the order of their numbers.
func (r *run) finish(entries []*entry) {
	slices.SortStableFunc(entries, func(a, b *entry) int { return cmp.Compare(firstNumber(a), firstNumber(b)) })
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
			r.discard(e)
			continue
		}
		rec, err := req.record(stateSigned)
		if err != nil { // pdata that was decoded here always encodes
			r.corrupt(r.ctx, fmt.Errorf("record %d: %w", e.id, err))
			r.discard(e)
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
	if r.recordSigned(recs) {
		for _, e := range ready {
			e.held = nil
		}
	}
	for _, e := range ready {
		r.queue.push(e, stateSigned)
	}
}

// firstNumber is where the blocks of e begin in the stream; what was not signed
// comes last.
func firstNumber(e *entry) uint64 {
	signed, _ := e.ticket.Result()
	for _, s := range signed {
		if s.Receipt != nil {
			return s.BlockNo
		}
	}
	return math.MaxUint64
}

// recordSigned writes signed forms, and tries again for recordPatience, counted
// from the first failure in a row. Then delivering goes on from memory: it is
// what frees space.
func (r *run) recordSigned(recs []stored) bool {
	for pause := newBackoff(); ; {
		err := r.queue.store.replace(context.WithoutCancel(r.ctx), recs)
		if err == nil {
			r.failing = time.Time{}
			return true
		}
		if r.failing.IsZero() {
			r.failing = time.Now()
		}
		if time.Since(r.failing) >= recordPatience {
			if fields, ok := r.unrecorded.check(time.Now()); ok {
				r.logger.Error("The signed form of pending blocks cannot be recorded, so they are delivered from memory. "+
					"Should the process end before their records can be removed, they will be signed again under new numbers and come twice",
					append(fields, zap.Error(err))...)
			}
			return false
		}
		r.complain("The signed form of pending blocks cannot be recorded; they wait for it", err)
		if !pause.sleep(r.ctx, r.ctx) {
			return false
		}
	}
}

// pendRest keeps the part of a request that was not signed when the committer
// closed in the middle of it.
func (r *run) pendRest(unsigned *request) {
	rec, err := unsigned.record(stateUnsigned)
	if err == nil {
		err = r.put(r.ctx, rec, placing{must: true})
	}
	if err != nil {
		r.logger.Error("Blocks that were not signed cannot be kept and are lost", zap.Int("blocks", unsigned.len()), zap.Error(err))
	}
}

// discard forgets an entry of which nothing can be read or signed.
func (r *run) discard(e *entry) {
	e.fate = fateRefused
	r.forget([]*entry{e})
}

// forget removes entries from store and accounts. What cannot be removed now is
// removed later, as long as the process lives.
func (r *run) forget(entries []*entry) {
	if len(entries) == 0 {
		return
	}
	gone := make(map[uint64]fate, len(entries))
	twice := 0
	for _, e := range entries {
		gone[e.id] = e.fate
		if e.held != nil {
			gone[e.id] = fateTwice
			twice++
		}
	}
	if err := r.queue.store.remove(context.WithoutCancel(r.ctx), gone); err != nil {
		if twice > 0 {
			r.complain("Pending requests that were delivered from memory cannot be removed now. "+
				"Should the process end before they can be, they will be signed again under new numbers and come twice", err)
		} else {
			r.complain("Pending requests that are done cannot be removed now. "+
				"Should the process end before they can be, they will come again: the verifier recognises what was delivered", err)
		}
	}
	for _, e := range entries {
		r.queue.release(e)
	}
}

// keepClean is the goroutine that removes from the store what could not be
// removed at once.
func (r *run) keepClean() {
	for {
		select {
		case <-r.queue.store.dirty():
		case <-r.ctx.Done():
			return
		}
		for pause := newBackoff(); pause.sleep(r.ctx, r.ctx); {
			if r.queue.store.sweep(context.WithoutCancel(r.ctx)) == nil {
				break
			}
		}
	}
}

// closeStore closes the store. Until ctx ends it tries to record and to remove
// what could not be before. What could not be at all is told, and logged too: the
// caller of Shutdown may not wait for it.
func (r *run) closeStore(ctx context.Context) error {
	err := errors.Join(r.tidy(ctx), r.queue.store.close(context.WithoutCancel(ctx)))
	if err != nil {
		r.logger.Error("The pending store could not be left in order", zap.Error(err))
	}
	return err
}

// tidy is closeStore without closing; the error tells of what is signed and
// neither recorded nor delivered.
func (r *run) tidy(ctx context.Context) error {
	held := r.queue.unrecorded()
	for pause := newBackoff(); ; {
		var err error
		if len(held) > 0 {
			if err = r.recordHeld(held); err == nil {
				held = nil
			}
		}
		if err := errors.Join(err, r.queue.store.sweep(context.WithoutCancel(ctx))); err == nil || !pause.sleep(ctx, ctx) {
			break
		}
	}
	if len(held) == 0 {
		return nil
	}
	blocks := 0
	for _, e := range held {
		blocks += e.blocks
	}
	r.meters.TpmsignLostNumbers.Add(ctx, int64(blocks), r.meters.plain)
	return fmt.Errorf("%w: %d blocks", errUnrecorded, blocks)
}

// recordHeld writes the signed form of entries that had to go on without it.
func (r *run) recordHeld(entries []*entry) error {
	recs := make([]stored, len(entries))
	for i, e := range entries {
		recs[i] = stored{id: e.id, rec: *e.held}
	}
	if err := r.queue.store.replace(context.WithoutCancel(r.ctx), recs); err != nil {
		return err
	}
	for _, e := range entries {
		e.held = nil
	}
	return nil
}
