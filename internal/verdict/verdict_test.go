package verdict_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/signtest"
	"github.com/telemark-otel/telemark/internal/verdict"
)

const (
	stream   = "tpmsign:logs"
	maxDelay = 24 * time.Hour
	skew     = 30 * time.Second
)

var now = time.UnixMilli(1_700_000_000_123)

type keys map[string]*verdict.Key

func (k keys) Lookup(kid []byte) (*verdict.Key, error) { return k[string(kid)], nil }

type noKeys struct{}

func (noKeys) Lookup([]byte) (*verdict.Key, error) {
	return nil, fmt.Errorf("registry: %w", verdict.ErrUnavailable)
}

// bench is a verifier with one enrolled machine.
type bench struct {
	machine   *signtest.Machine
	key       *verdict.Key
	authority *nonce.Authority
	judge     verdict.Judge
	nonces    verdict.NonceAuthority
	now       time.Time
}

func newBench(t *testing.T) *bench {
	b := &bench{
		machine:   signtest.NewMachine(t, "edge-a", now),
		authority: signtest.Authority(t, 1, 1),
		now:       now.Add(time.Second),
	}
	b.machine.Fetch(t, b.authority, now)
	b.key = &verdict.Key{
		KID:       string(b.machine.KID),
		Name:      "edge-a",
		Algorithm: receipt.ES256,
		Public:    &b.machine.Key.PublicKey,
		Policy:    &policy.Policy{Freshness: policy.Stale, LiveWithin: policy.DefaultLiveWithin},
	}
	b.judge = verdict.Judge{
		Keys:       keys{b.key.KID: b.key},
		Signatures: receipt.NewSignatureCache(16),
		MaxDelay:   maxDelay,
		Skew:       skew,
	}
	b.nonces = b.authority
	return b
}

func (b *bench) verdict(batch digest.Batch, i int) *verdict.Verdict {
	var v verdict.Verdict
	at := batch.At(i)
	b.judge.Block(&v, at, signtest.Attributes{Of: at}, b.nonces, b.now)
	return &v
}

// reencode changes the receipt of a signed block.
func reencode(t *testing.T, at digest.Block, change func(*receipt.Receipt)) {
	p, err := at.Proof()
	require.NoError(t, err)
	r, err := receipt.Decode(p.Receipt)
	require.NoError(t, err)
	change(r)
	p.Receipt, err = r.Encode()
	require.NoError(t, err)
	at.StripProof()
	at.Attach(p)
}

func TestSignedBlocksAreVerified(t *testing.T) {
	for _, signal := range []block.Signal{block.Metrics, block.Logs, block.Traces} {
		for _, tolerances := range []block.Tolerance{0, block.Split, block.Enrich, block.Split | block.Enrich} {
			t.Run(signal.String()+" "+tolerances.String(), func(t *testing.T) {
				b := newBench(t)
				one, two := signtest.Data(signal, "edge-a", 5), signtest.Data(signal, "edge-a", 3)
				b.machine.Sign(t, stream, tolerances, one, two)
				for i, batch := range []digest.Batch{one, two} {
					v := b.verdict(batch, 0)
					require.Empty(t, v.Reason, v.Detail)
					require.Same(t, b.key, v.Key)
					require.Equal(t, tolerances, v.Tolerances)
					require.Equal(t, policy.Live, v.Freshness)
					require.Equal(t, now.UnixMilli(), v.Issued.UnixMilli())
					require.Equal(t, uint64(i+1), v.Receipt.BlockNo)
					require.Equal(t, b.machine.Prev, v.Statement, "the statement's hash is what the next one names")
				}
			})
		}
	}
}

// TestEachAttackHasItsReason also holds every bad block beside a good one of the
// same group, which stays good.
func TestEachAttackHasItsReason(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			b := newBench(t)
			neighbour := newBench(t)
			neighbour.now = b.now
			if a.before != nil {
				a.before(t, b)
			}
			bad := signtest.Data(block.Logs, "edge-a", 5)
			good := signtest.Data(block.Logs, "edge-a", 5)
			b.machine.Sign(t, stream, a.tolerances, bad, good)
			if a.spoil != nil {
				a.spoil(t, b, bad)
			}
			v := b.verdict(bad, 0)
			require.Equal(t, a.want, v.Reason, v.Detail)
			require.Equal(t, a.differs, v.Arrived.Differs)
			require.Less(t, len(v.Detail), 512)
			if a.before == nil {
				v := b.verdict(good, 0)
				require.Empty(t, v.Reason, v.Detail)
			}
		})
	}
}

