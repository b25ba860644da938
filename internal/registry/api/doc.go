// Package api holds what registryd and those who talk to it share: the wire
// structs of its HTTP interface (registryd/internal/server/openapi.yaml
// describes it), the enumerated reasons of its refusals, and the byte strings
// that both sides hash when a machine enrols (docs/spec/enrolment.md). There is
// no logic in it beyond encoding, and no I/O.
//
// Bytes are base64 (RFC 4648, section 4) in the structs of TPM machines and
// of keys, where the Go encoding of []byte says so, and lower-case hexadecimal
// in kids, hashes and the structs of TDX instances, as [Hex] says.
package api
