package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
)

// What can be wrong with a log. The errors of Chain wrap one of these and name
// the entry.
var (
	ErrGap       = errors.New("the audit log lacks entries, or has them in another order")
	ErrChanged   = errors.New("the audit log was changed: an entry does not have its hash")
	ErrForked    = errors.New("the audit log is not the one that was signed: its hash differs from the signed head's")
	ErrTruncated = errors.New("the audit log was cut off: it ends before its signed head")
)

// maxHeads bounds what Expect remembers.
const maxHeads = 1024

// Chain checks entries one after the other. Its zero value stands before the
// first entry. It belongs to one goroutine.
type Chain struct {
	seq    uint64
	hash   []byte // nil before the first entry
	failed error  // a broken chain stays broken

	expected map[uint64][]byte // hash by number, of heads that are not reached yet
	furthest uint64
}

// From returns a Chain that goes on behind an entry whose number and hash are
// known from elsewhere, such as a head that was verified earlier.
func From(seq uint64, hash []byte) *Chain {
	c := &Chain{seq: seq}
	if seq > 0 {
		c.hash = bytes.Clone(hash)
	}
	return c
}

// Expect says that the log has this hash at this number, as a signed head whose
// signature the caller has verified tells. Append and End hold the log to it.
func (c *Chain) Expect(seq uint64, hash []byte) error {
	if seq <= c.seq {
		if seq == c.seq && seq > 0 && !bytes.Equal(hash, c.hash) {
			return c.fail(ErrForked, seq)
		}
		if seq < c.seq {
			return fmt.Errorf("audit: the head of entry %d has to be known before the entry is checked", seq)
		}
		return nil
	}
	if known, ok := c.expected[seq]; ok && !bytes.Equal(known, hash) {
		return c.fail(ErrForked, seq)
	}
	if len(c.expected) >= maxHeads {
		return fmt.Errorf("audit: more than %d heads at once", maxHeads)
	}
	if c.expected == nil {
		c.expected = make(map[uint64][]byte)
	}
	c.expected[seq] = bytes.Clone(hash)
	c.furthest = max(c.furthest, seq)
	return nil
}

// Append checks that e follows what was appended before, by number and hash,
// and that it is what a head says of it. After an error every call returns it.
func (c *Chain) Append(e *Entry) error {
	if c.failed != nil {
		return c.failed
	}
	if e.Seq != c.seq+1 {
		return c.fail(fmt.Errorf("%w: %d follows %d", ErrGap, e.Seq, c.seq), e.Seq)
	}
	hash := Hash(c.hash, e)
	if len(e.Hash) != sha256.Size || !bytes.Equal(hash, e.Hash) {
		return c.fail(ErrChanged, e.Seq)
	}
	if expected, ok := c.expected[e.Seq]; ok {
		if !bytes.Equal(expected, hash) {
			return c.fail(ErrForked, e.Seq)
		}
		delete(c.expected, e.Seq)
	}
	c.seq, c.hash = e.Seq, hash
	return nil
}

// End says that the log has no more entries. It returns ErrTruncated when a
// head was not reached.
func (c *Chain) End() error {
	if c.failed != nil {
		return c.failed
	}
	if c.furthest > c.seq {
		return fmt.Errorf("audit: %w: the last entry is %d, the head is of %d", ErrTruncated, c.seq, c.furthest)
	}
	return nil
}

// Last returns number and hash of the last entry; 0 and 32 zero bytes before
// the first one.
func (c *Chain) Last() (seq uint64, hash []byte) {
	if c.hash == nil {
		return c.seq, make([]byte, sha256.Size)
	}
	return c.seq, bytes.Clone(c.hash)
}

func (c *Chain) fail(err error, seq uint64) error {
	c.failed = fmt.Errorf("audit: entry %d: %w", seq, err)
	return c.failed
}