// TestOrderOfJudgement gives a block every fault at once and mends one after
// the other: the reasons come in the order of the specification.
func TestOrderOfJudgement(t *testing.T) {
	b := newBench(t)
	b.machine.Audience = "elsewhere"
	k := *b.key
	k.Revoked, k.Algorithm = "stolen", -35
	k.Policy = &policy.Policy{Freshness: policy.Live}
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	b.judge.Keys = keys{}
	signtest.Record(d).Body().SetStr("changed")

	require.Equal(t, reason.AudienceMismatch, b.verdict(d, 0).Reason)
	b.nonces = audience{b.authority, "elsewhere"}
	b.now = now.Add(maxDelay + time.Second)
	require.Equal(t, reason.NonceExpired, b.verdict(d, 0).Reason)
	b.now = now.Add(time.Hour)
	require.Equal(t, reason.UnknownKey, b.verdict(d, 0).Reason)
	b.judge.Keys = keys{k.KID: &k}
	require.Equal(t, reason.KeyRevoked, b.verdict(d, 0).Reason)
	k.Revoked = ""
	require.Equal(t, reason.AlgorithmMismatch, b.verdict(d, 0).Reason)
	k.Algorithm = receipt.ES256
	require.Equal(t, reason.DigestMismatch, b.verdict(d, 0).Reason)
	signtest.Record(d).Body().SetStr("order 0 accepted")
	require.Equal(t, reason.NotFresh, b.verdict(d, 0).Reason)
	k.Policy = &policy.Policy{Freshness: policy.Stale}
	require.Empty(t, b.verdict(d, 0).Reason)
}

type audience struct {
	*nonce.Authority
	is string
}

func (a audience) Audience() string { return a.is }

func TestTransplantedReceiptsAreRefused(t *testing.T) {
	b := newBench(t)
	other := newBench(t)
	b.judge.Keys = keys{b.key.KID: b.key, other.key.KID: other.key}
	other.machine.Fetch(t, b.authority, now)
	one, two := signtest.Data(block.Logs, "edge-a", 3), signtest.Data(block.Logs, "edge-a", 4)
	foreign := signtest.Data(block.Logs, "edge-b", 3)
	b.machine.Sign(t, stream, 0, one, two)
	other.machine.Sign(t, stream, 0, foreign)
	swap := func(x, y digest.Block) {
		px, err := x.Proof()
		require.NoError(t, err)
		py, err := y.Proof()
		require.NoError(t, err)
		x.StripProof()
		y.StripProof()
		x.Attach(py)
		y.Attach(px)
	}
	swap(one.At(0), two.At(0))
	require.Equal(t, reason.BlockSplit, b.verdict(one, 0).Reason, "fewer items than the other receipt counts")
	require.Equal(t, reason.DigestMismatch, b.verdict(two, 0).Reason)
	swap(one.At(0), two.At(0))
	swap(one.At(0), foreign.At(0))
	require.Equal(t, reason.DigestMismatch, b.verdict(one, 0).Reason)
	require.Equal(t, reason.DigestMismatch, b.verdict(foreign, 0).Reason)
}

func TestEqualContentOfAnotherSignalIsRefused(t *testing.T) {
	b := newBench(t)
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	m := signtest.Data(block.Metrics, "edge-a", 3)
	p, err := d.At(0).Proof()
	require.NoError(t, err)
	m.At(0).Attach(p)
	require.Equal(t, reason.SignatureInvalid, b.verdict(m, 0).Reason, "the leaf binds the signal")
}

func TestSignatureCacheNeverAnswersForAnotherPayload(t *testing.T) {
	b := newBench(t)
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	require.Empty(t, b.verdict(d, 0).Reason)
	signtest.Record(d).Body().SetStr("changed")
	require.Equal(t, reason.DigestMismatch, b.verdict(d, 0).Reason)
	b.key.Public = &signtest.NewMachine(t, "edge-b", now).Key.PublicKey
	signtest.Record(d).Body().SetStr("order 0 accepted")
	require.Equal(t, reason.SignatureInvalid, b.verdict(d, 0).Reason, "the cache is keyed by the public key too")
}

func TestSequenceNeedsAPolicyThatAllowsIt(t *testing.T) {
	b := newBench(t)
	b.machine.Nonce = nil
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	require.Equal(t, reason.NonceMissing, b.verdict(d, 0).Reason)
	b.key.Policy = &policy.Policy{Freshness: policy.Sequence}
	v := b.verdict(d, 0)
	require.Empty(t, v.Reason)
	require.Equal(t, policy.Sequence, v.Freshness)
	require.True(t, v.Issued.IsZero())
}

func TestWithoutNoncesFreshnessIsUnjudged(t *testing.T) {
	b := newBench(t)
	b.nonces = nil
	b.key.Policy = &policy.Policy{Freshness: policy.Live}
	b.now = now.Add(10 * maxDelay)
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	v := b.verdict(d, 0)
	require.Empty(t, v.Reason)
	require.Equal(t, policy.Unjudged, v.Freshness)
}

