package tpmverifyprocessor

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/signtest"
)

// scene is a request of a hostile gateway: two blocks of edge-a in one group.
// attack changes the first; the second, and one of edge-b, are the neighbours.
type scene struct {
	t      *testing.T
	r      *rig
	bad    digest.Batch
	second digest.Batch // the neighbour of the same group, already signed
}

// attacks are what a gateway can do to a block that was signed honestly.
var attacks = []struct {
	name       string
	tolerances block.Tolerance
	attack     func(*scene)
	want       reason.Reason
}{
	{"value changed", 0, func(s *scene) { changeValue(s.bad) }, reason.DigestMismatch},
	{"value changed, splitting tolerated", block.Split, func(s *scene) { changeValue(s.bad) }, reason.ItemMismatch},
	{"attribute changed", 0, func(s *scene) { s.resource().PutStr("host.name", "edge-b") }, reason.DigestMismatch},
	{"attribute added", 0, func(s *scene) { s.resource().PutStr("zone", "z1") }, reason.ResourceEnriched},
	{"attribute removed", 0, func(s *scene) { s.resource().Remove("host.name") }, reason.DigestMismatch},
	{"attribute removed, enriching tolerated", block.Enrich, func(s *scene) { s.resource().Remove("host.name") }, reason.ResourceChanged},
	{"attribute changed, enriching tolerated", block.Enrich, func(s *scene) { s.resource().PutStr("host.name", "edge-b") }, reason.DigestMismatch},
	{"attributes reordered", 0, func(s *scene) { reorder(s.resource()) }, reason.DigestMismatch},
	{"attributes reordered, enriching tolerated", block.Enrich, func(s *scene) { reorder(s.resource()) }, reason.ResourceChanged},
	{"item attribute added", 0, func(s *scene) { itemAttributes(s.bad).PutStr("zone", "z1") }, reason.DigestMismatch},
	{"scope changed", 0, func(s *scene) { scopeOf(s.bad).SetVersion("2") }, reason.DigestMismatch},
	{"split without tolerance", 0, func(s *scene) { s.bad.At(0).FilterItems(func(i int) bool { return i < 2 }) }, reason.BlockSplit},
	{"receipt removed", 0, func(s *scene) { s.bad.At(0).StripProof() }, reason.ReceiptMissing},
	{"verdict in place of the receipt", 0, func(s *scene) {
		s.bad.At(0).StripProof()
		s.resource().PutStr(block.AttrVerdict, "verified")
	}, reason.ReservedAttribute},
	{"second receipt", 0, func(s *scene) {
		signtest.Double(s.t, s.bad, block.AttrReceipt, proofOf(s.t, s.second.At(0)).Receipt)
	}, reason.ReceiptNotUnique},
	{"receipt as text", 0, func(s *scene) { s.resource().PutStr(block.AttrReceipt, "d2") }, reason.ReceiptWrongType},
	{"receipt too large", 0, func(s *scene) {
		s.resource().PutEmptyBytes(block.AttrReceipt).FromRaw(make([]byte, receipt.MaxSize+1))
	}, reason.ReceiptTooLarge},
	{"receipt truncated", 0, func(s *scene) {
		p := proofOf(s.t, s.bad.At(0)).Receipt
		s.resource().PutEmptyBytes(block.AttrReceipt).FromRaw(p[:len(p)-1])
	}, reason.ReceiptMalformed},
	{"manifest removed", block.Split, func(s *scene) { s.resource().Remove(block.AttrManifest) }, reason.ManifestMissing},
	{"manifest turned around", block.Split, func(s *scene) {
		m := proofOf(s.t, s.bad.At(0)).Manifest
		m = append(append([]byte(nil), m[32:]...), m[:32]...)
		s.resource().PutEmptyBytes(block.AttrManifest).FromRaw(m)
	}, reason.ManifestMismatch},
	{"receipt of the neighbour", 0, func(s *scene) { transplant(s.t, s.second.At(0), s.bad.At(0)) }, reason.DigestMismatch},
	{"receipt of another machine", 0, func(s *scene) {
		d := signtest.Data(s.r.signal, "edge-b", 4)
		s.r.machines[1].Sign(s.t, "other", 0, d)
		transplant(s.t, d.At(0), s.bad.At(0))
	}, reason.DigestMismatch},
	{"receipt of another signal", 0, func(s *scene) {
		other := block.Logs
		if s.r.signal == block.Logs {
			other = block.Traces
		}
		d := signtest.Data(other, "edge-a", 4)
		s.r.machines[0].Fork().Sign(s.t, "other", 0, d)
		transplant(s.t, d.At(0), s.bad.At(0))
	}, reason.SignatureInvalid},
	{"moved to another stream", 0, func(s *scene) {
		rewrite(s.t, s.bad.At(0), func(r *receipt.Receipt) { r.Stream = "other" })
	}, reason.SignatureInvalid},
	{"block number changed", 0, func(s *scene) {
		rewrite(s.t, s.bad.At(0), func(r *receipt.Receipt) { r.BlockNo = 7 })
	}, reason.SignatureInvalid},
	{"nonce exchanged", 0, func(s *scene) { s.resign(func(m *signtest.Machine) { m.Nonce[20] ^= 1 }) }, reason.NonceForged},
	{"nonce of another machine", 0, func(s *scene) {
		s.resign(func(m *signtest.Machine) { m.Nonce = s.r.machines[1].Nonce })
	}, reason.NonceForeign},
	{"nonce expired", 0, func(s *scene) {
		s.resign(func(m *signtest.Machine) { m.Fetch(s.t, s.r.authority, time.Now().Add(-25*time.Hour)) })
	}, reason.NonceExpired},
	{"nonce of the future", 0, func(s *scene) {
		s.resign(func(m *signtest.Machine) { m.Fetch(s.t, s.r.authority, time.Now().Add(time.Hour)) })
	}, reason.NonceFuture},
	{"nonce of a lost store", 0, func(s *scene) {
		s.resign(func(m *signtest.Machine) { m.Fetch(s.t, signtest.Authority(s.t, 1, 9), time.Now()) })
	}, reason.NonceStoreLost},
	{"no nonce", 0, func(s *scene) { s.resign(func(m *signtest.Machine) { m.Nonce = nil }) }, reason.NonceMissing},
	{"unknown machine", 0, func(s *scene) {
		m := signtest.NewMachine(s.t, "edge-a", time.Now())
		m.Fetch(s.t, s.r.authority, time.Now())
		s.bad.At(0).StripProof()
		m.Sign(s.t, stream, 0, s.bad)
	}, reason.UnknownKey},
	{"signed by another key under this kid", 0, func(s *scene) {
		s.resign(func(m *signtest.Machine) { m.Key = signtest.NewMachine(s.t, "edge-z", time.Now()).Key })
	}, reason.SignatureInvalid},
	{"verdict on the resource", 0, func(s *scene) { s.resource().PutStr(block.AttrVerdict, "verified") }, reason.ReservedAttribute},
	{"verdict on the scope", 0, func(s *scene) { scopeOf(s.bad).Attributes().PutStr("telemark.verdict", "verified") }, reason.ReservedAttribute},
	{"verdict deep in an item", 0, func(s *scene) {
		itemAttributes(s.bad).PutEmptyMap("a").PutEmptySlice("b").AppendEmpty().SetEmptyMap().PutStr("TELEMARK_x", "")
	}, reason.ReservedAttribute},
	{"empty container", 0, func(s *scene) { appendEmptyScope(s.bad) }, reason.EmptyContainer},
	{"invalid UTF-8", 0, func(s *scene) { itemAttributes(s.bad).PutStr("x", "\xff") }, reason.InvalidUTF8},
	{"values nested too deep", 0, func(s *scene) {
		v := itemAttributes(s.bad).PutEmpty("x")
		for range 10_000 {
			v = v.SetEmptySlice().AppendEmpty()
		}
	}, reason.TooDeep},
}

