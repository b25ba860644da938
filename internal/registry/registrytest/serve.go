package registrytest

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/keys/{kid}", r.asked("/v1/keys/{kid}", r.key))
	mux.HandleFunc("GET /v1/keys", r.asked("/v1/keys", r.snapshot))
	mux.HandleFunc("GET /v1/events", r.asked("/v1/events", r.stream))
	mux.ServeHTTP(w, req)
}

func (r *Registry) asked(path string, serve func(http.ResponseWriter, *http.Request, []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.requests[path]++
		down, hold := r.s.Down, r.s.Hold
		r.mu.Unlock()
		if hold != nil {
			hold(path)
		}
		nonce, err := base64.RawURLEncoding.Strict().DecodeString(req.URL.Query().Get("nonce"))
		switch {
		case down != 0:
			fail(w, down, api.StoreUnavailable)
		case err != nil || len(nonce) != 32:
			fail(w, http.StatusBadRequest, api.BadRequest)
		default:
			serve(w, req, nonce)
		}
	}
}

func fail(w http.ResponseWriter, status int, why api.Reason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.ErrorBody{Error: "refused", Reason: why})
}

func (r *Registry) sign(kind answer.Kind, v any) []byte {
	r.mu.Lock()
	mangle := r.s.Mangle
	r.mu.Unlock()
	if mangle != nil {
		if b := mangle(kind, v); b != nil {
			return b
		}
	}
	return r.Sign(kind, v)
}

func (r *Registry) reply(w http.ResponseWriter, kind answer.Kind, v any) {
	w.Header().Set("Content-Type", "application/cose")
	_, _ = w.Write(r.sign(kind, v))
}

func (r *Registry) key(w http.ResponseWriter, req *http.Request, nonce []byte) {
	r.mu.Lock()
	k := &answer.Key{Head: r.head(nonce), Record: r.record(req.PathValue("kid"))}
	r.mu.Unlock()
	r.reply(w, answer.KindKey, k)
}

func (r *Registry) snapshot(w http.ResponseWriter, req *http.Request, nonce []byte) {
	since, err := strconv.ParseUint(req.URL.Query().Get("since"), 10, 64)
	limit, err2 := strconv.Atoi(req.URL.Query().Get("limit"))
	if err != nil || err2 != nil {
		fail(w, http.StatusBadRequest, api.BadRequest)
		return
	}
	r.mu.Lock()
	if r.s.Page > 0 {
		limit = min(limit, r.s.Page)
	}
	s := &answer.Snapshot{Head: r.head(nonce), Since: since, Through: r.revision, Records: []answer.Record{}}
	for _, rec := range r.records {
		if rec.Revision > since {
			s.Records = append(s.Records, rec)
		}
	}
	r.mu.Unlock()
	slices.SortFunc(s.Records, func(a, b answer.Record) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.KID, b.KID))
	})
	for n := limit; n < len(s.Records); n++ {
		if s.Records[n].Revision != s.Records[n-1].Revision {
			s.Records, s.More = s.Records[:n], true
			s.Through = s.Records[n-1].Revision
		}
	}
	r.reply(w, answer.KindSnapshot, s)
}

func (r *Registry) stream(w http.ResponseWriter, req *http.Request, nonce []byte) {
	since, err := strconv.ParseUint(req.URL.Query().Get("since"), 10, 64)
	if err != nil {
		fail(w, http.StatusBadRequest, api.BadRequest)
		return
	}
	r.mu.Lock()
	if r.s.NoStreams {
		r.mu.Unlock()
		fail(w, http.StatusServiceUnavailable, api.Busy)
		return
	}
	r.streams++
	silent := r.s.SilentStream
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.streams--
	}()
	if silent {
		<-req.Context().Done()
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	var count uint64
	next := time.Now()
	for req.Context().Err() == nil {
		var out []message
		r.mu.Lock()
		changed, mute := r.changed, r.s.MuteStream
		out, since = r.pending(nonce, since)
		beat, gone := r.s.Beat, r.s.Down != 0
		if !time.Now().Before(next) && !mute {
			count++
			next = next.Add(beat)
			h := &answer.Heartbeat{Head: r.head(nonce), Count: count}
			if !r.s.HideEvents {
				h.Revision = max(since, 0)
			}
			out = append(out, message{answer.KindHeartbeat, "heartbeat", h.Revision, h})
		}
		r.mu.Unlock()
		if gone {
			return
		}
		if mute {
			out = nil
		}
		for _, m := range out {
			_, _ = fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", m.id, m.event, base64.StdEncoding.EncodeToString(r.sign(m.kind, m.v)))
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-time.After(max(time.Until(next), time.Millisecond)):
		case <-req.Context().Done():
		}
	}
}

type message struct {
	kind  answer.Kind
	event string
	id    uint64
	v     any
}

// pending returns the events after since; the lock is held.
func (r *Registry) pending(nonce []byte, since uint64) ([]message, uint64) {
	var out []message
	for i := range r.events {
		e := r.events[i]
		if e.Revision <= since {
			continue
		}
		since = e.Revision
		if r.s.HideEvents {
			continue
		}
		head := r.head(nonce)
		head.Revision = e.Revision
		e.Head = head
		out = append(out, message{answer.KindEvent, e.What, e.Revision, &e})
	}
	return out, since
}

// Listener is a network in memory, which time in a synctest bubble knows.
type Listener struct {
	conns chan net.Conn
	done  chan struct{}

	mu   sync.Mutex // guards what follows
	open []*conn
}

// Freeze makes all connections that are there swallow everything from now on, as
// a middle box does that forgot them. New ones work.
func (l *Listener) Freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.frozen.Store(true)
	}
	l.open = nil
}

// conn is a client's end.
type conn struct {
	net.Conn
	frozen atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.frozen.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.frozen.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Serve serves the registry over a network in memory until the test ends and
// returns how to get there.
func (r *Registry) Serve() *Listener {
	l := &Listener{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	r.t.Cleanup(func() {
		require.NoError(r.t, server.Close())
		<-served
	})
	return l
}

// HTTP makes a client whose connections end here.
func (l *Listener) HTTP(context.Context) (*http.Client, error) {
	return &http.Client{Transport: &http.Transport{DialContext: l.dial}}, nil
}

func (l *Listener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		c := &conn{Conn: here, closed: make(chan struct{})}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open = append(l.open, c)
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }
