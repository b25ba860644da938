package receipt

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
)

func BenchmarkDecode(b *testing.B) {
	wire, err := groupReceipt(b, 512, 300).Encode()
	require.NoError(b, err)
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(wire)))
		for b.Loop() {
			if _, err := Decode(wire); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("statement remembered", func(b *testing.B) {
		d := NewDecoder(16)
		b.ReportAllocs()
		b.SetBytes(int64(len(wire)))
		for b.Loop() {
			if _, err := d.Decode(wire); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	r := groupReceipt(b, 512, 300)
	buf := make([]byte, 0, r.Size())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Append(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeProtected(b *testing.B) {
	s := exampleStatement()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.EncodeProtected(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLeafHash(b *testing.B) {
	l := Leaf{Signal: block.Metrics, Stream: "tpmsign/edge:metrics", BlockNo: 7}
	b.ReportAllocs()
	for b.Loop() {
		l.Hash()
	}
}

func BenchmarkVerifySignature(b *testing.B) {
	r := groupReceipt(b, 512, 300)
	leaf := Leaf{Signal: block.Metrics, Stream: r.Stream, BlockNo: r.BlockNo, Items: r.Items, Digest: r.Digest}
	root, err := r.Root(leaf.Hash())
	require.NoError(b, err)
	pub := exampleKey(b).Public()
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := VerifySignature(ES256, pub, SigStructure(r.Protected, root), r.Signature); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("remembered", func(b *testing.B) {
		c := NewSignatureCache(16)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Verify(ES256, pub, SigStructure(r.Protected, root), r.Signature); err != nil {
				b.Fatal(err)
			}
		}
	})
}