func (s *scene) resource() pcommon.Map { return s.bad.At(0).Attributes() }

// resign signs the bad block again, under its key, by a machine that is not
// itself: what a thief of the disk or of the nonce tries.
func (s *scene) resign(change func(*signtest.Machine)) {
	s.bad.At(0).StripProof()
	m := s.r.machines[0].Fork()
	m.Nonce = append([]byte(nil), m.Nonce...)
	change(m)
	m.Sign(s.t, stream, 0, s.bad)
}

func reorder(m pcommon.Map) {
	v, _ := m.Get("service.name")
	s := v.Str()
	m.Remove("service.name")
	m.PutStr("service.name", s)
}

// TestAttacksAreRefusedAndNeighboursUntouched sends each attack in one request
// with good blocks of the same machine and of another one, in each signal. The
// request succeeds, the neighbours come through byte by byte, the reason is
// counted, and afterwards the honest block is still accepted: a forgery never
// burns an honest claim.
func TestAttacksAreRefusedAndNeighboursUntouched(t *testing.T) {
	for _, signal := range signals {
		for _, a := range attacks {
			t.Run(signal.String()+"/"+a.name, func(t *testing.T) {
				r := newRig(t, signal)
				honest := signtest.Data(signal, "edge-a", 4)
				second := signtest.Data(signal, "edge-a", 3)
				other := signtest.Data(signal, "edge-b", 5)
				plainHonest, plainSecond, plainOther := signtest.Copy(honest), signtest.Copy(second), signtest.Copy(other)
				r.machines[0].Sign(t, stream, a.tolerances, honest, second)
				r.machines[1].Sign(t, stream, 0, other)
				s := &scene{t: t, r: r, bad: signtest.Copy(honest), second: second}
				a.attack(s)

				require.NoError(t, r.send(s.bad, second, other))
				require.EqualValues(t, 1, r.refused(a.want), "%v", r.lines())
				require.EqualValues(t, 1, r.refusedAll())
				require.EqualValues(t, 2, r.count("tpmverify_verified_blocks"))
				require.EqualValues(t, 8, r.count("tpmverify_verified_items"))
				require.EqualValues(t, 1, r.status().Refused[a.want])
				got := r.take()
				require.Equal(t, 2, got.Len())
				requireUntouched(t, plainSecond, got.At(0))
				require.Equal(t, "edge-a", attr(got.At(0), block.AttrName))
				requireUntouched(t, plainOther, got.At(1))
				require.Equal(t, "edge-b", attr(got.At(1), block.AttrName))

				require.NoError(t, r.send(honest))
				got = r.take()
				require.Equal(t, 1, got.Len(), "the honest block comes later and is accepted")
				requireUntouched(t, plainHonest, got.At(0))
				require.Zero(t, r.count("tpmverify_duplicate_blocks"))
				require.Zero(t, r.status().InFlight)
			})
		}
	}
}

