// Package tpmsignprocessor is the `tpmsign` processor: it turns each
// ResourceMetrics, ResourceLogs and ResourceSpans (a block) into the digest of
// docs/spec/digest.md, gets a receipt for it from the tpm extension and
// attaches the receipt to the resource (docs/spec/receipt.md). The tpm
// extension is found through [go.opentelemetry.io/collector/component.Host]
// and the interface committer; everything about keys, groups, numbers and
// nonces is its affair.
//
// What the processor itself promises:
//
//   - Nothing leaves without a receipt.
//   - A caller that got success has its data with the next consumer or in the
//     pending store.
//   - A block that was given a number reaches the next consumer, unless that
//     refuses it for good; so a verifier sees a gap only where data is missing.
//
// It holds the next consumer itself instead of using processorhelper, whose
// functions must not call it. Profiles are not supported.
package tpmsignprocessor

//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml
