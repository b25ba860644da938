package main

import (
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/digest"
	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/test/vectors/internal/vector"
)

// sent is one block on its way, and what is to be said of it.
type sent struct {
	bytes []byte
	want  vector.Block
	// decoded, when it is not nil, is what is to be said behind the Collector's
	// decoder; gone means that the decoder refuses the request.
	decoded *vector.Block
	gone    bool
}

func good(s *signed) sent { return sent{bytes: s.bytes(), want: s.verified()} }

func refused(bytes []byte, why reason.Reason) sent {
	return sent{bytes: bytes, want: vector.Block{Verdict: string(why)}}
}

// book collects the vectors.
type book struct{ vectors []*vector.Vector }

// page is one vector while it is made.
type page struct{ *vector.Vector }

// add begins a vector with a verifier that trusts these machines.
func (b *book) add(name, about string, signal block.Signal, trusted ...*agent) *page {
	v := &vector.Vector{
		Name: name, About: about, Signal: signal.String(), Audience: audience,
		Nonce:    vector.NonceSecret{Secret: secret, StoreEpoch: storeEpoch[:]},
		MaxDelay: vector.Duration(maxDelay), Skew: vector.Duration(skew),
		Policy: vector.Policy{Freshness: "stale", LiveWithin: vector.Duration(5 * time.Minute)},
		Keys:   []keyfile.Entry{},
	}
	for _, a := range trusted {
		v.Keys = append(v.Keys, a.entry())
	}
	for _, old := range b.vectors {
		if old.Name == name {
			panic(fmt.Sprintf("%s is there twice", name))
		}
	}
	b.vectors = append(b.vectors, v)
	return &page{v}
}

// step lets blocks arrive in one request.
func (p *page) step(at time.Time, blocks ...sent) *page {
	var (
		bytes   [][]byte
		s       = vector.Step{Now: vector.Time{Time: at}}
		d       vector.Decoded
		differs bool
	)
	for _, b := range blocks {
		bytes = append(bytes, b.bytes)
		s.Expect = append(s.Expect, b.want)
		if b.decoded != nil {
			d.Expect = append(d.Expect, *b.decoded)
		} else {
			d.Expect = append(d.Expect, b.want)
		}
		d.Unreadable = d.Unreadable || b.gone
		differs = differs || b.gone || b.decoded != nil
	}
	if d.Unreadable {
		d.Expect = nil
	}
	if differs {
		s.Decoded = &d
	}
	s.Request = request(bytes...)
	p.Steps = append(p.Steps, s)
	return p
}

// sweep lets time pass without a request.
func (p *page) sweep(at time.Time) *page {
	p.Steps = append(p.Steps, vector.Step{Now: vector.Time{Time: at}, Sweep: true})
	return p
}

// unreadable lets something arrive that is no OTLP.
func (p *page) unreadable(at time.Time, request []byte) *page {
	p.Steps = append(p.Steps, vector.Step{Now: vector.Time{Time: at}, Request: request, Unreadable: true})
	return p
}

// scene is what an attacker finds: an honest block of edge-a and one of edge-b.
type scene struct {
	a, b      *agent
	before    *agent // edge-a before it signed
	data      digest.Batch
	tolerance block.Tolerance
	honest    *signed
	neighbour *signed
}

func newScene(signal block.Signal, tolerance block.Tolerance) *scene {
	s := &scene{a: newAgent("edge-a"), b: newAgent("edge-b"), data: sample(signal, "edge-a"), tolerance: tolerance}
	s.before = s.a.fork()
	s.honest = s.a.one(s.data, tolerance)
	s.neighbour = s.b.one(sample(signal, "edge-b"), tolerance)
	return s
}

// changed returns the honest block's bytes after a change by somebody on the way.
func (s *scene) changed(change func(b digest.Block)) []byte {
	c := copyOf(s.honest.batch)
	change(c.At(0))
	return blockBytes(c)
}

// attack adds a vector in which a bad block arrives with a good neighbour, and
// the honest block after them: the bad one must spoil neither.
func (b *book) attack(name, about string, signal block.Signal, tolerance block.Tolerance, why reason.Reason, bad func(*scene) []byte) *page {
	return b.attackSent(name, about, signal, tolerance, func(s *scene) sent { return refused(bad(s), why) })
}

func (b *book) attackSent(name, about string, signal block.Signal, tolerance block.Tolerance, bad func(*scene) sent) *page {
	s := newScene(signal, tolerance)
	x := bad(s)
	p := b.add(name, about, signal, s.a, s.b)
	p.step(arrival, x, good(s.neighbour))
	if x.decoded != nil && x.decoded.Verdict == reason.Verified {
		return p // behind the decoder it was the honest block
	}
	return p.step(arrival.Add(time.Second), good(s.honest))
}