// lines are the log lines about refusals.
func (r *rig) lines() []map[string]any {
	var out []map[string]any
	for _, e := range r.logs.FilterMessage("block refused").All() {
		out = append(out, e.ContextMap())
	}
	return out
}

func TestReplayedBlockIsDroppedAndAnsweredWithSuccess(t *testing.T) {
	for _, signal := range signals {
		t.Run(signal.String(), func(t *testing.T) {
			r := newRig(t, signal)
			d := signtest.Data(signal, "edge-a", 4)
			r.machines[0].Sign(t, stream, 0, d)
			replayed := signtest.Copy(d)
			require.NoError(t, r.send(d))
			require.Equal(t, 1, r.take().Len())
			fresh := signtest.Data(signal, "edge-b", 2)
			r.machines[1].Sign(t, stream, 0, fresh)
			require.NoError(t, r.send(replayed, fresh))
			got := r.take()
			require.Equal(t, 1, got.Len())
			require.Equal(t, "edge-b", attr(got.At(0), block.AttrName))
			require.EqualValues(t, 1, r.count("tpmverify_duplicate_blocks"))
			require.Zero(t, r.refusedAll(), "a repetition is not a refusal")
			require.EqualValues(t, 1, r.status().Duplicates)
		})
	}
}

func TestBlockTwiceInOneRequestIsDeliveredOnce(t *testing.T) {
	r := newRig(t, block.Logs)
	d := signtest.Data(block.Logs, "edge-a", 4)
	r.machines[0].Sign(t, stream, 0, d)
	require.NoError(t, r.send(signtest.Copy(d), d))
	require.Equal(t, 1, r.take().Len())
	require.EqualValues(t, 1, r.count("tpmverify_duplicate_blocks"))
}

func TestDroppedBlockIsAGapAndFillsItLate(t *testing.T) {
	r := newRig(t, block.Logs)
	blocks := []digest.Batch{}
	for range 3 {
		d := signtest.Data(block.Logs, "edge-a", 2)
		r.machines[0].Sign(t, stream, 0, d)
		blocks = append(blocks, d)
	}
	require.NoError(t, r.send(blocks[0], blocks[2]))
	require.EqualValues(t, 1, r.status().GapsOpen)
	r.advance(2 * time.Minute)
	report, err := r.windows.Sweep(t.Context(), r.now())
	require.NoError(t, err)
	require.EqualValues(t, 1, report.GapsReported)
	require.NoError(t, r.send(blocks[1]))
	require.Zero(t, r.status().GapsOpen)
	require.EqualValues(t, 1, r.count("tpmverify_late_fills"))
	require.Equal(t, 3, r.take().Len())
}

