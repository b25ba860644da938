package tpmverifyprocessor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
)

// settleTimeout bounds each writing of the windows: before delivery, and after
// it, which goes on when the sender has gone.
const settleTimeout = 5 * time.Second

// deliver shapes the batch, calls the next component once, and settles the
// claims by what it answered:
//
//	nil         confirm; when that cannot be written the sender sends again, and
//	            what it sends is dropped as a duplicate once it can
//	retryable   release; the sender sends again, and what is delivered then is
//	            marked, since behind a fan-out some may have taken it
//	permanent   confirm as refused_downstream; sending again does not help
//
// After a permanent error nothing is tried again block by block: behind a
// fan-out some of the consumers may have taken the data, which would then come
// twice, and the next component owns the data by now. What it refuses it
// refuses for all machines in the request, so the shipped configurations put a
// persistent queue there, which does not refuse.
func (r *round) deliver(ctx context.Context) error {
	r.batch.Filter(func(i int) bool { return r.shape(i) })
	var err error
	if r.batch.Len() > 0 {
		err = r.p.next(ctx, r.batch)
	}
	// From here on the data is the next component's.
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	switch {
	case err == nil:
		err = r.confirm(settle)
		r.countAccepted(settle, true)
		if err != nil {
			return errors.Join(errUnconfirmed, err)
		}
		r.countRefused(settle)
		return nil
	case consumererror.IsPermanent(err):
		_ = r.confirm(settle) // the sender will not send again
		r.countAccepted(settle, false)
		r.countRefused(settle)
		r.refusedDownstream(settle, err)
		return fmt.Errorf("tpmverify: next component: %w", err)
	default:
		r.release(settle)
		return fmt.Errorf("tpmverify: next component: %w", err)
	}
}

// shape makes of block i what goes on, or says that it does not.
func (r *round) shape(i int) bool {
	b, j := r.batch.At(i), &r.blocks[i]
	j.total, j.items = j.Arrived.Items, j.claimed()
	observe := r.p.cfg.Mode == ModeObserve
	onlyRefused := observe && r.p.cfg.Emit == EmitRefused
	switch j.fate {
	case fateDeliver:
		if j.handed = !onlyRefused && r.shapeVerified(b, j); j.handed {
			j.service, j.host = sender(b)
		}
		return j.handed
	case fateBeat:
		return false
	case fateUnsigned:
		r.p.tagUnsigned(b)
		return !onlyRefused
	case fateInFlight:
		r.batch.MoveBlock(i, r.flying.make(r.p.signal))
		return false
	case fateDeferred:
		r.batch.MoveBlock(i, r.deferred.make(r.p.signal))
		return false
	case fateRefused, fateRepeated:
		if j.fate == fateRefused {
			r.refusals = append(r.refusals, refusalFrom(b, j))
		}
		if observe {
			r.p.tagRefused(b, j.Reason)
		}
		return observe
	default: // fateUnset, fateClaim: no path leads here; nothing undecided passes
		r.batch.MoveBlock(i, r.deferred.make(r.p.signal))
		return false
	}
}

// shapeVerified takes out what was accepted before and what nobody signed, and
// puts the verdict on. Mode check changes nothing.
func (r *round) shapeVerified(b digest.Block, j *judged) bool {
	if r.p.cfg.Mode == ModeCheck {
		return true
	}
	if j.outcome.Held > 0 {
		// Items of it are in flight elsewhere: the whole fragment is looked at
		// again, and those that are claimed now will be found accepted then.
		b.CopyTo(r.flying.make(r.p.signal))
	}
	if keep := j.outcome.Keep; keep != nil {
		b.FilterItems(func(i int) bool { return keep[i] })
	}
	r.p.shapeVerified(b, j)
	return j.items > 0
}

// claimed counts the items that were not accepted before and are not in flight elsewhere.
func (j *judged) claimed() int {
	n := j.Arrived.Items
	for _, keep := range j.outcome.Keep {
		if !keep {
			n--
		}
	}
	return n
}

