// Package receipt is the wire format of Telemark's receipts, docs/spec/receipt.md:
// the statement that a TPM signs, the leaf that stands for a block in the tree
// of its group, the COSE_Sign1 that carries both, and its strict codec.
//
// It follows RFC 9052 (COSE_Sign1, detached payload), RFC 9597 (CWT claims in
// the protected header), RFC 9711 (EAT claims), RFC 9942 (COSE receipts with
// RFC 9162 inclusion proofs) and RFC 8949 §4.2.1 (deterministic encoding).
//
// Left out: every COSE header and EAT claim that the profile does not name,
// consistency proofs, attached payloads, countersignatures. Nothing here judges
// keys, nonces or policy, does I/O or reads the clock.
package receipt
