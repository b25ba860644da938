package receipt

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

func TestForgeriesStartFromAReceiptThatDecodes(t *testing.T) {
	want, err := exampleReceipt(t).Encode()
	require.NoError(t, err)
	require.Equal(t, want, newForgery(t).build(t))
}

type refusal struct {
	name  string
	want  reason.Reason
	forge func(f *forgery)
}

func long(n int) string { return strings.Repeat("x", n) }

func refusals(t testing.TB) []refusal {
	hash31, hash33 := bytes.Repeat([]byte{1}, 31), bytes.Repeat([]byte{1}, 33)
	wrongKID := append([]byte{0, 0x0c}, make([]byte, 32)...)
	return []refusal{
		{"protected header too large", reason.ReceiptTooLarge, func(f *forgery) { f.aud = long(MaxProtected) }},

		{"payload attached", reason.ReceiptMalformed, func(f *forgery) { f.payload = make([]byte, 32) }},
		{"payload empty", reason.ReceiptMalformed, func(f *forgery) { f.payload = []byte{} }},
		{"payload undefined", reason.ReceiptMalformed, func(f *forgery) { f.payload = raw{0xf7} }},
		{"signature short", reason.ReceiptMalformed, func(f *forgery) { f.signature = make([]byte, 63) }},
		{"signature long", reason.ReceiptMalformed, func(f *forgery) { f.signature = make([]byte, 65) }},
		{"signature text", reason.ReceiptMalformed, func(f *forgery) { f.signature = long(64) }},
		{"unprotected header no map", reason.ReceiptMalformed, func(f *forgery) { f.unprotected = raw{0x80} }},
		{"protected header no map", reason.ReceiptMalformed, func(f *forgery) { f.protected = raw{0x80} }},
		{"protected header no CBOR", reason.ReceiptMalformed, func(f *forgery) { f.protected = raw{0x1c} }},
		{"protected header with trailing byte", reason.ReceiptMalformed, func(f *forgery) {
			f.protected = append(newForgery(t).parts(t).protected.(raw), 0)
		}},
		{"claims no map", reason.ReceiptMalformed, func(f *forgery) { f.claims = 1 }},
		{"alg text", reason.ReceiptMalformed, func(f *forgery) { f.alg = "ES256" }},
		{"alg null", reason.ReceiptMalformed, func(f *forgery) { f.alg = raw{null} }},
		{"kid text", reason.ReceiptMalformed, func(f *forgery) { f.kid = long(34) }},
		{"kid array", reason.ReceiptMalformed, func(f *forgery) { f.kid = raw{0x81, 0x01} }},
		{"kid short", reason.ReceiptMalformed, func(f *forgery) { f.kid = []byte{0, 0x0b} }},
		{"kid of another hash", reason.ReceiptMalformed, func(f *forgery) { f.kid = wrongKID }},
		{"aud bytes", reason.ReceiptMalformed, func(f *forgery) { f.aud = []byte("a") }},
		{"aud empty", reason.ReceiptMalformed, func(f *forgery) { f.aud = "" }},
		{"aud too long", reason.ReceiptMalformed, func(f *forgery) { f.aud = long(MaxAudience + 1) }},
		{"aud not UTF-8", reason.ReceiptMalformed, func(f *forgery) { f.aud = raw{0x61, 0xff} }},
		{"aud tagged", reason.ReceiptMalformed, func(f *forgery) { f.aud = raw{0xc0, 0x61, 'a'} }},
		{"iat negative", reason.ReceiptMalformed, func(f *forgery) { f.iat = -1 }},
		{"iat after the year 9999", reason.ReceiptMalformed, func(f *forgery) { f.iat = maxUnixTime + 1 }},
		{"iat float", reason.ReceiptMalformed, func(f *forgery) { f.iat = 1.5 }},
		{"iat null", reason.ReceiptMalformed, func(f *forgery) { f.iat = raw{null} }},
		{"iat simple value", reason.ReceiptMalformed, func(f *forgery) { f.iat = raw{0xe5} }},
		{"size simple value of two bytes", reason.ReceiptMalformed, func(f *forgery) { f.size = raw{0xf8, 0x20} }},
		{"ueid short", reason.ReceiptMalformed, func(f *forgery) { f.ueid = make([]byte, 32) }},
		{"ueid of another type", reason.ReceiptMalformed, func(f *forgery) { f.ueid = append([]byte{2}, make([]byte, 32)...) }},
		{"epoch zero", reason.ReceiptMalformed, func(f *forgery) { f.epoch = 0 }},
		{"epoch beyond 2^63", reason.ReceiptMalformed, func(f *forgery) { f.epoch = uint64(1 << 63) }},
		{"epoch negative", reason.ReceiptMalformed, func(f *forgery) { f.epoch = -1 }},
		{"epoch bignum", reason.ReceiptMalformed, func(f *forgery) { f.epoch = raw{0xc2, 0x41, 0x07} }},
		{"seq zero", reason.ReceiptMalformed, func(f *forgery) { f.seq = 0 }},
		{"seq beyond 2^63", reason.ReceiptMalformed, func(f *forgery) { f.seq = uint64(math.MaxUint64) }},
		{"size zero", reason.ReceiptMalformed, func(f *forgery) { f.size, f.treeSize = 0, 0 }},
		{"size beyond bound", reason.ReceiptMalformed, func(f *forgery) { f.size = MaxTreeSize + 1 }},
		{"prev short", reason.ReceiptMalformed, func(f *forgery) { f.prev = hash31 }},
		{"prev long", reason.ReceiptMalformed, func(f *forgery) { f.prev = hash33 }},
		{"profile number", reason.ReceiptMalformed, func(f *forgery) { f.profile = 1 }},
		{"location no map", reason.ReceiptMalformed, func(f *forgery) { f.location = raw{0x80} }},
		{"latitude out of range", reason.ReceiptMalformed, func(f *forgery) { f.lat = 90.5 }},
		{"longitude out of range", reason.ReceiptMalformed, func(f *forgery) { f.lon = -180.5 }},
		{"latitude NaN", reason.ReceiptMalformed, func(f *forgery) { f.lat = raw{0xf9, 0x7e, 0x00} }},
		{"altitude infinite", reason.ReceiptMalformed, func(f *forgery) { f.alt = raw{0xf9, 0x7c, 0x00} }},
		{"accuracy negative", reason.ReceiptMalformed, func(f *forgery) { f.accuracy = -1.0 }},
		{"location timestamp negative", reason.ReceiptMalformed, func(f *forgery) { f.timestamp = -1 }},
		{"location age negative", reason.ReceiptMalformed, func(f *forgery) { f.age = -1 }},
		{"source empty", reason.ReceiptMalformed, func(f *forgery) { f.src = "" }},
		{"source long", reason.ReceiptMalformed, func(f *forgery) { f.src = long(MaxSource + 1) }},
		{"source with space", reason.ReceiptMalformed, func(f *forgery) { f.src = "a b" }},
		{"digest short", reason.ReceiptMalformed, func(f *forgery) { f.d = hash31 }},
		{"digest long", reason.ReceiptMalformed, func(f *forgery) { f.d = hash33 }},
		{"digest text", reason.ReceiptMalformed, func(f *forgery) { f.d = long(32) }},
		{"no items", reason.ReceiptMalformed, func(f *forgery) { f.i = 0 }},
		{"items beyond 2^31", reason.ReceiptMalformed, func(f *forgery) { f.i = uint64(1 << 31) }},
		{"items negative", reason.ReceiptMalformed, func(f *forgery) { f.i = -1 }},
		{"block number negative", reason.ReceiptMalformed, func(f *forgery) { f.n = -1 }},
		{"block number null", reason.ReceiptMalformed, func(f *forgery) { f.n = raw{null} }},
		{"block number simple value", reason.ReceiptMalformed, func(f *forgery) { f.n = raw{0xf8, 0xff} }},
		{"stream bytes", reason.ReceiptMalformed, func(f *forgery) { f.s = []byte("tpmsign:logs") }},
		{"stream null", reason.ReceiptMalformed, func(f *forgery) { f.s = raw{null} }},
		{"keys null", reason.ReceiptMalformed, func(f *forgery) { f.k = raw{null} }},
		{"keys of bytes", reason.ReceiptMalformed, func(f *forgery) { f.k = [][]byte{{1}} }},
		{"keys not UTF-8", reason.ReceiptMalformed, func(f *forgery) { f.k = raw{0x81, 0x61, 0xff} }},
		{"keys too many", reason.ReceiptMalformed, func(f *forgery) { f.k = make([]string, MaxKeys+1) }},
		{"keys too large", reason.ReceiptMalformed, func(f *forgery) { f.k = []string{long(MaxKeysSize)} }},
		{"nested too deep", reason.ReceiptMalformed, func(f *forgery) { f.k = raw(append(bytes.Repeat([]byte{0x81}, 5000), 0x80)) }},
		{"array that claims 2^32 elements", reason.ReceiptMalformed, func(f *forgery) { f.k = raw{0x9a, 0xff, 0xff, 0xff, 0xff} }},

		{"profile unknown", reason.ProfileUnknown, func(f *forgery) { f.profile = Profile + "x" }},
		{"profile unknown with other labels", reason.ProfileUnknown, func(f *forgery) {
			f.profile, f.moreClaims, f.size = "tag:telemark-otel.github.io,2030:receipt-v9", true, nil
		}},

		{"crit in protected header", reason.ReceiptLabels, func(f *forgery) { f.moreProtected = raw{0x81, 0x01} }},
		{"claim too many", reason.ReceiptLabels, func(f *forgery) { f.moreClaims = 1 }},
		{"location member too many", reason.ReceiptLabels, func(f *forgery) { f.moreLocation = 1.0 }},
		{"label too many in unprotected header", reason.ReceiptLabels, func(f *forgery) { f.moreUnprotected = 1 }},
		{"label of bytes", reason.ReceiptMalformed, func(f *forgery) {
			f.unprotected = rawMap(t, entry{396, newForgery(t).parts(t).proofs}, entry{cbor.ByteString("d"), f.d},
				entry{"d", f.d}, entry{"i", f.i}, entry{"n", f.n}, entry{"s", f.s})
		}},
		{"label array", reason.ReceiptMalformed, func(f *forgery) {
			f.unprotected = rawMap(t, entry{396, newForgery(t).parts(t).proofs}, entry{"d", f.d}, entry{"i", f.i},
				entry{"n", f.n}, entry{"s", f.s}, entry{raw{0x80}, 1})
		}},
		{"label simple value", reason.ReceiptMalformed, func(f *forgery) {
			f.unprotected = rawMap(t, entry{396, newForgery(t).parts(t).proofs}, entry{"d", f.d}, entry{"i", f.i},
				entry{"n", f.n}, entry{"s", f.s}, entry{raw{0xe0}, 1})
		}},
		{"label float", reason.ReceiptLabels, func(f *forgery) {
			f.unprotected = rawMap(t, entry{396, newForgery(t).parts(t).proofs}, entry{"d", f.d}, entry{"i", f.i},
				entry{"n", f.n}, entry{"s", f.s}, entry{raw{0xf9, 0x3c, 0x00}, 1})
		}},
		{"upper-case label", reason.ReceiptLabels, func(f *forgery) {
			f.unprotected = rawMap(t, entry{396, newForgery(t).parts(t).proofs}, entry{"D", f.d}, entry{"i", f.i}, entry{"n", f.n}, entry{"s", f.s})
		}},
		{"consistency proof", reason.ReceiptLabels, func(f *forgery) { f.consistency = rawArray(t, []byte{0x80}) }},
		{"alg missing", reason.ReceiptLabels, func(f *forgery) { f.alg = nil }},
		{"kid missing", reason.ReceiptLabels, func(f *forgery) { f.kid = nil }},
		{"claims missing", reason.ReceiptLabels, func(f *forgery) { f.claims = without{} }},
		{"tree algorithm missing", reason.ReceiptLabels, func(f *forgery) { f.vds = nil }},
		{"aud missing", reason.ReceiptLabels, func(f *forgery) { f.aud = nil }},
		{"iat missing", reason.ReceiptLabels, func(f *forgery) { f.iat = nil }},
		{"ueid missing", reason.ReceiptLabels, func(f *forgery) { f.ueid = nil }},
		{"profile missing", reason.ReceiptLabels, func(f *forgery) { f.profile = nil }},
		{"seq missing", reason.ReceiptLabels, func(f *forgery) { f.seq = nil }},
		{"prev missing", reason.ReceiptLabels, func(f *forgery) { f.prev = nil }},
		{"size missing", reason.ReceiptLabels, func(f *forgery) { f.size = nil }},
		{"epoch missing", reason.ReceiptLabels, func(f *forgery) { f.epoch = nil }},
		{"source without location", reason.ReceiptLabels, func(f *forgery) { f.location = without{} }},
		{"location without source", reason.ReceiptLabels, func(f *forgery) { f.src = nil }},
		{"latitude missing", reason.ReceiptLabels, func(f *forgery) { f.lat = nil }},
		{"longitude missing", reason.ReceiptLabels, func(f *forgery) { f.lon = nil }},
		{"proofs missing", reason.ReceiptLabels, func(f *forgery) { f.proofs = without{} }},
		{"digest missing", reason.ReceiptLabels, func(f *forgery) { f.d = nil }},
		{"item count missing", reason.ReceiptLabels, func(f *forgery) { f.i = nil }},
		{"block number missing", reason.ReceiptLabels, func(f *forgery) { f.n = nil }},
		{"stream missing", reason.ReceiptLabels, func(f *forgery) { f.s = nil }},

		{"seq not shortest", reason.ReceiptNotDeterministic, func(f *forgery) { f.seq = raw{0x18, 0x03} }},
		{"latitude in 64 bits where 32 do", reason.ReceiptNotDeterministic, func(f *forgery) {
			f.lat = raw{0xfb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0}
		}},
		{"latitude integer", reason.ReceiptNotDeterministic, func(f *forgery) { f.lat = 52 }},
		{"aud of indefinite length", reason.ReceiptNotDeterministic, func(f *forgery) { f.aud = raw{0x7f, 0x61, 'a', 0xff} }},
		{"claims out of order", reason.ReceiptNotDeterministic, func(f *forgery) {
			f.claims = rawMap(t, entry{6, f.iat}, entry{3, f.aud}, entry{10, f.nonce}, entry{256, f.ueid},
				entry{265, f.profile}, entry{"seq", f.seq}, entry{"prev", f.prev}, entry{"size", f.size}, entry{"epoch", f.epoch})
		}},
		{"claim twice", reason.ReceiptNotDeterministic, func(f *forgery) {
			f.claims = rawMap(t, entry{3, f.aud}, entry{3, f.aud}, entry{6, f.iat}, entry{256, f.ueid},
				entry{265, f.profile}, entry{"seq", f.seq}, entry{"prev", f.prev}, entry{"size", f.size}, entry{"epoch", f.epoch})
		}},
		{"block number not shortest", reason.ReceiptNotDeterministic, func(f *forgery) { f.n = raw{0x1a, 0, 0, 0, 7} }},
		{"keys of indefinite length", reason.ReceiptNotDeterministic, func(f *forgery) { f.k = raw{0x9f, 0xff} }},
		{"unprotected header out of order", reason.ReceiptNotDeterministic, func(f *forgery) {
			f.unprotected = rawMap(t, entry{"d", f.d}, entry{396, newForgery(t).parts(t).proofs}, entry{"i", f.i}, entry{"n", f.n}, entry{"s", f.s})
		}},
		{"label twice in unprotected header", reason.ReceiptNotDeterministic, func(f *forgery) {
			f.unprotected = rawMap(t, entry{396, newForgery(t).parts(t).proofs}, entry{"d", f.d}, entry{"d", f.d}, entry{"i", f.i}, entry{"n", f.n}, entry{"s", f.s})
		}},
		{"unprotected header with a long head", reason.ReceiptNotDeterministic, func(f *forgery) {
			u := newForgery(t).parts(t).unprotected.(raw)
			f.unprotected = append(raw{0xb8, u[0] & 31}, u[1:]...)
		}},
		{"signature with a long head", reason.ReceiptNotDeterministic, func(f *forgery) {
			f.signature = append(raw{0x59, 0, 64}, f.signature.([]byte)...)
		}},
		{"proof not shortest", reason.ReceiptNotDeterministic, func(f *forgery) { f.leafIndex = raw{0x18, 0x01} }},
		{"proof of indefinite length", reason.ReceiptNotDeterministic, func(f *forgery) {
			f.proof = append(append(append(raw{0x9f}, rawOf(t, f.treeSize)...), rawOf(t, f.leafIndex)...), append(rawOf(t, f.path), 0xff)...)
		}},

		{"alg ES384", reason.AlgorithmUnknown, func(f *forgery) { f.alg = -35 }},
		{"alg none", reason.AlgorithmUnknown, func(f *forgery) { f.alg = 0 }},
		{"tree algorithm unknown", reason.AlgorithmUnknown, func(f *forgery) { f.vds = 2 }},

		{"nonce empty", reason.NonceMalformed, func(f *forgery) { f.nonce = []byte{} }},
		{"nonce short", reason.NonceMalformed, func(f *forgery) { f.nonce = make([]byte, 7) }},
		{"nonce long", reason.NonceMalformed, func(f *forgery) { f.nonce = make([]byte, 65) }},

		{"no proof map entry", reason.ProofCount, func(f *forgery) { f.inclusion = without{} }},
		{"no proof", reason.ProofCount, func(f *forgery) { f.inclusion = rawArray(t) }},
		{"two proofs", reason.ProofCount, func(f *forgery) {
			p := []byte(newForgery(t).parts(t).proof.(raw))
			f.inclusion = rawArray(t, p, p)
		}},

		{"stream empty", reason.StreamInvalid, func(f *forgery) { f.s = "" }},
		{"stream long", reason.StreamInvalid, func(f *forgery) { f.s = long(block.MaxStreamLen + 1) }},
		{"stream with space", reason.StreamInvalid, func(f *forgery) { f.s = "a b" }},
		{"stream not ASCII", reason.StreamInvalid, func(f *forgery) { f.s = "é" }},
		{"block number zero", reason.StreamInvalid, func(f *forgery) { f.n = 0 }},
		{"block number beyond 2^63", reason.StreamInvalid, func(f *forgery) { f.n = uint64(1 << 63) }},

		{"tree size above the signed one", reason.TreeSizeMismatch, func(f *forgery) { f.treeSize = 4 }},
		{"tree size below the signed one", reason.TreeSizeMismatch, func(f *forgery) { f.treeSize = 2 }},
		{"signed size above the tree's", reason.TreeSizeMismatch, func(f *forgery) { f.size = 4 }},

		{"proof no CBOR", reason.ProofMalformed, func(f *forgery) { f.proof = raw{0x1c} }},
		{"proof empty", reason.ProofMalformed, func(f *forgery) { f.inclusion = rawArray(t, []byte{}) }},
		{"proof of two elements", reason.ProofMalformed, func(f *forgery) { f.proof = rawArray(t, f.treeSize, f.leafIndex) }},
		{"proof of four elements", reason.ProofMalformed, func(f *forgery) { f.proof = rawArray(t, f.treeSize, f.leafIndex, f.path, 0) }},
		{"proof with trailing byte", reason.ProofMalformed, func(f *forgery) {
			f.proof = append(rawArray(t, f.treeSize, f.leafIndex, f.path), 0)
		}},
		{"leaf index at the size", reason.ProofMalformed, func(f *forgery) { f.leafIndex = 3 }},
		{"leaf index huge", reason.ProofMalformed, func(f *forgery) { f.leafIndex = uint64(math.MaxUint64) }},
		{"leaf index simple value", reason.ProofMalformed, func(f *forgery) { f.leafIndex = raw{0xe1} }},
		{"leaf index negative", reason.ProofMalformed, func(f *forgery) { f.leafIndex = -1 }},
		{"path empty", reason.ProofMalformed, func(f *forgery) { f.path = rawArray(t) }},
		{"path short", reason.ProofMalformed, func(f *forgery) { f.path = rawArray(t, make([]byte, 32)) }},
		{"path long", reason.ProofMalformed, func(f *forgery) {
			f.path = rawArray(t, make([]byte, 32), make([]byte, 32), make([]byte, 32))
		}},
		{"path with a short hash", reason.ProofMalformed, func(f *forgery) { f.path = rawArray(t, make([]byte, 32), hash31) }},
		{"path with a text", reason.ProofMalformed, func(f *forgery) { f.path = rawArray(t, make([]byte, 32), long(32)) }},
		{"path with null", reason.ProofMalformed, func(f *forgery) { f.path = rawArray(t, make([]byte, 32), raw{null}) }},
		{"proof no byte string", reason.ReceiptMalformed, func(f *forgery) { f.inclusion = rawArray(t, "x") }},
		{"proofs no map", reason.ReceiptMalformed, func(f *forgery) { f.proofs = raw{0x80} }},
	}
}

