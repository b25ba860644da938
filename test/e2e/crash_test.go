package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

// batchesInQueue lets a gateway merge requests in its persistent queue, where a
// crash cannot reach them, and not in the batch processor's memory.
const batchesInQueue = `
exporters: {otlp: {sending_queue: {batch: {sizer: items, min_size: 500, flush_timeout: 100ms}}}}
service: {pipelines: {metrics: {processors: []}, logs: {processors: []}, traces: {processors: []}}}
`

// source is clients that send all signals to one agent until they are told to
// stop, each request until it is acknowledged.
type source struct {
	sent map[block.Signal]*atomic.Int64 // acknowledged items; the map is never written
	quit atomic.Bool
	wg   sync.WaitGroup
	mu   sync.Mutex
	used map[block.Signal]int64 // items sent of each signal, numbered from 0 over all sources
	errs []error
}

const (
	sourceClients = 4 // for each signal
	perRequest    = 20
)

// source starts clients. Their items are numbered behind those of sent.
func (f *fleet) source(agent *harness.Node, sent map[block.Signal]span) *source {
	s := &source{used: map[block.Signal]int64{}, sent: map[block.Signal]*atomic.Int64{}}
	for _, signal := range signals {
		s.sent[signal] = new(atomic.Int64)
	}
	for _, signal := range signals {
		first := int64(sent[signal].n)
		s.wg.Go(func() { s.run(f.Context(), agent, signal, first) })
	}
	f.Cleanup(func() { s.quit.Store(true) })
	return s
}

func (s *source) run(ctx context.Context, agent *harness.Node, signal block.Signal, first int64) {
	const chunk = 400
	for ; !s.quit.Load(); first += chunk {
		err := harness.Load{
			Endpoint: agent.GRPC, Protocol: harness.GRPC, Signal: signal, Service: "shop", First: first,
			Items: chunk, PerRequest: perRequest, Clients: sourceClients, Every: 10 * time.Millisecond, Sent: s.sent[signal],
		}.Run(ctx)
		s.mu.Lock()
		s.used[signal] = first + chunk
		s.errs = append(s.errs, err)
		s.mu.Unlock()
	}
}

// stop ends the clients and returns what was sent of each signal, by sources
// before this one too.
func (s *source) stop() (map[block.Signal]span, error) {
	s.quit.Store(true)
	s.wg.Wait()
	sent := map[block.Signal]span{}
	for signal, n := range s.used {
		sent[signal] = span{0, int(n)}
	}
	return sent, errors.Join(s.errs...)
}

// crash kills a node in the middle of the stream and starts it again.
func (f *fleet) crash(n, collector *harness.Node, s *source) {
	f.Helper()
	f.midStream(collector, s)
	n.Kill()
	f.start(n)
}

// midStream waits until each signal's clients are being acknowledged and the
// collector verifies what they send, both from now on.
func (f *fleet) midStream(collector *harness.Node, s *source) {
	f.Helper()
	const progress = 200
	for _, signal := range signals {
		sent := s.sent[signal].Load()
		f.eventually(drainTime, func() error {
			if now := s.sent[signal].Load(); now < sent+progress {
				return fmt.Errorf("only %d items of %s were acknowledged", now-sent, signal)
			}
			return nil
		})
		verified := f.metric(collector, verifiedItems, "signal", signal.String())
		f.awaitMetric(drainTime, collector, verified+progress, verifiedItems, "signal", signal.String())
	}
}

