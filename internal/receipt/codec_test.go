package receipt

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/merkle"
	"github.com/telemark-otel/telemark/internal/reason"
)

func TestReceiptsSurviveTheWire(t *testing.T) {
	bare := exampleStatement()
	bare.Nonce, bare.Location, bare.Prev = nil, nil, block.Digest{}
	full := exampleStatement()
	full.Location = &Location{
		Latitude: -90, Longitude: 180, Altitude: new(-0.5), Accuracy: new(0.0),
		Timestamp: new(int64(0)), Age: new(int64(math.MaxInt64)), Source: "gpsd",
	}
	full.Audience, full.IssuedAt, full.Nonce = strings.Repeat("ü", MaxAudience/2), maxUnixTime, make([]byte, maxNonce)
	full.Epoch, full.Seq = MaxCounter, MaxCounter
	for name, c := range map[string]*Receipt{
		"example":           exampleReceipt(t),
		"without optionals": receiptIn(t, bare, exampleLeaves()[:1], 0),
		"all optionals":     receiptIn(t, full, exampleLeaves(), 2),
		"in a group":        groupReceipt(t, 1000, 999),
	} {
		t.Run(name, func(t *testing.T) {
			if c.Path == nil {
				c.Path = []block.Digest{}
			}
			wire, err := c.Encode()
			require.NoError(t, err)
			require.Len(t, wire, c.Size())
			got, err := Decode(wire)
			require.NoError(t, err)
			require.Equal(t, c, got)

			c.Protected = nil // from the statement then
			again, err := c.Encode()
			require.NoError(t, err)
			require.Equal(t, wire, again)
		})
	}
}

func TestEmptyKeyListIsNotNoKeyList(t *testing.T) {
	r := exampleReceipt(t)
	r.Keys = []string{}
	empty, err := r.Encode()
	require.NoError(t, err)
	got, err := Decode(empty)
	require.NoError(t, err)
	require.NotNil(t, got.Keys)
	r.Keys = nil
	none, err := r.Encode()
	require.NoError(t, err)
	got, err = Decode(none)
	require.NoError(t, err)
	require.Nil(t, got.Keys)
	require.NotEqual(t, empty, none)
}

// The envelope is written by hand, for speed; the CBOR library must write the
// same bytes.
func TestEnvelopeIsTheLibrarysDeterministicEncoding(t *testing.T) {
	for _, size := range []int{1, 2, 3, 23, 24, 25, 255, 256, 300, 2000} {
		r := groupReceipt(t, size, size/2)
		for _, keys := range [][]string{nil, {}, {"a"}, many(23), many(24), many(MaxKeys)} {
			for _, n := range []uint64{1, 23, 24, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, MaxCounter} {
				r.Keys, r.BlockNo, r.Items = keys, n, min(n, MaxItems)
				wire, err := r.Encode()
				require.NoError(t, err)
				require.Equal(t, byLibrary(t, r), wire)
			}
		}
	}
}

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = strings.Repeat("k", 1+i%22)
	}
	return out
}

func byLibrary(t testing.TB, r *Receipt) []byte {
	t.Helper()
	path := make([][]byte, len(r.Path))
	for i := range r.Path {
		path[i] = r.Path[i][:]
	}
	proof, err := encMode.Marshal([]any{r.TreeSize, r.LeafIndex, path})
	require.NoError(t, err)
	unprotected := map[any]any{
		396: map[any]any{-1: []any{proof}},
		"d": r.Digest[:], "i": r.Items, "n": r.BlockNo, "s": r.Stream,
	}
	if r.Keys != nil {
		unprotected["k"] = r.Keys
	}
	out, err := encMode.Marshal(cbor.Tag{Number: tagSign1, Content: []any{r.Protected, unprotected, nil, r.Signature}})
	require.NoError(t, err)
	return out
}

func TestTheLargestReceiptFitsItsBound(t *testing.T) {
	s := exampleStatement()
	s.Algorithm = PS256
	s.Audience, s.Nonce = strings.Repeat("a", MaxAudience), make([]byte, maxNonce)
	s.IssuedAt, s.Epoch, s.Seq, s.Size = maxUnixTime, MaxCounter, MaxCounter, MaxTreeSize
	s.Location = &Location{
		Latitude: math.Pi, Longitude: math.E, Altitude: new(math.Pi), Accuracy: new(math.E),
		Timestamp: new(int64(maxUnixTime)), Age: new(int64(math.MaxInt64)), Source: strings.Repeat("s", MaxSource),
	}
	protected, err := s.EncodeProtected()
	require.NoError(t, err)
	require.LessOrEqual(t, len(protected), MaxProtected)
	r := &Receipt{
		Protected: protected, Statement: s, Signature: make([]byte, s.Algorithm.SignatureSize()),
		TreeSize: MaxTreeSize, LeafIndex: MaxTreeSize - 1, Path: make([]block.Digest, merkle.MaxPathLen),
		Stream: strings.Repeat("s", block.MaxStreamLen), BlockNo: MaxCounter, Items: MaxItems,
		Keys: []string{strings.Repeat("k", MaxKeysSize-4)},
	}
	require.Equal(t, MaxKeysSize, keysSize(r.Keys))
	wire, err := r.Encode()
	require.NoError(t, err)
	require.LessOrEqual(t, len(wire), MaxSize)
	_, err = Decode(wire)
	require.NoError(t, err)
}

