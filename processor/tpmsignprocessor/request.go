package tpmsignprocessor

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// request is a batch whose blocks are clean and digested, so that nothing but
// receipts is missing. prepared[i] belongs to block i of the batch.
type request struct {
	batch      digest.Batch
	tolerances block.Tolerance
	prepared   []digest.Prepared
	items      int
	own        utterance // set when the processor itself speaks
}

// prepareBlock makes one block ready to be signed.
type prepareBlock func(digest.Block, block.Tolerance) (digest.Prepared, error)

// prepare cleans and digests a batch in place. Blocks that cannot be signed
// are dropped and counted, and the others go on: sending such data again would
// not help, and the other blocks of the request are not to blame.
func (r *run) prepare(ctx context.Context, b digest.Batch, tol block.Tolerance, prepareOne prepareBlock) *request {
	req := &request{batch: b, tolerances: tol, prepared: make([]digest.Prepared, 0, b.Len())}
	var cleaning digest.Cleaning
	var drop []bool // nil as long as every block stays
	for i := range b.Len() {
		p, err := prepareOne(b.At(i), tol)
		addCleaning(&cleaning, p.Cleaning)
		if err == nil {
			err = checkKeys(p.Keys)
		}
		if err != nil || p.Items == 0 {
			if drop == nil {
				drop = make([]bool, b.Len())
			}
			drop[i] = true
			r.refuse(ctx, err)
			continue
		}
		req.items += p.Items
		req.prepared = append(req.prepared, p)
	}
	if drop != nil {
		b.Filter(func(i int) bool { return !drop[i] })
	}
	r.reportCleaning(ctx, cleaning)
	return req
}

// checkKeys says whether an enrich key list fits a receipt.
func checkKeys(keys []string) error {
	if keys == nil {
		return nil
	}
	return receipt.CheckKeys(keys)
}

// refuse reports a block that is dropped; a nil error stands for an empty one,
// which cleaning has counted already.
func (r *run) refuse(ctx context.Context, err error) {
	if err == nil {
		return
	}
	why := reason.Of(err)
	if why == "" {
		why = reason.InvalidValue
	}
	r.meters.refused(ctx, why)
	if fields, ok := r.refusals.check(time.Now()); ok {
		r.logger.Warn("A block cannot be signed and was dropped", append(fields,
			zap.String("reason", string(why)), zap.String("help", why.Help()), zap.Error(err))...)
	}
}

// refuseAll reports a request that the tpm extension will never sign. It has
// been checked, so this is a bound of receipts that prepare does not know.
func (r *run) refuseAll(ctx context.Context, req *request, err error) {
	for range req.len() {
		r.refuse(ctx, reason.Wrap(reason.InvalidValue, err))
	}
}

func (r *run) reportCleaning(ctx context.Context, c digest.Cleaning) {
	if c == (digest.Cleaning{}) {
		return
	}
	r.meters.cleaned(ctx, c)
	if c.Receipts > 0 {
		r.chained.Do(func() {
			r.logger.Warn("Incoming data carries receipts of another signer. They are stripped, since a block has one signer: " +
				"take this processor out of the pipeline to keep theirs. This is said once and counted as cleaned with kind=receipts.")
		})
	}
}

func (q *request) len() int { return len(q.prepared) }

// leaves is what the tpm extension signs.
func (q *request) leaves(stream string) []group.Leaf {
	leaves := make([]group.Leaf, len(q.prepared))
	for i := range q.prepared {
		leaves[i] = group.Leaf{
			Signal:     q.batch.Signal(),
			Tolerances: q.tolerances,
			Stream:     stream,
			Items:      uint64(q.prepared[i].Items),
			Keys:       q.prepared[i].Keys,
			Digest:     q.prepared[i].Digest,
		}
	}
	return leaves
}

// attach puts the receipts on the blocks and returns what got none, nil when
// all did. The blocks without receipt are moved out of q.
func (q *request) attach(signed []group.Signed) (unsigned *request) {
	missing := 0
	for i := range q.prepared {
		if i >= len(signed) || signed[i].Receipt == nil {
			missing++
			continue
		}
		q.batch.At(i).Attach(digest.Proof{Receipt: signed[i].Receipt, Manifest: q.prepared[i].Manifest})
	}
	if missing == 0 {
		return nil
	}
	return q.cutOut(func(i int) bool { return i >= len(signed) || signed[i].Receipt == nil })
}

// cutOut moves the blocks for which out answers true into a request of their own.
func (q *request) cutOut(out func(i int) bool) *request {
	cut := &request{batch: digest.NewBatch(q.batch.Signal()), tolerances: q.tolerances, own: q.own}
	kept := q.prepared[:0:0]
	for i, p := range q.prepared {
		if !out(i) {
			kept = append(kept, p)
			continue
		}
		q.batch.MoveBlock(i, cut.batch)
		cut.prepared = append(cut.prepared, p)
		cut.items += p.Items
	}
	q.batch.Filter(func(i int) bool { return !out(i) })
	q.prepared, q.items = kept, q.items-cut.items
	return cut
}

// record returns the request as it is kept in the pending store.
func (q *request) record(state recordState) (record, error) {
	payload, err := q.batch.Marshal()
	if err != nil {
		return record{}, fmt.Errorf("encoding a request for the pending store: %w", err)
	}
	return record{state: state, signal: q.batch.Signal(), tolerances: q.tolerances, blocks: q.len(), payload: payload}, nil
}

// intact returns the signed form of a request that the next consumer had in
// its hands, as long as it still is what was signed. A consumer that mutates
// may have changed or emptied it.
func (q *request) intact(tol block.Tolerance) (record, error) {
	rec, err := q.record(stateSigned)
	if err != nil {
		return record{}, err
	}
	// A copy is checked: the batch may be marked read-only by now, and Check
	// may write.
	batch, err := digest.UnmarshalBatch(rec.signal, rec.payload)
	if err != nil {
		return record{}, fmt.Errorf("decoding a signed request: %w", err)
	}
	if batch.Len() != q.len() {
		return record{}, fmt.Errorf("%d of %d signed blocks are left", batch.Len(), q.len())
	}
	for i, p := range q.prepared {
		proof, err := batch.At(i).Proof()
		if err != nil {
			return record{}, fmt.Errorf("the receipt of block %d was changed: %w", i, err)
		}
		if proof.Receipt == nil {
			return record{}, fmt.Errorf("the receipt of block %d is gone", i)
		}
		got, err := batch.At(i).Check(digest.Expected{Tolerances: tol, Digest: p.Digest, Keys: p.Keys, Manifest: p.Manifest})
		if err != nil {
			return record{}, fmt.Errorf("block %d was changed: %w", i, err)
		}
		if got.Items != p.Items {
			return record{}, fmt.Errorf("%d of %d items of block %d are left", got.Items, p.Items, i)
		}
	}
	return rec, nil
}
