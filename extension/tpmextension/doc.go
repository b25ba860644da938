//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package tpmextension is the agent's signer: it owns the TPM and the signing
// key of the process, gathers the blocks of every pipeline into groups, and
// gives each a receipt. It implements the agent's side of docs/spec/receipt.md
// and of the nonce protocol; the tree and the chain of statements are package
// group's, TPM commands package tpm's. Where a registry is configured it enrols
// the key there (docs/spec/enrolment.md, package enrolment) and signs while the
// lease lasts; what a key is worth is decided where receipts are verified.
package tpmextension
