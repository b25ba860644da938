// Package digest turns blocks of OTLP telemetry into digests. It implements
// docs/spec/digest.md: the canonical encoding C, computed by walking pdata, the
// whole-block digest, the digest over items that tolerates splitting, the
// signer's cleaning and the verifier's comparison.
//
// It leaves out the wire-level walk (C from protobuf bytes), profiles, and
// everything about receipts but the two attributes that carry them.
package digest

import (
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// Prepared is a block ready to be signed.
type Prepared struct {
	Digest   block.Digest
	Items    int
	Manifest []byte   // with Split: ordered item digests, 32 bytes each
	Keys     []string // with Enrich: resource keys in transmitted order, never nil then
	Cleaning Cleaning
}

// Cleaning counts what the signer took out or mended before signing.
type Cleaning struct {
	Attributes int // reserved attributes stripped, at any depth
	Receipts   int // proofs of an earlier signer stripped from the resource, not counted in Attributes
	Scopes     int // scopes dropped that bear the signer's own name, [HeartbeatScope]
	Strings    int // strings with invalid UTF-8 repaired
	Containers int // containers without items removed
	NaNs       int // doubles rewritten: NaNs to the canonical one, -0 to 0 where zero means absent
}

// Prepare cleans the block in place by the signer's rules and digests it. An
// error is a *[reason.Error]: the block cannot be signed (hidden_field,
// too_deep). Items is 0, and nothing else is set but Cleaning, when nothing was
// left of the block.
func (b Block) Prepare(tol block.Tolerance) (Prepared, error) { return b.prepare(tol, false) }

// PrepareHeartbeat is Prepare for a block that the signer made itself: a scope
// named [HeartbeatScope] stays.
func (b Block) PrepareHeartbeat(tol block.Tolerance) (Prepared, error) { return b.prepare(tol, true) }

// prepare walks once when the block is clean. What has to be taken out or
// mended is only noted on that walk; then the block is mended and walked again:
// first what is removed, so that the size is known to be right and nothing
// hidden is lost, then what is repaired.
func (b Block) prepare(tol block.Tolerance, heartbeat bool) (p Prepared, err error) {
	if !tol.Valid() {
		return p, reason.New(reason.InvalidValue, "tolerances %#x are not known", byte(tol))
	}
	o := options{signal: b.signal, split: tol.Has(block.Split), signing: true, heartbeat: heartbeat}
	w := newWalker(o)
	defer w.release()
	b.walk(w)
	if w.deep == 0 && w.reserved+w.receipts+w.scopes+w.empty > 0 {
		b.strip(&p.Cleaning, heartbeat)
		w.reset(o)
		b.walk(w)
	}
	if w.nItems == 0 {
		return p, nil
	}
	if err := w.unsignable(b); err != nil {
		return p, err
	}
	if w.strings > 0 {
		b.repair(&p.Cleaning)
		w.reset(o)
		b.walk(w)
		if err := w.unsignable(b); err != nil {
			return p, err
		}
	}
	if w.doubles > 0 {
		p.Cleaning.NaNs = w.doubles
		b.canonicalDoubles()
	}
	if d := w.dirt; d.reserved+d.receipts+d.scopes+d.empty+d.strings > 0 {
		return p, reason.New(reason.InvalidValue, "the block could not be cleaned")
	}
	p.Digest, p.Items = w.digest, w.nItems
	if o.split {
		p.Manifest = append(make([]byte, 0, len(w.digests)), w.digests...)
	}
	if tol.Has(block.Enrich) {
		p.Keys = b.resourceKeys()
	}
	return p, nil
}

// unsignable names what no cleaning can mend.
func (w *walker) unsignable(b Block) error {
	if w.deep > 0 {
		return reason.New(reason.TooDeep, "%d values nest deeper than %d", w.deep, MaxDepth)
	}
	return w.hidden(b)
}

func (w *walker) hidden(b Block) error {
	if n := b.protoSize(); n != w.size {
		return reason.New(reason.HiddenField, "the block has %d bytes, its visible fields %d", n, w.size)
	}
	return nil
}

// resourceKeys lists the keys of the resource's attributes.
func (b Block) resourceKeys() []string {
	attrs := b.Attributes()
	keys := make([]string, 0, attrs.Len())
	for k := range attrs.All() {
		if !proofKey(k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// Inspect checks an unsigned block for what no signer lets through, in this
// order: reserved attributes (those of a proof included), values nested too
// deep, hidden fields.
func (b Block) Inspect() error {
	w := newWalker(options{signal: b.signal, signing: true, heartbeat: true})
	defer w.release()
	w.mute = true
	b.walk(w)
	if w.reserved+w.receipts > 0 {
		return reason.New(reason.ReservedAttribute, "%d attributes, first %s", w.reserved+w.receipts, short(w.key))
	}
	return w.unsignable(b)
}
