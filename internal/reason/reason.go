// Package reason enumerates why a block is not accepted as verified. The same
// words stand in verdict attributes, logs, metrics, HTTP answers, docs and
// test vectors.
package reason

import (
	"errors"
	"fmt"
)

// Reason is one cause of refusal. The zero value is not a reason.
type Reason string

// Verified is the verdict of a block that passed every check; it is not a
// reason and stands beside them in the telemark.verdict attribute.
const Verified = "verified"

// Class says what became of a block with this reason, and so what a sender may
// expect from sending it again.
type Class int

// The classes.
const (
	ClassUnknown   Class = iota
	ClassForged          // content, proof or signature is wrong; sending again does not help
	ClassStale           // was right once, is too late or retired now
	ClassReplayed        // already accepted; dropped and answered with success
	ClassPolicy          // authentic, but policy does not allow it
	ClassTransient       // nothing is wrong with the block; try again later
)

// String returns the word for the class.
func (c Class) String() string {
	switch c {
	case ClassForged:
		return "forged"
	case ClassStale:
		return "stale"
	case ClassReplayed:
		return "replayed"
	case ClassPolicy:
		return "policy"
	case ClassTransient:
		return "transient"
	case ClassUnknown:
		return "unknown"
	default:
		return fmt.Sprintf("class(%d)", int(c))
	}
}

// The reasons, in the order of judgement.
const (
	// Decode: the block and its receipt as bytes.
	ReceiptMissing          Reason = "receipt_missing"
	ReceiptNotUnique        Reason = "receipt_not_unique"
	ReceiptWrongType        Reason = "receipt_wrong_type"
	ReceiptTooLarge         Reason = "receipt_too_large"
	ReceiptMalformed        Reason = "receipt_malformed"
	ReceiptNotDeterministic Reason = "receipt_not_deterministic"
	ReceiptLabels           Reason = "receipt_labels"
	ProfileUnknown          Reason = "profile_unknown"
	AlgorithmUnknown        Reason = "algorithm_unknown"
	ProofCount              Reason = "proof_count"
	ProofMalformed          Reason = "proof_malformed"
	TreeSizeMismatch        Reason = "tree_size_mismatch"
	StreamInvalid           Reason = "stream_invalid"
	AudienceMismatch        Reason = "audience_mismatch"

	// Nonce.
	NonceMissing   Reason = "nonce_missing"
	NonceMalformed Reason = "nonce_malformed"
	NonceForged    Reason = "nonce_forged"
	NonceForeign   Reason = "nonce_foreign"
	NonceStoreLost Reason = "nonce_store_lost"
	NonceExpired   Reason = "nonce_expired"
	NonceFuture    Reason = "nonce_future"

	// Key.
	UnknownKey        Reason = "unknown_key"
	KeyUnavailable    Reason = "key_unavailable"
	KeyPending        Reason = "key_pending"
	KeyRevoked        Reason = "key_revoked"
	KeyExpired        Reason = "key_expired"
	AlgorithmMismatch Reason = "algorithm_mismatch"
	CurveMismatch     Reason = "curve_mismatch"

	// Digest and proof: the content against what was signed.
	DigestMismatch    Reason = "digest_mismatch"
	ResourceChanged   Reason = "resource_changed"
	ResourceEnriched  Reason = "resource_enriched"
	BlockSplit        Reason = "block_split"
	ManifestMissing   Reason = "manifest_missing"
	ManifestMalformed Reason = "manifest_malformed"
	ManifestMismatch  Reason = "manifest_mismatch"
	ItemMismatch      Reason = "item_mismatch"
	ReservedAttribute Reason = "reserved_attribute"
	EmptyContainer    Reason = "empty_container"
	HiddenField       Reason = "hidden_field"
	InvalidUTF8       Reason = "invalid_utf8"
	InvalidID         Reason = "invalid_id"
	InvalidValue      Reason = "invalid_value"
	TooDeep           Reason = "too_deep"
	EntityRefs        Reason = "entity_refs"

	// Signature.
	SignatureInvalid Reason = "signature_invalid"

	// Policy.
	UnprovenTPM              Reason = "unproven_tpm"
	IdentityMismatch         Reason = "identity_mismatch"
	NotFresh                 Reason = "not_fresh"
	LocationMissing          Reason = "no_location"
	LocationStale            Reason = "stale_location"
	LocationSourceNotAllowed Reason = "source_not_allowed"
	LocationTooInaccurate    Reason = "too_inaccurate"
	LocationOutside          Reason = "outside"
	ImpossibleTravel         Reason = "impossible_travel"

	// Claim.
	Duplicate         Reason = "duplicate"
	InFlight          Reason = "in_flight"
	TooLate           Reason = "too_late"
	EpochRetired      Reason = "epoch_retired"
	Equivocation      Reason = "equivocation"
	ChainBroken       Reason = "chain_broken"
	WindowFull        Reason = "window_full"
	StoreUnavailable  Reason = "store_unavailable"
	RefusedDownstream Reason = "refused_downstream"
)

