package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// statements are protected headers whose labels or values are wrong; each is
// signed by the machine's own key.
func statements(b *book) {
	labels(b)
	types(b)
	algorithms(b)
	bounds(b)
}

func forger(b *book, tolerance block.Tolerance) func(name, about string, why reason.Reason, f forgery) {
	return func(name, about string, why reason.Reason, f forgery) {
		b.attack("receipt-"+name, about, block.Logs, tolerance, why, func(s *scene) []byte { return s.forge(f) })
	}
}

func putting(key, value any) func(*cmap) { return func(c *cmap) { c.put(key, value) } }

func dropping(key any) func(*cmap) { return func(c *cmap) { c.drop(key) } }

func labels(b *book) {
	forged := forger(b, 0)
	why := reason.ReceiptLabels
	forged("protected-crit", "The protected header has a crit label.", why, forgery{protected: putting(2, []int{395})})
	forged("protected-text-label", "The protected header has a text label.", why, forgery{protected: putting("x", 1)})
	forged("claims-extra-label", "The claims have label 4, exp.", why, forgery{claims: putting(4, t0.Unix()+60)})
	forged("claims-extra-text-label", "The claims have a label that differs in case: Epoch.", why, forgery{claims: putting("Epoch", 1)})
	forged("location-extra-label", "The location has label 7, speed.", why, forgery{location: putting(7, 1.5)})
	forged("unprotected-extra-label", "The unprotected header has a kid, label 4.", why, forgery{unprotected: putting(4, []byte("x"))})
	forged("unprotected-extra-text-label", "The unprotected header has a label x.", why, forgery{unprotected: putting("x", "y")})
	forged("proofs-extra-label", "Beside the inclusion proof, -1, there is a consistency proof, -2.", why, forgery{proofs: putting(-2, cbor.RawMessage(array([]byte{0x80})))})
	for _, label := range []int{1, 4, 15, 395} {
		forged(fmt.Sprintf("protected-without-%d", label), fmt.Sprintf("Label %d is missing.", label), why, forgery{protected: dropping(label)})
	}
	for _, label := range []any{3, 6, 256, 265, "seq", "prev", "size", "epoch"} {
		forged(fmt.Sprintf("claims-without-%v", label), fmt.Sprintf("The claim %v is missing.", label), why, forgery{claims: dropping(label)})
	}
	for _, label := range []any{396, "d", "i", "n", "s"} {
		forged(fmt.Sprintf("unprotected-without-%v", label), fmt.Sprintf("The label %v is missing.", label), why, forgery{unprotected: dropping(label)})
	}
	forged("location-without-latitude", "The location has no latitude.", why, forgery{location: dropping(1)})
	forged("location-without-source", "There is a location, and no src.", why, forgery{claims: dropping("src")})
	forged("source-without-location", "There is a src, and no location.", why, forgery{claims: dropping(264)})
}

func types(b *book) {
	forged := forger(b, 0)
	why := reason.ReceiptMalformed
	forged("protected-no-map", "The protected header is an array.", why, forgery{wire: func(cmap) []byte { return raw(0x80) }})
	forged("protected-empty", "The protected header has no bytes.", why, forgery{wire: func(cmap) []byte { return nil }})
	forged("protected-trailing-byte", "There is one byte behind the protected header's map.", why, forgery{wire: func(c cmap) []byte { return append(c.encode(), 0) }})
	forged("kid-text", "kid is a text.", why, forgery{protected: putting(4, "000b")})
	forged("aud-not-utf8", "aud is a text that is not UTF-8.", why, forgery{claims: putting(3, raw(0x63, 'a', 0xff, 'b'))})
	forged("iat-negative", "iat is negative.", why, forgery{claims: putting(6, -1)})
	forged("iat-float", "iat is a float.", why, forgery{claims: putting(6, 1.5)})
	forged("iat-null", "iat is null.", why, forgery{claims: putting(6, raw(0xf6))})
	forged("seq-bignum", "seq is a bignum, with tag 2.", why, forgery{claims: putting("seq", raw(0xc2, 0x41, 0x01))})
	forged("location-nan", "The latitude is NaN.", why, forgery{location: putting(1, raw(0xf9, 0x7e, 0x00))})
	forged("location-infinite", "The accuracy is infinite.", why, forgery{location: putting(4, raw(0xf9, 0x7c, 0x00))})
	forged("label-bytes", "A label of the protected header is a byte string.", why, forgery{wire: func(c cmap) []byte {
		c.again([]byte{1}, 1)
		return c.encode()
	}})
	forged("nested-too-deep", "An extra claim holds arrays in arrays.", why, forgery{claims: putting("x", raw(0x81, 0x81, 0x81, 0x80))})
	forged("seventeen-claims", "The claims are a map of 17 pairs.", why, forgery{claims: func(c *cmap) {
		for i := range 17 - len(*c) {
			c.put(1000+i, i)
		}
	}})
	forged("d-of-31-bytes", "d has 31 bytes.", why, forgery{unprotected: putting("d", make([]byte, 31))})
	forged("i-text", "i is a text.", why, forgery{unprotected: putting("i", "4")})
	forged("s-bytes", "s is a byte string.", why, forgery{unprotected: putting("s", []byte("tpmsign"))})
	forged("n-negative", "n is negative.", why, forgery{unprotected: putting("n", -1)})
	forged("proofs-no-map", "396 is an array.", why, forgery{unprotected: putting(396, array())})
	forger(b, block.Enrich)("k-not-text", "A key in k is a number.", why, forgery{unprotected: putting("k", array("service.name", 1))})
}

