// Package enrolment is the machine's side of docs/spec/enrolment.md: it shows
// the registry endorsement key, attestation key and signing key of a TPM,
// answers its challenge, and says what came of it. What the registry sends is
// bounded, in bytes and in time, and read strictly. Every failure is an
// [Error], which says whether the same attempt may succeed later; a refusal
// unwraps to [*api.Error].
//
// Left out are what needs a place or a clock of its own: keeping leases,
// renewing them, pausing between attempts, reading tokens.
package enrolment
