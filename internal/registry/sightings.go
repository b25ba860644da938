package registry

import (
	"container/list"
	"sync"
	"time"
)

// negativeTTL is how long a signed "unknown" counts without further proof.
const negativeTTL = 10 * time.Second

// sightings are the kids that came with telemetry and that the mirror does not
// hold. Whoever sends names them, so that their number is bounded: what was
// found unknown makes room for what is new.
type sightings struct {
	mu    sync.Mutex // guards what follows
	byKID map[string]*list.Element
	order *list.List // of *sighting, oldest first
	open  int        // sightings without answer
}

// sighting is one kid.
type sighting struct {
	kid    string
	first  time.Time // when it was seen
	denied time.Time // as of when it is unknown under a signature; zero without answer
	asking bool      // a look-up is under way
	retry  time.Time // not asked for again before, after a look-up that failed
}

func newSightings() *sightings {
	return &sightings{byKID: map[string]*list.Element{}, order: list.New()}
}

// advice is what to do about a kid that the mirror does not hold.
type advice int

const (
	adviceUnknown advice = iota // it is unknown, under a signature
	adviceWait                  // somebody is asking already
	adviceAsk                   // ask for it; the sighting is marked as being asked for
	adviceFull                  // there is no room to remember it
)

// see notes a kid at now. complete is when the last complete snapshot was asked
// for, proven as of when the mirror was last proven to be current.
func (s *sightings) see(kid string, now, complete, proven time.Time) advice {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byKID[kid]
	if !ok {
		if !s.room() {
			return adviceFull
		}
		s.byKID[kid] = s.order.PushBack(&sighting{kid: kid, first: now, asking: true})
		s.open++
		return adviceAsk
	}
	g := sightingOf(e)
	if g.denied.IsZero() && complete.After(g.first) {
		s.deny(g, complete)
	}
	// Had the key come up since, the mirror would hold it: what proves the
	// mirror to be current proves the key to be unknown.
	asOf := g.denied
	if !asOf.IsZero() && proven.After(asOf) {
		asOf = proven
	}
	switch {
	case !asOf.IsZero() && now.Sub(asOf) <= negativeTTL:
		return adviceUnknown
	case g.asking || now.Before(g.retry):
		return adviceWait
	default:
		g.asking = true
		return adviceAsk
	}
}

func sightingOf(e *list.Element) *sighting {
	g, _ := e.Value.(*sighting)
	return g
}

// room makes room for one more, at the cost of the oldest one that is answered.
func (s *sightings) room() bool {
	if s.order.Len() < maxSightings {
		return true
	}
	if s.open == s.order.Len() {
		return false
	}
	for e := s.order.Front(); e != nil; e = e.Next() {
		if g := sightingOf(e); !g.denied.IsZero() && !g.asking {
			s.order.Remove(e)
			delete(s.byKID, g.kid)
			return true
		}
	}
	return false
}

func (s *sightings) deny(g *sighting, at time.Time) {
	if g.denied.IsZero() {
		s.open--
	}
	if at.After(g.denied) {
		g.denied = at
	}
}

// retryAfter is how long a kid is not asked for again whose look-up failed. The
// next snapshot, which is wanted then, answers too.
const retryAfter = time.Second

// answered notes at now how asking ended: unknown as of a moment, or not
// answered when that is zero.
func (s *sightings) answered(kid string, now, unknown time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byKID[kid]
	if !ok {
		return
	}
	g := sightingOf(e)
	g.asking = false
	if unknown.IsZero() {
		g.retry = now.Add(retryAfter)
		return
	}
	s.deny(g, unknown)
}

// waiting reports whether there are sightings without answer.
func (s *sightings) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open > 0
}

// forget drops a kid that the mirror holds now.
func (s *sightings) forget(kid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byKID[kid]
	if !ok {
		return
	}
	if sightingOf(e).denied.IsZero() {
		s.open--
	}
	s.order.Remove(e)
	delete(s.byKID, kid)
}

// settle says that a complete snapshot was asked for at this time: whatever was
// seen before it and is not in it is unknown. It reports whether anybody waited.
func (s *sightings) settle(complete time.Time) (any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == 0 {
		return false
	}
	for e := s.order.Front(); e != nil; e = e.Next() {
		if g := sightingOf(e); g.denied.IsZero() && complete.After(g.first) {
			s.deny(g, complete)
			any = true
		}
	}
	return any
}
