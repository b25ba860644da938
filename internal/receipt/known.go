package receipt

import (
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
)

// known is a statement that was decoded before, with what the receipts of its
// group have in common. It is not changed once it can be found.
type known struct {
	protected []byte
	statement *Statement
	stream    string // of the first receipt; most of a group are of the same
}

// decode reads exactly what Append writes for a receipt of this statement
// without key list, byte by byte and without the library. nil says that b is
// something else, and not what: decode tells.
func (k *known) decode(b []byte) *Receipt {
	c := cutter{rest: b[len(prefix)+headSize(uint64(len(k.protected)))+len(k.protected):], ok: true}
	c.literal(unprotectedHead)
	proof := c.uint(majorBytes)
	start := len(c.rest)
	c.literal("\x83")
	own := &struct {
		Receipt
		signature [64]byte // of ES256; others have room of their own
	}{Receipt: Receipt{Protected: k.protected, Statement: k.statement}}
	r := &own.Receipt
	r.TreeSize, r.LeafIndex = c.uint(majorUint), c.uint(majorUint)
	n := c.uint(majorArray)
	if !c.ok || n > merkle.MaxPathLen {
		return nil
	}
	r.Path = make([]block.Digest, n)
	for i := range r.Path {
		c.literal("\x58\x20")
		c.copy(r.Path[i][:])
	}
	if uint64(start-len(c.rest)) != proof {
		return nil
	}
	c.literal("\x61d\x58\x20")
	c.copy(r.Digest[:])
	c.literal("\x61i")
	r.Items = c.uint(majorUint)
	c.literal("\x61n")
	r.BlockNo = c.uint(majorUint)
	c.literal("\x61s")
	stream := c.take(c.uint(majorText))
	c.literal(nullByte)
	size := k.statement.Algorithm.SignatureSize()
	if c.uint(majorBytes) != uint64(size) {
		return nil
	}
	if r.Signature = own.signature[:]; size != len(own.signature) {
		r.Signature = make([]byte, size)
	}
	c.copy(r.Signature)
	if !c.ok || len(c.rest) > 0 {
		return nil
	}
	if r.Stream = k.stream; string(stream) != k.stream {
		r.Stream = string(stream)
	}
	if r.check(k.statement.Size) != nil {
		return nil
	}
	return r
}

// unprotectedHead begins the unprotected header without "k": five pairs, the
// first of them 396: {-1: [ ….
const unprotectedHead = "\xa5\x19\x01\x8c\xa1\x20\x81"

// cutter cuts pieces off the front of rest. Once something does not fit, ok is
// false and what it returns means nothing.
type cutter struct {
	rest []byte
	ok   bool
}

func (c *cutter) take(n uint64) []byte {
	if !c.ok || n > uint64(len(c.rest)) {
		c.ok = false
		return nil
	}
	out := c.rest[:n]
	c.rest = c.rest[n:]
	return out
}

func (c *cutter) literal(want string) {
	if string(c.take(uint64(len(want)))) != want {
		c.ok = false
	}
}

func (c *cutter) copy(to []byte) { copy(to, c.take(uint64(len(to)))) }

// uint cuts a head of this major type in its shortest form.
func (c *cutter) uint(major byte) uint64 {
	n, rest, ok := cutHead(c.rest, major)
	if !c.ok || !ok || len(c.rest)-len(rest) != headSize(n) {
		c.ok = false
		return 0
	}
	c.rest = rest
	return n
}
