package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
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

// TestEveryItemArrivesOnce sends items from two agents through a stock gateway
// that merges what the agents send: 120,000 of each signal, a third in each
// turn. After three turns either hop has carried each signal as gRPC, HTTP/protobuf
// and HTTP/JSON, and each of these with gzip and without.
func TestEveryItemArrivesOnce(t *testing.T) {
	for turn, p := range protocols {
		t.Run("the gateway sends metrics by "+strings.ReplaceAll(string(p), "/", " "), func(t *testing.T) { everyItemArrivesOnce(t, turn) })
	}
}

// everyItemArrivesOnce has every node send a signal in another form than it came
// in. The two agents do not use the same one either, so the gateway puts together
// what came in two forms and sends it in the third.
func everyItemArrivesOnce(t *testing.T, turn int) {
	const half = 20_000
	f := newFleet(t, nil, "edge-a", "edge-b")
	collector := f.collector("collector", patient)
	last := f.hop(collector, turn, turn%2 == 1)
	gateway := f.gateway("gateway", collector.GRPC, last.overlay())
	var first []*hop
	var loads []harness.Load
	for a, name := range []string{"edge-a", "edge-b"} {
		h := f.hop(gateway, turn+a+1, (turn+a)%2 == 0)
		first = append(first, h)
		agent := f.agent(name, gateway.GRPC, collector.Nonce, h.overlay())
		for s, signal := range signals {
			p := protocol(turn + a + s)
			loads = append(loads, harness.Load{
				Endpoint: endpoint(agent, p), Protocol: p, Gzip: (s+a)%2 == 0,
				Signal: signal, Service: fmt.Sprintf("shop-%d", a), First: int64(a * half), Items: half, PerRequest: 250, Clients: 4,
			})
		}
	}
	f.begin()
	f.run(loads...)

	// Reading archives takes longest: one core each.
	t.Run("archive", func(t *testing.T) {
		for _, signal := range signals {
			t.Run(signal.String(), func(t *testing.T) {
				t.Parallel()
				f.in(t).requireArchived(collector, signal, span{0, 2 * half})
			})
		}
	})
	f.requireForms(half, first...)
	f.requireForms(2*half, last)
	f.requireWhole(collector)
	require.Zero(t, f.metric(collector, duplicateBlocks))
}

// requireArchived demands that the archive of a signal holds each item once, in
// blocks that verify again and are complete, and that the gateway put blocks of
// both agents into one request.
func (f *fleet) requireArchived(collector *harness.Node, signal block.Signal, sent span) {
	f.Helper()
	s := f.awaitArchive(collector, signal, drainTime, sent)
	require.NoError(f, s.exactly(sent))
	require.True(f, s.merged("edge-a", "edge-b"), "the gateway never merged two agents' blocks, so the test shows less than it should")

	in := f.inspect(collector, signal, "--complete")
	require.Equal(f, map[string]int{reason.Verified: len(s.blocks)}, in.Verdicts)
	items := 0
	for _, st := range in.Streams {
		require.Equal(f, 1, st.First, "%s %s", st.Name, st.Stream)
		require.Equal(f, st.Blocks, st.Last, "%s %s", st.Name, st.Stream)
		items += st.Items
	}
	require.GreaterOrEqual(f, items, sent.n, "heartbeats may have been added")
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