// TestNothingIsLostInCrashes kills every process several times while data
// flows, and replays everything in the end.
func TestNothingIsLostInCrashes(t *testing.T) {
	const rounds = 3
	f := newFleet(t, nil, "edge-a")
	collector := f.collector("collector", patient)
	h := f.hostile(collector) // honest until the end
	gateway := f.gateway("gateway", h.Addr, batchesInQueue)
	agent := f.agent("edge-a", gateway.GRPC, collector.Nonce)
	f.begin()

	s := f.source(agent, nil)
	for range rounds {
		f.crash(gateway, collector, s)
		f.crash(collector, collector, s)
	}
	f.midStream(collector, s)
	sent, err := s.stop()
	require.NoError(t, err)
	for _, signal := range signals {
		got := f.awaitComplete(collector, signal, sent[signal])
		require.NoError(t, got.repeats(1), signal)
	}
	f.requireWhole(collector)

	// From here on the agent dies too. Numbers go on where they were, so that
	// the items of the second half are other items.
	s = f.source(agent, sent)
	for range rounds {
		f.crash(agent, collector, s)
	}
	f.midStream(collector, s)
	sent, err = s.stop()
	require.NoError(t, err)
	for _, signal := range signals {
		got := f.awaitComplete(collector, signal, sent[signal])
		require.NoError(t, got.repeats(1+rounds), signal)
		t.Logf("%s: %v", signal, got)
		// A kill may have cut a line of the file off; what was in it came again.
		in := f.inspectDamaged(collector, signal)
		require.NotZero(t, in.Verdicts[reason.Verified])
		require.Len(t, in.Verdicts, 1, "%v", in.Verdicts)
	}
	all := f.status(collector)
	require.Empty(t, all.sum(func(s *stream) int { return len(s.Refused) }))
	gaps := all.sum(func(s *stream) int { return s.GapsOpen })
	require.LessOrEqual(t, gaps, rounds*sourceClients*len(signals), "a crash of the agent can leave the numbers unused that it had given out, no more\n%v", all)
	t.Logf("%d numbers left unused by crashes of the agent", gaps)

	f.stop(agent, gateway)
	f.replayEverything(collector, h)
}

// awaitComplete waits until an archive holds every item that was sent. It may
// hold some twice.
func (f *fleet) awaitComplete(c *harness.Node, signal block.Signal, sent span) (s *sightings) {
	f.Helper()
	f.eventually(drainTime, func() error {
		s = f.archive(c, signal)
		return s.missing(sent)
	})
	return s
}

// repeats says what is wrong with items that are there more than once, nil when
// they explain themselves: the same block again, marked as a redelivery, or a
// block of another epoch, since the agent died before its client had an
// answer. epochs is how many there must be.
func (s *sightings) repeats(epochs int) error {
	unmarked, seen := map[string]int{}, map[uint64]bool{}
	for _, b := range s.blocks {
		seen[b.epoch] = true
		if !b.marked {
			unmarked[b.id]++
		}
	}
	if len(seen) != epochs {
		return fmt.Errorf("%d epochs were seen, want %d", len(seen), epochs)
	}
	for id, n := range unmarked {
		if n > 1 {
			return fmt.Errorf("block %s is in the archive %d times without a mark", id, n)
		}
	}
	for item, where := range s.byItem {
		blockOf := map[uint64]string{} // by epoch
		for _, i := range where {
			b := &s.blocks[i]
			if other, ok := blockOf[b.epoch]; ok && other != b.id {
				return fmt.Errorf("item %d came in block %s and, though no agent died in between, in block %s", item, other, b.id)
			}
			blockOf[b.epoch] = b.id
		}
	}
	return nil
}

// replayEverything kills the collector and sends it, when it is back, all that
// it has ever been sent.
func (f *fleet) replayEverything(collector *harness.Node, h *harness.Hostile) {
	f.Helper()
	// Nothing may be on its way any more: what is, is not a replay.
	f.eventually(soon, func() error {
		if n := f.status(collector).sum(func(s *stream) int { return s.InFlight }); n > 0 {
			return fmt.Errorf("%d blocks are in flight", n)
		}
		return nil
	})
	before := map[block.Signal]int{}
	for _, signal := range signals {
		before[signal] = len(f.archive(collector, signal).blocks)
	}
	collector.Kill()
	f.start(collector)
	seen := h.Seen()
	blocks := 0
	for _, request := range seen {
		blocks += request.Len()
		require.NoError(f, h.Send(f.Context(), request))
	}
	require.NotZero(f, blocks)
	require.Equal(f, map[string]int{reason.Verified: 0, string(reason.Duplicate): blocks}, f.verdicts(collector))
	for _, signal := range signals {
		require.Len(f, f.archive(collector, signal).blocks, before[signal], signal)
	}
	f.Logf("%d requests with %d blocks were replayed", len(seen), blocks)
}
