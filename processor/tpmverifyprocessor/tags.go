package tpmverifyprocessor

import (
	"encoding/hex"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
)

// The attributes that are added beside block.AttrVerdict and block.AttrName.
const (
	attrID               = "telemark.id"         // kid/epoch/stream/n
	attrKID              = "telemark.kid"        // hexadecimal
	attrFreshness        = "telemark.freshness"  // live, stale or sequence
	attrRedelivery       = "telemark.redelivery" // true, or absent
	attrLocation         = "telemark.location"   // latitude,longitude in degrees
	attrLocationSource   = "telemark.location.source"
	attrLocationAccuracy = "telemark.location.accuracy" // metres
)

// attributes shows a resource to policy.
type attributes struct{ m pcommon.Map }

func (a attributes) Values(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k, v := range a.m.All() {
			if k == key && !yield(textOf(v)) {
				return
			}
		}
	}
}

// textOf is the text of a value that may come from anybody: AsString would
// follow lists and maps down as deep as they go, and no machine is called by one.
func textOf(v pcommon.Value) string {
	switch v.Type() {
	case pcommon.ValueTypeMap:
		return "(a map)"
	case pcommon.ValueTypeSlice:
		return "(a list)"
	default:
		return v.AsString()
	}
}

// shapeVerified takes off what the receipt does not cover, and the receipt
// itself unless it is kept, and says what was found. A verified block has no
// reserved attribute but the proof, so that what is put here is the only one.
func (p *verifier) shapeVerified(b digest.Block, j *judged) {
	if len(j.Arrived.Added) > 0 {
		b.StripAdded(j.Receipt.Keys, p.enrichPrefix(j))
	}
	if j.Tolerances.Has(block.Split) {
		b.StripUncovered()
	}
	if p.cfg.Receipts == ReceiptsStrip {
		b.StripProof()
	}
	to, add := b.Attributes(), &p.cfg.Attributes
	if add.Verdict {
		to.PutStr(block.AttrVerdict, j.Key.Evidence.Verdict())
	}
	if add.Name {
		to.PutStr(block.AttrName, j.Key.Name)
	}
	if add.KID {
		to.PutStr(attrKID, hex.EncodeToString([]byte(j.Key.KID)))
	}
	if add.ID {
		s := j.Receipt.Statement
		to.PutStr(attrID, fmt.Sprintf("%x/%d/%s/%d", j.Key.KID, s.Epoch, j.Receipt.Stream, j.Receipt.BlockNo))
	}
	if add.Freshness {
		to.PutStr(attrFreshness, j.Freshness.String())
	}
	if add.Location {
		putLocation(to, j)
	}
	if j.outcome.Redelivery {
		to.PutBool(attrRedelivery, true)
	}
}

// enrichPrefix is empty, so that what was added is taken off, unless a prefix is
// configured and none of the added keys would, behind it, pass for a signed one
// or name a machine.
func (p *verifier) enrichPrefix(j *judged) string {
	if p.cfg.Enrich.Action != EnrichPrefix {
		return ""
	}
	prefix := p.cfg.Enrich.Prefix
	signed := map[string]bool{} // what follows the prefix in signed keys; any number may have been added
	for _, key := range j.Receipt.Keys {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			signed[rest] = true
		}
	}
	for _, key := range j.Arrived.Added {
		if signed[key] || p.keys.Binds(prefix+key) {
			return ""
		}
	}
	return prefix
}

func putLocation(to pcommon.Map, j *judged) {
	l := j.Receipt.Statement.Location
	if l == nil {
		return
	}
	degrees := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	to.PutStr(attrLocation, degrees(l.Latitude)+","+degrees(l.Longitude))
	to.PutStr(attrLocationSource, l.Source)
	if l.Accuracy != nil {
		to.PutDouble(attrLocationAccuracy, *l.Accuracy)
	}
}

// tagUnsigned marks a block without receipt. It was inspected: it carries no
// reserved attribute of its own.
func (p *verifier) tagUnsigned(b digest.Block) {
	if p.cfg.Unsigned == UnsignedTag {
		b.Attributes().PutStr(block.AttrVerdict, string(reason.ReceiptMissing))
	}
}

// tagRefused marks a refused block that goes on in mode observe. Whatever it
// says itself under the reserved prefix, at any depth, is taken off, so that
// nobody can put the verdict on himself.
func (p *verifier) tagRefused(b digest.Block, r reason.Reason) {
	b.StripReserved()
	if p.cfg.Receipts == ReceiptsStrip {
		b.StripProof()
	}
	b.Attributes().PutStr(block.AttrVerdict, string(r))
}
