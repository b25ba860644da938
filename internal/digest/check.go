package digest

import (
	"crypto/sha256"
	"strconv"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// Expected is what a receipt says of the block, for Check.
type Expected struct {
	Tolerances block.Tolerance
	Digest     block.Digest
	Items      int      // number of items as signed, 0 when it is not known
	Keys       []string // with Enrich
	Manifest   []byte   // with Split
}

// Arrived is what Check found out.
type Arrived struct {
	Items int
	// Total is the number of items of the whole block as signed (= Items without Split).
	Total int
	// Candidates holds, with Split, for each arrived item in walking order the
	// indices into the manifest that its digest has there, ascending (one, but
	// for items that are equal to the last byte; those share a slice). nil
	// without Split, and nil when the whole block arrived in order.
	Candidates [][]uint32
	// Added holds, with Enrich, the resource keys that were not signed.
	Added []string
	// NaNs counts the doubles that were rewritten: NaNs to the canonical one,
	// -0 to 0 where zero means absent.
	NaNs int
	// Differs names, when Check fails with a mismatch, the part that differs as
	// far as the tolerances allow to know: "resource", "scope", "header", "item" or "".
	Differs string
}

// Check holds the block against what was signed. It changes the block only by
// rewriting NaNs, and only when it succeeds. The error is a *[reason.Error] of the "digest and
// proof" group. The receipt and manifest attributes may still be in place or
// already stripped: they are left out either way. Other telemark attributes
// are refused.
func (b Block) Check(want Expected) (Arrived, error) {
	var a Arrived
	o := options{
		signal:   b.signal,
		split:    want.Tolerances.Has(block.Split),
		enriched: want.Tolerances.Has(block.Enrich),
	}
	if o.enriched {
		o.keys = want.Keys
		o.keySet = keySet(want.Keys)
	}
	w := newWalker(o)
	defer w.release()
	if err := want.valid(w); err != nil {
		return a, err
	}
	b.walk(w)
	if err := w.unverifiable(b); err != nil {
		return a, err
	}
	a.Items, a.Total, a.Added = w.nItems, w.nItems, w.added
	if w.reorder || w.nextKey != len(w.keys) {
		a.Differs = partResource
		return a, reason.New(reason.ResourceChanged, "a signed resource attribute is missing, moved or there twice")
	}
	var err error
	if o.split {
		a.Total = len(want.Manifest) / sha256.Size
		err = b.checkItems(w, want, &a)
	} else {
		err = b.checkWhole(w, want, &a)
	}
	if err != nil {
		return a, err
	}
	if w.doubles > 0 {
		a.NaNs = w.doubles
		b.canonicalDoubles()
	}
	return a, nil
}

// valid judges what was signed on its own.
func (want Expected) valid(w *walker) error {
	if !want.Tolerances.Valid() {
		return reason.New(reason.InvalidValue, "tolerances %#x are not known", byte(want.Tolerances))
	}
	if !want.Tolerances.Has(block.Split) {
		if want.Manifest != nil {
			return reason.New(reason.ManifestMismatch, "there is a manifest, but the receipt does not tolerate splitting")
		}
		return nil
	}
	switch n := len(want.Manifest); {
	case want.Manifest == nil:
		return reason.New(reason.ManifestMissing, "the receipt tolerates splitting")
	case n == 0 || n%sha256.Size != 0:
		return reason.New(reason.ManifestMalformed, "%d bytes are not a list of digests", n)
	}
	if n := len(want.Manifest) / sha256.Size; want.Items > 0 && n != want.Items {
		return reason.New(reason.ManifestMismatch, "the manifest lists %d items, %d were signed", n, want.Items)
	}
	if w.manifestDigest(want.Manifest) != want.Digest {
		return reason.New(reason.ManifestMismatch, "the manifest is not the one that was signed")
	}
	return nil
}

// unverifiable names what makes a block unfit to be compared, in a fixed order.
func (w *walker) unverifiable(b Block) error {
	switch {
	case w.proof.receipt > 1 || w.proof.manifest > 1:
		return reason.New(reason.ReceiptNotUnique, "%d receipts, %d manifests", w.proof.receipt, w.proof.manifest)
	case w.proof.wrongType:
		return reason.New(reason.ReceiptWrongType, "receipt or manifest is not of type bytes")
	case w.proof.manifest > 0 && !w.split:
		return reason.New(reason.ManifestMismatch, "there is a manifest, but the receipt does not tolerate splitting")
	case w.reserved > 0:
		return reason.New(reason.ReservedAttribute, "%d attributes, first %s", w.reserved, short(w.key))
	case w.deep > 0:
		return w.unsignable(b)
	case w.strings > 0:
		return reason.New(reason.InvalidUTF8, "%d strings", w.strings)
	case w.empty > 0 || w.nItems == 0:
		return reason.New(reason.EmptyContainer, "%d containers, %d items", w.empty, w.nItems)
	}
	return w.hidden(b)
}

func (b Block) checkWhole(w *walker, want Expected, a *Arrived) error {
	if w.digest == want.Digest {
		return nil
	}
	if !w.enriched && w.behind && b.digestWithoutSuffix(want.Tolerances) == want.Digest {
		a.Differs = partResource
		return reason.New(reason.ResourceEnriched, "resource attributes were added after signing")
	}
	if a.Items < want.Items {
		return reason.New(reason.BlockSplit, "%d items of %d arrived", a.Items, want.Items)
	}
	return reason.New(reason.DigestMismatch, "the content is not what was signed")
}

// digestWithoutSuffix is the digest of the block without the resource
// attributes behind the proof. A signer puts the proof last and collectors
// append, so those were added after signing.
func (b Block) digestWithoutSuffix(tol block.Tolerance) block.Digest {
	w := newWalker(options{signal: b.signal, split: tol.Has(block.Split), cut: true})
	defer w.release()
	b.walk(w)
	return w.digest
}

// checkItems finds every arrived item in the manifest.
func (b Block) checkItems(w *walker, want Expected, a *Arrived) error {
	if string(w.digests) == string(want.Manifest) {
		return nil
	}
	idx := newIndex(want.Manifest)
	a.Candidates = make([][]uint32, w.nItems)
	wrong := 0
	for i := range a.Candidates {
		a.Candidates[i] = idx.find(itemDigest(w.digests, i))
		if a.Candidates[i] == nil {
			wrong++
		}
	}
	if wrong == 0 {
		return nil
	}
	a.Differs = b.differs(func(i int) bool { return a.Candidates[i] == nil })
	a.Candidates = nil
	if !w.enriched && w.behind && wrong == w.nItems && b.onlyEnriched(idx) {
		a.Differs = partResource
		return reason.New(reason.ResourceEnriched, "resource attributes were added after signing")
	}
	return reason.New(reason.ItemMismatch, "%d items of %d are not in the manifest", wrong, w.nItems)
}

// onlyEnriched reports whether all items are in the manifest once the resource
// attributes behind the proof are left out.
func (b Block) onlyEnriched(idx *index) bool {
	w := newWalker(options{signal: b.signal, split: true, cut: true})
	defer w.release()
	b.walk(w)
	for i := range w.nItems {
		if idx.find(itemDigest(w.digests, i)) == nil {
			return false
		}
	}
	return true
}

func itemDigest(list []byte, i int) block.Digest {
	return block.Digest(list[i*sha256.Size : (i+1)*sha256.Size])
}

// index finds the places of digests in a manifest. Memory is linear in the
// manifest, however many of its digests are equal.
type index struct {
	places map[block.Digest][]uint32
}

func newIndex(manifest []byte) *index {
	n := len(manifest) / sha256.Size
	idx := &index{places: make(map[block.Digest][]uint32, n)}
	all := make([]uint32, n)
	for i := range n {
		d := itemDigest(manifest, i)
		if p, ok := idx.places[d]; ok {
			idx.places[d] = append(p, uint32(i))
			continue
		}
		all[i] = uint32(i)
		idx.places[d] = all[i : i+1 : i+1]
	}
	return idx
}

func (x *index) find(d block.Digest) []uint32 { return x.places[d] }

// manyKeys is from how many keys on a set is faster than a scan. The list comes
// from a receipt that is not verified yet, against a resource of any size.
const manyKeys = 16

func keySet(keys []string) map[string]struct{} {
	if len(keys) <= manyKeys {
		return nil
	}
	set := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		set[k] = struct{}{}
	}
	return set
}

// short quotes a key for a detail, bounded in length.
func short(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