// parts builds and returns f with every part filled in.
func (f *forgery) parts(t testing.TB) *forgery {
	t.Helper()
	f.build(t)
	return f
}

func TestForgedReceiptsAreRefusedForTheirReason(t *testing.T) {
	d := NewDecoder(8)
	for _, c := range refusals(t) {
		t.Run(c.name, func(t *testing.T) {
			f := newForgery(t)
			c.forge(f)
			wire := f.build(t)
			for range 2 { // a decoder does not remember what it refused
				r, err := d.Decode(wire)
				require.True(t, r == nil)
				require.Equal(t, c.want, reason.Of(err), "%v", err)
				require.Less(t, len(err.Error()), 500)
			}
		})
	}
}

func TestEveryReasonOfTheCodecHasAForgery(t *testing.T) {
	seen := map[reason.Reason]bool{reason.ReceiptTooLarge: true}
	for _, c := range refusals(t) {
		seen[c.want] = true
	}
	for _, r := range []reason.Reason{
		reason.ReceiptMalformed, reason.ReceiptNotDeterministic, reason.ReceiptLabels, reason.ProfileUnknown,
		reason.AlgorithmUnknown, reason.ProofCount, reason.ProofMalformed, reason.TreeSizeMismatch,
		reason.StreamInvalid, reason.NonceMalformed,
	} {
		require.True(t, seen[r], r)
	}
}