func algorithms(b *book) {
	forged := forger(b, 0)
	forged("profile-unknown", "The profile is receipt-v2.", reason.ProfileUnknown,
		forgery{claims: putting(265, "tag:telemark-otel.github.io,2026:receipt-v2")})
	forged("profile-not-utf8", "The profile is not UTF-8, and so no text.", reason.ReceiptMalformed, forgery{claims: putting(265, raw(0x62, 'v', 0xff))})
	forged("profile-unknown-and-more", "The profile is receipt-v2, and there are labels that receipt-v1 does not know.", reason.ProfileUnknown,
		forgery{claims: func(c *cmap) {
			c.put(265, "tag:telemark-otel.github.io,2026:receipt-v2")
			c.put("quorum", 3)
		}})
	for alg, name := range map[int]string{-35: "ES384", -8: "EdDSA", 5: "HMAC 256/256"} {
		forged("alg-"+strings.ToLower(strings.Fields(name)[0]), "alg is "+name+".", reason.AlgorithmUnknown, forgery{protected: putting(1, alg)})
	}
	forged("tree-unknown", "395 is 2.", reason.AlgorithmUnknown, forgery{protected: putting(395, 2)})
}

func bounds(b *book) {
	forged := forger(b, 0)
	why := reason.ReceiptMalformed
	forged("protected-of-1025-bytes", "The protected header has 1,025 bytes, by a long aud.", reason.ReceiptTooLarge, forgery{claims: func(c *cmap) {
		c.put(3, strings.Repeat("a", 1025-protectedWithout(3)))
	}})
	claims := []struct {
		name, about string
		key, value  any
	}{
		{"aud-empty", "aud is empty.", 3, ""},
		{"aud-of-129-bytes", "aud has 129 bytes.", 3, strings.Repeat("a", 129)},
		{"iat-after-9999", "iat is in the year 10000.", 6, int64(253402300800)},
		{"ueid-of-32-bytes", "ueid has 32 bytes.", 256, slices.Concat([]byte{1}, make([]byte, 31))},
		{"ueid-of-type-2", "ueid is of type 02.", 256, slices.Concat([]byte{2}, make([]byte, 32))},
		{"seq-zero", "seq is 0.", "seq", 0},
		{"seq-too-large", "seq is 2^63.", "seq", uint64(1) << 63},
		{"epoch-zero", "epoch is 0.", "epoch", 0},
		{"epoch-too-large", "epoch is 2^63.", "epoch", uint64(1) << 63},
		{"size-zero", "size is 0.", "size", 0},
		{"size-too-large", "size is 65,537.", "size", 65537},
		{"prev-of-31-bytes", "prev has 31 bytes.", "prev", make([]byte, 31)},
		{"src-empty", "src is empty.", "src", ""},
		{"src-of-33-bytes", "src has 33 bytes.", "src", strings.Repeat("s", 33)},
		{"src-with-space", "src holds a space.", "src", "my gps"},
	}
	for _, c := range claims {
		forged(c.name, c.about, why, forgery{claims: putting(c.key, c.value)})
	}
	forged("kid-of-33-bytes", "kid has 33 bytes.", why, forgery{protected: putting(4, slices.Concat([]byte{0, 0x0b}, make([]byte, 31)))})
	forged("kid-of-sha384", "kid begins with 000c.", why, forgery{protected: putting(4, slices.Concat([]byte{0, 0x0c}, make([]byte, 32)))})
	forged("latitude-91", "The latitude is 91.", why, forgery{location: putting(1, 91.0)})
	forged("longitude-181", "The longitude is -181.", why, forgery{location: putting(2, -181.0)})
	forged("accuracy-negative", "The accuracy is negative.", why, forgery{location: putting(4, -1.0)})
	forged("age-negative", "The age of the location is negative.", why, forgery{location: putting(9, -1)})
	forged("fix-after-9999", "The location's time is in the year 10000.", why, forgery{location: putting(8, int64(253402300800))})
	forged("no-items", "i is 0.", why, forgery{unprotected: putting("i", 0)})
	forged("too-many-items", "i is 2^31.", why, forgery{unprotected: putting("i", uint64(1)<<31)})
	stream := reason.StreamInvalid
	forged("stream-empty", "The stream has no name.", stream, forgery{unprotected: putting("s", "")})
	forged("stream-of-65-bytes", "The stream's name has 65 bytes.", stream, forgery{unprotected: putting("s", strings.Repeat("s", 65))})
	forged("stream-with-space", "The stream's name holds a space.", stream, forgery{unprotected: putting("s", "tpmsign edge")})
	forged("stream-not-ascii", "The stream's name holds a DEL.", stream, forgery{unprotected: putting("s", "tpmsign\x7f")})
	forged("block-zero", "The block number is 0.", stream, forgery{unprotected: putting("n", 0)})
	forged("block-too-large", "The block number is 2^63.", stream, forgery{unprotected: putting("n", uint64(1)<<63)})

	enriched := forger(b, block.Enrich)
	enriched("too-many-keys", "k holds 513 keys.", why, forgery{unprotected: putting("k", slices.Repeat([]string{"k"}, 513))})
	enriched("keys-too-large", "k has 12,289 bytes.", why, forgery{unprotected: putting("k", []string{strings.Repeat("k", 12289-1-3)})})
	enriched("keys-not-utf8", "A key in k is not UTF-8.", why, forgery{unprotected: putting("k", cbor.RawMessage(array(raw(0x61, 0xff))))})
}

