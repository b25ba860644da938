package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// Gateways that change what passes through them.
const (
	splitsInProcessor = `
processors: {batch: {send_batch_size: 100, send_batch_max_size: 100}}
exporters: {otlp: {sending_queue: {num_consumers: 10}}}
`
	splitsInQueue = `
exporters: {otlp: {sending_queue: {num_consumers: 10, batch: {sizer: items, min_size: 100, max_size: 100, flush_timeout: 100ms}}}}
service: {pipelines: {metrics: {processors: []}, logs: {processors: []}, traces: {processors: []}}}
`
	enriches = `
processors:
  resource: {attributes: [{key: k8s.cluster.name, value: west, action: insert}, {key: service.name, value: other, action: insert}]}
service: {pipelines: {metrics: {processors: [resource, batch]}, logs: {processors: [resource, batch]}, traces: {processors: [resource, batch]}}}
`
)

// received are the metrics that count what an OTLP receiver accepted.
var received = map[block.Signal]string{
	block.Metrics: "otelcol_receiver_accepted_metric_points",
	block.Logs:    "otelcol_receiver_accepted_log_records",
	block.Traces:  "otelcol_receiver_accepted_spans",
}

// sendAll sends items of each signal, numbered from first, to an agent.
func (f *fleet) sendAll(agent *harness.Node, service string, first int64, items, perRequest int) {
	f.Helper()
	var loads []harness.Load
	for _, signal := range signals {
		loads = append(loads, harness.Load{
			Endpoint: agent.GRPC, Protocol: harness.GRPC, Signal: signal, Service: service,
			First: first, Items: items, PerRequest: perRequest, Clients: 2,
		})
	}
	f.run(loads...)
}

// requireRefused demands that of an agent nothing was verified, and that every
// refusal has the one reason. It returns how many there were.
func (f *fleet) requireRefused(collector *harness.Node, agent string, want reason.Reason) int {
	f.Helper()
	refused := 0
	for _, s := range f.status(collector).of(f.kid(agent)) {
		require.Zero(f, s.Verified, "%s %s", agent, s.Stream)
		require.Equal(f, map[string]int{string(want): s.Refused[string(want)]}, s.Refused, "%s %s", agent, s.Stream)
		refused += s.Refused[string(want)]
	}
	require.Equal(f, refused, f.metric(collector, refusedBlocks, "reason", string(want)))
	require.Equal(f, refused, f.metric(collector, refusedBlocks), "refusals for other reasons")
	return refused
}

// TestSplittingGateways sends blocks of 250 items through gateways that pass on
// no more than 100 at a time.
func TestSplittingGateways(t *testing.T) {
	const items, perRequest = 5_000, 250
	f := newFleet(t, nil, "tolerant-a", "tolerant-b", "strict")
	collector := f.collector("collector", patient)
	inProcessor := f.gateway("gateway-processor", collector.GRPC, splitsInProcessor)
	inQueue := f.gateway("gateway-queue", collector.GRPC, splitsInQueue)
	tolerant := `processors: {tpmsign: {tolerate: [split]}}`
	a := f.agent("tolerant-a", inProcessor.GRPC, collector.Nonce, tolerant)
	b := f.agent("tolerant-b", inQueue.GRPC, collector.Nonce, tolerant)
	strict := f.agent("strict", inProcessor.GRPC, collector.Nonce)
	f.begin()

	t.Run("with tolerance every item verifies once", func(t *testing.T) {
		f := f.in(t)
		f.sendAll(a, "a", 0, items, perRequest)
		f.sendAll(b, "b", items, items, perRequest)
		for _, signal := range signals {
			s := f.awaitArchive(collector, signal, drainTime, span{0, 2 * items})
			require.NoError(t, s.exactly(span{0, 2 * items}), signal)
			fragments := map[string]int{}
			for _, block := range s.blocks {
				fragments[block.id]++
				require.LessOrEqual(t, block.items, 100, "%s: a gateway did not split, so the test shows nothing", signal)
			}
			require.Len(t, fragments, 2*items/perRequest, signal)
			in := f.inspect(collector, signal, "--complete")
			require.Equal(t, map[string]int{reason.Verified: len(s.blocks)}, in.Verdicts)
		}
		f.requireWhole(collector)
	})
	t.Run("without tolerance the reason says so", func(t *testing.T) {
		f := f.in(t)
		f.sendAll(strict, "strict", 0, items, perRequest)
		for _, signal := range signals {
			f.awaitMetric(soon, collector, 3*items, received[signal])
			require.Zero(t, f.archive(collector, signal).service("strict"), signal)
		}
		refused := f.requireRefused(collector, "strict", reason.BlockSplit)
		require.GreaterOrEqual(t, refused, len(signals)*items/100, "fragments of at most 100 items")
	})
}

// TestEnrichingGateways sends through gateways that add resource attributes.
func TestEnrichingGateways(t *testing.T) {
	const items, perRequest = 2_000, 250
	f := newFleet(t, nil, "tolerant", "tolerant-both", "strict")
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC, enriches)
	splitting := f.gateway("gateway-splitting", collector.GRPC, enriches, splitsInProcessor)
	a := f.agent("tolerant", gateway.GRPC, collector.Nonce, `processors: {tpmsign: {tolerate: [enrich]}}`)
	b := f.agent("tolerant-both", splitting.GRPC, collector.Nonce, `processors: {tpmsign: {tolerate: [enrich, split]}}`)
	strict := f.agent("strict", gateway.GRPC, collector.Nonce)
	f.begin()

	t.Run("with tolerance verified and stripped", func(t *testing.T) {
		f := f.in(t)
		f.sendAll(a, "a", 0, items, perRequest)
		f.sendAll(b, "b", items, items, perRequest)
		for _, signal := range signals {
			s := f.awaitArchive(collector, signal, drainTime, span{0, 2 * items})
			require.NoError(t, s.exactly(span{0, 2 * items}), signal)
			require.Positive(t, s.service("a"))
			require.Positive(t, s.service("b"))
			require.NoError(t, harness.EachArchived(archiveOf(collector, signal), signal, func(b *harness.ArchivedBlock) error {
				if v, ok := b.Block.Attributes().Get("k8s.cluster.name"); ok {
					return fmt.Errorf("the gateway's attribute is in the archive: %q", v.AsString())
				}
				return nil
			}))
			f.inspect(collector, signal, "--complete")
		}
		f.requireWhole(collector)
	})
	t.Run("without tolerance the reason says so", func(t *testing.T) {
		f := f.in(t)
		f.sendAll(strict, "strict", 0, items, perRequest)
		for _, signal := range signals {
			f.awaitMetric(soon, collector, 3*items, received[signal])
			require.Zero(t, f.archive(collector, signal).service("strict"), signal)
		}
		refused := f.requireRefused(collector, "strict", reason.ResourceEnriched)
		require.Equal(t, len(signals)*items/perRequest, refused, "one refusal for each block")
	})
}
