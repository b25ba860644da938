package verdict

import (
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// Block judges one block at now and writes the outcome to v. attributes are
// those of its resource. nonces is nil where nonces cannot be checked; the
// freshness is then policy.Unjudged and the audience is not compared.
//
// The block is changed only as Content.Check changes it.
func (j *Judge) Block(v *Verdict, c Content, attributes policy.Attributes, nonces NonceAuthority, now time.Time) {
	*v = Verdict{}
	if err := j.block(v, c, attributes, nonces, now); err != nil {
		v.refuse(err)
	}
}

func (j *Judge) block(v *Verdict, c Content, attributes policy.Attributes, nonces NonceAuthority, now time.Time) error {
	proof, err := c.Proof()
	if err != nil {
		return err
	}
	if err := j.decode(v, proof); err != nil {
		return err
	}
	if err := j.nonce(v, nonces, now); err != nil {
		return err
	}
	if err := j.key(v, now); err != nil {
		return err
	}
	if err := j.content(v, c, proof.Manifest); err != nil {
		return err
	}
	return v.judgePolicy(attributes)
}

func (j *Judge) decode(v *Verdict, proof digest.Proof) error {
	if proof.Receipt == nil {
		return reason.New(reason.ReceiptMissing, "the resource has no %s", block.AttrReceipt)
	}
	decode := j.Decode
	if decode == nil {
		decode = receipt.Decode
	}
	r, err := decode(proof.Receipt)
	if err != nil {
		return err
	}
	v.Receipt = r
	if proof.Manifest != nil {
		v.Tolerances |= block.Split
	}
	if r.Keys != nil {
		v.Tolerances |= block.Enrich
	}
	return nil
}

// nonce never looks at iat: that is the agent's word.
func (j *Judge) nonce(v *Verdict, nonces NonceAuthority, now time.Time) error {
	if nonces == nil {
		return nil
	}
	s := v.Receipt.Statement
	if want := nonces.Audience(); s.Audience != want {
		return reason.New(reason.AudienceMismatch, "the receipt is for %q, this is %q", s.Audience, want)
	}
	if len(s.Nonce) == 0 {
		v.Freshness = policy.Sequence
		return nil // whether that is enough depends on the key's policy
	}
	issued, err := nonces.Check(s.Nonce, s.KID)
	if err != nil {
		return err
	}
	v.Issued = issued
	switch age := now.Sub(issued); {
	case age < -j.Skew:
		return reason.New(reason.NonceFuture, "issued %v after now, %v of skew are allowed", -age, j.Skew)
	case age > j.MaxDelay:
		return reason.New(reason.NonceExpired, "issued %v ago, %v are allowed", age.Round(time.Second), j.MaxDelay)
	}
	return nil
}

func (j *Judge) key(v *Verdict, now time.Time) error {
	s := v.Receipt.Statement
	k, err := j.Keys.Lookup(s.KID)
	if err != nil {
		return reason.Wrap(reason.KeyUnavailable, err)
	}
	if k == nil || k.KID != string(s.KID) {
		return reason.New(reason.UnknownKey, "kid %x", s.KID)
	}
	v.Key = k
	if k.Pending {
		return j.certain(k, reason.New(reason.KeyPending, "the machine waits for approval"))
	}
	if k.Revoked != "" && k.Revoked != Superseded {
		return reason.New(reason.KeyRevoked, "%s", k.Revoked)
	}
	if err := k.validAt(v.Issued, now); err != nil {
		return j.certain(k, err)
	}
	if s.Algorithm != k.Algorithm {
		return reason.New(reason.AlgorithmMismatch, "the receipt names %d, the key's record %d", s.Algorithm, k.Algorithm)
	}
	if err := k.Algorithm.Takes(k.Public); err != nil {
		return err
	}

	switch {
	case v.Freshness == policy.Sequence && k.Policy.Freshness > policy.Sequence:
		return reason.New(reason.NonceMissing, "freshness %s is required", k.Policy.Freshness)
	case !v.Issued.IsZero():
		v.Freshness = k.Policy.Degree(v.Issued, now)
	}
	return nil
}

// certain returns a refusal that may be out of date, or that nobody knows now
// whether it is.
func (j *Judge) certain(k *Key, refusal error) error {
	r, ok := j.Keys.(Rechecker)
	if !ok || k.Revoked != "" { // that is never taken back
		return refusal
	}
	if err := r.Recheck([]byte(k.KID)); err != nil {
		return reason.Wrap(reason.KeyUnavailable, err)
	}
	return refusal
}

// validAt compares the key's validity with T where there is one: the block was
// signed after T, so a nonce from after the end shows a key used too late, and
// a block from before the end may travel for max_delay. A revocation, not the
// end of the validity, is what stops a key at once.
func (k *Key) validAt(issued, now time.Time) error {
	at := now
	if !issued.IsZero() {
		at = issued
	}
	if now.Before(k.NotBefore) {
		return reason.New(reason.KeyExpired, "valid from %s", k.NotBefore.UTC().Format(time.RFC3339))
	}
	if k.Revoked == Superseded && !k.NotAfter.IsZero() && at.After(k.NotAfter) {
		return reason.New(reason.KeyExpired, "superseded by another key at %s, and used after", k.NotAfter.UTC().Format(time.RFC3339))
	}
	if !k.NotAfter.IsZero() && at.After(k.NotAfter) {
		return reason.New(reason.KeyExpired, "valid until %s", k.NotAfter.UTC().Format(time.RFC3339))
	}
	if k.Revoked == Superseded && k.NotAfter.IsZero() {
		return reason.New(reason.KeyRevoked, "superseded, and nothing says until when it was used")
	}
	return nil
}

// judgePolicy comes last, when all that it looks at is known to be the agent's.
func (v *Verdict) judgePolicy(attributes policy.Attributes) error {
	s := v.Receipt.Statement
	signed := time.Unix(s.IssuedAt, 0)
	if v.Issued.After(signed) {
		signed = v.Issued
	}
	if len(v.Arrived.Added) > 0 {
		attributes = covered{attributes, v.Arrived.Added}
	}
	if demands := v.Key.Policy.Location; demands != nil && demands.MaxSpeed > 0 && s.Location != nil {
		v.MaxSpeed, v.Taken = demands.MaxSpeed, policy.Taken(s.Location, signed)
	}
	return v.Key.Policy.Judge(&policy.Facts{
		Name:       v.Key.Name,
		Labels:     v.Key.Labels,
		Evidence:   v.Key.Evidence,
		Attributes: attributes,
		Freshness:  v.Freshness,
		Location:   s.Location,
		Signed:     signed,
	})
}

// expected is what the receipt says of the content.
func (v *Verdict) expected(manifest []byte) digest.Expected {
	return digest.Expected{
		Tolerances: v.Tolerances,
		Digest:     v.Receipt.Digest,
		Items:      int(v.Receipt.Items),
		Keys:       v.Receipt.Keys,
		Manifest:   manifest,
	}
}