func TestAnotherRootUnderAKnownSequenceNumberIsEquivocation(t *testing.T) {
	r := newRig(t, block.Logs)
	m := r.machines[0]
	clone := m.Fork()
	a, b, c := signtest.Data(block.Logs, "edge-a", 2), signtest.Data(block.Logs, "edge-a", 3), signtest.Data(block.Logs, "edge-b", 1)
	m.Sign(t, stream, 0, a)
	clone.Sign(t, stream+"2", 0, b)
	r.machines[1].Sign(t, stream, 0, c)
	require.NoError(t, r.send(a))
	require.NoError(t, r.send(b, c))
	require.EqualValues(t, 1, r.refused(reason.Equivocation))
	require.Equal(t, 2, r.take().Len())
}

func TestStatementThatDoesNotNameTheOneBeforeBreaksTheChain(t *testing.T) {
	r := newRig(t, block.Logs)
	m := r.machines[0]
	a, b, c := signtest.Data(block.Logs, "edge-a", 2), signtest.Data(block.Logs, "edge-a", 3), signtest.Data(block.Logs, "edge-b", 1)
	m.Sign(t, stream, 0, a)
	m.Prev = block.Digest{1}
	m.Sign(t, stream, 0, b)
	r.machines[1].Sign(t, stream, 0, c)
	require.NoError(t, r.send(a))
	require.NoError(t, r.send(b, c))
	require.EqualValues(t, 1, r.refused(reason.ChainBroken))
	require.EqualValues(t, 1, r.status().Refused[reason.ChainBroken])
	require.Equal(t, 2, r.take().Len())
}

func TestOldEpochIsRetired(t *testing.T) {
	r := newRig(t, block.Logs)
	m := r.machines[0]
	old := signtest.Data(block.Logs, "edge-a", 1)
	m.Sign(t, stream, 0, old)
	for range 12 {
		m.Restart()
		d := signtest.Data(block.Logs, "edge-a", 1)
		m.Sign(t, stream, 0, d)
		require.NoError(t, r.send(d))
	}
	good := signtest.Data(block.Logs, "edge-b", 1)
	r.machines[1].Sign(t, stream, 0, good)
	r.take()
	require.NoError(t, r.send(old, good))
	require.EqualValues(t, 1, r.refused(reason.EpochRetired))
	require.Equal(t, 1, r.take().Len())
}

// from is the context of a request by somebody.
func from(t testing.TB, peer string) context.Context {
	return client.NewContext(t.Context(), client.Info{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(peer))})
}

func TestRefusalLineSaysWhoAndWhat(t *testing.T) {
	r := newRig(t, block.Logs, withConfig(func(c *Config) { c.RefusalLog.Burst = 1 }))
	for range 3 {
		d := signtest.Data(block.Logs, "edge-a", 4)
		r.machines[0].Sign(t, stream, block.Split, d)
		changeValue(d)
		require.NoError(t, r.p.consume(from(t, "192.0.2.7:4317"), d))
	}
	require.Len(t, r.lines(), 1, "sampled")
	line := r.lines()[0]
	require.Equal(t, "item_mismatch", line["reason"])
	require.Equal(t, "item", line["differs"])
	require.Equal(t, "192.0.2.7:4317", line["peer"])
	require.Equal(t, "shop", line["service.name"])
	require.Equal(t, "edge-a", line["host.name"])
	require.Equal(t, stream, line["stream"])
	require.EqualValues(t, 1, line["block"])
	require.EqualValues(t, 3, r.refused(reason.ItemMismatch))

	r.advance(2 * time.Minute)
	d := signtest.Data(block.Logs, "edge-a", 4)
	r.machines[0].Sign(t, stream, block.Split, d)
	changeValue(d)
	require.NoError(t, r.send(d))
	require.EqualValues(t, 2, r.lines()[1]["not_logged"])
}

func TestFloodOfOneReasonDoesNotHideAnother(t *testing.T) {
	l := newRefusalLog(zap.NewNop(), RefusalLogConfig{Burst: 1, Interval: time.Hour})
	now := time.Now()
	for i := range 100 {
		ok, _ := l.take(now, reason.UnknownKey)
		require.Equal(t, i == 0, ok)
	}
	ok, _ := l.take(now, reason.Equivocation)
	require.True(t, ok)
}
