package main

import (
	"crypto/elliptic"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// resigned returns the scene's block as the agent signs it after a change of
// the agent.
func (s *scene) resigned(change func(*agent)) []byte {
	a := s.before.fork()
	change(a)
	return a.one(s.data, s.tolerance).bytes()
}

// nonces are receipts whose nonce or audience is not the verifier's.
func nonces(b *book) {
	bad := func(name, about string, why reason.Reason, change func(*agent)) {
		b.attack(name, about, block.Logs, 0, why, func(s *scene) []byte { return s.resigned(change) })
	}
	flip := func(at int) func(*agent) {
		return func(a *agent) {
			a.nonce = slices.Clone(a.nonce)
			a.nonce[at] ^= 1
		}
	}
	bad("audience-mismatch", "The receipt is for another collector, with a nonce of this one.", reason.AudienceMismatch,
		func(a *agent) { a.audience = "https://other.example" })
	bad("audience-case", "The audience differs in case only.", reason.AudienceMismatch,
		func(a *agent) { a.audience = "https://Collector.example" })
	bad("nonce-missing", "There is no nonce, and the key's policy asks for one.", reason.NonceMissing, func(a *agent) { a.forget() })

	forged := forger(b, 0)
	forged("nonce-empty", "The nonce is there and empty.", reason.NonceMalformed, forgery{claims: putting(10, []byte{})})
	forged("nonce-of-7-bytes", "The nonce has 7 bytes.", reason.NonceMalformed, forgery{claims: putting(10, make([]byte, 7))})
	forged("nonce-of-65-bytes", "The nonce has 65 bytes.", reason.NonceMalformed, forgery{claims: putting(10, make([]byte, 65))})
	forged("nonce-text", "The nonce is a text.", reason.ReceiptMalformed, forgery{claims: putting(10, "nonce")})
	bad("nonce-malformed", "The nonce has 31 bytes: a receipt may hold it, a nonce of ours is longer.", reason.NonceMalformed,
		func(a *agent) { a.nonce = a.nonce[:31] })

	bad("nonce-forged-mac", "A bit of the nonce's MAC is turned over.", reason.NonceForged, flip(31))
	bad("nonce-forged-time", "T was moved: a bit of the nonce's time is turned over.", reason.NonceForged, flip(5))
	bad("nonce-forged-random", "A bit of the nonce's random part is turned over.", reason.NonceForged, flip(12))
	bad("nonce-forged-secret", "The nonce was made with another secret.", reason.NonceForged,
		func(a *agent) { a.nonce = mint(sum("another secret"), storeEpoch, audience, a.kid, t0, 32) })
	bad("nonce-forged-store-epoch", "A bit of the nonce's store epoch is turned over; the MAC is wrong under that epoch, too.", reason.NonceForged, flip(9))
	bad("nonce-forged-longer", "A byte was put into the nonce's random part.", reason.NonceForged,
		func(a *agent) { a.nonce = slices.Insert(slices.Clone(a.nonce), 14, 0) })
	bad("nonce-foreign-key", "The nonce was issued for another machine.", reason.NonceForeign,
		func(a *agent) { a.nonce = mint(secret, storeEpoch, audience, newAgent("edge-b").kid, t0, 32) })
	bad("nonce-foreign-audience", "The nonce was issued by a collector with the same secret and another audience.", reason.NonceForeign,
		func(a *agent) { a.nonce = mint(secret, storeEpoch, "https://other.example", a.kid, t0, 32) })
	bad("nonce-store-lost", "The nonce is genuine and of an earlier store epoch.", reason.NonceStoreLost,
		func(a *agent) { a.nonce = mint(secret, [4]byte{0x5e, 0, 0, 0}, audience, a.kid, t0, 32) })
	bad("nonce-expired", "The nonce is 1 ms older than max_delay; iat says that the block is fresh.", reason.NonceExpired, func(a *agent) {
		a.fetch(arrival.Add(-maxDelay - time.Millisecond))
		a.iat = arrival
	})
	bad("nonce-future", "The nonce is 1 ms further ahead than skew allows.", reason.NonceFuture,
		func(a *agent) { a.fetch(arrival.Add(skew + time.Millisecond)) })
}

// keys are receipts of machines that are not trusted, or not any more.
func keys(b *book) {
	unknown := newScene(block.Logs, 0)
	b.add("key-unknown", "The verifier does not know the key; everything else is right.", block.Logs, unknown.b).
		step(arrival, refused(unknown.honest.bytes(), reason.UnknownKey), good(unknown.neighbour))

	record := func(name, about string, why reason.Reason, change func(p *page)) {
		s := newScene(block.Logs, 0)
		p := b.add(name, about, block.Logs, s.a, s.b)
		change(p)
		p.step(arrival, refused(s.honest.bytes(), why), good(s.neighbour))
	}
	record("key-revoked", "The key was revoked.", reason.KeyRevoked, func(p *page) { p.Keys[0].Revoked = "stolen" })
	record("key-lease-over", "The lease ended before T.", reason.KeyExpired, func(p *page) { p.Keys[0].NotAfter = new(t0.Add(-time.Millisecond)) })
	record("key-lease-not-begun", "The lease begins after now.", reason.KeyExpired, func(p *page) { p.Keys[0].NotBefore = new(arrival.Add(time.Millisecond)) })
	record("key-superseded-before", "The key was superseded, before T.", reason.KeyExpired, func(p *page) {
		p.Keys[0].Revoked, p.Keys[0].NotAfter = "superseded", new(t0.Add(-time.Second))
	})
	record("key-superseded-without-end", "The key was superseded, and nothing says until when it was used.", reason.KeyRevoked, func(p *page) {
		p.Keys[0].Revoked, p.UnusualKeys = "superseded", true
	})
	p384 := privateKey(elliptic.P384(), "edge-a")
	record("key-algorithm-mismatch", "The key's record is for ES384, the receipt says ES256.", reason.AlgorithmMismatch, func(p *page) {
		e := &p.Keys[0]
		e.Algorithm, e.PublicKey, e.TPMPublic, p.UnusualKeys = "ES384", pemOf(&p384.PublicKey), nil, true
	})
	record("key-curve-mismatch", "The key's record says ES256, its public key is on P-384.", reason.CurveMismatch, func(p *page) {
		p.Keys[0].PublicKey, p.Keys[0].TPMPublic, p.UnusualKeys = pemOf(&p384.PublicKey), nil, true
	})
}
