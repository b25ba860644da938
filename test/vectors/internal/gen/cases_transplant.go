package main

import (
	"bytes"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// manifests are manifests that are not the one that was signed.
func manifests(b *book) {
	bad := func(name, about string, why reason.Reason, change func(s *scene, manifest []byte) []byte) {
		b.attack("manifest-"+name, about, block.Logs, block.Split, why, func(s *scene) []byte {
			return s.honest.with(s.honest.encoded, change(s, bytes.Clone(s.honest.prepared.Manifest)))
		})
	}
	bad("missing", "The manifest was taken off.", reason.ManifestMissing, func(*scene, []byte) []byte { return nil })
	bad("empty", "The manifest has no bytes.", reason.ManifestMalformed, func(*scene, []byte) []byte { return []byte{} })
	bad("one-byte-more", "The manifest is a byte too long.", reason.ManifestMalformed, func(_ *scene, m []byte) []byte { return append(m, 0) })
	bad("one-byte-less", "The manifest is a byte too short.", reason.ManifestMalformed, func(_ *scene, m []byte) []byte { return m[:len(m)-1] })
	why := reason.ManifestMismatch
	bad("item-missing", "The manifest lacks an item.", why, func(_ *scene, m []byte) []byte { return m[32:] })
	bad("item-added", "The manifest lists an item more.", why, func(_ *scene, m []byte) []byte { return append(m, m[:32]...) })
	bad("order", "Two items of the manifest changed places.", why, func(_ *scene, m []byte) []byte {
		return slices.Concat(m[32:64], m[:32], m[64:])
	})
	bad("item-twice", "An item of the manifest is there twice, another one is gone.", why, func(_ *scene, m []byte) []byte {
		return slices.Concat(m[:32], m[:32], m[64:])
	})
	bad("of-the-neighbour", "The manifest of another block.", why, func(s *scene, _ []byte) []byte { return s.neighbour.prepared.Manifest })
	b.attack("manifest-added", "A manifest was put on a block whose signer does not tolerate splitting; it lists the block's items.", block.Logs, 0, why,
		func(s *scene) []byte {
			other := must(copyOf(s.data).At(0).PrepareHeartbeat(block.Split))
			return s.honest.with(s.honest.encoded, other.Manifest)
		})
	b.attack("manifest-added-to-enrich", "The same, where enriching is tolerated.", block.Logs, block.Enrich, why, func(s *scene) []byte {
		other := must(copyOf(s.data).At(0).PrepareHeartbeat(both))
		return s.honest.with(s.honest.encoded, other.Manifest)
	})
	b.attack("manifest-missing-both", "The manifest was taken off, enriching is tolerated, too.", block.Logs, both, reason.ManifestMissing,
		func(s *scene) []byte { return s.honest.with(s.honest.encoded, nil) })
}

// transplants are proofs on blocks that they were not made for, and signatures
// that are not the key's.
func transplants(b *book) {
	proofs(b)
	parts(b)
	signatures(b)
}

func proofs(b *book) {
	b.attack("transplant-other-block", "The proof of another block of the same machine and group.", block.Logs, 0, reason.DigestMismatch, func(s *scene) []byte {
		a := s.before.fork()
		next := copyOf(s.data)
		changeItem(next.At(0))
		group := a.sign(unsigned{batch: s.data}, unsigned{batch: next})
		return group[0].with(group[1].encoded, nil)
	})
	b.attack("transplant-larger-block", "The proof of another block with more items: it looks as if the block had been split.", block.Logs, 0, reason.BlockSplit, func(s *scene) []byte {
		group := s.before.fork().sign(unsigned{batch: s.data}, unsigned{batch: records()})
		return group[0].with(group[1].encoded, nil)
	})
	b.attack("transplant-other-machine", "The proof of a block of another machine.", block.Logs, 0, reason.DigestMismatch,
		func(s *scene) []byte { return s.honest.with(s.neighbour.encoded, nil) })
	b.attack("transplant-other-kid", "The kid was replaced by that of another trusted machine, whose nonce is there.", block.Logs, 0, reason.SignatureInvalid,
		func(s *scene) []byte {
			a := s.before.fork()
			a.kid, a.nonce = s.b.kid, s.b.nonce
			return a.one(s.data, 0).bytes()
		})
	for _, signal := range signals {
		from := signals[(slices.Index(signals, signal)+1)%len(signals)]
		b.attack("transplant-"+from.String()+"-to-"+signal.String(), "The proof of a block of "+from.String()+".", signal, 0, reason.SignatureInvalid, func(s *scene) []byte {
			return s.honest.with(s.before.fork().one(sample(from, "edge-a"), 0).encoded, nil)
		})
	}
	b.attack("transplant-signal-with-digest", "The leaf was signed for traces, with the digest of these logs.", block.Logs, 0, reason.SignatureInvalid, func(s *scene) []byte {
		return s.before.fork().wrongLeaf(s.data, 0, func(l *receipt.Leaf) { l.Signal = block.Traces })
	})
	b.attack("transplant-tolerance-split", "The leaf was signed with the bit of split and the digest of the whole block, which no signer does.", block.Logs, 0, reason.SignatureInvalid, func(s *scene) []byte {
		return s.before.fork().wrongLeaf(s.data, 0, func(l *receipt.Leaf) { l.Tolerances = block.Split })
	})
	b.attack("transplant-tolerance-unknown", "The leaf was signed with a tolerance that does not exist.", block.Logs, 0, reason.SignatureInvalid, func(s *scene) []byte {
		return s.before.fork().wrongLeaf(s.data, 0, func(l *receipt.Leaf) { l.Tolerances = 4 })
	})
}

// wrongLeaf signs a block with another leaf in the tree than its own.
func (a *agent) wrongLeaf(data digest.Batch, tol block.Tolerance, change func(*receipt.Leaf)) []byte {
	a.change = change
	return a.one(data, tol).bytes()
}

// parts are receipts of which one part was exchanged for that of another honest
// receipt, or changed.
func parts(b *book) {
	rewrite := func(name, about string, tol block.Tolerance, why reason.Reason, change func(s *scene, r *receipt.Receipt)) {
		b.attack(name, about, block.Logs, tol, why, func(s *scene) []byte {
			r := *s.honest.receipt
			change(s, &r)
			return s.honest.with(must(r.Encode()), s.honest.prepared.Manifest)
		})
	}
	why := reason.SignatureInvalid
	rewrite("transplant-stream", "The stream is another one.", 0, why, func(_ *scene, r *receipt.Receipt) { r.Stream = "tpmsign/other:logs" })
	rewrite("transplant-number", "The block number is another one.", 0, why, func(_ *scene, r *receipt.Receipt) { r.BlockNo = 2 })
	rewrite("transplant-items", "i is larger than it was.", 0, why, func(_ *scene, r *receipt.Receipt) { r.Items = 5 })
	rewrite("transplant-items-split", "i is larger than it was, splitting is tolerated.", block.Split, why, func(_ *scene, r *receipt.Receipt) { r.Items = 5 })
	rewrite("transplant-keys-removed", "k was removed, so that the receipt tolerates nothing.", block.Enrich, why, func(_ *scene, r *receipt.Receipt) { r.Keys = nil })
	rewrite("transplant-keys-added", "k was added, so that the receipt tolerates enriching.", 0, why, func(_ *scene, r *receipt.Receipt) {
		r.Keys = []string{"service.name", "host.name"}
	})
	rewrite("transplant-key-list", "A key was taken out of k.", block.Enrich, why, func(_ *scene, r *receipt.Receipt) { r.Keys = r.Keys[:1] })
	b.attack("transplant-digest", "The content and d were changed, the rest is the agent's.", block.Logs, 0, why, func(s *scene) []byte {
		c := copyOf(s.data)
		changeItem(c.At(0))
		r := *s.honest.receipt
		r.Digest = must(copyOf(c).At(0).PrepareHeartbeat(0)).Digest
		x := &signed{unsigned: unsigned{batch: c}}
		return x.with(must(r.Encode()), nil)
	})
	b.attack("transplant-manifest-and-digest", "Content, manifest and d were changed, the rest is the agent's.", block.Logs, block.Split, why, func(s *scene) []byte {
		c := copyOf(s.data)
		changeItem(c.At(0))
		other := must(copyOf(c).At(0).PrepareHeartbeat(block.Split))
		r := *s.honest.receipt
		r.Digest = other.Digest
		x := &signed{unsigned: unsigned{batch: c}}
		return x.with(must(r.Encode()), other.Manifest)
	})
	b.attack("transplant-protected", "The protected header is of the machine's next statement, under the signature of this one.", block.Logs, 0, why, func(s *scene) []byte {
		a := s.a.fork()
		next := a.one(s.data, 0)
		r := *s.honest.receipt
		r.Protected, r.Statement = next.receipt.Protected, next.receipt.Statement
		return s.honest.with(must(r.Encode()), nil)
	})
}

func signatures(b *book) {
	why := reason.SignatureInvalid
	signature := func(name, about string, change func(sig []byte) []byte) {
		b.attack("signature-"+name, about, block.Metrics, 0, why, func(s *scene) []byte {
			r := *s.honest.receipt
			r.Signature = change(bytes.Clone(r.Signature))
			return s.honest.with(must(r.Encode()), nil)
		})
	}
	order := newAgent("edge-a").key.Params().N.Bytes()
	signature("bit", "A bit of the signature is turned over.", func(sig []byte) []byte {
		sig[63] ^= 1
		return sig
	})
	signature("zero", "r and s are 0.", func([]byte) []byte { return make([]byte, 64) })
	signature("s-zero", "s is 0.", func(sig []byte) []byte { return append(sig[:32], make([]byte, 32)...) })
	signature("r-order", "r is the order of the curve.", func(sig []byte) []byte { return append(bytes.Clone(order), sig[32:]...) })
	signature("all-ones", "r and s are as large as 32 bytes are.", func([]byte) []byte { return bytes.Repeat([]byte{0xff}, 64) })
	b.attack("signature-other-key", "Another key signed, under this kid.", block.Metrics, 0, why, func(s *scene) []byte {
		a := s.before.fork()
		a.key = newAgent("edge-z").key
		return a.one(s.data, 0).bytes()
	})
	b.attack("signature-other-group", "The signature of another group of the same machine.", block.Metrics, 0, why, func(s *scene) []byte {
		next := s.a.fork().one(s.data, 0)
		r := *s.honest.receipt
		r.Signature = next.receipt.Signature
		return s.honest.with(must(r.Encode()), nil)
	})

	s := newScene(block.Logs, 0)
	c := copyOf(s.data)
	changeItem(c.At(0))
	r := *s.honest.receipt
	r.Digest, r.BlockNo = must(copyOf(c).At(0).PrepareHeartbeat(0)).Digest, 2
	forged := (&signed{unsigned: unsigned{batch: c}}).with(must(r.Encode()), nil)
	b.add("signature-seen-before", "A statement and signature that were verified a moment ago, and may be remembered, on another content with its own digest.", block.Logs, s.a, s.b).
		step(arrival, good(s.honest)).
		step(arrival.Add(time.Second), refused(forged, why), good(s.neighbour))
}
