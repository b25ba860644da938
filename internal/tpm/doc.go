// Package tpm is the only code of the project that opens a TPM. It speaks TPM
// 2.0 (TCG TPM 2.0 Library Specification, revision 1.59; commands are cited by
// their section of part 3) over the kernel's character devices, over a raw TPM
// stream on a unix or TCP socket, and to an swtpm process that it starts and
// owns. It makes a signing key, or takes over one that tpm2-tools made, keeps it,
// signs digests with it, and gives the evidence that attestation needs: endorsement keys and certificates, an
// attestation key, Certify, Quote and ActivateCredential. Judging such
// evidence is for verifiers and not done here. Left out: TPM 1.2, the framing
// of the Microsoft simulator, policies of one's own, audit sessions.
//
// # Overview
//
//	dev, err := tpm.Open(ctx, "swtpm:/var/lib/telemark/tpm", tpm.Options{})
//	key, err := dev.OpenKey(ctx, tpm.KeyOptions{Dir: "/var/lib/telemark/key", Name: "edge-a"})
//	sig, err := key.Sign(ctx, digest)                // r ‖ s, 64 bytes with ES256
//	epoch, err := dev.Increment(ctx, tpm.DefaultCounterIndex)
//	props, err := dev.Properties(ctx)
//	clock, err := dev.Clock(ctx)
//	info, err := tpm.ReadKeyInfo("/var/lib/telemark/key") // no TPM needed
//	info, err = dev.HandleInfo(ctx, 0x81020000)
//	key.Close(); dev.Close()
//
// A [Device] serves any number of goroutines and has one command in flight. It
// reconnects by itself at the next call after a failure; a [Key] notices that
// and loads its key again. No call waits longer than its context: the command
// under way is then finished in the background, since a TPM cannot forget one.
//
// # Errors
//
// Every error is put by [Classify] into one of four classes: [Transient] (ask
// again, nothing is wrong), [Gone] (the TPM is not there or was restarted; the
// next call reconnects), [Lockout] (dictionary attack protection holds the
// TPM) and [Permanent] (asking again gives the same answer). Sentinels such as
// [ErrWrongTPM] tell more.
//
// # Key hierarchy
//
//	endorsement hierarchy                       owner (storage) hierarchy
//	├─ EK, RSA-2048, ECC P-256 or P-384         └─ SRK, ECC P-256 or RSA-2048
//	│  (TCG templates L-1, L-2, H-3)               │  (TCG templates)
//	└─ AK, restricted, primary with a              └─ signing key, unrestricted,
//	   template of its own                            auth value
//
// Which algorithms AK, SRK and signing key have goes by the signing key's; see
// [Algorithm].
//
// The AK is a primary key of the endorsement hierarchy, not a child of the EK:
// a child's parent has to be authorised by a policy session at each load, a
// primary is made again from the hierarchy's seed, has the same Name each
// time, and leaves nothing to keep or lose. Attestations of a key in this
// hierarchy show the true reset counter and firmware version, which those of
// the owner hierarchy hide.
//
// The signing key is a child of the storage root key, because what lives as
// long as an installation belongs to the owner, and because its blobs cost the
// TPM no room. It may instead be made persistent at a handle. It is exempt from
// dictionary attack protection: 32 random bytes cannot be guessed, while a few
// power cuts, or any local user, can lock a protected key for hours.
//
// A key that others made ([Import]) is loaded under the parent that it was made
// under, a primary key that is made again from its template or a key at a
// persistent handle, or it is used at a persistent handle of its own, without
// blobs ("adopted"). Its public area has to be what verifiers accept; noDA, a
// policy and the lack of an auth value are taken and said ([Key.Cautions]). An
// auth value is tried once: for a protected key the TPM counts. Saved contexts
// are not imported, since they end with the TPM's next reset.
//
// Use of the signing key is authorised in a kept HMAC session that is salted
// to the storage root key and encrypts the command's first parameter, so that
// somebody on the bus between processor and TPM sees no auth value and can
// forge no answer; so it is for an imported key. The storage root key's public area is learnt once, when the
// signing key is made, and pinned in the key's directory; until a registry has
// activated the EK that first use is taken on trust. Each signature is
// verified in software before it is returned.
//
// # A key's directory
//
// It has mode 0700 and one owner at a time. signing-key.json holds the blobs
// and the auth value and is written once; key.json holds what verifiers need,
// in the form of a keys.file. A directory without either is new, one with
// only key.json is damaged: a key is never replaced by itself. The record of an
// imported key is of version 2, which says its parent or its handle.
package tpm