type entry struct {
	reason Reason
	class  Class
	help   string // what happened, and what to check
}

// table is in the order of judgement.
var table = []entry{
	{ReceiptMissing, ClassForged, "The block carries no receipt. Check that tpmsign is in the sender's pipeline and that nothing between it and here removes resource attributes."},
	{ReceiptNotUnique, ClassForged, "The resource carries more than one receipt or manifest attribute. Somebody on the way added one."},
	{ReceiptWrongType, ClassForged, "The receipt or manifest attribute is not of type bytes. A component that turns bytes into strings (an exporter to a text format and back) is on the way."},
	{ReceiptTooLarge, ClassForged, "The receipt is larger than any receipt can be."},
	{ReceiptMalformed, ClassForged, "The receipt is not a COSE_Sign1 of this profile: truncated, trailing bytes or wrong types."},
	{ReceiptNotDeterministic, ClassForged, "The receipt's CBOR is not in deterministic encoding, so its bytes were rewritten on the way."},
	{ReceiptLabels, ClassForged, "A header of the receipt carries a label too many or too few."},
	{ProfileUnknown, ClassForged, "The receipt follows a profile that this verifier does not know. Update the verifier, or check who signs."},
	{AlgorithmUnknown, ClassForged, "The receipt names a signature or tree algorithm that this verifier does not know."},
	{ProofCount, ClassForged, "The receipt carries no inclusion proof or more than one."},
	{ProofMalformed, ClassForged, "Leaf index or path of the inclusion proof do not fit the tree size."},
	{TreeSizeMismatch, ClassForged, "The tree size of the inclusion proof is not the one that was signed."},
	{StreamInvalid, ClassForged, "The stream name is empty, too long or not printable, the block number is zero, or the key has more streams in one epoch than a key may."},
	{AudienceMismatch, ClassForged, "The receipt was made for another audience. Compare `audience` of the tpm extension and of the nonce extension."},
	{NonceMissing, ClassPolicy, "The receipt has no nonce, and this verifier requires one. Configure `nonce` in the agent's tpm extension, or allow freshness `sequence`."},
	{NonceMalformed, ClassForged, "The nonce is too short or too long to be one of ours."},
	{NonceForged, ClassForged, "The nonce's MAC is wrong: it was not issued with this secret, or was changed."},
	{NonceForeign, ClassForged, "The nonce was issued for another key or audience."},
	{NonceStoreLost, ClassStale, "The nonce was issued by us, but the replay windows of that time are lost; what was signed under it can no longer be told from a replay."},
	{NonceExpired, ClassStale, "The nonce is older than max_delay allows. The data was held up too long on the way, or is replayed."},
	{NonceFuture, ClassForged, "The nonce was issued in this verifier's future. Check the clocks of the nonce servers."},
	{UnknownKey, ClassForged, "No key with this id is trusted here. Enrol the machine or add its key to keys.file (`telemark key show` prints it)."},
	{KeyUnavailable, ClassTransient, "Whether this key is trusted could not be found out, since the key source does not answer. The block waits."},
	{KeyPending, ClassPolicy, "The registry knows the key, and nobody has approved its machine yet. Approve it (`telemark fleet approve`), or put it on the allow-list."},
	{KeyRevoked, ClassPolicy, "The key was revoked."},
	{KeyExpired, ClassPolicy, "The key's lease has run out, or has not begun. The machine has to attest again."},
	{AlgorithmMismatch, ClassForged, "The receipt's algorithm is not the one recorded for its key."},
	{CurveMismatch, ClassForged, "The public key recorded for this kid is not on the curve that its algorithm demands."},
	{DigestMismatch, ClassForged, "The content is not what was signed: something on the way changed, added, removed or reordered data."},
	{ResourceChanged, ClassForged, "A resource attribute that was signed was changed, removed or repeated on the way."},
	{ResourceEnriched, ClassForged, "The resource carries attributes that were not signed. Set `tolerate: [enrich]` at the signer if a gateway may add them."},
	{BlockSplit, ClassForged, "Only a part of the signed block arrived. Set `tolerate: [split]` at the signer if a gateway may split, or stop the gateway from splitting."},
	{ManifestMissing, ClassForged, "The signer tolerates splitting, but the manifest was removed on the way."},
	{ManifestMalformed, ClassForged, "The manifest's length is not a multiple of 32 bytes, or it is empty or too long."},
	{ManifestMismatch, ClassForged, "The manifest is not the one that was signed."},
	{ItemMismatch, ClassForged, "An item of the block, or the resource, scope or metric it stands in, is not in the signed manifest."},
	{ReservedAttribute, ClassForged, "The block carries an attribute under the reserved prefix telemark, which no signer lets through."},
	{EmptyContainer, ClassForged, "The block holds a container without items, which no signer lets through."},
	{HiddenField, ClassForged, "The block carries fields that the digest cannot cover: unknown or deprecated ones, or string-table indices."},
	{InvalidUTF8, ClassForged, "A string of the block is not valid UTF-8, which no signer lets through."},
	{InvalidID, ClassForged, "A trace or span id has a wrong length."},
	{InvalidValue, ClassForged, "A value is of a form that OTLP does not have."},
	{TooDeep, ClassForged, "Attribute values are nested deeper than 64 levels."},
	{EntityRefs, ClassForged, "The resource carries entity references that the digest does not cover."},
	{SignatureInvalid, ClassForged, "The signature is not the key's over this statement and tree: receipt, stream, number or proof were changed, or another key signed."},
	{UnprovenTPM, ClassPolicy, "Nothing proves that the key is in a genuine TPM: a join token alone vouches for the machine. Such blocks pass under this verdict, unless policy requires evidence `genuine`; then they are refused."},
	{IdentityMismatch, ClassPolicy, "The resource names another machine than the key's. Compare the bound attribute with the key's name."},
	{NotFresh, ClassPolicy, "The nonce is older than policy allows for this key."},
	{LocationMissing, ClassPolicy, "Policy requires a location, and the receipt has none."},
	{LocationStale, ClassPolicy, "The location was taken too long before signing."},
	{LocationSourceNotAllowed, ClassPolicy, "The location comes from a source that policy does not accept."},
	{LocationTooInaccurate, ClassPolicy, "The location's accuracy is unknown or coarser than policy accepts."},
	{LocationOutside, ClassPolicy, "The location is outside the area that policy allows."},
	{ImpossibleTravel, ClassPolicy, "The machine cannot have come from where it was before to this location in that time. One of the two positions is wrong, or the key signs in two places."},
	{Duplicate, ClassReplayed, "The block was accepted before. A gateway sent it again, or somebody replays it."},
	{InFlight, ClassTransient, "The block is being delivered by another request right now."},
	{TooLate, ClassStale, "The block's place in its stream was closed before it arrived."},
	{EpochRetired, ClassStale, "The block belongs to an epoch of its agent that has been closed."},
	{Equivocation, ClassForged, "The key signed two different statements under one epoch and sequence number. The agent's state was copied or rolled back: treat the machine as compromised."},
	{ChainBroken, ClassForged, "The statement does not name the statement before it, or comes after one that a later epoch names as the last. The agent's state was copied or rolled back (a storage without `fsync: true` does that in a power cut): else treat the machine as compromised."},
	{WindowFull, ClassTransient, "The key has as many ranges, incomplete blocks or blocks in flight as one key may. Sending again works once older ones have run out."},
	{StoreUnavailable, ClassTransient, "The replay windows cannot be written. Nothing is accepted until they can."},
	{RefusedDownstream, ClassPolicy, "The next component refused the verified block for good."},
}

