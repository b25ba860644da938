package main

import (
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// forgery is a receipt in parts. Its functions change them; what is signed is
// signed after the change, so that nothing else is wrong with the receipt.
type forgery struct {
	claims, location, protected, unprotected, proofs func(*cmap)
	// wire writes the protected header instead of the deterministic encoding.
	wire func(protected cmap) []byte
	// proof writes the inclusion proof.
	proof func(size, index uint64, path []block.Digest) []byte
	// frame writes the whole; the parts are encoded data items.
	frame func(protected []byte, unprotected cmap, signature []byte) []byte
}

func (c *cmap) apply(change func(*cmap)) {
	if change != nil {
		change(c)
	}
}

func whole(protected []byte, unprotected cmap, signature []byte) []byte {
	return append(raw(0xd2), array(bstr(protected), unprotected.encode(), raw(0xf6), bstr(signature))...)
}

// forge signs the scene's block again, as the agent would have, and returns it
// with a forged receipt.
func (s *scene) forge(f forgery) []byte {
	a := s.before.fork()
	a.location = &receipt.Location{Latitude: 52.52, Longitude: 13.4, Accuracy: new(25.0), Source: "static"}
	p := a.gather(unsigned{batch: s.data, tolerances: s.tolerance})
	protected := parseMap(must(p.header.EncodeProtected()))
	claims := parseMap(protected.get(15))
	location := parseMap(claims.get(264))
	location.apply(f.location)
	claims.put(264, location.encode())
	claims.apply(f.claims)
	protected.put(15, claims.encode())
	protected.apply(f.protected)
	header := []byte(protected.encode())
	if f.wire != nil {
		header = f.wire(protected)
	}
	a.finish(p, header)
	x := p.items[0]
	return x.with(x.pack(f), x.prepared.Manifest)
}

// pack writes the receipt of a signed block.
func (s *signed) pack(f forgery) []byte {
	r := s.receipt
	proof := proofBytes(r.TreeSize, r.LeafIndex, r.Path)
	if f.proof != nil {
		proof = f.proof(r.TreeSize, r.LeafIndex, r.Path)
	}
	proofs := cmap{}
	proofs.put(-1, array(bstr(proof)))
	proofs.apply(f.proofs)
	u := cmap{}
	u.put(396, proofs.encode())
	u.put("d", r.Digest[:])
	u.put("i", r.Items)
	if r.Keys != nil {
		u.put("k", r.Keys)
	}
	u.put("n", r.BlockNo)
	u.put("s", r.Stream)
	u.apply(f.unprotected)
	if f.frame != nil {
		return f.frame(r.Protected, u, r.Signature)
	}
	return whole(r.Protected, u, r.Signature)
}

func proofBytes(size, index uint64, path []block.Digest) []byte {
	elements := make([]any, len(path))
	for i := range path {
		elements[i] = path[i][:]
	}
	return array(size, index, array(elements...))
}

// receipts are receipts that are none, or in another encoding.
func receipts(b *book) {
	attributes(b)
	frames(b)
	encodings(b)
}

// attributes are receipts that are not where they should be.
func attributes(b *book) {
	put := func(value []byte, key string) []byte {
		return lenField(1, slices.Concat(lenField(keyValueKey, []byte(key)), lenField(keyValueAny, value)))
	}
	attr := func(name, about string, tol block.Tolerance, why reason.Reason, more func(s *scene) []byte) {
		b.attack(name, about, block.Logs, tol, why, func(s *scene) []byte {
			return plus(s.honest.bytes(), more(s), toResource)
		})
	}
	b.attack("receipt-missing", "Somebody took the receipt off.", block.Metrics, 0, reason.ReceiptMissing,
		func(s *scene) []byte { return s.honest.with(nil, nil) })
	attr("receipt-twice", "There are two receipts, both are right.", 0, reason.ReceiptNotUnique,
		func(s *scene) []byte { return put(lenField(7, s.honest.encoded), block.AttrReceipt) })
	attr("receipt-manifest-twice", "There are two manifests, both are right.", block.Split, reason.ReceiptNotUnique,
		func(s *scene) []byte { return put(lenField(7, s.honest.prepared.Manifest), block.AttrManifest) })
	b.attack("receipt-as-text", "The receipt is a string.", block.Logs, 0, reason.ReceiptWrongType, func(s *scene) []byte {
		return plus(s.honest.with(nil, nil), put(lenField(1, []byte("0oRZ")), block.AttrReceipt), toResource)
	})
	b.attack("receipt-unset", "The receipt is an attribute without a value.", block.Logs, 0, reason.ReceiptWrongType, func(s *scene) []byte {
		return plus(s.honest.with(nil, nil), put(nil, block.AttrReceipt), toResource)
	})
	b.attack("receipt-manifest-as-text", "The manifest is a string.", block.Logs, block.Split, reason.ReceiptWrongType, func(s *scene) []byte {
		return plus(s.honest.with(s.honest.encoded, nil), put(lenField(1, []byte("manifest")), block.AttrManifest), toResource)
	})
}

// frames are COSE_Sign1 messages that are none of ours.
func frames(b *book) {
	mend := func(name, about string, why reason.Reason, change func(r []byte) []byte) {
		b.attack("receipt-"+name, about, block.Logs, 0, why, func(s *scene) []byte {
			return s.honest.with(change(slices.Clone(s.honest.encoded)), nil)
		})
	}
	mend("too-large", "16,385 bytes.", reason.ReceiptTooLarge, func(r []byte) []byte { return append(r, make([]byte, receipt.MaxSize+1-len(r))...) })
	mend("empty", "No bytes.", reason.ReceiptMalformed, func([]byte) []byte { return []byte{} })
	mend("truncated", "The last byte is missing.", reason.ReceiptMalformed, func(r []byte) []byte { return r[:len(r)-1] })
	mend("truncated-in-protected", "It ends in the protected header.", reason.ReceiptMalformed, func(r []byte) []byte { return r[:40] })
	mend("trailing-byte", "There is one byte behind the end.", reason.ReceiptMalformed, func(r []byte) []byte { return append(r, 0) })
	mend("no-cbor", "Text.", reason.ReceiptMalformed, func([]byte) []byte { return []byte(`{"kid":"000b"}`) })
	mend("untagged", "Tag 18 is missing.", reason.ReceiptMalformed, func(r []byte) []byte { return r[1:] })
	mend("tag-98", "The tag is that of COSE_Sign.", reason.ReceiptMalformed, func(r []byte) []byte { return append([]byte{0xd8, 0x62}, r[1:]...) })
	mend("five-elements", "The array has a fifth element.", reason.ReceiptMalformed, func(r []byte) []byte {
		r[1] = 0x85
		return append(r, 0xf6)
	})

	frame := func(name, about string, why reason.Reason, f func(protected []byte, unprotected cmap, signature []byte) []byte) {
		b.attack("receipt-"+name, about, block.Logs, 0, why, func(s *scene) []byte { return s.forge(forgery{frame: f}) })
	}
	frame("payload-attached", "The payload is there, as a byte string.", reason.ReceiptMalformed, func(p []byte, u cmap, s []byte) []byte {
		return append(raw(0xd2), array(bstr(p), u.encode(), bstr(make([]byte, 32)), bstr(s))...)
	})
	frame("signature-of-63-bytes", "The signature is a byte short.", reason.ReceiptMalformed, func(p []byte, u cmap, s []byte) []byte {
		return whole(p, u, s[:63])
	})
	frame("unprotected-no-map", "The unprotected header is an array.", reason.ReceiptMalformed, func(p []byte, u cmap, s []byte) []byte {
		return append(raw(0xd2), array(bstr(p), array(), raw(0xf6), bstr(s))...)
	})
	frame("indefinite-array", "The array has an indefinite length.", reason.ReceiptNotDeterministic, func(p []byte, u cmap, s []byte) []byte {
		return slices.Concat(raw(0xd2, 0x9f), bstr(p), u.encode(), raw(0xf6), bstr(s), raw(0xff))
	})
	frame("indefinite-protected", "The protected header is a byte string of indefinite length.", reason.ReceiptNotDeterministic, func(p []byte, u cmap, s []byte) []byte {
		return slices.Concat(raw(0xd2, 0x84), raw(0x5f), bstr(p[:9]), bstr(p[9:]), raw(0xff), u.encode(), raw(0xf6), bstr(s))
	})
	frame("longer-head-of-tag", "The tag's head is a byte longer than needed.", reason.ReceiptNotDeterministic, func(p []byte, u cmap, s []byte) []byte {
		return append(raw(0xd8, 0x12), whole(p, u, s)[1:]...)
	})
	frame("longer-head-of-protected", "The head of the protected header is longer than needed.", reason.ReceiptNotDeterministic, func(p []byte, u cmap, s []byte) []byte {
		return slices.Concat(raw(0xd2, 0x84), head(majorBytes, uint64(len(p)), 4), p, u.encode(), raw(0xf6), bstr(s))
	})
}

// encodings are maps that are right but for their bytes.
func encodings(b *book) {
	forged := func(name, about string, why reason.Reason, f forgery) {
		b.attack("receipt-"+name, about, block.Logs, 0, why, func(s *scene) []byte { return s.forge(f) })
	}
	not := reason.ReceiptNotDeterministic
	forged("protected-longer-integer", "iat has a head of nine bytes.", not, forgery{claims: func(c *cmap) {
		c.put(6, head(majorUint, uint64(t0.Unix()+2), 8))
	}})
	forged("protected-longer-label", "Label 4 has a head of two bytes.", not, forgery{protected: func(c *cmap) {
		(*c)[c.index(4)].key = head(majorUint, 4, 1)
	}})
	forged("protected-key-order", "kid stands before alg.", not, forgery{protected: func(c *cmap) { c.swap(1, 4) }})
	forged("claims-key-order", "seq and prev changed places.", not, forgery{claims: func(c *cmap) { c.swap("seq", "prev") }})
	forged("protected-indefinite", "The protected header is a map of indefinite length.", not, forgery{wire: func(c cmap) []byte { return c.indefinite() }})
	forged("protected-label-twice", "alg is there twice, with the same value.", not, forgery{wire: func(c cmap) []byte {
		c.again(1, -7)
		return c.encode()
	}})
	forged("claims-label-twice", "aud is there twice, with another audience.", not, forgery{claims: func(c *cmap) { c.again(3, "https://other.example") }})
	forged("location-longer-float", "The latitude 52.5 takes eight bytes, two are enough.", not, forgery{location: func(c *cmap) {
		c.put(1, raw(0xfb, 0x40, 0x4a, 0x40, 0, 0, 0, 0, 0))
	}})
	forged("location-integer", "The latitude is the integer 52.", not, forgery{location: func(c *cmap) { c.put(1, 52) }})
	forged("unprotected-longer-integer", "The block number has a head of two bytes.", not, forgery{unprotected: func(c *cmap) {
		c.put("n", head(majorUint, 1, 1))
	}})
	forged("unprotected-key-order", "The stream stands before the block number.", not, forgery{unprotected: func(c *cmap) { c.swap("n", "s") }})
	forged("unprotected-label-twice", "The block number is there twice.", not, forgery{unprotected: func(c *cmap) { c.again("n", 2) }})
	forged("unprotected-indefinite-text", "The stream is a text of indefinite length.", not, forgery{unprotected: func(c *cmap) {
		c.put("s", cbor.RawMessage(slices.Concat(raw(0x7f), enc("tpmsign"), enc("/edge:logs"), raw(0xff))))
	}})
	forged("unprotected-indefinite", "The unprotected header is a map of indefinite length.", not, forgery{
		frame: func(p []byte, u cmap, s []byte) []byte {
			return append(raw(0xd2), array(bstr(p), u.indefinite(), raw(0xf6), bstr(s))...)
		},
	})
	forged("proof-longer-integer", "The leaf index has a head of two bytes.", not, forgery{
		proof: func(size, index uint64, path []block.Digest) []byte {
			p := proofBytes(size, index, path)
			return slices.Concat(p[:2], head(majorUint, index, 1), p[3:])
		},
	})
	forged("proof-indefinite", "The inclusion proof is an array of indefinite length.", not, forgery{
		proof: func(size, index uint64, path []block.Digest) []byte {
			return slices.Concat(raw(0x9f), proofBytes(size, index, path)[1:], raw(0xff))
		},
	})
}
