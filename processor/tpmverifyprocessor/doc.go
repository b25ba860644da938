// Package tpmverifyprocessor is the Collector processor tpmverify: it verifies
// the receipts of package internal/receipt block by block, holds the blocks
// against policy and replay windows, and hands on what may pass.
//
// It is an adapter: what is judged stands in internal/verdict, what is digested
// in internal/digest, what was seen before in internal/replay behind the nonce
// extension. Here stand the protocol with the next component (claim, deliver,
// confirm), what becomes of blocks that are refused, and the key file's watch.
//
// It leaves out keys from a registry; keySource is the seam for it.
package tpmverifyprocessor

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml
