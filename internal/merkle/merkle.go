// Package merkle keeps the tree of one signing group: the Merkle tree of RFC
// 9162 §2.1 over the leaf hashes of package receipt, and inclusion paths in it
// (§2.1.3). The arithmetic of the tree is that of transparency-dev/merkle, and
// tests hold paths against its.
//
// Left out: consistency proofs (groups do not grow), and the empty tree, since
// nothing is signed without leaves.
package merkle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/compact"

	"github.com/telemark-otel/telemark/internal/block"
)

// MaxLeaves bounds a tree, MaxPathLen follows from it.
const (
	MaxLeaves  = 1 << 16
	MaxPathLen = 16
)

// ErrPath is the cause of every error here: an index outside the tree, a size
// out of bounds or a path of the wrong length.
var ErrPath = errors.New("leaf index or path do not fit the tree size")

// Tree holds the nodes of one group's tree. It is immutable, so that the paths
// of its leaves may be read concurrently.
type Tree struct {
	size uint64
	root block.Digest

	// nodes are the roots of all perfect subtrees in the order in which they
	// become known when leaves are appended one by one:
	//
	//	  2         5
	//	 / \       / \
	//	0   1     3   4 …        node (level 2, index 0) is 6, leaf 4 is 7
	//
	nodes []block.Digest

	// right[l] is the root over the leaves from the last whole subtree of level l
	// to the end: what stands in a path at level l where the sibling's subtree is
	// not complete. Unset where the size is a multiple of 2^l.
	right [MaxPathLen + 1]block.Digest
}

// Build makes the tree over leaf hashes. It panics when there are none or more
// than [MaxLeaves]: whoever forms groups bounds them.
func Build(leaves []block.Digest) *Tree {
	if len(leaves) == 0 || len(leaves) > MaxLeaves {
		panic(fmt.Sprintf("merkle: a tree has 1 to %d leaves, not %d", MaxLeaves, len(leaves)))
	}
	t := &Tree{
		size:  uint64(len(leaves)),
		nodes: make([]block.Digest, 0, 2*len(leaves)+MaxPathLen),
	}
	// Leaves and nodes are written once, where they stay: the range calls the hash
	// function in the order that node counts in, so that no visitor has to copy.
	var scratch [1 + 2*sha256.Size]byte
	factory := compact.RangeFactory{Hash: func(l, r []byte) []byte {
		h := hashChildren(&scratch, l, r)
		t.nodes = append(t.nodes, h)
		return t.nodes[len(t.nodes)-1][:]
	}}
	rng := factory.NewEmptyRange(0)
	for i := range leaves {
		t.nodes = append(t.nodes, leaves[i])
		// Append fails only on a corrupted range, which nobody else can touch.
		if err := rng.Append(t.nodes[len(t.nodes)-1][:], nil); err != nil {
			panic(fmt.Sprintf("merkle: %v", err))
		}
	}
	perfect := len(t.nodes)
	root, err := rng.GetRootHash(nil)
	if err != nil {
		panic(fmt.Sprintf("merkle: %v", err))
	}
	copy(t.root[:], root)
	t.nodes = t.nodes[:perfect]
	t.fillRight(&scratch)
	return t
}

// fillRight computes the incomplete subtrees at the right border, from the
// lowest: each next one puts the perfect subtree of a set bit to their left.
func (t *Tree) fillRight(scratch *[1 + 2*sha256.Size]byte) {
	some := false
	for l := range MaxPathLen {
		if t.size>>l&1 == 1 {
			left := t.node(l, t.size>>l-1)
			if some {
				t.right[l+1] = hashChildren(scratch, left[:], t.right[l][:])
			} else {
				t.right[l+1] = *left
			}
			some = true
		} else {
			t.right[l+1] = t.right[l]
		}
	}
}

// node returns the root of perfect subtree index of a level. Before it stand
// all nodes that are complete without its last leaf, then its own leaf and the
// levels below.
func (t *Tree) node(level int, index uint64) *block.Digest {
	last := (index+1)<<level - 1
	return &t.nodes[2*last-uint64(bits.OnesCount64(last))+uint64(level)]
}

// Size returns the number of leaves.
func (t *Tree) Size() uint64 { return t.size }

// Root returns the tree's root.
func (t *Tree) Root() block.Digest { return t.root }

// Path returns the inclusion path of leaf i, from the leaf up.
func (t *Tree) Path(i uint64) ([]block.Digest, error) {
	if i >= t.size {
		return nil, fmt.Errorf("%w: leaf %d of %d", ErrPath, i, t.size)
	}
	return t.AppendPath(make([]block.Digest, 0, PathLen(i, t.size)), i)
}

// AppendPath appends the inclusion path of leaf i to dst. It hashes nothing, and
// allocates nothing when dst has room.
func (t *Tree) AppendPath(dst []block.Digest, i uint64) ([]block.Digest, error) {
	if i >= t.size {
		return dst, fmt.Errorf("%w: leaf %d of %d", ErrPath, i, t.size)
	}
	for l := 0; (t.size-1)>>l > 0; l++ {
		sibling := i>>l ^ 1
		switch begin := sibling << l; {
		case begin+1<<l <= t.size:
			dst = append(dst, *t.node(l, sibling))
		case begin < t.size:
			dst = append(dst, t.right[l])
		default: // nothing stands to the right: the node moves up as it is
		}
	}
	return dst, nil
}

// PathLen is the length of the inclusion path of leaf i in a tree of this size.
func PathLen(i, size uint64) int {
	if i >= size {
		return 0
	}
	inner := bits.Len64(i ^ (size - 1))
	return inner + bits.OnesCount64(i>>inner)
}

// RootFromPath recomputes the root of a tree of this size from one leaf and its
// path. The error is [ErrPath].
func RootFromPath(leaf block.Digest, i, size uint64, path []block.Digest) (block.Digest, error) {
	if size > MaxLeaves || i >= size || len(path) != PathLen(i, size) {
		return block.Digest{}, fmt.Errorf("%w: leaf %d of %d, path of %d", ErrPath, i, size, len(path))
	}
	// Up to the level where the leaf and the last leaf part, the bits of the index
	// say on which side the sibling stands; above it, the leaf is at the right
	// border and all siblings stand to the left.
	var scratch [1 + 2*sha256.Size]byte
	node, inner := leaf, bits.Len64(i^(size-1))
	for l := range path {
		if l < inner && i>>l&1 == 0 {
			node = hashChildren(&scratch, node[:], path[l][:])
		} else {
			node = hashChildren(&scratch, path[l][:], node[:])
		}
	}
	return node, nil
}

// hashChildren computes an inner node (RFC 9162 §2.1.1):
//
//	SHA-256( 01 | left | right )
func hashChildren(scratch *[1 + 2*sha256.Size]byte, l, r []byte) block.Digest {
	scratch[0] = 1
	copy(scratch[1:], l)
	copy(scratch[1+sha256.Size:], r)
	return sha256.Sum256(scratch[:])
}
