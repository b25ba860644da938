package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"

	"github.com/telemark-otel/telemark/internal/block"
)

// MaxDepth is how deep attribute values and bodies may nest: the value itself
// stands at depth 1, the elements of an array or map one deeper than it.
const MaxDepth = 64

// Domain prefixes, see docs/spec/digest.md.
const (
	domainBlock    = "telemark-block-v1\x00"
	domainResource = "telemark-resource-v1\x00"
	domainScope    = "telemark-scope-v1\x00"
	domainMetric   = "telemark-metric-v1\x00"
	domainItem     = "telemark-item-v1\x00"
	domainItems    = "telemark-items-v1\x00"
)

const (
	bufSize  = 8 << 10
	longSize = 1 << 10 // strings from here on are fed to the hash in pieces
	// headroom is what every function that writes something of variable length
	// leaves free, so that the fixed fields after it need no check. append
	// stays correct, only slower, should it ever be too small.
	headroom = 256

	canonicalNaN = 0x7ff8000000000000
)

// walker emits C of one block, feeds it to SHA-256 and on the way notes what no
// signed block may hold and what size pdata must find.
//
// The buffer is handed from function to function as b, so that it lives in
// registers; w.flushed + len(b) is the number of bytes emitted.
//
// Hidden fields: fix is what the protobuf size of the current message is
// larger than its C. With the bytes emitted that gives the size that the
// block has if it holds nothing but what the walk saw. All fields add to the
// size of their message, and that to the size of the message around it, so the
// sizer of pdata finds more if and only if there is something hidden.
type walker struct {
	h       hash.Hash
	buf     []byte
	flushed int
	fix     int
	mute    bool // emit, but do not hash
	sum     block.Digest

	options
	dirt
	proof proofSeen

	start   int // position and flushed where the open item began
	opened  int
	nItems  int
	sizes   int // protobuf bytes of the items of the open container, with tag and length
	size    int // protobuf bytes of the block
	parents [2]block.Digest
	prefix  [len(domainItem) + 1 + sha256.Size]byte
	digests []byte // item digests, with split
	added   []string
	nextKey int
	reorder bool // a signed key stands where it should not
	behind  bool // attributes stand behind the proof
	digest  block.Digest
}

// options say how to walk.
type options struct {
	signal    block.Signal
	split     bool
	signing   bool
	heartbeat bool // signing: the heartbeat scope is the signer's own
	enriched  bool // check with Enrich: only keys are signed
	cut       bool // leave out the resource attributes behind the proof
	keys      []string
	keySet    map[string]struct{}
}

// dirt counts what no signed block holds.
type dirt struct {
	reserved int
	receipts int // signing: proofs of an earlier signer
	scopes   int // signing: heartbeat scopes
	empty    int
	strings  int
	doubles  int
	deep     int
	key      string // the first reserved one
}

type proofSeen struct {
	receipt, manifest int
	wrongType         bool
}

var walkers = sync.Pool{New: func() any {
	return &walker{h: sha256.New(), buf: make([]byte, 0, bufSize)}
}}

// newWalker takes a walker from the pool. What it found is valid until release.
func newWalker(o options) *walker {
	w := walkers.Get().(*walker)
	w.reset(o)
	return w
}

func (w *walker) reset(o options) {
	*w = walker{h: w.h, buf: w.buf[:0], options: o, digests: w.digests[:0]}
	w.h.Reset()
}

// maxKept bounds the item digests that stay in the pool, in bytes.
const maxKept = 1 << 20

func (w *walker) release() {
	if cap(w.digests) > maxKept {
		w.digests = nil
	}
	w.reset(options{})
	walkers.Put(w)
}

func (w *walker) flush(b []byte) []byte {
	if !w.mute {
		_, _ = w.h.Write(b) // a hash never fails
	}
	w.flushed += len(b)
	return b[:0]
}

func (w *walker) pos(b []byte) int { return w.flushed + len(b) }

// room leaves at least headroom bytes in b.
func (w *walker) room(b []byte) []byte {
	if cap(b)-len(b) < headroom {
		return w.flush(b)
	}
	return b
}

// begin starts a hash with its domain and what binds it to its place.
func (w *walker) begin(b []byte, domain string, parent []byte) []byte {
	b = append(b[:0], domain...)
	if parent == nil {
		return append(b, byte(w.signal))
	}
	return append(b, parent...)
}

// end finishes the hash that begin started.
func (w *walker) end(b []byte) block.Digest {
	_ = w.flush(b)
	w.h.Sum(w.sum[:0])
	w.h.Reset()
	return w.sum
}

// silence and speak surround what is checked and sized, but not hashed.
func (w *walker) silence(b []byte) []byte {
	b = w.flush(b)
	w.mute = true
	return b
}

func (w *walker) speak(b []byte) []byte {
	b = w.flush(b)
	w.mute = false
	return b
}

// openItem and closeItem surround C(item):
//
//	plain  tag, C(item), 00
//	split  SHA-256(domain, signal, parent, C(item))
func (w *walker) openItem(b []byte, tag byte) []byte {
	if w.split {
		b = append(b[:0], w.prefix[:]...)
	} else {
		b = append(w.room(b), tag)
	}
	w.opened = w.flushed
	w.start = w.flushed + len(b)
	w.fix = 0
	return b
}

func (w *walker) closeItem(b []byte) []byte {
	l := w.flushed + len(b) - w.start + w.fix
	w.sizes += 1 + sov(l) + l
	w.nItems++
	if !w.split {
		return append(b, 0)
	}
	var d block.Digest
	if w.flushed == w.opened {
		d = sha256.Sum256(b)
		w.flushed += len(b)
	} else {
		d = w.end(b)
	}
	w.digests = append(w.digests, d[:]...)
	return b[:0]
}

// setParent makes d the parent of the items to come.
func (w *walker) setParent(d block.Digest) {
	n := copy(w.prefix[:], domainItem)
	w.prefix[n] = byte(w.signal)
	copy(w.prefix[n+1:], d[:])
}

// finish ends the block digest.
func (w *walker) finish(b []byte) {
	if !w.split {
		w.digest = w.end(b)
		return
	}
	w.digest = w.manifestDigest(w.digests)
}

// manifestDigest is the block digest with split:
// SHA-256(domain, signal, u64 count, item digests).
func (w *walker) manifestDigest(items []byte) block.Digest {
	b := w.begin(w.buf, domainItems, nil)
	b = w.flush(binary.BigEndian.AppendUint64(b, uint64(len(items)/sha256.Size)))
	_, _ = w.h.Write(items)
	return w.end(b)
}
