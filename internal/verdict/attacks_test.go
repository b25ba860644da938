package verdict_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

// attacks maps each reason of this package's judgement to ways to earn it.
// change happens before the block is signed, spoil after it.
var attacks = []struct {
	name       string
	tolerances block.Tolerance
	before     func(*testing.T, *bench)
	spoil      func(*testing.T, *bench, digest.Batch)
	want       reason.Reason
	differs    string
}{
	{
		name: "receipt removed", want: reason.ReceiptMissing,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).StripProof() },
	},
	{
		name: "second receipt", want: reason.ReceiptNotUnique,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			p, err := d.At(0).Proof()
			require.NoError(t, err)
			signtest.Double(t, d, block.AttrReceipt, p.Receipt)
		},
	},
	{
		name: "receipt as text", want: reason.ReceiptWrongType,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).Attributes().PutStr(block.AttrReceipt, "0a") },
	},
	{
		name: "receipt truncated", want: reason.ReceiptMalformed,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			p, err := d.At(0).Proof()
			require.NoError(t, err)
			d.At(0).StripProof()
			d.At(0).Attach(digest.Proof{Receipt: p.Receipt[:len(p.Receipt)-1]})
		},
	},
	{
		name: "other audience", want: reason.AudienceMismatch,
		before: func(_ *testing.T, b *bench) { b.machine.Audience = "elsewhere" },
	},
	{
		name: "no nonce", want: reason.NonceMissing,
		before: func(_ *testing.T, b *bench) { b.machine.Nonce = nil },
	},
	{
		name: "nonce changed by its holder", want: reason.NonceForged,
		before: func(_ *testing.T, b *bench) { b.machine.Nonce[20] ^= 1 },
	},
	{
		name: "nonce of another secret", want: reason.NonceForged,
		before: func(t *testing.T, b *bench) { b.machine.Fetch(t, signtest.Authority(t, 2, 1), now) },
	},
	{
		name: "nonce of another machine", want: reason.NonceForeign,
		before: func(t *testing.T, b *bench) {
			other := signtest.NewMachine(t, "edge-b", now)
			other.Fetch(t, b.authority, now)
			b.machine.Nonce = other.Nonce
		},
	},
	{
		name: "nonce of a lost store", want: reason.NonceStoreLost,
		before: func(t *testing.T, b *bench) { b.machine.Fetch(t, signtest.Authority(t, 1, 2), now) },
	},
	{
		name: "nonce expired", want: reason.NonceExpired,
		before: func(_ *testing.T, b *bench) { b.now = now.Add(maxDelay + time.Millisecond) },
	},
	{
		name: "nonce expired, iat young", want: reason.NonceExpired,
		before: func(_ *testing.T, b *bench) {
			b.now = now.Add(maxDelay + time.Millisecond)
			b.machine.IssuedAt = b.now
		},
	},
	{
		name: "nonce of the future", want: reason.NonceFuture,
		before: func(_ *testing.T, b *bench) { b.now = now.Add(-skew - time.Millisecond) },
	},
	{
		name: "unknown machine", want: reason.UnknownKey,
		before: func(_ *testing.T, b *bench) { b.judge.Keys = keys{} },
	},
	{
		name: "key source gives another key", want: reason.UnknownKey,
		before: func(_ *testing.T, b *bench) {
			k := *b.key
			k.KID = "another"
			b.judge.Keys = keys{b.key.KID: &k}
		},
	},
	{
		name: "key source does not answer", want: reason.KeyUnavailable,
		before: func(_ *testing.T, b *bench) { b.judge.Keys = noKeys{} },
	},
	{
		name: "machine that waits for approval", want: reason.KeyPending,
		before: func(_ *testing.T, b *bench) { *b.key = verdict.Key{KID: b.key.KID, Pending: true} },
	},
	{
		name: "unproven TPM where a genuine one is required", want: reason.UnprovenTPM,
		before: func(_ *testing.T, b *bench) {
			b.key.Policy = &policy.Policy{Genuine: true, Bind: []policy.Binding{{Attribute: "host.name", Label: "site"}}}
		},
	},
	{
		name: "key revoked", want: reason.KeyRevoked,
		before: func(_ *testing.T, b *bench) { b.key.Revoked = "stolen" },
	},
	{
		name: "superseded, nobody knows when", want: reason.KeyRevoked,
		before: func(_ *testing.T, b *bench) { b.key.Revoked = verdict.Superseded },
	},
	{
		name: "nonce from after the key's end", want: reason.KeyExpired,
		before: func(_ *testing.T, b *bench) { b.key.NotAfter = now.Add(-time.Second) },
	},
	{
		name: "key not yet valid", want: reason.KeyExpired,
		before: func(_ *testing.T, b *bench) { b.key.NotBefore = b.now.Add(time.Second) },
	},
	{
		name: "algorithm of the record is another", want: reason.AlgorithmMismatch,
		before: func(_ *testing.T, b *bench) { b.key.Algorithm = -35 },
	},
	{
		name: "key of the record is on another curve", want: reason.CurveMismatch,
		before: func(t *testing.T, b *bench) {
			k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			require.NoError(t, err)
			b.key.Public = &k.PublicKey
		},
	},
	{
		name: "key of the record is of another kind", want: reason.CurveMismatch,
		before: func(_ *testing.T, b *bench) { b.key.Public = "a string" },
	},
	{
		name: "value changed", want: reason.DigestMismatch,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { signtest.Record(d).Body().SetStr("order 0 refused") },
	},
	{
		name: "item removed", want: reason.BlockSplit,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) {
			d.At(0).FilterItems(func(i int) bool { return i > 0 })
		},
	},
	{
		name: "attribute added behind the receipt", want: reason.ResourceEnriched, differs: "resource",
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).Attributes().PutStr("zone", "z1") },
	},
	{
		name: "attribute changed", want: reason.DigestMismatch,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).Attributes().PutStr("host.name", "edge-b") },
	},
	{
		name: "attribute changed, enriching tolerated", tolerances: block.Enrich, want: reason.DigestMismatch,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).Attributes().PutStr("host.name", "edge-b") },
	},
	{
		name: "attribute removed, enriching tolerated", tolerances: block.Enrich, want: reason.ResourceChanged, differs: "resource",
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).Attributes().Remove("host.name") },
	},
	{
		name: "value changed, splitting tolerated", tolerances: block.Split, want: reason.ItemMismatch, differs: "item",
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { signtest.Record(d).Body().SetStr("order 0 refused") },
	},
	{
		name: "scope changed, splitting tolerated", tolerances: block.Split, want: reason.ItemMismatch, differs: "scope",
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) {
			d.Logs().ResourceLogs().At(0).ScopeLogs().At(0).Scope().SetName("other")
		},
	},
	{
		name: "resource changed, splitting tolerated", tolerances: block.Split, want: reason.ItemMismatch, differs: "resource",
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).Attributes().PutStr("host.name", "edge-b") },
	},
	{
		name: "manifest removed", tolerances: block.Split, want: reason.ManifestMissing,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.At(0).Attributes().Remove(block.AttrManifest) },
	},
	{
		name: "manifest added", want: reason.ManifestMismatch,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) {
			d.At(0).Attributes().PutEmptyBytes(block.AttrManifest).FromRaw(make([]byte, 64))
		},
	},
	{
		name: "manifest shortened", tolerances: block.Split, want: reason.ManifestMismatch,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) { manifest(t, d, func(m []byte) []byte { return m[32:] }) },
	},
	{
		name: "manifest cut in a digest", tolerances: block.Split, want: reason.ManifestMalformed,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) { manifest(t, d, func(m []byte) []byte { return m[1:] }) },
	},
	{
		name: "reserved attribute on an item", want: reason.ReservedAttribute,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) {
			signtest.Record(d).Attributes().PutStr("Telemark.Verdict", "verified")
		},
	},
	{
		name: "empty scope added", want: reason.EmptyContainer,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { d.Logs().ResourceLogs().At(0).ScopeLogs().AppendEmpty() },
	},
	{
		name: "invalid UTF-8", want: reason.InvalidUTF8,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) { signtest.Record(d).SetSeverityText("\xff") },
	},
	{
		name: "values nested too deep", want: reason.TooDeep,
		spoil: func(_ *testing.T, _ *bench, d digest.Batch) {
			v := signtest.Record(d).Attributes().PutEmpty("deep")
			for range 10_000 {
				v = v.SetEmptySlice().AppendEmpty()
			}
		},
	},
	{
		name: "block number changed", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.BlockNo++ })
		},
	},
	{
		name: "stream changed", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Stream = "another:logs" })
		},
	},
	{
		name: "number of items changed", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Items++ })
		},
	},
	{
		name: "path changed", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Path[0][0] ^= 1 })
		},
	},
	{
		name: "place in the tree changed", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.LeafIndex ^= 1 })
		},
	},
	{
		name: "digest of the receipt changed", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Digest[0] ^= 1 })
		},
	},
	{
		name: "content and its digest changed together", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			signtest.Record(d).Body().SetStr("order 0 refused")
			c := signtest.Copy(d)
			p, err := c.At(0).Prepare(0)
			require.NoError(t, err)
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Digest = p.Digest })
		},
	},
	{
		name: "tolerance to enrich added by the sender", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Keys = []string{"service.name", "host.name"} })
		},
	},
	{
		name: "tolerance to enrich taken away", tolerances: block.Enrich, want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Keys = nil })
		},
	},
	{
		name: "signature changed", want: reason.SignatureInvalid,
		spoil: func(t *testing.T, _ *bench, d digest.Batch) {
			reencode(t, d.At(0), func(r *receipt.Receipt) { r.Signature[5] ^= 1 })
		},
	},
	{
		name: "another key signed under this kid", want: reason.SignatureInvalid,
		before: func(t *testing.T, b *bench) { b.machine.Key = signtest.NewMachine(t, "edge-b", now).Key },
	},
	{
		name: "resource names another machine", want: reason.IdentityMismatch,
		before: func(_ *testing.T, b *bench) {
			b.key.Policy = &policy.Policy{Bind: []policy.Binding{{Attribute: "host.name", Label: "site"}}}
		},
	},
	{
		name: "not live", want: reason.NotFresh,
		before: func(_ *testing.T, b *bench) {
			b.key.Policy = &policy.Policy{Freshness: policy.Live, LiveWithin: time.Millisecond}
		},
	},
	{
		name: "no location", want: reason.LocationMissing,
		before: func(_ *testing.T, b *bench) {
			b.key.Policy = &policy.Policy{Location: &policy.Location{Required: true}}
		},
	},
}
