package httpd

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Bodies bounds the bytes of bodies that are in memory, of all clients and of
// each. What was sent counts, not what was announced, and until the call ends:
// whoever sends slowly holds little. It serves any number of goroutines.
type Bodies struct {
	most, each int

	mu    sync.Mutex
	total int            // guarded by mu
	of    map[string]int // by client; guarded by mu
}

// NewBodies bounds all bodies, and those of each client, in bytes.
func NewBodies(most, each int) *Bodies {
	return &Bodies{most: most, each: each, of: map[string]int{}}
}

func (b *Bodies) take(who string, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total+n > b.most || b.of[who]+n > b.each {
		return false
	}
	b.total += n
	b.of[who] += n
	return true
}

func (b *Bodies) give(who string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= n
	if b.of[who] -= n; b.of[who] <= 0 {
		delete(b.of, who)
	}
}

var errBodies = errors.New("too much is being read at once")

// metered reads one body and counts it.
type metered struct {
	io.Reader
	bodies *Bodies
	who    string
	held   int
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	if n == 0 {
		return n, err
	}
	if !m.bodies.take(m.who, n) {
		return 0, errBodies
	}
	m.held += n
	return n, err
}

// Read reads the body of a request from a client (Bucket) within a size, and
// within the time that a.Deadlines gave. What was read counts until release,
// which is never nil. Errors are *Fault.
func (b *Bodies) Read(a *Answer, r *http.Request, who string, size int64) (content []byte, release func(), err error) {
	large := func() *Fault {
		a.Header().Set("Connection", "close")
		return fault(BodyTooLarge, "at most %d bytes are taken here", size)
	}
	if r.ContentLength > size {
		return nil, func() {}, large()
	}
	m := &metered{Reader: http.MaxBytesReader(a.ResponseWriter, r.Body, size), bodies: b, who: who}
	release = sync.OnceFunc(func() { b.give(who, m.held) })
	content, err = io.ReadAll(m)
	if err == nil {
		// What waits for the client to go away must not take the deadline for it.
		_ = a.control.SetReadDeadline(time.Time{})
		return content, release, nil
	}
	a.Header().Set("Connection", "close")
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, release, large()
	case errors.Is(err, errBodies):
		return nil, release, &Fault{Word: Busy, Detail: "too many bodies are being read", Err: err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, release, fault(RequestTimeout, "the body did not arrive within %s", a.within)
	default:
		return nil, release, &Fault{Word: BadRequest, Detail: "the body ended early", Err: err}
	}
}

// IsJSON refuses a request whose body is not JSON as it is, uncompressed.
func IsJSON(r *http.Request) error {
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		return fault(MediaType, "the body is of type %.64q", media)
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return fault(MediaType, "the body is encoded as %.64q; send it as it is", enc)
	}
	return nil
}