// confirm makes the claims final. An error says that this is not durable.
func (r *round) confirm(ctx context.Context) error {
	if len(r.claims) == 0 {
		return nil
	}
	p := r.p
	lost, err := p.windows.Confirm(ctx, p.now(), r.claims)
	if lost > 0 {
		p.meters.add(ctx, p.meters.TpmverifyLostClaims, int64(lost))
		p.logger.Warn("delivery took longer than the lease of its claims, the data may come twice; "+
			"put a queue behind tpmverify or raise the lease of the nonce extension", zap.Int("blocks", lost))
	}
	if err != nil {
		// The data was delivered, and the sender must not be told so before no
		// replay of it can be accepted any more. If this process dies before the
		// windows can be written, what is sent again is taken as a redelivery.
		p.meters.add(ctx, p.meters.TpmverifyUnconfirmedClaims, int64(len(r.claims)))
		p.logger.Error("delivered blocks could not be confirmed", zap.Int("blocks", len(r.claims)), zap.Error(err))
	}
	return err
}

func (r *round) release(ctx context.Context) {
	if len(r.claims) == 0 {
		return
	}
	if err := r.p.windows.Release(ctx, r.p.now(), r.claims); err != nil {
		r.p.logger.Warn("claims could not be released, the blocks are taken again when their lease ends",
			zap.Int("blocks", len(r.claims)), zap.Error(err))
	}
}

// countAccepted counts what was accepted, with what was handed on if the next
// component took it. The counters are added up here and written once per request.
func (r *round) countAccepted(ctx context.Context, taken bool) {
	var blocks, items, unproven, unprovenItems, late, redelivered, repeatedItems, beats int64
	for i := range r.blocks {
		j, before := &r.blocks[i], items
		switch j.fate {
		case fateBeat:
			beats++
			blocks++
			items += int64(j.total)
		case fateDeliver:
			if j.handed && !taken {
				continue
			}
			blocks++
			items += int64(j.items)
			repeatedItems += int64(j.total - j.items - j.outcome.Held)
		default:
			continue
		}
		if !j.Key.Evidence.Genuine() {
			unproven++
			unprovenItems += items - before
		}
		if j.outcome.Late {
			late++
		}
		if j.outcome.Redelivery {
			redelivered++
		}
	}
	m := r.p.meters
	m.add(ctx, m.TpmverifyVerifiedBlocks, blocks-unproven)
	m.add(ctx, m.TpmverifyVerifiedItems, items-unprovenItems)
	m.add(ctx, m.TpmverifyUnprovenBlocks, unproven)
	m.add(ctx, m.TpmverifyUnprovenItems, unprovenItems)
	m.add(ctx, m.TpmverifyLateFills, late)
	m.add(ctx, m.TpmverifyRedeliveries, redelivered)
	m.add(ctx, m.TpmverifyDuplicateItems, repeatedItems)
	m.add(ctx, m.TpmverifyHeartbeatsDropped, beats)
}

// countRefused runs when the request is done with: one that has to be sent
// again will come back with the same bad blocks, which are counted then.
func (r *round) countRefused(ctx context.Context) {
	var repeated, unsigned int64
	for i := range r.blocks {
		switch r.blocks[i].fate {
		case fateRepeated:
			repeated++
		case fateUnsigned:
			unsigned++
		default:
		}
	}
	r.p.meters.add(ctx, r.p.meters.TpmverifyDuplicateBlocks, repeated)
	r.p.meters.add(ctx, r.p.meters.TpmverifyUnsignedBlocks, unsigned)
	for i := range r.refusals {
		r.p.refuse(ctx, &r.refusals[i])
	}
}

func (r *round) refusedDownstream(ctx context.Context, err error) {
	for i := range r.blocks {
		j := &r.blocks[i]
		if !j.handed {
			continue
		}
		ref := refusal{reason: reason.RefusedDownstream, detail: err.Error(), service: j.service, host: j.host}
		ref.from(&j.Verdict)
		r.p.refuse(ctx, &ref)
	}
}
