package group

import (
	"sync"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// Ticket stands for leaves that were submitted together. They are numbered
// when their group is closed, never before, so a ticket cancelled in time
// leaves no gap in its stream. The leaves of one ticket may fall into several
// groups.
type Ticket struct {
	committer *Committer
	leaves    []Leaf // never changed
	done      chan struct{}

	// Guarded by committer.mu until done is closed, constant from then on.
	queued     bool
	prev, next *Ticket // neighbours in the queue
	taken      int     // leaves that stand in closed groups
	open       int     // leaves that are neither signed nor given up
	parts      []part
	err        error

	once   sync.Once
	signed []Signed // written by once
	encErr error    // written by once
}

// part is a run of a ticket's leaves in one group.
type part struct {
	group *signedGroup
	first int // index in the group
	count int
}

// signedGroup is what receipts are made of. It is constant once a ticket with
// leaves in it is done; sig is nil when it was given up.
type signedGroup struct {
	epoch, seq uint64
	numbers    []uint64 // block numbers by leaf index
	tree       *merkle.Tree
	protected  []byte
	sig        []byte
}

// Done is closed when the leaves are signed or can never be.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Result waits for Done and returns one Signed per leaf, in order. Its error is
// terminal: ErrCancelled, or ErrClosed when the committer was closed. With
// ErrClosed some leaves may have been signed: their Receipt is not nil and must
// be used, or a gap will be seen.
//
// Receipts are encoded here, by the goroutine that wants them, and not by the
// one that keeps the signer busy.
func (t *Ticket) Result() ([]Signed, error) {
	<-t.done
	t.once.Do(t.encode)
	if t.encErr != nil {
		return nil, t.encErr
	}
	return t.signed, t.err
}

// Cancel takes the leaves back. True: none was or will be numbered, and the
// ticket is done. False: at least one stands in a closed group; Done will come,
// after however many retries, and the receipts must be used or a gap will be seen.
func (t *Ticket) Cancel() bool {
	c := t.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.taken > 0 {
		return false
	}
	if t.queued {
		c.queue.remove(t)
		c.waiting -= len(t.leaves)
		t.settleLocked(len(t.leaves), ErrCancelled)
	}
	return true
}

// settleLocked notes that the fate of n more leaves is known.
func (t *Ticket) settleLocked(n int, err error) {
	if err != nil {
		t.err = err
	}
	t.open -= n
	if t.open == 0 {
		close(t.done)
	}
}

// encode makes the receipts, all in one buffer: they travel in one request.
func (t *Ticket) encode() {
	t.signed = make([]Signed, len(t.leaves))
	var zeros [merkle.MaxPathLen]block.Digest
	size := 0
	t.each(func(g *signedGroup, leaf, index int) error {
		r := g.receipt(&t.leaves[leaf], index)
		r.Path = zeros[:merkle.PathLen(r.LeafIndex, r.TreeSize)]
		size += r.Size()
		return nil
	})
	buf := make([]byte, 0, size)
	t.each(func(g *signedGroup, leaf, index int) error {
		r := g.receipt(&t.leaves[leaf], index)
		path, err := g.tree.AppendPath(zeros[:0], r.LeafIndex)
		if err != nil {
			return err
		}
		r.Path = path
		begin := len(buf)
		if buf, err = r.Append(buf); err != nil {
			return err
		}
		t.signed[leaf] = Signed{
			Receipt: buf[begin:len(buf):len(buf)], Epoch: g.epoch, Seq: g.seq, BlockNo: r.BlockNo,
		}
		return nil
	})
	t.parts = nil // lets go of the trees
}

// each calls f for every signed leaf with its place in the ticket and its
// group, until one fails.
func (t *Ticket) each(f func(g *signedGroup, leaf, index int) error) {
	leaf := 0
	for _, p := range t.parts {
		for i := range p.count {
			if p.group.sig == nil {
				break
			}
			if t.encErr = f(p.group, leaf+i, p.first+i); t.encErr != nil {
				return
			}
		}
		leaf += p.count
	}
}

// receipt returns the receipt of a leaf, but for its path.
func (g *signedGroup) receipt(l *Leaf, index int) receipt.Receipt {
	return receipt.Receipt{
		Protected: g.protected, Signature: g.sig,
		TreeSize: g.tree.Size(), LeafIndex: uint64(index),
		Stream: l.Stream, BlockNo: g.numbers[index],
		Digest: l.Digest, Items: l.Items, Keys: l.Keys,
	}
}

// queue is a list of tickets, first in first out, from which any can be
// removed at once: during an outage of hours many are cancelled.
type queue struct {
	head, tail *Ticket
}

func (q *queue) push(t *Ticket) {
	t.queued, t.prev = true, q.tail
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
}

func (q *queue) remove(t *Ticket) {
	if t.prev == nil {
		q.head = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		q.tail = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.queued, t.prev, t.next = false, nil, nil
}
