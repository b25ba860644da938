package harness

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
)

// One returns a request that holds only block i of b, leaving b as it is.
func One(b digest.Batch, i int) digest.Batch {
	out := digest.NewBatch(b.Signal())
	b.At(i).CopyTo(out)
	return out
}

// Join returns a request that holds copies of all blocks of the given ones.
func Join(batches ...digest.Batch) digest.Batch {
	out := digest.NewBatch(batches[0].Signal())
	for _, b := range batches {
		for i := range b.Len() {
			b.At(i).CopyTo(out)
		}
	}
	return out
}

// ItemAttributes returns the attributes of each item of b, heartbeats left
// out; changing them changes b.
func ItemAttributes(b digest.Block) []pcommon.Map {
	var out []pcommon.Map
	eachItem(b, func(m pcommon.Map) { out = append(out, m) })
	return out
}

// ServiceOf returns the service.name of a block.
func ServiceOf(b digest.Block) string {
	v, ok := b.Attributes().Get("service.name")
	if !ok {
		return ""
	}
	return v.AsString()
}

// Transplant puts the proof of from on to.
func Transplant(from, to digest.Block) {
	proof, ok := from.Attributes().Get(block.AttrReceipt)
	if !ok {
		return
	}
	bytes := append([]byte(nil), proof.Bytes().AsRaw()...)
	to.StripProof()
	to.Attach(digest.Proof{Receipt: bytes})
}
