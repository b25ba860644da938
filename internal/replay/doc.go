// Package replay keeps the windows that let each block of each stream be
// accepted once (docs/spec/receipt.md, section "Windows"): claim, deliver,
// confirm. It is a state machine over block numbers; signatures, nonces and
// policy were judged before anything gets here, so what it keeps per key is
// bounded by the keys that are trusted.
//
// Windows. Per (scope, key, epoch, stream) the numbers that are settled are kept
// as a watermark and ranges above it. A number is settled when its block was
// confirmed, or when the hole it stands in was closed. What was claimed and not
// yet confirmed is in flight under a token and a lease; what was released stays
// noted as attempted, durably, since behind a fan-out some may have it already. A
// block that may arrive in fragments has a bitmap over its items for as long as it
// is incomplete: until max_delay has passed, or until the bounds of its key are
// reached and its missing items were reported.
//
// Holes. A hole is reported after Limits.GapTimeout, which does not close it: what
// arrives later is accepted and counted as a late fill. Holes are closed
// after Limits.MaxDelay, when no block that belongs there can pass the nonce
// check any more, or when a window would need more than Limits.MaxRanges
// ranges (then the lowest reported one, or else the lowest, reported with it: waiting
// would hold up everybody in the same requests). What arrives in a closed hole is
// too_late. The ranges closed are remembered, at most 64 per stream; beyond that
// neighbours are merged, so that a block that had been confirmed between two
// holes that were given up may be called too_late, but a block that never was
// accepted is never called duplicate.
//
// Epochs. A key has at most Limits.MaxEpochs live epochs per scope; a ninth one
// retires the lowest. An epoch is retired, too, when nothing signed in it can pass the
// nonce check any more and a later one exists. The floor below which every
// epoch is retired is kept for ever. The latest epoch of a key is never retired
// by time, since its machine may come back after a week offline; [Local.Cleanup]
// removes its windows on request.
//
// Equivocation. For each (key, epoch), over all scopes, the fingerprints of the
// last 64 statements are kept: another statement under a known sequence number
// is equivocation, a statement that does not name the one known before it (or
// is not named by the one known after it) breaks the chain. So does a statement
// that was made after the one that the first of a later epoch names as the last
// before it: the agent's state was set back. Only names that are known are
// held against anything, since an agent that dies between writing a statement and
// giving it out names what nobody ever saw. A statement more than 64 behind the
// newest is not checked against its number and its neighbours; its blocks then are
// judged by their numbers alone. A fingerprint is 8 bytes of a SHA-256 keyed with a random
// value of the store, so that nobody can search for collisions.
//
// Journeys. Of keys whose policy bounds their speed a few positions are kept, and
// a block whose position cannot be reached from them is refused; see journey.
//
// Beginnings. Blocks are numbered from 1 in each epoch, so a stream that is seen
// first at number n > 1 has a hole below it. When its scope takes part for less
// than Limits.SilentAfter, never knew another epoch of the key, and the first
// statement that it sees has a sequence number above 64, the epoch was running before:
// the first hole of each of its streams takes late arrivals like any other but is
// not reported as a gap, since the scope cannot know what went before it. The same
// holds after [Local.Cleanup] removed a window.
//
// Durability. [Local] keeps its records through a [Persister]: confirms are
// durable before Confirm returns, and so is, before Claim returns, that what is
// claimed may be delivered; concurrent calls share one write. Claims are not
// written one by one: each window is written with a number ahead of its claims,
// the reservation, up to which they need no write; a claim under a later nonce than is on disk
// needs one, since the nonce says how long the window is kept. What a process leaves behind
// that dies is told from what nobody ever had only roughly then: everything up to
// the reservation that is not settled is a redelivery when it is claimed. After
// [Local.Close] it is told exactly. A sender that repeats what is confirmed and not
// yet durable waits for that, too. While writes fail nothing is claimed. A record that is missing or damaged means that the store is lost: all of
// it is dropped and a new store epoch is drawn, so that everything signed under
// nonces of the old one is refused. There is one process per Persister; windows shared
// by several processes need another implementation of [Store].
//
// What it leaves out: the judgement of time (nonces are leases; see package
// nonce), everything about content, and protection against someone who puts
// back an old copy of the storage directory.
package replay
