package main

import (
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// windows are blocks that are right, and not right any more.
func windows(b *book) {
	duplicates(b)
	late(b)
	epochs(b)
	chains(b)
}

func duplicates(b *book) {
	for _, signal := range signals {
		s := newScene(signal, 0)
		b.add("duplicate-"+signal.String(), "A block arrives again, beside one that is new.", signal, s.a, s.b).
			step(arrival, good(s.honest)).
			step(arrival.Add(time.Hour), refused(s.honest.bytes(), reason.Duplicate), relive(good(s.neighbour)))
	}
	s := newScene(block.Logs, 0)
	b.add("duplicate-in-request", "A block is twice in one request.", block.Logs, s.a).
		step(arrival, good(s.honest), refused(s.honest.bytes(), reason.Duplicate))

	a := newAgent("edge-a")
	first := a.one(sample(block.Logs, "edge-a"), 0)
	a.numbers = map[string]uint64{}
	again := a.one(records(), 0)
	b.add("duplicate-number", "The agent's next statement gives another block the same number of the same stream.", block.Logs, a).
		step(arrival, good(first)).step(arrival, refused(again.bytes(), reason.Duplicate))
	a = newAgent("edge-a")
	one, two := a.one(sample(block.Logs, "edge-a"), 0), a.sign(unsigned{batch: sample(block.Logs, "edge-a"), stream: "other"})[0]
	b.add("ok-equal-numbers", "Equal numbers of two streams are two blocks, even of equal content.", block.Logs, a).
		step(arrival, good(one)).step(arrival, good(two))
}

// relive corrects what good assumes: that the nonce is young.
func relive(x sent) sent {
	x.want.Claims.Freshness = "stale"
	return x
}

func late(b *book) {
	a := newAgent("edge-a")
	a.forget()
	var blocks []*signed
	for range 4 {
		blocks = append(blocks, a.one(sample(block.Logs, "edge-a"), 0))
	}
	closes := arrival.Add(maxDelay + skew)
	p := b.add("late-hole-closed", "Blocks 1 and 4 arrive. Block 2 fills its hole late; block 3 comes when the hole is closed, which is max_delay and skew after block 4: "+
		"too late, and not a duplicate. (The blocks have no nonce; with one they would have expired.)", block.Logs, a)
	p.Keys[0].Freshness = "sequence"
	p.step(arrival, good(blocks[0]), good(blocks[3])).
		step(arrival.Add(time.Hour), good(blocks[1])).
		sweep(closes).
		step(closes, refused(blocks[2].bytes(), reason.TooLate), refused(blocks[1].bytes(), reason.Duplicate))

	a = newAgent("edge-a")
	a.forget()
	blocks = nil
	for range 3 {
		blocks = append(blocks, a.one(sample(block.Logs, "edge-a"), 0))
	}
	p = b.add("ok-hole-not-closed-yet", "The same, 1 ms earlier: block 2 is accepted.", block.Logs, a)
	p.Keys[0].Freshness = "sequence"
	p.step(arrival, good(blocks[0]), good(blocks[2])).
		sweep(closes.Add(-time.Millisecond)).
		step(closes.Add(-time.Millisecond), good(blocks[1]))
}

func epochs(b *book) {
	a := newAgent("edge-a")
	first := a.one(sample(block.Logs, "edge-a"), 0)
	held := a.one(sample(block.Logs, "edge-a"), 0)
	var request []sent
	for range 8 {
		a.restart()
		request = append(request, good(a.one(sample(block.Logs, "edge-a"), 0)))
	}
	b.add("epoch-retired", "A machine has at most eight open epochs: its ninth retires the first one, whose blocks are refused from then on.", block.Logs, a).
		step(arrival, good(first)).
		step(arrival.Add(time.Second), request...).
		step(arrival.Add(2*time.Second), refused(held.bytes(), reason.EpochRetired), refused(first.bytes(), reason.EpochRetired))
	b.add("epoch-too-old", "Eight later epochs are open: an older one is not opened any more.", block.Logs, a).
		step(arrival, request...).
		step(arrival.Add(time.Second), refused(first.bytes(), reason.EpochRetired)).
		step(arrival.Add(2*time.Second), good(a.one(sample(block.Logs, "edge-a"), 0)))

	a = newAgent("edge-a")
	first = a.one(sample(block.Logs, "edge-a"), 0)
	later := a.one(sample(block.Logs, "edge-a"), 0)
	a.restart()
	next := a.one(sample(block.Logs, "edge-a"), 0)
	b.add("ok-older-epoch", "A block of the epoch before arrives after one of this epoch, its first statement naming the last one of that.", block.Logs, a).
		step(arrival, good(first)).step(arrival, good(next)).step(arrival, good(later))
}

func chains(b *book) {
	why := reason.Equivocation
	s := newScene(block.Logs, 0)
	clone := s.before.fork()
	other := clone.sign(unsigned{batch: records(), stream: "tpmsign/other:logs"})[0]
	b.add("equivocation", "Another statement, with another root, under a known epoch and seq: the machine's state was copied.", block.Logs, s.a, s.b).
		step(arrival, good(s.honest)).
		step(arrival.Add(time.Second), refused(other.bytes(), why), good(s.neighbour))

	s = newScene(block.Logs, 0)
	clone = s.before.fork()
	clone.fetch(t0.Add(time.Second))
	other = clone.sign(unsigned{batch: s.data, stream: "tpmsign/other:logs"})[0]
	b.add("equivocation-same-block", "Another statement under a known epoch and seq, which differs by its nonce.", block.Logs, s.a, s.b).
		step(arrival, good(s.honest)).
		step(arrival.Add(time.Second), refused(other.bytes(), why), good(s.neighbour))

	a := newAgent("edge-a")
	first := a.one(sample(block.Logs, "edge-a"), block.Split)
	a.numbers = map[string]uint64{}
	again := a.one(records(), block.Split)
	b.add("equivocation-items", "The agent's next statement gives another number of items to a block of which a fragment has come.", block.Logs, a).
		step(arrival, first.part(first.fragment(0), 1, 0)).
		step(arrival.Add(time.Second), refused(again.bytes(), why)).
		step(arrival.Add(2*time.Second), first.part(first.bytes(), 4, 1, 2, 3))

	why = reason.ChainBroken
	s = newScene(block.Logs, 0)
	broken := s.a.fork()
	broken.prev[0] ^= 1
	next := broken.one(s.data, 0)
	b.add("chain-broken", "The second statement of an epoch does not name the first one.", block.Logs, s.a, s.b).
		step(arrival, good(s.honest)).
		step(arrival.Add(time.Second), refused(next.bytes(), why), good(s.neighbour))

	s = newScene(block.Logs, 0)
	broken = s.a.fork()
	broken.prev = [32]byte{}
	next = broken.one(s.data, 0)
	b.add("chain-broken-backwards", "The second statement arrives first, and does not name the one that arrives then.", block.Logs, s.a, s.b).
		step(arrival, good(next)).
		step(arrival.Add(time.Second), refused(s.honest.bytes(), why), good(s.neighbour))

	s = newScene(block.Logs, 0)
	skipped := s.a.fork()
	skipped.one(s.data, 0) // goes another way
	b.add("ok-statement-unseen", "The second statement never arrives; what the third one names is not known, and nothing follows.", block.Logs, s.a).
		step(arrival, good(s.honest)).
		step(arrival.Add(time.Second), good(skipped.one(s.data, 0)))
}
