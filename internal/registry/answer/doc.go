// Package answer is what the registry says under its signature: a
// COSE_Sign1 (RFC 9052) with EdDSA (Ed25519) around strict JSON. Both sides use
// it: registryd makes answers, verifiers check them against pinned keys.
//
//	COSE_Sign1, tag 18 = [
//	  protected:   {1 alg: -8, 3 content type: "application/telemark-KIND+json", 4 kid: 8 bytes},
//	  unprotected: {},
//	  payload:     bstr, JSON,
//	  signature ]
//
// kid is the first 8 bytes of SHA-256 of the key's SubjectPublicKeyInfo. The
// content type separates the kinds, so that no answer can stand for one of
// another kind. Decoding is strict: deterministic CBOR, exactly these labels,
// no trailing bytes, no unknown, repeated or case-variant member in the JSON.
//
// It does no I/O and reads no clock. What it leaves out: which answer is newer,
// and how long one may be relied on (internal/registry).
package answer
