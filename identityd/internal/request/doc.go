// Package request verifies what people send to identityd: Ed25519 signatures
// (RFC 8032) first, over the bytes as they came, and only then the body, read by
// an exact schema (package strictjson).
//
// What is signed, and how no signature serves two purposes:
//
//   - Registering as operator or owner: the 32 raw bytes of the instance key, and
//     in the /v1/ form the request besides, by the same key.
//   - The older form (/workload/configure, /workload/expose): the raw body, a JSON
//     object. It is at least 80 bytes long, since it names the instance in
//     hexadecimal, and so is never an instance key. Every member of every kind of
//     body is required and no other is read, so that no body is of two kinds.
//     Bodies that were accepted are remembered.
//   - The /v1/ form: the message of package api, which begins with a tag that no JSON
//     begins with. Its counter is the state's, which every step raises: it works
//     once, and nothing has to be remembered.
//
// It does no I/O, limits no body's size (the server does, before anything is
// read) and does not compare the image with the configured one or a token with
// the given one (package state does).
package request