func TestFramesThatAreNoReceiptAreRefused(t *testing.T) {
	wire := newForgery(t).build(t)
	tagged := func(head ...byte) []byte { return append(head, wire[2:]...) }
	for name, c := range map[string]struct {
		b    []byte
		want reason.Reason
	}{
		"nothing":               {nil, reason.ReceiptMalformed},
		"text":                  {[]byte("telemark"), reason.ReceiptMalformed},
		"trailing byte":         {append(bytes.Clone(wire), 0), reason.ReceiptMalformed},
		"two receipts":          {append(bytes.Clone(wire), wire...), reason.ReceiptMalformed},
		"untagged":              {wire[1:], reason.ReceiptMalformed},
		"COSE_Sign":             {tagged(0xd8, 0x62, 0x84), reason.ReceiptMalformed},
		"three elements":        {tagged(0xd2, 0x83), reason.ReceiptMalformed},
		"five elements":         {append(tagged(0xd2, 0x85), 0), reason.ReceiptMalformed},
		"tagged twice":          {append([]byte{0xd2}, wire...), reason.ReceiptMalformed},
		"self-described":        {append([]byte{0xd9, 0xd9, 0xf7}, wire...), reason.ReceiptMalformed},
		"tag not shortest":      {tagged(0xd8, 0x12, 0x84), reason.ReceiptNotDeterministic},
		"array not shortest":    {tagged(0xd2, 0x98, 0x04), reason.ReceiptNotDeterministic},
		"array indefinite":      {append(tagged(0xd2, 0x9f), 0xff), reason.ReceiptNotDeterministic},
		"protected of 2^64-1":   {[]byte("\xd2\x84\x5b\xff\xff\xff\xff\xff\xff\xff\xff"), reason.ReceiptMalformed},
		"one byte too large":    {make([]byte, MaxSize+1), reason.ReceiptTooLarge},
		"as large as it may be": {make([]byte, MaxSize), reason.ReceiptMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(c.b)
			require.Equal(t, c.want, reason.Of(err), "%v", err)
		})
	}
}

func TestProtectedHeaderWithALongHeadIsNotDeterministic(t *testing.T) {
	wire := newForgery(t).build(t)
	n, start := int(wire[3])<<8|int(wire[4]), 5
	if wire[2] == 0x58 {
		n, start = int(wire[3]), 4
	}
	b := append([]byte{0xd2, 0x84, 0x5a, 0, 0, byte(n >> 8), byte(n)}, wire[start:]...)
	_, err := Decode(b)
	require.Equal(t, reason.ReceiptNotDeterministic, reason.Of(err), "%v", err)
}

func TestTruncatedReceiptsAreMalformed(t *testing.T) {
	wire := newForgery(t).build(t)
	for n := range wire {
		_, err := Decode(wire[:n])
		require.Equal(t, reason.ReceiptMalformed, reason.Of(err), "%d bytes: %v", n, err)
	}
}

// Whatever bit is flipped, the receipt is refused or says something else in a
// place that the leaf, the path or the signature covers.
func TestNoBitOfAReceiptIsFree(t *testing.T) {
	good := exampleReceipt(t)
	wire, err := good.Encode()
	require.NoError(t, err)
	leaf := exampleLeaves()[1]
	key := exampleKey(t).Public()
	accepts := func(r *Receipt) bool {
		l := leaf
		l.Stream, l.BlockNo, l.Items, l.Digest = r.Stream, r.BlockNo, r.Items, r.Digest
		keys := KeyListDigest(r.Keys)
		l.Keys = &keys
		root, err := r.Root(l.Hash())
		return err == nil && VerifySignature(ES256, key, SigStructure(r.Protected, root), r.Signature) == nil
	}
	require.True(t, accepts(good))
	for i := range wire {
		for bit := range 8 {
			b := bytes.Clone(wire)
			b[i] ^= 1 << bit
			if r, err := Decode(b); err == nil {
				require.False(t, accepts(r), "byte %d bit %d", i, bit)
			} else {
				require.NotEmpty(t, reason.Of(err))
			}
		}
	}
}

func TestErrorsOfDecodeAreRefusals(t *testing.T) {
	_, err := Decode([]byte{0xd2})
	var refusal *reason.Error
	require.True(t, errors.As(err, &refusal))
	_, err = Decode(cbor.RawMessage{0xd2, 0x84})
	require.ErrorIs(t, err, &reason.Error{Reason: reason.ReceiptMalformed})
}
