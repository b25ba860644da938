package vectors_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/nonce"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/replay"
	"github.com/telemark-otel/telemark/internal/verdict"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// verifier is put together of the product's packages, as the processor does it.
type verifier struct {
	v         *vector.Vector
	signal    block.Signal
	authority *nonce.Authority
	judge     verdict.Judge
	windows   *replay.Local
}

func limits(v *vector.Vector) replay.Limits {
	l := replay.DefaultLimits()
	l.MaxDelay, l.Skew = time.Duration(v.MaxDelay), time.Duration(v.Skew)
	return l
}

func random(b []byte) error {
	_, err := rand.Read(b)
	return err
}

func newVerifier(t testing.TB, v *vector.Vector) *verifier {
	t.Helper()
	signal, err := block.ParseSignal(v.Signal)
	require.NoError(t, err)
	windows, _, err := replay.Open(t.Context(), v.Steps[0].Now.Time, replay.Options{Limits: limits(v), Random: random})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, windows.Close(context.WithoutCancel(t.Context()))) })
	return &verifier{
		v: v, signal: signal, authority: authority(t, v), windows: windows,
		judge: verdict.Judge{
			Keys:       keysOf(t, v),
			Signatures: receipt.NewSignatureCache(64),
			Decode:     receipt.NewDecoder(64).Decode,
			MaxDelay:   time.Duration(v.MaxDelay),
			Skew:       time.Duration(v.Skew),
		},
	}
}

func authority(t testing.TB, v *vector.Vector) *nonce.Authority {
	t.Helper()
	require.Len(t, v.Nonce.StoreEpoch, 4)
	a, err := nonce.NewAuthority(v.Nonce.Secret, [4]byte(v.Nonce.StoreEpoch), v.Audience)
	require.NoError(t, err)
	return a
}

func defaultPolicy(t testing.TB, v *vector.Vector) *policy.Policy {
	t.Helper()
	p := &policy.Policy{LiveWithin: time.Duration(v.Policy.LiveWithin)}
	var err error
	p.Freshness, err = policy.ParseFreshness(v.Policy.Freshness)
	require.NoError(t, err)
	p.Bind, err = policy.ParseBind(v.Policy.Bind, v.Policy.BindRequired)
	require.NoError(t, err)
	return p
}

func keyFile(t testing.TB, v *vector.Vector) []byte {
	t.Helper()
	content, err := json.Marshal(keyfile.File{Keys: v.Keys, Policies: v.Policies, Regions: v.Regions})
	require.NoError(t, err)
	return content
}

// refusedByKeyFile says whether a record of the vector is none that a key file
// takes. One was frozen when ES384 was not known.
func refusedByKeyFile(v *vector.Vector) bool {
	return v.UnusualKeys && v.Name != "key-algorithm-mismatch"
}

// keysOf reads the keys as a key file. Records that a key file refuses reach
// the judge past it, as from another source of keys.
func keysOf(t testing.TB, v *vector.Vector) verdict.KeySource {
	t.Helper()
	set, err := keyfile.Parse(v.Name, keyFile(t, v), defaultPolicy(t, v))
	if !refusedByKeyFile(v) {
		require.NoError(t, err)
		return set
	}
	require.Error(t, err, "the key file must refuse such a record")
	out := unusualKeys{}
	for _, e := range v.Keys {
		kid, err := hex.DecodeString(e.KID)
		require.NoError(t, err)
		pemBlock, _ := pem.Decode([]byte(e.PublicKey))
		public, err := x509.ParsePKIXPublicKey(pemBlock.Bytes)
		require.NoError(t, err)
		alg, ok := map[string]receipt.Algorithm{"ES256": receipt.ES256, "ES384": receipt.ES384}[e.Algorithm]
		require.True(t, ok)
		out[string(kid)] = &verdict.Key{
			KID: string(kid), Name: e.Name, Algorithm: alg, Public: public, Revoked: e.Revoked, Policy: defaultPolicy(t, v),
		}
	}
	return out
}

type unusualKeys map[string]*verdict.Key

func (k unusualKeys) Lookup(kid []byte) (*verdict.Key, error) { return k[string(kid)], nil }

// attributes shows a resource to policy.
type attributes struct{ pcommon.Map }

func (a attributes) Values(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k, v := range a.All() {
			if k == key && !yield(v.AsString()) {
				return
			}
		}
	}
}

// decoder reads an Export request.
type decoder func(signal block.Signal, request []byte) (digest.Batch, error)

// export is what the OTLP receivers do.
func export(signal block.Signal, request []byte) (digest.Batch, error) {
	switch signal {
	case block.Metrics:
		r := pmetricotlp.NewExportRequest()
		err := r.UnmarshalProto(request)
		return digest.FromMetrics(r.Metrics()), err
	case block.Logs:
		r := plogotlp.NewExportRequest()
		err := r.UnmarshalProto(request)
		return digest.FromLogs(r.Logs()), err
	default:
		r := ptraceotlp.NewExportRequest()
		err := r.UnmarshalProto(request)
		return digest.FromTraces(r.Traces()), err
	}
}

