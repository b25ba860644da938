package receipt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
)

// exampleKey is the P-256 key of RFC 6979 A.2.5, used with deterministic ECDSA.
func exampleKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	d, err := hex.DecodeString("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
	require.NoError(t, err)
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d)
	require.NoError(t, err)
	return key
}

// signES256 signs the SHA-256 of message by RFC 6979, as r | s.
func signES256(t testing.TB, key *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	der, err := key.Sign(nil, sum[:], sha256Opts)
	require.NoError(t, err)
	r, s := parseDER(t, der)
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig
}

func digestOf(s string) block.Digest { return sha256.Sum256([]byte(s)) }

func exampleKID() []byte {
	d := digestOf("edge-a")
	return append([]byte{0x00, 0x0b}, d[:]...)
}

func exampleStatement() *Statement {
	kid := exampleKID()
	return &Statement{
		Algorithm: ES256,
		KID:       kid,
		Audience:  "https://collector.example",
		IssuedAt:  1793620800,
		Nonce:     bytes.Repeat([]byte{0xa5}, 32),
		UEID:      UEID("example", kid),
		Location: &Location{
			Latitude: 52.520008, Longitude: 13.404954, Accuracy: new(25.0), Source: "static",
		},
		Epoch: 7, Seq: 3, Size: 3,
		Prev: digestOf("the statement before"),
	}
}

// exampleLeaves are the blocks of the example's group; it is of the second.
func exampleLeaves() []Leaf {
	keys := KeyListDigest([]string{"host.name", "service.name"})
	return []Leaf{
		{Signal: block.Metrics, Stream: "tpmsign:metrics", BlockNo: 41, Items: 12, Digest: digestOf("first")},
		{
			Signal: block.Logs, Tolerances: block.Enrich, Stream: "tpmsign/edge:logs", BlockNo: 300, Items: 25,
			Keys: &keys, Digest: digestOf("second"),
		},
		{Signal: block.Traces, Tolerances: block.Split, Stream: "tpmsign:traces", BlockNo: 1, Items: 1, Digest: digestOf("third")},
	}
}

// exampleReceipt is signed and whole.
func exampleReceipt(t testing.TB) *Receipt {
	t.Helper()
	leaves := exampleLeaves()
	r := receiptIn(t, exampleStatement(), leaves, 1)
	r.Keys = []string{"host.name", "service.name"}
	return r
}

func receiptIn(t testing.TB, s *Statement, leaves []Leaf, i int) *Receipt {
	t.Helper()
	hashes := make([]block.Digest, len(leaves))
	for j := range leaves {
		hashes[j] = leaves[j].Hash()
	}
	tree := merkle.Build(hashes)
	s.Size = tree.Size()
	protected, err := s.EncodeProtected()
	require.NoError(t, err)
	path, err := tree.Path(uint64(i))
	require.NoError(t, err)
	return &Receipt{
		Protected: protected, Statement: s,
		Signature: signES256(t, exampleKey(t), SigStructure(protected, tree.Root())),
		TreeSize:  tree.Size(), LeafIndex: uint64(i), Path: path,
		Stream: leaves[i].Stream, BlockNo: leaves[i].BlockNo, Digest: leaves[i].Digest, Items: leaves[i].Items,
	}
}

// groupReceipt is a receipt out of a group of size blocks, without key list.
func groupReceipt(t testing.TB, size, i int) *Receipt {
	t.Helper()
	leaves := make([]Leaf, size)
	for j := range leaves {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(j))
		leaves[j] = Leaf{
			Signal: block.Metrics, Stream: "tpmsign/edge:metrics", BlockNo: uint64(1000 + j), Items: 100,
			Digest: sha256.Sum256(n[:]),
		}
	}
	return receiptIn(t, exampleStatement(), leaves, i)
}
