// Package registry is the verifier's side of the registry: it mirrors which
// keys are trusted, from signed answers (internal/registry/answer), and tells
// verifiers from memory.
//
//	GET /v1/keys?since=REVISION&nonce=   all that changed, in pages: answer.Snapshot
//	GET /v1/events?since=REVISION&nonce= what changes from now on: answer.Event, answer.Heartbeat
//	GET /v1/keys/{kid}?nonce=            one key on first sight: answer.Key
//
// Nobody on the way is trusted with more than keeping answers back, and that
// shows: every answer carries the nonce of its request, revisions never go back,
// events name the one before, and a heartbeat a second says up to where the
// stream has come. Whatever is missed leads to a snapshot at once; without
// heartbeats there is one every second or so. What was last proven to be
// current is relied on for max_stale and no longer; from then on every key is
// unavailable, and blocks wait.
//
// That a key is unknown counts only under a signature: an answer that says so,
// or a complete snapshot that was asked for after the key was first seen.
//
// A cache on disk keeps the signed answers as they came. They are verified
// again when they are read, so that whoever changes the file is trusted with
// nothing.
//
// What it leaves out: judging blocks (internal/verdict), and what a policy
// means (internal/policy).
package registry
