package e2e

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// patient lets blocks overtake each other for longer than a busy machine
// stalls, where a test is not about gaps being reported soon.
const patient = `extensions: {nonce: {gap_timeout: 60s}}`

// run sends loads side by side.
func (f *fleet) run(loads ...harness.Load) {
	f.Helper()
	errs := make([]error, len(loads))
	var wg sync.WaitGroup
	for i, l := range loads {
		wg.Go(func() { errs[i] = l.Run(f.Context()) })
	}
	wg.Wait()
	require.NoError(f, errors.Join(errs...))
}

// endpoint returns where a node takes a form of OTLP.
func endpoint(n *harness.Node, p harness.Protocol) string {
	if p == harness.GRPC {
		return n.GRPC
	}
	return n.HTTP
}

// TestEveryItemArrivesOnce sends 100,000 items of each signal from two agents
// through a stock gateway that merges what the agents send.
func TestEveryItemArrivesOnce(t *testing.T) {
	const half = 50_000
	f := newFleet(t, nil, "edge-a", "edge-b")
	collector := f.collector("collector", patient)
	gateway := f.gateway("gateway", collector.GRPC)
	edges := []*harness.Node{
		f.agent("edge-a", gateway.GRPC, collector.Nonce),
		f.agent("edge-b", gateway.GRPC, collector.Nonce),
	}
	f.begin()

	protocols := []harness.Protocol{harness.GRPC, harness.HTTPProtobuf, harness.HTTPJSON}
	var loads []harness.Load
	for a, agent := range edges {
		for s, signal := range signals {
			p := protocols[(s+a)%len(protocols)]
			loads = append(loads, harness.Load{
				Endpoint: endpoint(agent, p), Protocol: p, Gzip: (s+a)%2 == 0,
				Signal: signal, Service: fmt.Sprintf("shop-%d", a), First: int64(a * half), Items: half, PerRequest: 250, Clients: 4,
			})
		}
	}
	f.run(loads...)

	for _, signal := range signals {
		s := f.awaitArchive(collector, signal, drainTime, span{0, 2 * half})
		require.NoError(t, s.exactly(span{0, 2 * half}), signal)
		require.True(t, s.merged("edge-a", "edge-b"), "%s: the gateway never merged two agents' blocks, so the test shows less than it should", signal)

		in := f.inspect(collector, signal, "--complete")
		require.Equal(t, map[string]int{reason.Verified: len(s.blocks)}, in.Verdicts)
		items := 0
		for _, st := range in.Streams {
			require.Equal(t, 1, st.First, "%s %s", st.Name, st.Stream)
			require.Equal(t, st.Blocks, st.Last, "%s %s", st.Name, st.Stream)
			items += st.Items
		}
		require.GreaterOrEqual(t, items, 2*half, "heartbeats may have been added")
	}
	f.requireWhole(collector)
	require.Zero(t, f.metric(collector, duplicateBlocks))
}

// TestSignalsToDifferentCollectorsMakeNoFalseGaps lets each collector see only
// a part of an agent's statements. The collectors share no windows, so the
// agent signs without nonces.
func TestSignalsToDifferentCollectorsMakeNoFalseGaps(t *testing.T) {
	const items, perRequest = 2_000, 20
	f := newFleet(t, nil, "edge-a")
	collectors := map[block.Signal]*harness.Node{}
	overlay := "exporters:\n"
	pipelines := "service:\n  pipelines:\n"
	for _, signal := range signals {
		c := f.collector("collector-"+signal.String(), patient, `processors: {tpmverify: {freshness: {require: sequence}}}`)
		collectors[signal] = c
		overlay += fmt.Sprintf("  otlp/%s: {endpoint: %q, tls: {insecure: true}, sending_queue: {storage: file_storage}, retry_on_failure: {max_elapsed_time: 0, initial_interval: 100ms}}\n", signal, c.GRPC)
		pipelines += fmt.Sprintf("    %s: {exporters: [otlp/%s]}\n", signal, signal)
	}
	agent := f.agent("edge-a", "127.0.0.1:1", "", overlay+pipelines)
	f.begin()

	var loads []harness.Load
	for _, signal := range signals {
		loads = append(loads, harness.Load{
			Endpoint: agent.GRPC, Protocol: harness.GRPC, Signal: signal, Service: "shop", Items: items, PerRequest: perRequest, Clients: 4,
		})
	}
	f.run(loads...)
	for _, signal := range signals {
		c := collectors[signal]
		s := f.awaitArchive(c, signal, drainTime, span{0, items})
		require.NoError(t, s.exactly(span{0, items}), signal)
		f.requireWhole(c)
		for _, other := range signals {
			if info, err := os.Stat(archiveOf(c, other)); other != signal && err == nil {
				require.Zero(t, info.Size(), "%s arrived where only %s belong", other, signal)
			}
		}
		in := f.inspect(c, signal, "--complete")
		require.Len(t, in.Streams, 1)
	}
}
