package main

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/receipt"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// accepted are blocks that have to be accepted.
func accepted(b *book) {
	plain := func(name, about string, data digest.Batch, change func(*agent)) {
		a := newAgent("edge-a")
		if change != nil {
			change(a)
		}
		b.add(name, about, data.Signal(), a).step(arrival, good(a.one(data, 0)))
	}
	for _, kind := range []string{"gauge", "sum", "histogram", "exponential_histogram", "summary"} {
		plain("ok-metrics-"+strings.ReplaceAll(kind, "_", "-"), "A metric of kind "+kind+", with every field of its points set and unset.", onlyMetric(kind), nil)
	}
	plain("ok-metrics-all-kinds", "One scope with metrics of all kinds, resource and scope with all their fields.", points(), nil)
	plain("ok-logs", "Log records with every field, every kind of value as attribute and body, and entity references.", records(), nil)
	plain("ok-traces", "Spans with every field, events, links and a span with nothing in it.", spans(), nil)

	plain("ok-group-of-one", "A group of one block: the path is empty.", sample(block.Logs, "edge-a"),
		func(a *agent) { a.ahead, a.behind = 0, 0 })
	plain("ok-group-first-of-six", "The first leaf of six.", sample(block.Logs, "edge-a"),
		func(a *agent) { a.ahead, a.behind = 0, 5 })
	plain("ok-group-last-of-five", "The last leaf of five, which has the shortest path.", sample(block.Logs, "edge-a"),
		func(a *agent) { a.ahead, a.behind = 4, 0 })
	plain("ok-group-of-65536", "The largest group, its path has 16 hashes.", sample(block.Logs, "edge-a"),
		func(a *agent) { a.ahead, a.behind = 43690, 65536-43691 })
	plain("ok-largest-numbers", "Epoch, seq and block number are 2^63-1, aud has 128 bytes in two-byte characters, the stream 64.",
		sample(block.Logs, "edge-a"), nil)
	largest(b.vectors[len(b.vectors)-1])
	plain("ok-location-all-fields", "A location with all its fields; numbers in half, single and double precision.", sample(block.Logs, "edge-a"),
		func(a *agent) {
			a.location = &receipt.Location{
				Latitude: -33.5, Longitude: 151.20929718017578, Altitude: new(-1.1), Accuracy: new(65504.0),
				Timestamp: new(t0.Unix() - 30), Age: new(int64(32)), Source: "gpsd",
			}
		})
	plain("ok-location-zero", "A location on the equator and the prime meridian, without more.", sample(block.Logs, "edge-a"),
		func(a *agent) { a.location = &receipt.Location{Latitude: 0, Longitude: 0, Source: "static"} })
	plain("ok-nonce-of-64-bytes", "The longest nonce.", sample(block.Logs, "edge-a"),
		func(a *agent) { a.nonce = mint(secret, storeEpoch, audience, a.kid, t0, 64) })

	onTheWay(b)
	inTime(b)
	together(b)
}

// largest replaces the vector's content: the audience is another one, too.
func largest(v *vector.Vector) {
	a := newAgent("edge-a")
	v.Audience = strings.Repeat("é", 64)
	a.audience = v.Audience
	a.nonce = mint(secret, storeEpoch, a.audience, a.kid, t0, 32)
	a.epoch, a.seq = receipt.MaxCounter, receipt.MaxCounter-1
	stream := strings.Repeat("!~", 32)
	a.numbers[stream] = receipt.MaxCounter - 1
	s := a.sign(unsigned{batch: sample(block.Logs, "edge-a"), stream: stream})[0]
	v.Steps = nil
	(&page{v}).step(arrival, good(s))
}

// onTheWay are changes that are none.
func onTheWay(b *book) {
	a := newAgent("edge-a")
	s := a.one(records(), 0)
	messages := func(path []int) bool {
		switch len(path) {
		case 1:
			return path[0] == toResource || path[0] == toScopes
		case 2:
			return path[0] == toResource && (path[1] == 1 || path[1] == 3) || path[0] == toScopes && path[1] <= 2
		case 3:
			return path[2] == 6 && path[1] == toItems
		default:
			return false
		}
	}
	b.add("ok-other-bytes-same-message", "The bytes differ from those that were signed: fields in other order, varints and lengths longer than needed.", block.Logs, a).
		step(arrival, sent{bytes: scatter(s.bytes(), messages), want: s.verified()})

	a = newAgent("edge-a")
	s = a.one(points(), 0)
	canonical, other := fixed64s(0x7ff8000000000000), fixed64s(0xfff0000000000123)
	wire := bytes.ReplaceAll(s.bytes(), canonical, other)
	b.add("ok-other-nan", "Every NaN has arrived with another payload and sign; a verifier rewrites them.", block.Metrics, a).
		step(arrival, sent{bytes: wire, want: s.verified()})

	a = newAgent("edge-a")
	s = a.one(onlyMetric("summary"), 0)
	// sum (5) of the point and quantile (1) of the first value are implicit: zero is absent, so is -0.
	minus := binary.LittleEndian.AppendUint64(nil, 1<<63)
	wire = plus(s.bytes(), field{1, wireEight, minus}.encode(), toScopes, toItems, 11, 1, 6)
	b.add("ok-negative-zero-is-absent", "A double with implicit presence has arrived as -0 where nothing was signed; a verifier rewrites it.", block.Metrics, a).
		step(arrival, sent{bytes: wire, want: s.verified()})

	a = newAgent("edge-a")
	s = a.one(sample(block.Logs, "edge-a"), 0)
	r := *s.receipt
	r.Signature = otherForm(r.Signature)
	b.add("ok-other-form-of-signature", "r | n-s verifies where r | s does. It says nothing else: what comes second is a duplicate.", block.Logs, a).
		step(arrival, sent{bytes: s.with(must(r.Encode()), nil), want: s.verified()}).
		step(arrival.Add(time.Second), refused(s.bytes(), reason.Duplicate))
}

