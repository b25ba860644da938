package server

import (
	"errors"
	"io"
	"sync"
)

// Defaults of bodies. They leave room for a whole import of one operator, and
// for as many enrolments as are verified and wait at once.
const (
	defaultBodies      = 128 << 20
	defaultBodiesOfOne = 16 << 20
)

var errBodies = errors.New("too much is being read at once")

// bodies bounds the bytes of bodies that are in memory, of all clients and of
// each. What was sent counts, not what was announced, and until the call ends:
// whoever sends slowly holds little. It serves any number of goroutines.
type bodies struct {
	most, each int

	mu    sync.Mutex
	total int            // guarded by mu
	of    map[string]int // by Bucket; guarded by mu
}

func newBodies(most, each int) *bodies {
	return &bodies{most: most, each: each, of: map[string]int{}}
}

func (b *bodies) take(who string, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total+n > b.most || b.of[who]+n > b.each {
		return false
	}
	b.total += n
	b.of[who] += n
	return true
}

func (b *bodies) give(who string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= n
	if b.of[who] -= n; b.of[who] <= 0 {
		delete(b.of, who)
	}
}

// metered reads a call's body and counts it.
type metered struct {
	io.Reader
	c *call
}

func (m metered) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	if n == 0 {
		return n, err
	}
	if !m.c.server.bodies.take(Bucket(m.c.client), n) {
		return 0, errBodies
	}
	m.c.held += n
	return n, err
}

// release forgets the body, when the call ends.
func (c *call) release() {
	if c.held > 0 {
		c.server.bodies.give(Bucket(c.client), c.held)
		c.held = 0
	}
}
