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

// goneGrace is how long the data of a caller that has left may take to be stored.
const goneGrace = time.Second

// consume takes one request from the pipeline. It returns nil when the next
// consumer or the pending store has the data, and when nothing of it can be
// signed.
func (r *run) consume(ctx context.Context, b digest.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	began := time.Now()
	if err := r.queue.admit(); err != nil {
		return r.giveBack(ctx, err)
	}
	if r.cfg.Coalesce {
		b.Coalesce()
	}
	b.SplitLarge(r.cfg.MaxBlockItems)
	req := r.prepare(ctx, b, r.tolerances, digest.Block.Prepare)
	if req.len() == 0 {
		return nil
	}
	return r.process(ctx, req, began)
}

// process gets a request signed and hands it on:
//
//	not ready, cannot submit ─────────────────────────▶ pending, unsigned
//	no signature in time ──┬─ taken back ─────────────▶ pending, unsigned
//	                       └─ its group is closed ────▶ pending, with its ticket
//	signed ──▶ next ──┬─ accepted, refused for good ──▶ the caller is told
//	                  └─ refused for now ─────────────▶ pending, signed
func (r *run) process(ctx context.Context, req *request, began time.Time) error {
	if !r.tpm.CanSign() {
		return r.pendUnsigned(ctx, req, causeNotReady)
	}
	ticket, err := r.tpm.Submit(req.leaves(r.stream))
	if errors.Is(err, group.ErrLeaf) {
		r.refuseAll(ctx, req, err)
		return nil
	}
	if err != nil {
		r.logger.Debug("The tpm extension does not take blocks now", zap.Error(err))
		return r.pendUnsigned(ctx, req, causeNotReady)
	}
	if why := r.await(ctx, ticket); why != "" {
		if ticket.Cancel() {
			return r.pendUnsigned(ctx, req, why)
		}
		if !done(ticket) {
			return r.pendNumbered(ctx, req, ticket, why)
		}
	}
	signed, err := ticket.Result()
	if unsigned := req.attach(signed); unsigned != nil {
		if !errors.Is(err, group.ErrClosed) {
			r.refuseAll(ctx, unsigned, err)
		} else if err := r.pendUnsigned(ctx, unsigned, causeNotReady); err != nil {
			// The caller will send everything again, under new numbers.
			r.meters.TpmsignLostNumbers.Add(ctx, int64(req.len()), r.meters.plain)
			return err
		}
	}
	if req.len() == 0 {
		return nil
	}
	r.meters.signed(ctx, req.len(), req.items)
	r.meters.latency(ctx, time.Since(began))
	return r.deliver(ctx, req)
}

// await waits for a signature and says why it stopped waiting, "" for signed.
func (r *run) await(ctx context.Context, ticket *group.Ticket) cause {
	if done(ticket) {
		return ""
	}
	timer := time.NewTimer(r.cfg.Pending.Wait)
	defer timer.Stop()
	select {
	case <-ticket.Done():
		return ""
	case <-timer.C:
		return causeSlow
	case <-ctx.Done():
		return causeCallerGone
	case <-r.ctx.Done():
		return causeShutdown
	}
}

func done(ticket *group.Ticket) bool {
	select {
	case <-ticket.Done():
		return true
	default:
		return false
	}
}

// pendUnsigned puts what has no number into the pending store, or gives it
// back to the caller.
func (r *run) pendUnsigned(ctx context.Context, req *request, why cause) error {
	if req.own != "" {
		return nil // another one is due soon
	}
	rec, err := req.record(stateUnsigned)
	if err != nil {
		return err
	}
	patience, cancel := r.patience(ctx)
	defer cancel()
	if err := r.put(patience, rec, placing{}); err != nil {
		return r.giveBack(ctx, err)
	}
	r.meters.pended(ctx, req.len(), why)
	return nil
}

// patience bounds the wait for the pending store by that of the caller. Data of
// one that has left already is kept all the same, unless the storage hangs.
func (r *run) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), goneGrace)
}

// pendNumbered puts a request whose group is being signed into the pending
// store. As long as that cannot be, the caller has to wait for the signature.
func (r *run) pendNumbered(ctx context.Context, req *request, ticket *group.Ticket, why cause) error {
	rec, err := req.record(stateUnsigned)
	if err != nil {
		return err
	}
	// The caller's memory may go back to a pool when it has its answer.
	if req.batch, err = digest.UnmarshalBatch(rec.signal, rec.payload); err != nil {
		return err
	}
	for pause := newBackoff(); !done(ticket); {
		err := r.put(ctx, rec, placing{must: true, own: req.own, req: req, ticket: ticket})
		if err == nil {
			r.meters.pended(ctx, req.len(), why)
			return nil
		}
		r.complain("A request that is being signed cannot be put into the pending store; its caller waits", err)
		select {
		case <-ticket.Done():
		case <-time.After(pause.take()):
		case <-ctx.Done():
			return r.abandon(ctx, req.len(), err)
		case <-r.waiting.Done():
			return r.abandon(ctx, req.len(), err)
		}
	}
	signed, err := ticket.Result()
	if unsigned := req.attach(signed); unsigned != nil {
		if req.len() == 0 {
			return r.giveBack(ctx, err)
		}
		return r.abandon(ctx, req.len(), err)
	}
	r.meters.signed(ctx, req.len(), req.items)
	return r.deliver(ctx, req)
}

