package e2e

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/test/harness"
)

const dropped = "dropped" // the service whose blocks gateways drop

const drops = `
processors:
  filter:
    error_mode: propagate
    metric_conditions: ['resource.attributes["service.name"] == "dropped"']
    log_conditions: ['resource.attributes["service.name"] == "dropped"']
    trace_conditions: ['resource.attributes["service.name"] == "dropped"']
service: {pipelines: {metrics: {processors: [filter, batch]}, logs: {processors: [filter, batch]}, traces: {processors: [filter, batch]}}}
`

// inOrder keeps requests from overtaking each other, so that nothing is reported
// missing, on a slow machine, that is only late.
const inOrder = `exporters: {otlp: {sending_queue: {num_consumers: 1}}}`

func (f *fleet) dial(addr string) *grpc.ClientConn {
	f.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(f, err)
	f.Cleanup(func() { _ = conn.Close() })
	return conn
}

// hostile starts a gateway that nobody should trust in front of a collector.
func (f *fleet) hostile(next *harness.Node) *harness.Hostile {
	f.Helper()
	h, err := harness.NewHostile(f.dial(next.GRPC), grpc.MaxRecvMsgSize(64<<20))
	require.NoError(f, err)
	f.Cleanup(h.Close)
	return h
}

// sendMixed sends, to an agent, total blocks of each signal one after the
// other, of which each fifth is of the service that gateways drop. The
// first and the last are kept, or nobody could know that any are missing.
func (f *fleet) sendMixed(agent *harness.Node, total, items int) (kept, lost []span) {
	f.Helper()
	conn := f.dial(agent.GRPC)
	for i := range total {
		service, to := "kept", &kept
		if i%5 == 2 {
			service, to = dropped, &lost
		}
		sp := span{int64(i * items), items}
		*to = append(*to, sp)
		for _, signal := range signals {
			require.NoError(f, harness.ExportGRPC(f.Context(), conn, harness.Batch(signal, service, "", sp.first, sp.n)))
		}
	}
	return kept, lost
}

// awaitGaps waits until each of an agent's streams has exactly this many open
// gaps, all reported, and every other block verified.
func (f *fleet) awaitGaps(collector *harness.Node, agent string, verified, gaps int) {
	f.Helper()
	kid := f.kid(agent)
	f.eventually(soon, func() error {
		all, err := readStatus(collector)
		if err != nil {
			return err
		}
		mine := all.of(kid)
		if len(mine) != len(signals) {
			return fmt.Errorf("%d streams of %s, want %d", len(mine), agent, len(signals))
		}
		for _, s := range mine {
			if s.Verified != verified || s.GapsOpen != gaps || s.GapsReported != gaps || s.LastBlock != verified+gaps {
				return fmt.Errorf("%s: %d verified, %d gaps, %d reported, last block %d; want %d verified and %d gaps", s.Stream, s.Verified, s.GapsOpen, s.GapsReported, s.LastBlock, verified, gaps)
			}
		}
		return nil
	})
}

// TestDroppedBlocksAreGaps counts what gateways drop.
func TestDroppedBlocksAreGaps(t *testing.T) {
	const total, items = 40, 10
	f := newFleet(t, nil, "behind-filter", "behind-thief", "behind-splitter")
	collector := f.collector("collector")
	gateway := f.gateway("gateway", collector.GRPC, drops, inOrder)
	thief, splitter := f.hostile(collector), f.hostile(collector)
	behindFilter := f.agent("behind-filter", gateway.GRPC, collector.Nonce, inOrder)
	behindThief := f.agent("behind-thief", thief.Addr, collector.Nonce, inOrder)
	behindSplitter := f.agent("behind-splitter", splitter.Addr, collector.Nonce, inOrder, `processors: {tpmsign: {tolerate: [split]}}`)
	f.begin()

	t.Run("by a stock filter", func(t *testing.T) {
		f := f.in(t)
		kept, lost := f.sendMixed(behindFilter, total, items)
		f.awaitGaps(collector, "behind-filter", len(kept), len(lost))
		require.Equal(t, len(signals)*len(lost), f.metric(collector, gapsReported))
		for _, signal := range signals {
			require.NoError(t, f.awaitArchive(collector, signal, soon, kept...).exactly(kept...), signal)
		}
	})
	t.Run("by a thief who sends them late", func(t *testing.T) { f.in(t).stolenAndReturned(collector, behindThief, thief) })
	t.Run("in part by a gateway that may split", func(t *testing.T) { f.in(t).fragmentsHeldBack(collector, behindSplitter, splitter) })
}

