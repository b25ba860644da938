package tpmsignprocessor

import (
	"context"
	"fmt"
	"testing"

	"go.opentelemetry.io/collector/component"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/group"
)

// benchBatch is a request of blocks of realistic items.
func benchBatch(signal block.Signal, blocks, items int) digest.Batch {
	b := digest.NewBatch(signal)
	for i := range blocks {
		addBlock(b, fmt.Sprint("service-", i), names("item.name.of.usual.length.", items))
		for k := range 8 {
			b.At(i).Attributes().PutStr(fmt.Sprint("resource.attribute.", k), "a value of usual length")
		}
		decorate(b, i)
	}
	return b
}

// decorate gives each item a few attributes.
func decorate(b digest.Batch, i int) {
	switch b.Signal() {
	case block.Metrics:
		for _, m := range b.Metrics().ResourceMetrics().At(i).ScopeMetrics().At(0).Metrics().All() {
			attrs := m.Gauge().DataPoints().At(0).Attributes()
			attrs.PutStr("cpu", "cpu0")
			attrs.PutStr("state", "idle")
		}
	case block.Logs:
		for _, lr := range b.Logs().ResourceLogs().At(i).ScopeLogs().At(0).LogRecords().All() {
			for k := range 6 {
				lr.Attributes().PutStr(fmt.Sprint("log.attribute.", k), "a value of usual length")
			}
		}
	default:
		for _, span := range b.Traces().ResourceSpans().At(i).ScopeSpans().At(0).Spans().All() {
			for k := range 6 {
				span.Attributes().PutStr(fmt.Sprint("span.attribute.", k), "a value of usual length")
			}
		}
	}
}

// instantTPM answers at once with receipts that were made before, so that
// what is measured is the processor and the digest.
type instantTPM struct {
	component.StartFunc
	component.ShutdownFunc

	ticket *group.Ticket
}

func (*instantTPM) CanSign() bool                                { return true }
func (*instantTPM) OpenStream(name string) (string, func())      { return name, func() {} }
func (i *instantTPM) Submit([]group.Leaf) (*group.Ticket, error) { return i.ticket, nil }

func newInstantTPM(b *testing.B, leaves int) *instantTPM {
	tpm := newFakeTPM(b, 1)
	waiting := make([]group.Leaf, leaves)
	for i := range waiting {
		waiting[i] = group.Leaf{Signal: block.Logs, Stream: "bench", Items: 1}
	}
	ticket, err := tpm.Submit(waiting)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := ticket.Result(); err != nil {
		b.Fatal(err)
	}
	return &instantTPM{ticket: ticket}
}

// BenchmarkConsume measures ns and allocations per request of 10 blocks of 100
// items, bare (the next consumer alone), with the digests alone, signed by a
// signer that answers at once, whose difference is the processor, and copied for
// a next consumer that changes data.
func BenchmarkConsume(b *testing.B) {
	const blocks, items = 10, 100
	for _, signal := range allSignals {
		data := benchBatch(signal, blocks, items)
		next := func(context.Context, digest.Batch) error { return nil }
		strip := func() {
			for i := range data.Len() {
				data.At(i).StripProof()
			}
		}
		report := func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*blocks*items), "ns/item")
		}
		b.Run(signal.String()+"/bare", func(b *testing.B) {
			for b.Loop() {
				_ = next(b.Context(), data)
			}
			report(b)
		})
		b.Run(signal.String()+"/digest", func(b *testing.B) {
			for b.Loop() {
				for i := range data.Len() {
					if _, err := data.At(i).Prepare(0); err != nil {
						b.Fatal(err)
					}
				}
			}
			report(b)
		})
		consume := func(b *testing.B, v *verifier) {
			s := newSUT(b, testConfig(), v)
			s.next = next
			s.start(fakeHost{tpmID: newInstantTPM(b, blocks)})
			for b.Loop() {
				if err := s.send(data); err != nil {
					b.Fatal(err)
				}
				strip() // part of what is measured, a few ns per block
			}
			report(b)
			s.stop()
		}
		b.Run(signal.String()+"/signed", func(b *testing.B) { consume(b, newVerifier(signal)) })
		b.Run(signal.String()+"/copied", func(b *testing.B) {
			v := newVerifier(signal)
			v.mutates = true
			consume(b, v)
		})
	}
}
