package main

import (
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/reason"
)

const both = block.Split | block.Enrich

var signals = []block.Signal{block.Metrics, block.Logs, block.Traces}

// fragment is a part of a split block on its way.
func (s *signed) fragment(places ...int) []byte {
	c := copyOf(s.batch)
	c.At(0).FilterItems(func(i int) bool { return slices.Contains(places, i) })
	return blockBytes(c)
}

// part is what is to be said of a fragment of which all, or accepted places are new.
func (s *signed) part(bytes []byte, arrived int, places ...int) sent {
	want := s.verified()
	want.Items.Arrived, want.Items.Accepted, want.Items.Places = arrived, len(places), places
	return sent{bytes: bytes, want: want}
}

// tolerated are blocks that changed as their signer allowed.
func tolerated(b *book) {
	for _, signal := range signals {
		splitting(b, signal)
		enriching(b, signal)
	}
	equalItems(b)
	rich(b)
	repeatedItems(b)
	addedKeys(b)
}

func splitting(b *book, signal block.Signal) {
	name := "split-" + signal.String()
	a := newAgent("edge-a")
	s := a.one(sample(signal, "edge-a"), block.Split)
	b.add(name+"-whole", "Splitting is tolerated, and nobody split.", signal, a).step(arrival, good(s))

	a = newAgent("edge-a")
	s = a.one(sample(signal, "edge-a"), block.Split)
	b.add(name+"-fragments", "Two fragments, the later one first; the cut goes through a metric or scope. "+
		"What comes again is a duplicate, in whatever pieces.", signal, a).
		step(arrival, s.part(s.fragment(1, 3), 2, 1, 3)).
		step(arrival.Add(time.Second), s.part(s.fragment(0, 2), 2, 0, 2)).
		step(arrival.Add(2*time.Second), refused(s.fragment(1, 2), reason.Duplicate), refused(s.bytes(), reason.Duplicate))

	a = newAgent("edge-a")
	s = a.one(sample(signal, "edge-a"), block.Split)
	c := copyOf(s.batch)
	stripUncovered(c.At(0))
	b.add(name+"-urls-lost", "Schema URLs and metric metadata, which collectors lose when they split, are not covered.", signal, a).
		step(arrival, sent{bytes: blockBytes(c), want: s.verified()})
}

// stripUncovered removes what splitting collectors lose.
func stripUncovered(b digest.Block) {
	switch b.Signal() {
	case block.Metrics:
		b.Metrics().SetSchemaUrl("")
		for _, sm := range b.Metrics().ScopeMetrics().All() {
			sm.SetSchemaUrl("")
			for _, m := range sm.Metrics().All() {
				m.Metadata().Clear()
			}
		}
	case block.Logs:
		b.Logs().SetSchemaUrl("")
	default:
		b.Traces().SetSchemaUrl("")
	}
}

// equalItems are items that are equal to the last byte.
func equalItems(b *book) {
	data := sample(block.Logs, "edge-a")
	records := data.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	for range 2 { // records 0, 2 and 3 are equal, 1 is another one
		records.At(0).CopyTo(records.AppendEmpty())
	}
	a := newAgent("edge-a")
	s := a.one(data, block.Split)
	b.add("split-equal-items", "Of six items three are equal. Each stands for one place in the manifest, "+
		"so that all of them are accepted once, and a fourth one is not.", block.Logs, a).
		step(arrival, s.part(s.fragment(0, 1), 2, 0, 1)).
		step(arrival.Add(time.Second), s.part(s.fragment(3), 1, 2)).
		step(arrival.Add(2*time.Second), s.part(s.fragment(0), 1, 3)).
		step(arrival.Add(3*time.Second), refused(s.fragment(2), reason.Duplicate)).
		step(arrival.Add(4*time.Second), s.part(s.bytes(), 6, 4, 5))

	a = newAgent("edge-a")
	s = a.one(data, block.Split)
	b.add("split-equal-items-whole", "The same block arrives whole.", block.Logs, a).step(arrival, good(s))
}

// rich are blocks with every field, split in the middle.
func rich(b *book) {
	for _, data := range []digest.Batch{points(), records(), spans()} {
		a := newAgent("edge-a")
		s := a.one(data, block.Split)
		n := s.prepared.Items
		low, high := make([]int, 0, n), make([]int, 0, n)
		for i := range n {
			if i < n/2 {
				low = append(low, i)
			} else {
				high = append(high, i)
			}
		}
		b.add("split-"+data.Signal().String()+"-all-fields", "Two fragments of a block with every field, in one request and out of order.", data.Signal(), a).
			step(arrival, s.part(s.fragment(high...), len(high), high...), s.part(s.fragment(low...), len(low), low...))
	}
}

