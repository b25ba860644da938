package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/harness"
)

const attackedItems = 10 // in each block

// captured are honest blocks that a hostile gateway has taken from its agents
// and not passed on yet, each as a request of its own, by service.
type captured map[string]digest.Batch

func service(role string, attack int) string { return fmt.Sprintf("%s-%d", role, attack) }

// capture lets every agent send the blocks that the attacks of a signal need.
func (f *fleet) capture(h *harness.Hostile, signal block.Signal, a, b, stranger *harness.Node) captured {
	f.Helper()
	got := captured{}
	hold := &hoard{}
	h.Set(func(request digest.Batch) []digest.Batch {
		hold.add(harness.Clone(request))
		return nil
	})
	var ofA, ofB []digest.Batch
	for i := range attacks {
		first := int64(i * 3 * attackedItems)
		ofA = append(ofA, harness.Batch(signal, service("near", i), "", first, attackedItems), harness.Batch(signal, service("victim", i), "", first+attackedItems, attackedItems))
		ofB = append(ofB, harness.Batch(signal, service("other", i), "", first+2*attackedItems, attackedItems))
	}
	for _, from := range []struct {
		*harness.Node
		blocks digest.Batch
	}{{a, harness.Join(ofA...)}, {b, harness.Join(ofB...)}, {stranger, harness.Batch(signal, "stranger", "", 0, attackedItems)}} {
		require.NoError(f, harness.ExportGRPC(f.Context(), f.dial(from.GRPC), from.blocks))
	}
	f.eventually(soon, func() error {
		for _, request := range hold.take() {
			for i := range request.Len() {
				got[harness.ServiceOf(request.At(i))] = harness.One(request, i)
			}
		}
		if want := 3*len(attacks) + 1; len(got) != want {
			return fmt.Errorf("%s: %d blocks of %d came to the gateway", signal, len(got), want)
		}
		return nil
	})
	return got
}

// verdicts reads how often a collector has said what.
func (f *fleet) verdicts(c *harness.Node) map[string]int {
	f.Helper()
	samples, err := c.Scrape(f.Context())
	require.NoError(f, err)
	out := map[string]int{reason.Verified: int(samples.Sum(verifiedBlocks)), string(reason.Duplicate): int(samples.Sum(duplicateBlocks))}
	for _, r := range reason.All() {
		if n := int(samples.Sum(refusedBlocks, "reason", string(r))); r != reason.Duplicate && n > 0 {
			out[string(r)] = n
		}
	}
	return out
}

// since is what came on top of before.
func since(before, now map[string]int) map[string]int {
	out := map[string]int{}
	for verdict, n := range now {
		if n != before[verdict] {
			out[verdict] = n - before[verdict]
		}
	}
	return out
}

// TestHostileGateway makes each attack once for each signal. The request is
// accepted each time, the attacked block is refused with its reason, and what
// else stands in the request arrives as it was signed.
func TestHostileGateway(t *testing.T) {
	f := newFleet(t, nil, "edge-a", "edge-b")
	collector := f.collector("collector", patient)
	h := f.hostile(collector)
	a, b := f.agent("edge-a", h.Addr, collector.Nonce), f.agent("edge-b", h.Addr, collector.Nonce)
	stranger := f.agent("stranger", h.Addr, collector.Nonce)
	f.begin()

	taken := map[block.Signal]captured{}
	for _, signal := range signals {
		taken[signal] = f.capture(h, signal, a, b, stranger)
		for i, attack := range attacks {
			t.Run(signal.String()+"/"+attack.name, func(t *testing.T) { f.in(t).attack(collector, h, taken[signal], i) })
		}
	}
	f.stop(a, b, stranger) // what they say from here on is held back too

	for _, signal := range signals {
		s := f.archive(collector, signal)
		for i, attack := range attacks {
			require.Equal(t, 1, s.service(service("near", i)), "%s: %s: neighbour", signal, attack.name)
			require.Equal(t, map[bool]int{false: 1, true: 0}[attack.otherHarmed], s.service(service("other", i)), "%s: %s: other machine", signal, attack.name)
			require.Equal(t, map[bool]int{false: 0, true: 1}[attack.twice], s.service(service("victim", i)), "%s: %s: victim", signal, attack.name)
		}
		require.Zero(t, s.service("stranger"), signal)
		for id, where := range s.byItem {
			require.Len(t, where, 1, "%s: item %d", signal, id)
		}
		in := f.inspect(collector, signal) // so the neighbours are what was signed
		require.Equal(t, map[string]int{reason.Verified: len(s.blocks)}, in.Verdicts)
	}

	collector.Kill()
	f.start(collector)
	t.Run("what was accepted is refused after a restart", func(t *testing.T) {
		f.in(t).replay(collector, h, taken, func(role string, a attack) (accepted bool) {
			return role == "near" || role == "other" && !a.otherHarmed || role == "victim" && a.twice
		})
	})
	t.Run("forgeries have not burnt the places of honest blocks", func(t *testing.T) {
		f := f.in(t)
		for _, signal := range signals {
			for i, attack := range attacks {
				if attack.twice {
					continue
				}
				before := f.verdicts(collector)
				require.NoError(t, h.Send(t.Context(), taken[signal][service("victim", i)]))
				require.Equal(t, map[string]int{reason.Verified: 1}, since(before, f.verdicts(collector)), "%s: the honest block behind %q", signal, attack.name)
			}
		}
	})
}

// attack makes one attack.
func (f *fleet) attack(collector *harness.Node, h *harness.Hostile, blocks captured, i int) {
	f.Helper()
	a := attacks[i]
	request := harness.Join(blocks[service("near", i)], blocks[service("victim", i)], blocks[service("other", i)])
	a.do(scene{near: request.At(0), victim: request.At(1), other: request.At(2), stranger: blocks["stranger"].At(0)})
	arriving := request.Len() - len(a.want)
	want := map[string]int{reason.Verified: arriving}
	if a.twice {
		request = harness.Join(request, harness.One(request, 1))
		want[string(reason.Duplicate)] = 1
	}
	for _, r := range a.want {
		want[string(r)]++
	}
	before := f.verdicts(collector)
	require.NoError(f, h.Send(f.Context(), request), "a bad block must never refuse the request")
	require.Equal(f, want, since(before, f.verdicts(collector)))
}

// replay sends again, each signal's in one request, the blocks that were
// accepted.
func (f *fleet) replay(collector *harness.Node, h *harness.Hostile, taken map[block.Signal]captured, accepted func(role string, a attack) bool) {
	f.Helper()
	for _, signal := range signals {
		var old []digest.Batch
		for i, a := range attacks {
			for _, role := range []string{"near", "victim", "other"} {
				if accepted(role, a) {
					old = append(old, taken[signal][service(role, i)])
				}
			}
		}
		archived := len(f.archive(collector, signal).blocks)
		before := f.verdicts(collector)
		require.NoError(f, h.Send(f.Context(), harness.Join(old...)))
		require.Equal(f, map[string]int{string(reason.Duplicate): len(old)}, since(before, f.verdicts(collector)), signal)
		require.Len(f, f.archive(collector, signal).blocks, archived, signal)
	}
}
