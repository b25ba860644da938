package audit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/signtest"
	"github.com/telemark-otel/telemark/internal/verdict"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// keys is a KeySource of machines.
type keys map[string]*verdict.Key

func (k keys) Lookup(kid []byte) (*verdict.Key, error) { return k[string(kid)], nil }

func trust(machines ...*signtest.Machine) keys {
	out := keys{}
	for _, m := range machines {
		out[string(m.KID)] = &verdict.Key{
			KID: string(m.KID), Name: m.Name, Algorithm: receipt.ES256, Public: &m.Key.PublicKey, Evidence: policy.Vouched,
			Policy: &policy.Policy{Freshness: policy.Stale, LiveWithin: time.Minute},
		}
	}
	return out
}

// signed returns n groups of one block of three items each.
func signed(t *testing.T, m *signtest.Machine, tolerate block.Tolerance, n int) []digest.Batch {
	t.Helper()
	var out []digest.Batch
	for range n {
		b := signtest.Data(block.Logs, m.Name, 3)
		m.Sign(t, "tpmsign:logs", tolerate, b)
		out = append(out, b)
	}
	return out
}

func TestClaimsAreShown(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	m.Fetch(t, signtest.Authority(t, 1, 1), now.Add(-time.Minute))
	accuracy := 12.0
	m.Location = &receipt.Location{Latitude: 50.1, Longitude: 8.7, Accuracy: &accuracy, Source: "static"}
	b := signtest.Data(block.Metrics, "edge-a", 4)
	m.Sign(t, "tpmsign/edge:metrics", block.Split, b)

	f := New(trust(m)).Block(b.At(0))
	require.Equal(t, reason.Verified, f.Verdict, f.Detail)
	require.Equal(t, "metrics", f.Signal)
	require.Equal(t, 4, f.Items)
	c := f.Claims
	require.Equal(t, "edge-a", c.Name)
	require.Equal(t, "tpmsign/edge:metrics", c.Stream)
	require.Equal(t, []uint64{1, 1, 1, 0, 1, 4}, []uint64{c.Block, c.Epoch, c.Seq, c.Leaf, c.Size, c.Items})
	require.Equal(t, now.Add(-time.Minute), *c.NonceTime)
	require.Equal(t, []string{"split"}, c.Tolerate)
	require.Equal(t, &Location{Latitude: 50.1, Longitude: 8.7, Accuracy: &accuracy, Source: "static"}, c.Location)
}

func TestWhatAVerifierAddedIsTakenOff(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	b := signed(t, m, 0, 1)[0]
	attributes := b.At(0).Attributes()
	for key := range added {
		attributes.PutStr(key, "verified")
	}
	f := New(trust(m)).Block(b.At(0))
	require.Equal(t, reason.Verified, f.Verdict, f.Detail)
	require.Equal(t, "verified", f.Archived)
}

func TestAnAttributeThatNoVerifierAddsStaysARefusal(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	b := signed(t, m, 0, 1)[0]
	b.At(0).Attributes().PutStr("telemark.trusted", "yes")
	require.Equal(t, string(reason.ReservedAttribute), New(trust(m)).Block(b.At(0)).Verdict)
}

func TestChangedContentIsRefusedWithAndWithoutKeys(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	for name, source := range map[string]verdict.KeySource{"with keys": trust(m), "without keys": nil} {
		t.Run(name, func(t *testing.T) {
			b := signed(t, m, 0, 1)[0]
			b.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body().SetStr("order 0 refused")
			f := New(source).Block(b.At(0))
			require.Equal(t, string(reason.DigestMismatch), f.Verdict)
			require.False(t, f.OK())
			require.NotNil(t, f.Claims, "the claims of a refused block are shown too")
		})
	}
}

func TestAnotherKeysSignatureIsRefused(t *testing.T) {
	m, other := signtest.NewMachine(t, "edge-a", now), signtest.NewMachine(t, "edge-b", now)
	b := signed(t, m, 0, 1)[0]
	k := trust(m)
	k[string(m.KID)].Public = &other.Key.PublicKey
	require.Equal(t, string(reason.SignatureInvalid), New(k).Block(b.At(0)).Verdict)
	require.Equal(t, string(reason.UnknownKey), New(trust(other)).Block(b.At(0)).Verdict)
	require.Equal(t, Unverified, New(nil).Block(b.At(0)).Verdict, "without keys, nothing is said of the signature")
}

func TestMissingAndBrokenReceipts(t *testing.T) {
	b := signtest.Data(block.Traces, "edge-a", 1)
	f := New(nil).Block(b.At(0))
	require.Equal(t, string(reason.ReceiptMissing), f.Verdict)
	require.Nil(t, f.Claims)

	b.At(0).Attributes().PutEmptyBytes(block.AttrReceipt).FromRaw([]byte{0xd2, 0x84})
	f = New(nil).Block(b.At(0))
	require.Equal(t, string(reason.ReceiptMalformed), f.Verdict)
	require.NotEmpty(t, f.Detail)
}