// outcome is what a verifier says of one request.
type outcome struct {
	unreadable bool
	blocks     []vector.Block
	details    []string
}

func (f *verifier) step(t testing.TB, s *vector.Step, decode decoder) outcome {
	t.Helper()
	now := s.Now.Time
	if s.Sweep {
		_, err := f.windows.Sweep(t.Context(), now)
		require.NoError(t, err)
	}
	batch, err := decode(f.signal, s.Request)
	if err != nil {
		return outcome{unreadable: true}
	}
	verdicts := make([]verdict.Verdict, batch.Len())
	var (
		claims []replay.Block
		of     []int
	)
	for i := range verdicts {
		v, b := &verdicts[i], batch.At(i)
		f.judge.Block(v, b, attributes{b.Attributes()}, f.authority, now)
		if v.Reason == "" {
			claims, of = append(claims, claimOf(v)), append(of, i)
		}
	}
	outcomes, err := f.windows.Claim(t.Context(), now, claims)
	require.NoError(t, err)
	got := outcome{blocks: make([]vector.Block, len(verdicts)), details: make([]string, len(verdicts))}
	var confirmed []replay.Claim
	for k, i := range of {
		o := &outcomes[k]
		if verdicts[i].Reason = o.Reason; o.Reason == "" {
			got.blocks[i] = found(&verdicts[i], o, f.signal)
			confirmed = append(confirmed, o.Claim)
		}
	}
	lost, err := f.windows.Confirm(t.Context(), now, confirmed)
	require.NoError(t, err)
	require.Zero(t, lost)
	for i := range verdicts {
		if why := verdicts[i].Reason; why != "" {
			got.blocks[i].Verdict = string(why)
			got.details[i] = verdicts[i].Detail
		}
	}
	return got
}

func claimOf(v *verdict.Verdict) replay.Block {
	s := v.Receipt.Statement
	b := replay.Block{
		Scope: "vectors", KID: v.Key.KID, Epoch: s.Epoch, Stream: v.Receipt.Stream, No: v.Receipt.BlockNo,
		Seq: s.Seq, Statement: v.Statement, Prev: s.Prev, Issued: v.Issued,
	}
	if v.Tolerances.Has(block.Split) {
		b.Total, b.Candidates = v.Arrived.Total, v.Arrived.Candidates
	}
	if l := s.Location; l != nil && v.MaxSpeed > 0 {
		b.Location = &replay.LatLon{Latitude: l.Latitude, Longitude: l.Longitude}
		b.Travel = &replay.Travel{Taken: v.Taken, MaxSpeed: v.MaxSpeed}
		if l.Accuracy != nil {
			b.Travel.Accuracy = *l.Accuracy
		}
	}
	return b
}

// found says of an accepted block what vectors say.
func found(v *verdict.Verdict, o *replay.Outcome, signal block.Signal) vector.Block {
	r, s := v.Receipt, v.Receipt.Statement
	leaf := receipt.Leaf{
		Signal: signal, Tolerances: v.Tolerances, Stream: r.Stream, BlockNo: r.BlockNo, Items: r.Items, Digest: r.Digest,
	}
	if v.Tolerances.Has(block.Enrich) {
		keys := receipt.KeyListDigest(r.Keys)
		leaf.Keys = &keys
	}
	hash := leaf.Hash()
	root, err := r.Root(hash)
	if err != nil {
		return vector.Block{Verdict: fmt.Sprintf("verified without a root: %v", err)}
	}
	items := &vector.Items{Signed: v.Arrived.Total, Arrived: v.Arrived.Items, Accepted: v.Arrived.Items}
	if o.Claim.Items != nil {
		items.Accepted = len(o.Claim.Items)
		for _, i := range slices.Sorted(slices.Values(o.Claim.Items)) {
			items.Places = append(items.Places, int(i))
		}
	}
	return vector.Block{
		Verdict: reason.Verified, Digest: r.Digest[:], Leaf: hash[:], Root: root[:], Statement: v.Statement[:],
		Items: items, Added: v.Arrived.Added,
		Claims: &vector.Claims{
			KID: s.KID, Name: v.Key.Name, UEID: s.UEID, Epoch: s.Epoch, Seq: s.Seq, Size: s.Size, Prev: s.Prev[:],
			Stream: r.Stream, Block: r.BlockNo, IssuedAt: s.IssuedAt, NonceTime: timeOf(v.Issued),
			Freshness: v.Freshness.String(), Location: locationOf(s.Location),
		},
	}
}

func timeOf(t time.Time) *vector.Time {
	if t.IsZero() {
		return nil
	}
	return &vector.Time{Time: t.UTC()}
}

func locationOf(l *receipt.Location) *vector.Location {
	if l == nil {
		return nil
	}
	return &vector.Location{
		Latitude: l.Latitude, Longitude: l.Longitude, Altitude: l.Altitude, Accuracy: l.Accuracy,
		Timestamp: l.Timestamp, Age: l.Age, Source: l.Source,
	}
}