var byReason = func() map[Reason]entry {
	m := make(map[Reason]entry, len(table))
	for _, e := range table {
		m[e.reason] = e
	}
	return m
}()

// All returns every reason, in the order of judgement.
func All() []Reason {
	out := make([]Reason, len(table))
	for i, e := range table {
		out[i] = e.reason
	}
	return out
}

// Parse returns the reason with this name.
func Parse(s string) (Reason, error) {
	if _, ok := byReason[Reason(s)]; !ok {
		return "", fmt.Errorf("reason %q is not known", s)
	}
	return Reason(s), nil
}

// Class returns the class of r, ClassUnknown for what is not a reason.
func (r Reason) Class() Class { return byReason[r].class }

// Help says in a sentence or two what happened and what to check.
func (r Reason) Help() string { return byReason[r].help }

// Error is a refusal: the enumerated reason and, for people, what was found.
// Detail never holds secrets; it may hold attribute keys and numbers of the
// refused block, bounded in length.
type Error struct {
	Reason Reason
	Detail string
	Err    error
}

// New returns a refusal with a formatted detail.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Wrap returns a refusal caused by err.
func Wrap(r Reason, err error) *Error { return &Error{Reason: r, Err: err} }

func (e *Error) Error() string {
	switch {
	case e.Err != nil && e.Detail != "":
		return string(e.Reason) + ": " + e.Detail + ": " + e.Err.Error()
	case e.Err != nil:
		return string(e.Reason) + ": " + e.Err.Error()
	case e.Detail != "":
		return string(e.Reason) + ": " + e.Detail
	default:
		return string(e.Reason)
	}
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is a refusal for the same reason, so that
// errors.Is(err, &Error{Reason: r}) asks for a reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason && t.Detail == "" && t.Err == nil
}

// Of returns the reason of err, or "" when err is nil or carries none.
func Of(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}
