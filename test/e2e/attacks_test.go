package e2e

import (
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// scene is the request that a hostile gateway has in its hands: a block that it
// wants to harm, another one of the same machine, and one of another machine.
type scene struct {
	near, victim, other digest.Block
	stranger            digest.Block // in the hands of the gateway, not in the request
}

// attack is what it does with it.
type attack struct {
	name string
	do   func(scene)
	want []reason.Reason // of the blocks that are refused, in any order
	// otherHarmed says that the block of the other machine is refused too.
	otherHarmed bool
	twice       bool // the victim stands in the request twice, and arrives once
}

func only(r reason.Reason) []reason.Reason { return []reason.Reason{r} }

var attacks = []attack{
	{name: "value changed", do: func(s scene) { changeValue(s.victim) }, want: only(reason.DigestMismatch)},
	{name: "item attribute changed", do: func(s scene) { harness.ItemAttributes(s.victim)[0].PutInt(harness.ItemID, -1) }, want: only(reason.DigestMismatch)},
	{name: "item attribute added", do: func(s scene) { harness.ItemAttributes(s.victim)[0].PutStr("approved", "yes") }, want: only(reason.DigestMismatch)},
	{name: "order of items changed", do: func(s scene) { swapItems(s.victim) }, want: only(reason.DigestMismatch)},
	{name: "item removed", do: func(s scene) { s.victim.FilterItems(func(i int) bool { return i > 0 }) }, want: only(reason.BlockSplit)},
	{name: "resource attribute changed", do: func(s scene) { s.victim.Attributes().PutStr("service.version", "6.6.6") }, want: only(reason.DigestMismatch)},
	{name: "resource attribute removed", do: func(s scene) { s.victim.Attributes().Remove("service.version") }, want: only(reason.DigestMismatch)},
	{name: "resource attribute added", do: func(s scene) { s.victim.Attributes().PutStr("tenant", "mallory") }, want: only(reason.ResourceEnriched)},
	{
		name: "items moved from one machine to the other", do: func(s scene) { moveScopes(s.victim, s.other) },
		want: []reason.Reason{reason.EmptyContainer, reason.DigestMismatch}, otherHarmed: true,
	},
	{
		name: "content exchanged between two machines", do: func(s scene) { exchangeReceipts(s.victim, s.other) },
		want: []reason.Reason{reason.DigestMismatch, reason.DigestMismatch}, otherHarmed: true,
	},
	{name: "receipt of the neighbour", do: func(s scene) { harness.Transplant(s.near, s.victim) }, want: only(reason.DigestMismatch)},
	{name: "receipt removed", do: func(s scene) { s.victim.StripProof() }, want: only(reason.ReceiptMissing)},
	{name: "signature changed", do: func(s scene) { flipLastBit(s.victim) }, want: only(reason.SignatureInvalid)},
	{name: "verdict forged", do: func(s scene) { s.victim.Attributes().PutStr(block.AttrVerdict, reason.Verified) }, want: only(reason.ReservedAttribute)},
	{
		name: "verdict forged in place of the receipt", do: func(s scene) {
			s.victim.StripProof()
			s.victim.Attributes().PutStr(block.AttrVerdict, reason.Verified)
		},
		want: only(reason.ReservedAttribute),
	},
	{
		name: "block of an unknown TPM", do: func(s scene) { replace(s.victim, s.stranger) },
		want: only(reason.UnknownKey),
	},
	{name: "block twice in one request", do: func(scene) {}, twice: true},
}

func changeValue(b digest.Block) {
	switch b.Signal() {
	case block.Metrics:
		b.Metrics().ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints().At(0).SetDoubleValue(42)
	case block.Logs:
		b.Logs().ScopeLogs().At(0).LogRecords().At(0).Body().SetStr("order 1 was refunded")
	case block.Traces:
		b.Traces().ScopeSpans().At(0).Spans().At(0).Status().SetMessage("all is well")
	}
}

// swapItems makes the first item the last.
func swapItems(b digest.Block) {
	switch b.Signal() {
	case block.Metrics:
		points := b.Metrics().ScopeMetrics().At(0).Metrics().At(0).Sum().DataPoints()
		points.At(0).CopyTo(points.AppendEmpty())
	case block.Logs:
		records := b.Logs().ScopeLogs().At(0).LogRecords()
		records.At(0).CopyTo(records.AppendEmpty())
	case block.Traces:
		spans := b.Traces().ScopeSpans().At(0).Spans()
		spans.At(0).CopyTo(spans.AppendEmpty())
	}
	b.FilterItems(func(i int) bool { return i > 0 })
}

// moveScopes gives one block's content to another.
func moveScopes(from, to digest.Block) {
	switch from.Signal() {
	case block.Metrics:
		from.Metrics().ScopeMetrics().MoveAndAppendTo(to.Metrics().ScopeMetrics())
	case block.Logs:
		from.Logs().ScopeLogs().MoveAndAppendTo(to.Logs().ScopeLogs())
	case block.Traces:
		from.Traces().ScopeSpans().MoveAndAppendTo(to.Traces().ScopeSpans())
	}
}

func exchangeReceipts(a, b digest.Block) {
	copied := digest.NewBatch(a.Signal())
	a.CopyTo(copied)
	harness.Transplant(b, a)
	harness.Transplant(copied.At(0), b)
}

func flipLastBit(b digest.Block) {
	v, _ := b.Attributes().Get(block.AttrReceipt)
	raw := v.Bytes().AsRaw()
	raw[len(raw)-1] ^= 1
	// A new value: copies of a block share the bytes of attributes.
	b.Attributes().PutEmptyBytes(block.AttrReceipt).FromRaw(raw)
}

// replace puts a copy of another block in a block's place.
func replace(b, with digest.Block) {
	switch b.Signal() {
	case block.Metrics:
		with.Metrics().CopyTo(b.Metrics())
	case block.Logs:
		with.Logs().CopyTo(b.Logs())
	case block.Traces:
		with.Traces().CopyTo(b.Traces())
	}
}
