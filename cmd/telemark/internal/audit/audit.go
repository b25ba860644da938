// Package audit looks at telemetry that was archived with its receipts, long
// after it was verified: what each receipt claims, whether content, proof and
// signature still hold (docs/spec/receipt.md), and what is missing between the
// first and the last block. It has neither the nonce secret nor the replay
// windows of the collector that took the data in, so the freshness of nonces
// is not judged, and a duplicate is only one within what it was shown.
package audit

import (
	"encoding/binary"
	"errors"
	"iter"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// cacheEntries bounds the remembered statements and signatures: the blocks of
// one group stand close together in an archive.
const cacheEntries = 4096

// Unverified is the verdict of a block whose content fits its receipt when
// there are no keys to verify the signature with.
const Unverified = "unverified"

// Auditor judges blocks. It is not safe for concurrent use.
type Auditor struct {
	judge   *verdict.Judge // nil without keys
	decoder *receipt.Decoder
}

// New returns an auditor that verifies with keys, or only reads when keys is
// nil.
func New(keys verdict.KeySource) *Auditor {
	a := &Auditor{decoder: receipt.NewDecoder(cacheEntries)}
	if keys != nil {
		a.judge = &verdict.Judge{
			Keys:       keys,
			Signatures: receipt.NewSignatureCache(cacheEntries),
			Decode:     a.decoder.Decode,
		}
	}
	return a
}

// Block judges one block. It takes off the attributes that a verifier added,
// which no signer covers.
func (a *Auditor) Block(b digest.Block) Finding {
	f := Finding{Signal: b.Signal().String(), Items: b.Items(), Archived: takeOff(b.Attributes())}
	var v verdict.Verdict
	if a.judge != nil {
		a.judge.Block(&v, b, resource{b.Attributes()}, nil, a.signedAt(b))
		f.Verdict = reason.Verified
		if v.Key != nil {
			f.Verdict = v.Key.Evidence.Verdict()
		}
		f.passed = v.Reason == ""
	} else {
		v = a.read(b)
		f.Verdict = Unverified
	}
	if v.Reason != "" {
		f.Verdict, f.Detail = string(v.Reason), v.Detail
	}
	f.fill(&v)
	return f
}

// read does what can be done without keys: decode, and hold the content
// against the digest in the receipt.
func (a *Auditor) read(b digest.Block) (v verdict.Verdict) {
	err := func() error {
		proof, err := b.Proof()
		if err != nil {
			return err
		}
		if proof.Receipt == nil {
			return reason.New(reason.ReceiptMissing, "the resource has no %s", block.AttrReceipt)
		}
		if v.Receipt, err = a.decoder.Decode(proof.Receipt); err != nil {
			return err
		}
		if proof.Manifest != nil {
			v.Tolerances |= block.Split
		}
		if v.Receipt.Keys != nil {
			v.Tolerances |= block.Enrich
		}
		v.Arrived, err = b.Check(digest.Expected{
			Tolerances: v.Tolerances, Digest: v.Receipt.Digest, Keys: v.Receipt.Keys, Manifest: proof.Manifest,
			Items: int(v.Receipt.Items),
		})
		return err
	}()
	if err != nil {
		v.Reason, v.Detail = reason.Of(err), detail(err)
	}
	return v
}

func detail(err error) string {
	var e *reason.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	if e.Err != nil && e.Detail == "" {
		return e.Err.Error()
	}
	return e.Detail
}

// signedAt is the moment at which the validity of the key is judged: an
// archive is read long after it was written. It is the nonce's time, which is
// not verified here, or the agent's own word without a nonce.
func (a *Auditor) signedAt(b digest.Block) time.Time {
	proof, err := b.Proof()
	if err != nil || proof.Receipt == nil {
		return time.Time{}
	}
	r, err := a.decoder.Decode(proof.Receipt)
	if err != nil {
		return time.Time{}
	}
	if t, ok := nonceTime(r.Statement.Nonce); ok {
		return t
	}
	return time.Unix(r.Statement.IssuedAt, 0)
}

// nonceTime reads T, the first 6 bytes: Unix milliseconds, big endian.
func nonceTime(nonce []byte) (time.Time, bool) {
	if len(nonce) < 6 {
		return time.Time{}, false
	}
	var b [8]byte
	copy(b[2:], nonce[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:]))).UTC(), true
}

// added are the resource attributes that tpmverify adds to what it passes on.
var added = map[string]bool{
	block.AttrVerdict:            true,
	block.AttrName:               true,
	"telemark.id":                true,
	"telemark.kid":               true,
	"telemark.freshness":         true,
	"telemark.location":          true,
	"telemark.location.source":   true,
	"telemark.location.accuracy": true,
	"telemark.redelivery":        true,
}

// takeOff removes what a verifier added and returns the verdict among it.
func takeOff(attributes pcommon.Map) (archived string) {
	attributes.RemoveIf(func(key string, v pcommon.Value) bool {
		if key == block.AttrVerdict {
			archived = v.AsString()
		}
		return added[key]
	})
	return archived
}

// resource shows the attributes of a resource to policy.
type resource struct{ pcommon.Map }

func (r resource) Values(key string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k, v := range r.All() {
			if k == key && !yield(v.AsString()) {
				return
			}
		}
	}
}