func TestDataOfAKeyThatEndedMayStillTravel(t *testing.T) {
	b := newBench(t)
	b.key.NotAfter = now.Add(time.Minute)
	b.key.Revoked = verdict.Superseded
	b.now = now.Add(time.Hour)
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	v := b.verdict(d, 0)
	require.Empty(t, v.Reason)
	require.Equal(t, policy.Stale, v.Freshness)
}

func TestAddedAttributesNameNobody(t *testing.T) {
	b := newBench(t)
	b.key.Policy = &policy.Policy{Bind: []policy.Binding{{Attribute: "host.id"}}}
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, block.Enrich, d)
	d.At(0).Attributes().PutStr("host.id", "edge-z")
	v := b.verdict(d, 0)
	require.Empty(t, v.Reason, v.Detail)
	require.Equal(t, []string{"host.id"}, v.Arrived.Added)

	b.key.Policy = &policy.Policy{Bind: []policy.Binding{{Attribute: "host.id", Required: true}}}
	d.At(0).Attributes().PutStr("host.id", "edge-a")
	require.Equal(t, reason.IdentityMismatch, b.verdict(d, 0).Reason, "somebody on the way cannot vouch for the agent")
}

func TestFragmentsOfASplitBlockAreVerified(t *testing.T) {
	b := newBench(t)
	d := signtest.Data(block.Metrics, "edge-a", 10)
	b.machine.Sign(t, stream, block.Split, d)
	part := signtest.Copy(d)
	part.At(0).FilterItems(func(i int) bool { return i == 2 || i == 7 })
	v := b.verdict(part, 0)
	require.Empty(t, v.Reason, v.Detail)
	require.Equal(t, 2, v.Arrived.Items)
	require.Equal(t, 10, v.Arrived.Total)
	require.Equal(t, [][]uint32{{2}, {7}}, v.Arrived.Candidates)
}

type brokenContent struct{ digest.Block }

func (brokenContent) Check(digest.Expected) (digest.Arrived, error) {
	return digest.Arrived{}, errors.New("not enumerated")
}

func TestErrorWithoutAReasonIsStillRefused(t *testing.T) {
	b := newBench(t)
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	var v verdict.Verdict
	b.judge.Block(&v, brokenContent{d.At(0)}, signtest.Attributes{Of: d.At(0)}, b.nonces, b.now)
	require.NotEmpty(t, v.Reason)
}

func TestNonceIsAcceptedUpToBothEndsOfItsTimeAndNotBeyond(t *testing.T) {
	b := newBench(t)
	d := signtest.Data(block.Logs, "edge-a", 3)
	b.machine.Sign(t, stream, 0, d)
	for at, want := range map[time.Duration]reason.Reason{
		-skew - 1:    reason.NonceFuture,
		-skew:        "",
		maxDelay:     "",
		maxDelay + 1: reason.NonceExpired,
	} {
		b.now = now.Add(at)
		require.Equal(t, want, b.verdict(d, 0).Reason, "%v after T", at)
	}
}

// doubtful is a key source that is asked again.
type doubtful struct {
	keys
	again error
	asked int
}

func (d *doubtful) Recheck([]byte) error {
	d.asked++
	return d.again
}

// TestWordOfALeaseMayBeLate: what a machine signs after renewing its lease, or
// being let in, is not refused on what was known before.
func TestWordOfALeaseMayBeLate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*verdict.Key)
		want   reason.Reason
		sure   bool // whether nobody needs to be asked
	}{
		"lease over":       {func(k *verdict.Key) { k.NotAfter = now.Add(-time.Hour) }, reason.KeyExpired, false},
		"lease not begun":  {func(k *verdict.Key) { k.NotBefore = now.Add(time.Hour) }, reason.KeyExpired, false},
		"pending":          {func(k *verdict.Key) { k.Pending = true }, reason.KeyPending, false},
		"revoked":          {func(k *verdict.Key) { k.Revoked = "stolen" }, reason.KeyRevoked, true},
		"superseded":       {func(k *verdict.Key) { k.Revoked, k.NotAfter = verdict.Superseded, now.Add(-time.Hour) }, reason.KeyExpired, true},
		"nothing is wrong": {func(*verdict.Key) {}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c.change(b.key)
			source := &doubtful{keys: keys{b.key.KID: b.key}, again: fmt.Errorf("asking: %w", verdict.ErrUnavailable)}
			b.judge.Keys = source
			d := signtest.Data(block.Logs, "edge-a", 3)
			b.machine.Sign(t, stream, 0, d)
			first := b.verdict(d, 0).Reason
			source.again = nil
			then := b.verdict(d, 0).Reason
			require.Equal(t, c.want, then)
			if c.sure {
				require.Equal(t, c.want, first)
				require.Zero(t, source.asked)
				return
			}
			require.Equal(t, reason.KeyUnavailable, first)
			require.Equal(t, 2, source.asked)
		})
	}
}