// deliver hands a signed request to the next consumer. Its blocks have
// numbers, so a refusal for now is answered by keeping it.
func (r *run) deliver(ctx context.Context, req *request) error {
	var kept *record
	if r.copies.Load() {
		rec, err := req.record(stateSigned)
		if err != nil {
			return r.abandon(ctx, req.len(), err)
		}
		kept = &rec
	}
	refusal := r.next(ctx, req.batch)
	switch {
	case refusal == nil:
		r.emitted(ctx, req.own)
		return nil
	case permanent(refusal):
		r.refusedDownstream(ctx, req.len(), refusal)
		return refusal
	}
	r.meters.TpmsignDownstreamRetries.Add(ctx, 1, r.meters.plain)
	if kept == nil {
		rec, err := req.intact(r.tolerances)
		if err != nil {
			r.copies.Store(true)
			r.logger.Error("The next component changed a signed request and then refused it, so its blocks are missing from the stream. "+
				"From now on a copy is made of each request. Put tpmsign last before the exporter.", zap.Error(err))
			return r.abandon(ctx, req.len(), refusal)
		}
		kept = &rec
	}
	return r.keep(ctx, *kept, req.own, refusal)
}

// keep puts a signed request that the next consumer refused for now into the
// pending store. While the store cannot take it either, both are tried again
// and the caller waits: giving a numbered block back to it would make a gap.
func (r *run) keep(ctx context.Context, rec record, own utterance, refusal error) error {
	for pause := newBackoff(); ; {
		err := r.put(ctx, rec, placing{must: true, own: own})
		if err == nil {
			r.meters.pended(ctx, rec.blocks, causeDownstream)
			return nil
		}
		r.complain("A signed request can neither be handed on nor be put into the pending store; its caller waits", err)
		if !pause.sleep(ctx, r.waiting) {
			return r.abandon(ctx, rec.blocks, fmt.Errorf("%w; the next component: %w", err, refusal))
		}
		batch, err := digest.UnmarshalBatch(rec.signal, rec.payload)
		if err != nil {
			return r.abandon(ctx, rec.blocks, err)
		}
		refusal = r.next(ctx, batch)
		switch {
		case refusal == nil:
			r.emitted(ctx, own)
			return nil
		case permanent(refusal):
			r.refusedDownstream(ctx, rec.blocks, refusal)
			return refusal
		}
		r.meters.TpmsignDownstreamRetries.Add(ctx, 1, r.meters.plain)
	}
}

// emitted notes that the next consumer took blocks of this stream.
func (r *run) emitted(ctx context.Context, own utterance) {
	now := time.Now()
	r.delivered.Add(1)
	r.lastBlock.Store(now.UnixNano())
	r.status.delivered(now)
	if own != "" {
		r.meters.spoke(ctx, own)
	}
}

// giveBack refuses a request of which nothing was numbered.
func (r *run) giveBack(ctx context.Context, err error) error {
	r.meters.TpmsignRefusedRequests.Add(ctx, 1, r.meters.plain)
	r.complain("A request is given back to its sender", err)
	return err
}

// abandon gives numbered blocks up. The caller, when there is one, has the
// data and will send it again; the verifier sees a gap.
func (r *run) abandon(ctx context.Context, blocks int, err error) error {
	r.meters.TpmsignLostNumbers.Add(ctx, int64(blocks), r.meters.plain)
	return fmt.Errorf("%d signed blocks cannot be kept, and their numbers will be missing from stream %s: %w", blocks, r.stream, err)
}

func (r *run) refusedDownstream(ctx context.Context, blocks int, err error) {
	r.meters.TpmsignDownstreamRefusedBlocks.Add(ctx, int64(blocks), r.meters.plain)
	if fields, ok := r.dropped.check(time.Now()); ok {
		r.logger.Error("The next component refused signed blocks for good; the verifier will report them as a gap",
			append(fields, zap.Int("blocks", blocks), zap.Error(err))...)
	}
}

// complain logs trouble with the pending store, sampled.
func (r *run) complain(message string, err error) {
	if fields, ok := r.troubles.check(time.Now()); ok {
		r.logger.Warn(message, append(fields, zap.Error(err))...)
	}
}