// otherForm is the other signature that is right when r | s is.
func otherForm(signature []byte) []byte {
	n := newAgent("edge-a").key.Params().N
	s := new(big.Int).SetBytes(signature[32:])
	out := bytes.Clone(signature)
	s.Sub(n, s).FillBytes(out[32:])
	return out
}

// inTime are blocks at the edges of time.
func inTime(b *book) {
	stale := func(name, about string, now time.Time, freshness string) {
		a := newAgent("edge-a")
		s := a.one(sample(block.Logs, "edge-a"), 0)
		want := s.verified()
		want.Claims.Freshness = freshness
		b.add(name, about, block.Logs, a).step(now, sent{bytes: s.bytes(), want: want})
	}
	stale("ok-live-to-the-last", "The nonce is as old as live_within: live.", t0.Add(5*time.Minute), "live")
	stale("ok-stale", "The nonce is 1 ms older than live_within: stale, which policy allows.", t0.Add(5*time.Minute+time.Millisecond), "stale")
	stale("ok-as-old-as-allowed", "The nonce is as old as max_delay.", t0.Add(maxDelay), "stale")
	stale("ok-ahead-as-far-as-allowed", "The nonce is as far ahead as skew allows.", t0.Add(-skew), "live")

	a := newAgent("edge-a")
	a.forget()
	p := b.add("ok-without-nonce", "The receipt has no nonce and the key's policy allows that: freshness sequence. Age then does not matter.", block.Logs, a)
	p.Keys[0].Freshness = "sequence"
	p.step(arrival.Add(30*maxDelay), good(a.one(sample(block.Logs, "edge-a"), 0)))

	a = newAgent("edge-a")
	p = b.add("ok-superseded-key", "The key was superseded, after T.", block.Logs, a)
	p.Keys[0].Revoked, p.Keys[0].NotAfter = "superseded", new(t0)
	p.step(arrival, good(a.one(sample(block.Logs, "edge-a"), 0)))

	a = newAgent("edge-a")
	p = b.add("ok-lease-ran-out-after-signing", "The key's lease has run out by now, but not at T.", block.Logs, a)
	p.Keys[0].NotBefore, p.Keys[0].NotAfter = new(t0.Add(-time.Hour)), new(t0.Add(time.Millisecond))
	p.step(arrival, good(a.one(sample(block.Logs, "edge-a"), 0)))
}

// together are blocks of several statements, streams and machines.
func together(b *book) {
	a, c := newAgent("edge-a"), newAgent("edge-b")
	one := a.sign(unsigned{batch: sample(block.Traces, "edge-a")}, unsigned{batch: spans()}, unsigned{batch: spans(), stream: "other"})
	two := a.one(sample(block.Traces, "edge-a"), 0)
	other := c.one(sample(block.Traces, "edge-b"), block.Split)
	b.add("ok-merged-request", "A gateway merged blocks of two machines, three statements and three streams, in no order.", block.Traces, a, c).
		step(arrival, good(two), good(other), good(one[2]), good(one[0]), good(one[1]))

	a = newAgent("edge-a")
	first := a.one(sample(block.Logs, "edge-a"), 0)
	second := a.one(sample(block.Logs, "edge-a"), 0)
	a.restart()
	third := a.one(sample(block.Logs, "edge-a"), 0)
	b.add("ok-late-and-restarted", "Three statements of two epochs arrive backwards; each names the one before it.", block.Logs, a).
		step(arrival, good(third)).step(arrival.Add(time.Second), good(second)).step(arrival.Add(2*time.Second), good(first))

	a = newAgent("edge-a")
	data := sample(block.Logs, "edge-a")
	data.Logs().ResourceLogs().At(0).ScopeLogs().At(0).Scope().SetName(digest.HeartbeatScope)
	b.add("ok-heartbeat", "A block in the signer's own scope is a block like others.", block.Logs, a).step(arrival, good(a.one(data, 0)))
}
