package merkle

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/telemark-otel/telemark/internal/block"
)

func leaves(n int) []block.Digest {
	out := make([]block.Digest, n)
	for i := range out {
		var b [9]byte
		binary.BigEndian.PutUint64(b[1:], uint64(i))
		out[i] = sha256.Sum256(b[:])
	}
	return out
}

// reference is the library's own way: a visitor keeps the nodes, each proof is
// rehashed.
type reference struct {
	nodes map[compact.NodeID][]byte
	root  []byte
	size  uint64
}

func newReference(t testing.TB, ls []block.Digest) *reference {
	t.Helper()
	r := &reference{nodes: map[compact.NodeID][]byte{}, size: uint64(len(ls))}
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	rng := f.NewEmptyRange(0)
	for i := range ls {
		require.NoError(t, rng.Append(ls[i][:], func(id compact.NodeID, h []byte) { r.nodes[id] = h }))
	}
	var err error
	r.root, err = rng.GetRootHash(nil)
	require.NoError(t, err)
	return r
}

func (r *reference) path(t testing.TB, i uint64) [][]byte {
	t.Helper()
	nodes, err := proof.Inclusion(i, r.size)
	require.NoError(t, err)
	hashes := make([][]byte, len(nodes.IDs))
	for j, id := range nodes.IDs {
		hashes[j] = r.nodes[id]
	}
	hashes, err = nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	require.NoError(t, err)
	return hashes
}

func checkAgainstReference(t *testing.T, n int, indices []uint64) {
	t.Helper()
	ls := leaves(n)
	tree, ref := Build(ls), newReference(t, ls)
	root := tree.Root()
	require.Equal(t, ref.root, root[:], "size %d", n)
	require.EqualValues(t, n, tree.Size())
	for _, i := range indices {
		path, err := tree.Path(i)
		require.NoError(t, err)
		want := ref.path(t, i)
		require.Len(t, path, len(want), "leaf %d of %d", i, n)
		require.Equal(t, len(want), PathLen(i, uint64(n)))
		for j := range want {
			require.Equal(t, want[j], path[j][:], "leaf %d of %d, level %d", i, n, j)
		}
		require.NoError(t, proof.VerifyInclusion(rfc6962.DefaultHasher, i, uint64(n), ls[i][:], want, root[:]))
		got, err := RootFromPath(ls[i], i, uint64(n), path)
		require.NoError(t, err)
		require.Equal(t, root, got)
	}
}

func TestTreesAgreeWithTheLibrary(t *testing.T) {
	for n := 1; n <= 130; n++ {
		all := make([]uint64, n)
		for i := range all {
			all[i] = uint64(i)
		}
		checkAgainstReference(t, n, all)
	}
	for _, n := range []int{1023, 1024, 1025, 4096, 5000, MaxLeaves - 1, MaxLeaves} {
		last := uint64(n - 1)
		checkAgainstReference(t, n, []uint64{0, 1, last / 2, last/2 + 1, last - 1, last})
	}
}

func TestNoLeafProvesAnotherPlaceOrTree(t *testing.T) {
	const n = 13
	ls := leaves(n)
	tree := Build(ls)
	for i := range uint64(n) {
		path, err := tree.Path(i)
		require.NoError(t, err)
		for k := range uint64(n) {
			if k == i {
				continue
			}
			// Another index: either the path has the wrong length or the root differs.
			if root, err := RootFromPath(ls[i], k, n, path); err == nil {
				require.NotEqual(t, tree.Root(), root, "leaf %d as %d", i, k)
			} else {
				require.ErrorIs(t, err, ErrPath)
			}
			root, err := RootFromPath(ls[k], i, n, path)
			require.NoError(t, err)
			require.NotEqual(t, tree.Root(), root, "leaf %d in the place of %d", k, i)
		}
		for j := range path {
			changed := append([]block.Digest(nil), path...)
			changed[j][31] ^= 1
			root, err := RootFromPath(ls[i], i, n, changed)
			require.NoError(t, err)
			require.NotEqual(t, tree.Root(), root)
		}
	}
}

// An inner node given out as a leaf must not verify: the caller's leaf hashes
// start with 00, inner ones with 01, so a path one shorter never fits.
func TestPathsOfWrongLengthAreRefused(t *testing.T) {
	ls := leaves(8)
	tree := Build(ls)
	path, err := tree.Path(5)
	require.NoError(t, err)

	for name, c := range map[string]struct {
		i, size uint64
		path    []block.Digest
	}{
		"shorter":          {5, 8, path[:2]},
		"longer":           {5, 8, append(path[:3:3], block.Digest{})},
		"far longer":       {5, 8, make([]block.Digest, 100)},
		"none":             {5, 8, nil},
		"index at size":    {8, 8, path},
		"index far beyond": {1 << 63, 8, path},
		"size zero":        {0, 0, nil},
		"size beyond max":  {0, MaxLeaves + 1, make([]block.Digest, 17)},
		"size of 2^64-1":   {0, 1<<64 - 1, make([]block.Digest, 64)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := RootFromPath(ls[5], c.i, c.size, c.path)
			require.ErrorIs(t, err, ErrPath)
		})
	}
	_, err = tree.Path(8)
	require.ErrorIs(t, err, ErrPath)
	require.Zero(t, PathLen(8, 8))
}

func TestGroupsOutOfBoundsPanic(t *testing.T) {
	require.Panics(t, func() { Build(nil) })
	require.Panics(t, func() { Build(make([]block.Digest, MaxLeaves+1)) })
}

func TestPathsOfAWholeGroupAllocateNothing(t *testing.T) {
	tree := Build(leaves(1000))
	buf := make([]block.Digest, 0, MaxPathLen)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		for i := range tree.Size() {
			if _, err := tree.AppendPath(buf, i); err != nil {
				panic(err)
			}
		}
	}))
}

func BenchmarkBuild4096(b *testing.B) {
	ls := leaves(4096)
	b.ReportAllocs()
	for b.Loop() {
		Build(ls)
	}
}

func BenchmarkAllPaths4096(b *testing.B) {
	tree := Build(leaves(4096))
	buf := make([]block.Digest, 0, MaxPathLen)
	b.ReportAllocs()
	for b.Loop() {
		for i := range tree.Size() {
			if _, err := tree.AppendPath(buf, i); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkRootFromPath512(b *testing.B) {
	ls := leaves(512)
	tree := Build(ls)
	path, err := tree.Path(300)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := RootFromPath(ls[300], 300, 512, path); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRootOfAnyPathIsTheLibrarys(t *testing.T) {
	leaf := leaves(1)[0]
	for size := uint64(1); size <= 130; size++ {
		for i := range size {
			path := leaves(PathLen(i, size)) // of no tree
			hashes := make([][]byte, len(path))
			for l := range path {
				hashes[l] = path[l][:]
			}
			want, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, i, size, leaf[:], hashes)
			require.NoError(t, err)
			got, err := RootFromPath(leaf, i, size, path)
			require.NoError(t, err)
			require.Equal(t, block.Digest(want), got, "leaf %d of %d", i, size)
		}
	}
}