func TestValidityOfTheKeyIsJudgedAtSigningTime(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	m.Fetch(t, signtest.Authority(t, 1, 1), now)
	b := signed(t, m, 0, 1)[0]
	k := trust(m)
	k[string(m.KID)].NotAfter = now.Add(time.Hour) // long ago by the clock on the wall
	require.Equal(t, reason.Verified, New(k).Block(b.At(0)).Verdict)
	k[string(m.KID)].NotAfter = now.Add(-time.Hour)
	require.Equal(t, string(reason.KeyExpired), New(k).Block(b.At(0)).Verdict)
}

func TestGapsAndDuplicatesPerStream(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	a, c := New(trust(m)), NewCompleteness()
	batches := signed(t, m, 0, 9)
	for _, i := range []int{8, 0, 1, 4, 4, 5} {
		f := a.Block(signtest.Copy(batches[i]).At(0))
		c.Add(&f)
	}
	forged := signtest.Copy(batches[6])
	forged.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetSeverityNumber(1)
	f := a.Block(forged.At(0))
	c.Add(&f)

	report := c.Report()
	require.Len(t, report, 1)
	s := report[0]
	require.Equal(t, []uint64{1, 9, 5, 1}, []uint64{s.First, s.Last, s.Blocks, s.Duplicates})
	require.Equal(t, []Range{{3, 4}, {7, 8}}, s.Gaps, "a forgery fills no gap")
	require.Equal(t, uint64(4), s.Missing())
	require.Equal(t, 15, s.Items)
}

func TestFragmentsOfASplitBlockAreNoDuplicates(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	a, c := New(trust(m)), NewCompleteness()
	whole := signed(t, m, block.Split, 1)[0]
	part := func(keep ...int) {
		b := signtest.Copy(whole)
		want := map[int]bool{}
		for _, k := range keep {
			want[k] = true
		}
		b.At(0).FilterItems(func(i int) bool { return want[i] })
		f := a.Block(b.At(0))
		require.True(t, f.OK(), f.Detail)
		c.Add(&f)
	}
	part(2)
	part(0)
	require.Equal(t, 1, c.Report()[0].Partial, "one item has not come yet")
	part(1, 2)
	s := c.Report()[0]
	require.Equal(t, 0, s.Partial)
	require.Equal(t, 3, s.Items)
	require.Equal(t, uint64(1), s.Duplicates, "item 2 came twice")
	part(0, 1, 2)
	require.Equal(t, uint64(4), c.Report()[0].Duplicates)
}

func TestChains(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	a, c := New(trust(m)), NewChains()
	see := func(batches ...digest.Batch) {
		for _, b := range batches {
			f := a.Block(signtest.Copy(b).At(0))
			require.Equal(t, reason.Verified, f.Verdict)
			c.Add(&f)
		}
	}
	first := signed(t, m, 0, 3)
	copied := m.Fork()
	rest := signed(t, m, 0, 2)
	see(first[0], first[1], first[1], first[2], rest[0], rest[1])
	report := c.Report()
	require.Len(t, report, 1)
	require.True(t, report[0].OK())
	require.Equal(t, uint64(5), report[0].Statements)

	other := signtest.Data(block.Logs, "edge-a", 1)
	copied.Sign(t, "tpmsign:logs", 0, other)
	see(other)
	require.Equal(t, []uint64{4}, c.Report()[0].Equivocal, "a copied disk signs the same number twice")
	require.False(t, c.Report()[0].OK())

	m.Prev = block.Digest{1}
	see(signed(t, m, 0, 1)...)
	require.Equal(t, []uint64{6}, c.Report()[0].Broken)
}

func TestMissingStatementsAreNoBrokenChain(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	a, c := New(trust(m)), NewChains()
	batches := signed(t, m, 0, 4)
	for _, i := range []int{0, 3} {
		f := a.Block(batches[i].At(0))
		c.Add(&f)
	}
	require.True(t, c.Report()[0].OK())
	require.Equal(t, []Range{{2, 3}}, c.Report()[0].Missing)
}

func TestRanges(t *testing.T) {
	var r ranges
	for _, n := range []uint64{5, 7, 6, 1, 10, 9, 2, 3, 4, 8} {
		require.True(t, r.add(n), n)
	}
	require.Equal(t, ranges{{1, 10}}, r)
	for n := uint64(1); n <= 10; n++ {
		require.False(t, r.add(n), n)
	}
	require.True(t, r.add(1<<63-1))
	require.Equal(t, []Range{{11, 1<<63 - 2}}, r.gaps())
}

func TestUnprovenTPMIsNotCalledVerified(t *testing.T) {
	m := signtest.NewMachine(t, "edge-a", now)
	b := signtest.Data(block.Metrics, "edge-a", 4)
	m.Sign(t, "tpmsign:metrics", 0, b)
	f := New(unproven{trust(m)}).Block(b.At(0))
	require.Equal(t, string(reason.UnprovenTPM), f.Verdict, f.Detail)
	require.True(t, f.OK(), "nothing else speaks against it")
}

// unproven takes the evidence off every key.
type unproven struct{ verdict.KeySource }

func (u unproven) Lookup(kid []byte) (*verdict.Key, error) {
	k, err := u.KeySource.Lookup(kid)
	if k != nil {
		bare := *k
		bare.Evidence = policy.Unproven
		k = &bare
	}
	return k, err
}
