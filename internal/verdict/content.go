package verdict

import (
	"iter"
	"slices"
	"sync"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// content holds the block against the digest d of its receipt, and d, through
// leaf and path, against the signature. Both have to hold.
//
// When the content is not d, the signature over d says which of the two was
// changed on the way: a valid one means that the receipt is the agent's and the
// content is not what it signed, an invalid one that the receipt itself is
// wrong. A content that cannot be digested at all is refused as that, since no
// signer would have let it through, whatever the receipt.
func (j *Judge) content(v *Verdict, c Content, manifest []byte) error {
	arrived, err := c.Check(v.expected(manifest))
	v.Arrived = arrived
	if err == nil {
		err = v.count()
	}
	if err != nil && !comparesContent(reason.Of(err)) {
		return err
	}
	if err == nil {
		return j.signature(v, c.Signal(), v.Tolerances)
	}

	signature := j.signature(v, c.Signal(), v.Tolerances)
	if signature == nil {
		return err
	}
	// The tolerance to split shows in the manifest alone, which anybody on the
	// way can remove or add.
	if j.signature(v, c.Signal(), v.Tolerances^block.Split) == nil {
		if v.Tolerances.Has(block.Split) {
			return reason.New(reason.ManifestMismatch, "the block was signed without a manifest")
		}
		return reason.New(reason.ManifestMissing, "the block was signed with a manifest")
	}
	return signature
}

// count holds the number of items that was signed against what d stands for.
func (v *Verdict) count() error {
	if got := uint64(v.Arrived.Total); got != v.Receipt.Items {
		if v.Tolerances.Has(block.Split) {
			return reason.New(reason.ManifestMismatch, "the manifest holds %d items, the receipt counts %d", got, v.Receipt.Items)
		}
		return reason.New(reason.DigestMismatch, "the block holds %d items, the receipt counts %d", got, v.Receipt.Items)
	}
	return nil
}

// comparesContent reports whether r says that content and receipt do not
// belong together, as against content that cannot be digested.
func comparesContent(r reason.Reason) bool {
	switch r {
	case reason.DigestMismatch, reason.ResourceChanged, reason.ResourceEnriched, reason.BlockSplit,
		reason.ManifestMissing, reason.ManifestMalformed, reason.ManifestMismatch, reason.ItemMismatch:
		return true
	default:
		return false
	}
}

// sigStructures are buffers; what is written to them is public.
var sigStructures = sync.Pool{New: func() any { return new([receipt.MaxSigStructure]byte) }}

// signature verifies the statement over the root that leads to d.
func (j *Judge) signature(v *Verdict, signal block.Signal, tolerances block.Tolerance) error {
	r := v.Receipt
	leaf := receipt.Leaf{
		Signal:     signal,
		Tolerances: tolerances,
		Stream:     r.Stream,
		BlockNo:    r.BlockNo,
		Items:      r.Items,
		Digest:     r.Digest,
	}
	if tolerances.Has(block.Enrich) {
		keys := receipt.KeyListDigest(r.Keys)
		leaf.Keys = &keys
	}
	root, err := r.Root(leaf.Hash())
	if err != nil {
		return err
	}
	space := sigStructures.Get().(*[receipt.MaxSigStructure]byte)
	defer sigStructures.Put(space)
	sig := receipt.AppendSigStructure(space[:0], r.Protected, root)
	statement, err := j.Signatures.Verify(v.Key.Algorithm, v.Key.Public, sig, r.Signature)
	if err != nil {
		return err
	}
	v.Statement = statement
	return nil
}

// covered hides from policy the attributes that somebody on the way added: they
// name nobody, and are taken off or renamed before the block goes on.
type covered struct {
	policy.Attributes
	added []string
}

func (c covered) Values(key string) iter.Seq[string] {
	if slices.Contains(c.added, key) {
		return func(func(string) bool) {}
	}
	return c.Attributes.Values(key)
}
