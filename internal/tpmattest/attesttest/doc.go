// Package attesttest makes TPM evidence for tests, good and bad: a software TPM
// that is spoken to directly, so that it makes keys which internal/tpm would
// never make, and an authority that certifies endorsement keys, rightly and
// wrongly.
package attesttest