// protectedWithout is the length of the protected header without the content of
// a text claim, whose head will take three bytes.
func protectedWithout(key any) int {
	s := newScene(block.Logs, 0)
	n := 0
	s.forge(forgery{wire: func(protected cmap) []byte {
		text := parseMap(protected.get(15)).get(key)
		n = len(protected.encode()) - len(text) + 3
		return protected.encode()
	}})
	return n
}

// inclusion are proofs that do not lead from the leaf to the root.
func inclusion(b *book) {
	forged := forger(b, 0)
	count := reason.ProofCount
	forged("no-proof", "There is no inclusion proof in the list.", count, forgery{proofs: putting(-1, array())})
	forged("no-inclusion", "The map in 396 is empty.", count, forgery{proofs: dropping(-1)})
	b.attack("receipt-two-proofs", "There are two inclusion proofs, both are right.", block.Logs, 0, count, func(s *scene) []byte {
		var f forgery
		var proof []byte
		f.proof = func(size, index uint64, path []block.Digest) []byte {
			proof = proofBytes(size, index, path)
			return proof
		}
		f.proofs = func(c *cmap) { c.put(-1, array(bstr(proof), bstr(proof))) }
		return s.forge(f)
	})
	proof := func(name, about string, why reason.Reason, f func(size, index uint64, path []block.Digest) []byte) {
		forged("proof-"+name, about, why, forgery{proof: f})
	}
	why := reason.ProofMalformed
	proof("no-cbor", "The proof is no CBOR.", why, func(uint64, uint64, []block.Digest) []byte { return []byte{0x83, 0x05} })
	proof("trailing-byte", "There is one byte behind the proof.", why, func(n, i uint64, p []block.Digest) []byte { return append(proofBytes(n, i, p), 0) })
	proof("two-elements", "The proof has no path.", why, func(n, i uint64, _ []block.Digest) []byte { return array(n, i) })
	proof("hash-of-31-bytes", "A hash of the path has 31 bytes.", why, func(n, i uint64, p []block.Digest) []byte {
		return array(n, i, array(p[0][:], p[1][:31], p[2][:]))
	})
	proof("index-negative", "The leaf index is -1.", why, func(n, _ uint64, p []block.Digest) []byte {
		return array(n, -1, array(p[0][:], p[1][:], p[2][:]))
	})
	proof("index-out-of-tree", "The leaf index is the tree size.", why, func(n, _ uint64, p []block.Digest) []byte { return proofBytes(n, n, p) })
	proof("path-too-short", "The path lacks its last hash.", why, func(n, i uint64, p []block.Digest) []byte { return proofBytes(n, i, p[:2]) })
	proof("path-too-long", "The path has a hash too many.", why, func(n, i uint64, p []block.Digest) []byte {
		return proofBytes(n, i, append(slices.Clone(p), block.Digest{}))
	})
	proof("tree-size-larger", "The proof is in a tree of one leaf more than signed.", reason.TreeSizeMismatch,
		func(n, i uint64, p []block.Digest) []byte { return proofBytes(n+1, i, p) })
	proof("tree-size-smaller", "The proof is in a tree of one leaf less than signed; its path would fit.", reason.TreeSizeMismatch,
		func(n, i uint64, p []block.Digest) []byte { return proofBytes(n-1, i, p[:2]) })
	bad := reason.SignatureInvalid
	proof("wrong-index", "The leaf index is that of the neighbour.", bad, func(n, i uint64, p []block.Digest) []byte { return proofBytes(n, i^1, p) })
	proof("wrong-hash", "A hash of the path is another one.", bad, func(n, i uint64, p []block.Digest) []byte {
		p = slices.Clone(p)
		p[1][31] ^= 1
		return proofBytes(n, i, p)
	})
	proof("path-order", "Two hashes of the path changed places.", bad, func(n, i uint64, p []block.Digest) []byte {
		p = slices.Clone(p)
		p[0], p[1] = p[1], p[0]
		return proofBytes(n, i, p)
	})
}