// What Decode would refuse, Encode refuses first.
func TestReceiptsOutOfBoundsAreNotEncoded(t *testing.T) {
	for name, change := range map[string]func(r *Receipt){
		"nothing":          func(r *Receipt) { *r = Receipt{} },
		"statement":        func(r *Receipt) { r.Protected = nil; r.Statement.Audience = "" },
		"no statement":     func(r *Receipt) { r.Protected, r.Statement = nil, nil },
		"protected":        func(r *Receipt) { r.Protected = make([]byte, MaxProtected+1) },
		"signature":        func(r *Receipt) { r.Signature = r.Signature[1:] },
		"size":             func(r *Receipt) { r.TreeSize++ },
		"size without":     func(r *Receipt) { r.Statement, r.TreeSize = nil, 0 },
		"size beyond":      func(r *Receipt) { r.Statement, r.TreeSize = nil, MaxTreeSize+1 },
		"index":            func(r *Receipt) { r.LeafIndex = r.TreeSize },
		"path":             func(r *Receipt) { r.Path = r.Path[1:] },
		"stream":           func(r *Receipt) { r.Stream = "" },
		"number":           func(r *Receipt) { r.BlockNo = 0 },
		"items":            func(r *Receipt) { r.Items = 0 },
		"keys":             func(r *Receipt) { r.Keys = make([]string, MaxKeys+1) },
		"keys not in UTF8": func(r *Receipt) { r.Keys = []string{"\xff"} },
	} {
		t.Run(name, func(t *testing.T) {
			r := exampleReceipt(t)
			change(r)
			_, err := r.Encode()
			require.Error(t, err)
		})
	}
}

func TestDecodedReceiptsOutliveTheirBytes(t *testing.T) {
	wire, err := exampleReceipt(t).Encode()
	require.NoError(t, err)
	for name, decode := range map[string]func([]byte) (*Receipt, error){
		"alone": Decode, "decoder": NewDecoder(4).Decode,
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(wire)
			r, err := decode(b)
			require.NoError(t, err)
			clear(b)
			again, err := r.Encode()
			require.NoError(t, err)
			require.Equal(t, wire, again)
			r, err = decode(bytes.Clone(wire))
			require.NoError(t, err)
			require.Equal(t, exampleReceipt(t), r)
		})
	}
}

func TestDecoderSharesStatementsOfAGroup(t *testing.T) {
	d := NewDecoder(4)
	decode := func(r *Receipt) *Receipt {
		wire, err := r.Encode()
		require.NoError(t, err)
		out, err := d.Decode(wire)
		require.NoError(t, err)
		return out
	}
	first, second := decode(groupReceipt(t, 9, 0)), decode(groupReceipt(t, 9, 7))
	require.Same(t, first.Statement, second.Statement)
	require.NotEqual(t, first.LeafIndex, second.LeafIndex)

	for seq := range uint64(50) { // strangers push it out, and stay few
		s := exampleStatement()
		s.Seq = 100 + seq
		decode(receiptIn(t, s, exampleLeaves()[:1], 0))
		require.LessOrEqual(t, d.statements.len(), 4)
	}
	third := decode(groupReceipt(t, 9, 8))
	require.NotSame(t, first.Statement, third.Statement)
	require.Equal(t, first.Statement, third.Statement)
}

func TestAHashCollisionDoesNotBringAnotherStatement(t *testing.T) {
	r := exampleReceipt(t)
	wire, err := r.Encode()
	require.NoError(t, err)
	d := NewDecoder(4)
	d.statements.put(maphash.Bytes(d.seed, r.Protected), &known{
		protected: []byte("another"), statement: &Statement{Epoch: 99},
	})
	got, err := d.Decode(wire)
	require.NoError(t, err)
	require.Equal(t, r, got)
}

// A leaf that differs in anything is another leaf.
func TestLeavesBindAllOfTheirParts(t *testing.T) {
	base := exampleLeaves()[1]
	seen := map[block.Digest]string{base.Hash(): "base"}
	other := digestOf("other")
	for name, change := range map[string]func(l *Leaf){
		"signal":     func(l *Leaf) { l.Signal = block.Metrics },
		"tolerances": func(l *Leaf) { l.Tolerances = block.Split },
		"stream":     func(l *Leaf) { l.Stream += "x" },
		"number":     func(l *Leaf) { l.BlockNo++ },
		"items":      func(l *Leaf) { l.Items++ },
		"keys":       func(l *Leaf) { l.Keys = &other },
		"no keys":    func(l *Leaf) { l.Keys = nil },
		"digest":     func(l *Leaf) { l.Digest = other },
	} {
		l := base
		change(&l)
		h := l.Hash()
		require.Empty(t, seen[h], name)
		seen[h] = name
	}
}

func TestRootOfAReceiptThatDoesNotFit(t *testing.T) {
	r := exampleReceipt(t)
	r.Path = r.Path[:1]
	_, err := r.Root(block.Digest{})
	require.Equal(t, reason.ProofMalformed, reason.Of(err))
}

func TestUEIDsOfTwoDeploymentsDiffer(t *testing.T) {
	a, b := UEID("a", exampleKID()), UEID("b", exampleKID())
	require.Len(t, a, ueidSize)
	require.Equal(t, byte(1), a[0], "type RAND of RFC 9711")
	require.NotEqual(t, a, b)
	require.NotEqual(t, UEID("ab", []byte("c")), UEID("a", []byte("bc")))
}

func TestKeyListDigestTellsListsApart(t *testing.T) {
	seen := map[block.Digest]string{}
	for _, keys := range [][]string{nil, {""}, {"", ""}, {"a", "b"}, {"b", "a"}, {"ab"}, {"a", "bc"}, {"ab", "c"}, {"a", "b", ""}, {strings.Repeat("x", 200)}} {
		d := KeyListDigest(keys)
		require.Empty(t, seen[d], "%q", keys)
		seen[d] = fmt.Sprintf("%q", keys)
	}
}