// stolenAndReturned lets a gateway keep blocks back until they are reported,
// and pass them on after that.
func (f *fleet) stolenAndReturned(collector, agent *harness.Node, thief *harness.Hostile) {
	const total, items = 40, 10
	stolen := &hoard{}
	thief.Set(func(request digest.Batch) []digest.Batch {
		request.Filter(func(i int) bool {
			if harness.ServiceOf(request.At(i)) != dropped {
				return true
			}
			stolen.add(harness.One(request, i))
			return false
		})
		return []digest.Batch{request}
	})
	reported := f.metric(collector, gapsReported)
	kept, lost := f.sendMixed(agent, total, items)
	f.awaitGaps(collector, agent.Name, len(kept), len(lost))
	require.Equal(f, len(signals)*len(lost), f.metric(collector, gapsReported)-reported)

	returned := stolen.take()
	require.Len(f, returned, len(signals)*len(lost))
	for _, b := range returned {
		require.NoError(f, thief.Send(f.Context(), b))
	}
	f.awaitGaps(collector, agent.Name, total, 0)
	f.awaitMetric(soon, collector, len(returned), gapsFilled)
	require.Equal(f, len(returned), f.metric(collector, gapsFilled))
	require.Equal(f, len(returned), f.metric(collector, "otelcol_tpmverify_late_fills"))
	late := f.status(collector).of(f.kid(agent.Name)).sum(func(s *stream) int { return s.LateFills })
	require.Equal(f, len(returned), late)
	for _, signal := range signals {
		s := f.archive(collector, signal).only(agent.Name)
		require.NoError(f, s.exactly(append(kept, lost...)...), signal)
	}
	require.Zero(f, f.metric(collector, duplicateBlocks))
}

// fragmentsHeldBack lets a gateway cut every block into fragments, send them
// last one first, and keep back one of each block.
func (f *fleet) fragmentsHeldBack(collector, agent *harness.Node, splitter *harness.Hostile) {
	const blocks, items, each = 10, 20, 3
	held := &hoard{}
	splitter.Set(func(request digest.Batch) (out []digest.Batch) {
		for i := range request.Len() {
			fragments := cut(harness.One(request, i), each)
			held.add(fragments[1])
			for n, fragment := range slices.Backward(fragments) {
				if n != 1 {
					out = append(out, fragment)
				}
			}
		}
		return out
	})
	f.sendAll(agent, "cut", 0, blocks*items, items)
	f.awaitPartial(collector, agent.Name, 0, blocks*each)
	f.awaitMetric(soon, collector, len(signals)*blocks*each, itemsMissing)
	require.Equal(f, len(signals)*blocks*each, f.metric(collector, itemsMissing))
	fragments := held.take()
	require.Len(f, fragments, len(signals)*blocks)
	for _, b := range fragments {
		require.NoError(f, splitter.Send(f.Context(), b))
	}
	f.awaitPartial(collector, agent.Name, blocks, 0)
	// What has been there before, whole or in fragments of another size, adds nothing.
	for _, seen := range splitter.Seen() {
		require.NoError(f, splitter.Send(f.Context(), seen))
		require.NoError(f, splitter.Send(f.Context(), cut(seen, 7)[0]))
	}
	for _, signal := range signals {
		s := f.archive(collector, signal).only(agent.Name)
		require.NoError(f, s.exactly(span{0, blocks * items}), signal)
	}
}

// hoard is what a hostile gateway keeps.
type hoard struct {
	mu       sync.Mutex
	requests []digest.Batch
}

func (h *hoard) add(b digest.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, b)
}

func (h *hoard) take() []digest.Batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	taken := h.requests
	h.requests = nil
	return taken
}

// awaitPartial waits until each of an agent's streams has so many complete
// blocks and misses so many items of the others.
func (f *fleet) awaitPartial(collector *harness.Node, agent string, complete, missing int) {
	f.Helper()
	kid := f.kid(agent)
	f.eventually(soon, func() error {
		mine := f.status(collector).of(kid)
		if len(mine) != len(signals) {
			return fmt.Errorf("%d streams of %s, want %d", len(mine), agent, len(signals))
		}
		for _, s := range mine {
			if s.ItemsMissing != missing || s.Verified != complete || s.GapsOpen != 0 {
				return fmt.Errorf("%s: %d items missing, %d blocks complete, %d gaps; want %d, %d and 0", s.Stream, s.ItemsMissing, s.Verified, s.GapsOpen, missing, complete)
			}
		}
		return nil
	})
}

// cut returns the items of a request of one block in requests of n items.
func cut(b digest.Batch, n int) (fragments []digest.Batch) {
	for at := 0; at < b.Items(); at += n {
		part := harness.Clone(b)
		part.At(0).FilterItems(func(i int) bool { return i >= at && i < at+n })
		fragments = append(fragments, part)
	}
	return fragments
}