// repeatedItems are items that come twice.
func repeatedItems(b *book) {
	a := newAgent("edge-a")
	s := a.one(sample(block.Traces, "edge-a"), block.Split)
	b.add("split-overlapping-fragments", "The second fragment holds an item of the first one: only its other item is accepted. "+
		"The whole block brings the last item.", block.Traces, a).
		step(arrival, s.part(s.fragment(0, 1), 2, 0, 1)).
		step(arrival.Add(time.Second), s.part(s.fragment(1, 2), 2, 2)).
		step(arrival.Add(2*time.Second), s.part(s.bytes(), 4, 3))

	a = newAgent("edge-a")
	s = a.one(sample(block.Logs, "edge-a"), block.Split)
	c := copyOf(s.batch)
	records := c.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	records.At(0).CopyTo(records.AppendEmpty())
	b.add("split-item-twice-in-a-block", "Somebody doubled an item; the manifest has it once, so it is accepted once.", block.Logs, a).
		step(arrival, s.part(blockBytes(c), 5, 0, 1, 2, 3))
}

func enriching(b *book, signal block.Signal) {
	name := "enrich-" + signal.String()
	a := newAgent("edge-a")
	s := a.one(sample(signal, "edge-a"), block.Enrich)
	b.add(name+"-unchanged", "Enriching is tolerated, and nobody did.", signal, a).step(arrival, good(s))

	enrich := func(s *signed) ([]byte, []string) {
		c := copyOf(s.batch)
		c.At(0).Attributes().PutStr("cloud.region", "eu-central-1")
		c.At(0).Attributes().PutEmptyMap("k8s").PutInt("pods", 3)
		return blockBytes(c), []string{"cloud.region", "k8s"}
	}
	a = newAgent("edge-a")
	s = a.one(sample(signal, "edge-a"), block.Enrich)
	bytes, added := enrich(s)
	want := s.verified()
	want.Added = added
	b.add(name+"-added", "Two resource attributes were added on the way.", signal, a).step(arrival, sent{bytes: bytes, want: want})

	a = newAgent("edge-a")
	s = a.one(sample(signal, "edge-a"), both)
	bytes, added = enrich(&signed{unsigned: unsigned{batch: splitOff(s, 0, 3)}})
	first := s.part(bytes, 2, 0, 3)
	first.want.Added = added
	b.add("both-"+signal.String(), "Both are tolerated: one fragment arrives enriched, the other one not.", signal, a).
		step(arrival, first).step(arrival.Add(time.Second), s.part(s.fragment(1, 2), 2, 1, 2))
}

func splitOff(s *signed, places ...int) digest.Batch {
	c := copyOf(s.batch)
	c.At(0).FilterItems(func(i int) bool { return slices.Contains(places, i) })
	return c
}

// addedKeys are the finer points of key lists.
func addedKeys(b *book) {
	attribute := func(key, value string) []byte {
		return lenField(1, slices.Concat(lenField(keyValueKey, []byte(key)), lenField(keyValueAny, lenField(1, []byte(value)))))
	}
	a := newAgent("edge-a")
	s := a.one(sample(block.Logs, "edge-a"), block.Enrich)
	want := s.verified()
	want.Added = []string{"zone", "zone"}
	b.add("enrich-added-in-front-and-twice", "Where the added attributes stand does not matter, nor that their key is there twice.", block.Logs, a).
		step(arrival, sent{bytes: edit(s.bytes(), func(r []byte) []byte {
			return slices.Concat(attribute("zone", "1"), r, attribute("zone", "2"))
		}, toResource), want: want})

	a = newAgent("edge-a")
	data := sample(block.Logs, "edge-a")
	data.At(0).Attributes().Clear()
	s = a.one(data, block.Enrich)
	c := copyOf(s.batch)
	c.At(0).Attributes().PutStr("host.name", "edge-z")
	want = s.verified()
	want.Added = []string{"host.name"}
	p := b.add("enrich-empty-key-list", "The signer's resource had no attribute: the key list is there and empty. "+
		"The added attribute has a bound key; it says nothing about the machine, since nobody signed it.", block.Logs, a)
	p.Policy.Bind = map[string]string{"host.name": "name"}
	p.step(arrival, sent{bytes: blockBytes(c), want: want})

	a = newAgent("edge-a")
	wire := edit(blockBytes(sample(block.Logs, "edge-a")), func(r []byte) []byte {
		return slices.Concat(attribute("twin", "1"), r, attribute("twin", "2"))
	}, toResource)
	twins, err := digest.UnmarshalBatch(block.Logs, request(wire))
	if err != nil {
		panic(err)
	}
	b.add("enrich-signed-key-twice", "A key stood in the signer's resource twice: both are in the key list, and both are covered.", block.Logs, a).
		step(arrival, good(a.one(twins, block.Enrich)))
}
