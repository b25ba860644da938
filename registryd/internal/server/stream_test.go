package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/auth"
	"github.com/telemark-otel/telemark/registryd/internal/fleet"
	"github.com/telemark-otel/telemark/registryd/internal/server"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// message is one of a stream, opened.
type message struct {
	id, name  string
	event     *answer.Event
	heartbeat *answer.Heartbeat
}

// listener reads one stream.
type listener struct {
	r        *rig
	messages chan message
	ended    chan struct{}
	stopped  <-chan struct{}
	cancel   context.CancelFunc
}

var streamNonce = []byte("0123456789abcdef0123456789abcdef")

// listen opens a stream; query is like since=3.
func (r *rig) listen(query string, edits ...edit) *listener {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.http.URL+"/v1/events?nonce="+base64.RawURLEncoding.EncodeToString(streamNonce)+"&"+query, nil)
	require.NoError(r.t, err)
	r.as("viewer")(req)
	for _, e := range edits {
		e(req)
	}
	resp, err := r.client.Do(req)
	require.NoError(r.t, err)
	require.Equal(r.t, http.StatusOK, resp.StatusCode)
	require.Equal(r.t, "text/event-stream", resp.Header.Get("Content-Type"))
	l := &listener{r: r, messages: make(chan message, 10_000), ended: make(chan struct{}), stopped: ctx.Done(), cancel: cancel}
	go l.read(resp.Body)
	r.t.Cleanup(func() { cancel(); <-l.ended })
	return l
}

func (l *listener) read(body io.ReadCloser) {
	defer close(l.ended)
	defer func() { _ = body.Close() }()
	lines := bufio.NewReader(body)
	var m message
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return // what was cut off in the middle of a line too
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			m.id = value
		case "event":
			m.name = value
		case "data":
			signed, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				panic(err)
			}
			if m.name == "heartbeat" {
				m.heartbeat = &answer.Heartbeat{}
				err = l.r.verifier.Open(answer.KindHeartbeat, signed, m.heartbeat)
			} else {
				m.event = &answer.Event{}
				err = l.r.verifier.Open(answer.KindEvent, signed, m.event)
			}
			if err != nil {
				panic(err)
			}
		case "":
			select {
			case l.messages <- m:
			case <-l.stopped:
				return
			}
			m = message{}
		default:
			panic("line " + line)
		}
	}
}

// next waits for a message.
func (l *listener) next() message {
	l.r.t.Helper()
	select {
	case m := <-l.messages:
		return m
	case <-l.ended:
		require.FailNow(l.r.t, "the stream ended")
	case <-time.After(10 * time.Second):
		require.FailNow(l.r.t, "nothing came")
	}
	return message{}
}

// event waits for the next event, heartbeats left out.
func (l *listener) event() *answer.Event {
	l.r.t.Helper()
	for {
		if m := l.next(); m.event != nil {
			require.Equal(l.r.t, fmt.Sprint(m.event.Revision), m.id)
			require.Equal(l.r.t, m.event.What, m.name)
			require.Equal(l.r.t, streamNonce, m.event.Nonce)
			return m.event
		}
	}
}

// policy changes something, so that an event comes.
func (r *rig) policy(n int) uint64 {
	r.t.Helper()
	p := ok[api.Policy](r.t, r.do(http.MethodPut, fmt.Sprintf("/v1/policies/name:edge-%d", n), api.Policy{Freshness: "live"}, r.as("admin")))
	return p.Revision
}

func TestHeartbeatsCountFromOneAndSayHowFarTheStreamIs(t *testing.T) {
	r := newRig(t)
	l := r.listen("")
	began := time.Now()
	for count := uint64(1); count <= 5; count++ {
		m := l.next()
		require.Equal(t, "heartbeat", m.name)
		require.Empty(t, m.id)
		require.Equal(t, count, m.heartbeat.Count)
		require.Zero(t, m.heartbeat.Revision)
		require.Equal(t, streamNonce, m.heartbeat.Nonce)
		require.Equal(t, r.db.ID(), m.heartbeat.Store)
		require.WithinDuration(t, time.Now(), m.heartbeat.IssuedAt, 5*time.Second)
	}
	require.Greater(t, time.Since(began), 150*time.Millisecond)
	revision := r.policy(1)
	require.Equal(t, revision, l.event().Revision)
	for {
		if m := l.next(); m.heartbeat.Revision == revision {
			break
		}
	}
}

func TestEventsComeInOrderWithoutAGap(t *testing.T) {
	r := newRig(t)
	l := r.listen("")
	l.next()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { r.policy(i) })
	}
	wg.Wait()
	var last uint64
	for range 50 {
		e := l.event()
		require.Equal(t, last, e.Previous)
		require.Greater(t, e.Revision, last)
		require.Equal(t, "policy_changed", e.What)
		last = e.Revision
	}
}

func TestRevocationReachesAStreamAtOnce(t *testing.T) {
	r := newRig(t)
	l := r.listen("")
	l.next()
	began := time.Now()
	r.policy(1)
	l.event()
	require.Less(t, time.Since(began), time.Second)
}

func TestStreamResumesWhereItWas(t *testing.T) {
	r := newRig(t)
	var revisions []uint64
	for i := range 10 {
		revisions = append(revisions, r.policy(i))
	}
	for name, l := range map[string]*listener{
		"since":         r.listen(fmt.Sprintf("since=%d", revisions[3])),
		"Last-Event-ID": r.listen("since=0", header("Last-Event-ID", fmt.Sprint(revisions[3]))),
	} {
		for _, want := range revisions[4:] {
			require.Equal(t, want, l.event().Revision, name)
		}
		require.NotNil(t, l.next().heartbeat)
	}
	l := r.listen("since=0")
	for _, want := range revisions {
		require.Equal(t, want, l.event().Revision)
	}
	// Without a place to begin at, the stream begins now.
	require.Equal(t, revisions[9], r.listen("").next().heartbeat.Revision)
}

// change writes events without the work of making policies.
func (r *rig) change(n int) {
	r.t.Helper()
	for range n {
		require.NoError(r.t, r.db.Update(r.t.Context(), func(tx *store.Tx) error {
			return tx.Emit(store.Event{At: time.Now(), What: "renewed", KIDs: []string{"000b" + strings.Repeat("00", 32)}})
		}))
	}
}

func TestEventsThatAreGoneAreNotPassedOver(t *testing.T) {
	r := newRig(t)
	r.change(30)
	require.NoError(t, r.db.Sweep(t.Context(), time.Now(), time.Now().Add(-time.Hour), 5))
	// A server that starts now knows only what is left.
	machines, err := fleet.New(fleet.Options{Store: r.db, Signer: r.signer, SealKey: bytes.Repeat([]byte{7}, 32)})
	require.NoError(t, err)
	late := newRig(t, func(s *settings) { s.Store, s.Fleet = r.db, machines })
	late.verifier = r.verifier
	old := late.listen("since=3")
	e := old.event()
	require.True(t, e.Incomplete)
	require.Equal(t, "incomplete", e.What)
	require.Equal(t, uint64(3), e.Previous)
	require.Equal(t, uint64(30), e.Revision)
	require.Equal(t, uint64(30), old.next().heartbeat.Revision)
	// What is left is told.
	require.Equal(t, uint64(28), late.listen("since=27").event().Revision)
}

// A store that was put back, or another one under the same name: the position
// is one that it never reached.
func TestPositionAheadOfTheStoreIsIncomplete(t *testing.T) {
	r := newRig(t)
	r.change(3)
	l := r.listen("since=1000")
	e := l.event()
	require.True(t, e.Incomplete)
	require.Equal(t, uint64(3), e.Revision)
	require.Equal(t, uint64(3), l.next().heartbeat.Revision)
}

func TestMoreEventsThanAreKeptAreReadFromTheStore(t *testing.T) {
	r := newRig(t, func(s *settings) { s.KeepEvents = 50 })
	const n = 700 // three pages and some
	r.change(n)
	l := r.listen("since=0")
	for want := uint64(1); want <= n; want++ {
		e := l.event()
		require.Equal(t, want, e.Revision)
		require.False(t, e.Incomplete)
	}
}

// silent is a store that stops answering.
type silent struct {
	server.Store
	fail atomic.Bool
}

func (s *silent) View(ctx context.Context, fn func(*store.Tx) error) error {
	if s.fail.Load() {
		return fmt.Errorf("%w: pulled out", store.ErrUnavailable)
	}
	return s.Store.View(ctx, fn)
}

// What another replica revokes would not be seen: verifiers must notice.
func TestStreamFallsSilentWhenTheStoreCannotBeRead(t *testing.T) {
	s := &silent{}
	r := newRig(t, func(set *settings) { s.Store, set.Store, set.StaleAfter = set.Store, s, 500*time.Millisecond })
	l := r.listen("")
	l.next()
	s.fail.Store(true)
	time.Sleep(time.Second)
	for len(l.messages) > 0 {
		<-l.messages
	}
	time.Sleep(300 * time.Millisecond)
	require.Empty(t, l.messages)
	refused(t, api.StoreUnavailable, r.do(http.MethodGet, "/v1/events", nil, r.as("viewer")))
	s.fail.Store(false)
	require.NotNil(t, l.next().heartbeat)
}

// A client that does not read must not hold anything for ever.
func TestStreamThatIsNotReadIsCutOff(t *testing.T) {
	r := newRig(t, func(s *settings) {
		s.WriteTimeout = 200 * time.Millisecond
		s.tune = func(h *httptest.Server) { h.Listener = narrow{h.Listener} }
	})
	u, err := url.Parse(r.http.URL)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	_, err = fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", r.tokens["viewer"])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(r.metricsText(), "telemark_registry_streams 1\n") }, 5*time.Second, 20*time.Millisecond)
	// Others are served all the while.
	l := r.listen("")
	cut := func() bool {
		return strings.Contains(r.metricsText(), `telemark_registry_streams_ended_total{why="slow"} 1`)
	}
	for i := 0; !cut(); i++ {
		require.Less(t, i, 2000)
		r.change(10)
	}
	l.event()
}

func (r *rig) metricsText() string {
	r.t.Helper()
	return string(r.do(http.MethodGet, "/metrics", nil, r.as("viewer")).body)
}

// narrow gives connections small buffers in the kernel.
type narrow struct{ net.Listener }

func (n narrow) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if tcp, isTCP := c.(*net.TCPConn); isTCP {
		err = errors.Join(err, tcp.SetWriteBuffer(4096))
	}
	return c, err
}

func TestStreamsAreBounded(t *testing.T) {
	r := newRig(t, func(s *settings) { s.MaxStreams = 2 })
	one, two := r.listen(""), r.listen("")
	one.next()
	two.next()
	resp := r.do(http.MethodGet, "/v1/events", nil, r.as("viewer"))
	refused(t, api.Busy, resp)
	require.Equal(t, "10", resp.Header.Get("Retry-After"))
	one.cancel()
	require.Eventually(t, func() bool { return strings.Contains(r.metricsText(), "telemark_registry_streams 1\n") }, 5*time.Second, 20*time.Millisecond)
	r.listen("").next()
}

func TestStreamsEndWithTheCredentialsAndTheServer(t *testing.T) {
	r := newRig(t)
	l := r.listen("")
	l.next()
	// The auth file was read again: everybody shows what he has.
	r.server.SetAuth(auth.New(r.authFile()))
	<-l.ended
	l = r.listen("")
	l.next()
	r.server.Stop()
	<-l.ended
	refused(t, api.StoreUnavailable, r.do(http.MethodGet, "/v1/events", nil, r.as("viewer")))
	text := r.metricsText()
	require.Contains(t, text, `telemark_registry_streams_ended_total{why="credentials"} 1`)
	require.Contains(t, text, `telemark_registry_streams_ended_total{why="shutdown"} 1`)
}

// Asking an identity provider takes long enough for it.
func TestStreamThatIsLetInWhileCredentialsAreTakenAwayEnds(t *testing.T) {
	var r *rig
	var asked atomic.Int64
	asked.Store(-1000)
	r = newRig(t, func(s *settings) {
		s.Now = func() time.Time {
			if asked.Add(1) == 3 { // the request begins, its address is counted, and now
				r.server.SetAuth(auth.New(r.authFile()))
			}
			return time.Now()
		}
	})
	asked.Store(0)
	select {
	case <-r.listen("").ended:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the stream outlives its credentials")
	}
	require.Contains(t, r.metricsText(), `telemark_registry_streams_ended_total{why="credentials"} 1`)
}

func TestStreamEndsWhenItsTokenDoes(t *testing.T) {
	r := newRig(t, func(s *settings) {
		s.auth = func(f *auth.File) { f.Tokens[0].Expires = time.Now().Add(500 * time.Millisecond) }
	})
	l := r.listen("")
	l.next()
	select {
	case <-l.ended:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "the stream outlives its token")
	}
	refused(t, api.Unauthenticated, r.do(http.MethodGet, "/v1/events", nil, r.as("viewer")))
}

func TestManyStreamsAreToldTheSame(t *testing.T) {
	// A signature each for all of them at the usual pace of these tests is more
	// than a busy machine does under the race detector.
	r := newRig(t, func(s *settings) { s.Heartbeat = 2 * time.Second })
	listeners := make([]*listener, 200)
	for i := range listeners {
		listeners[i] = r.listen("")
	}
	for _, l := range listeners {
		l.next()
	}
	for i := range 5 {
		r.policy(i)
	}
	for _, l := range listeners {
		for want := uint64(1); want <= 5; want++ {
			require.Equal(t, want, l.event().Revision)
		}
	}
}

// A revocation through one replica reaches the streams of the other.
func TestChangeThroughOneReplicaReachesStreamsOfTheOther(t *testing.T) {
	dsn := pgtest.DSN(t)
	one, two := newRigOn(t, dsn), newRigOn(t, dsn)
	l := two.listen("")
	l.next()
	began := time.Now()
	revision := one.policy(1)
	require.Equal(t, revision, l.event().Revision)
	require.Less(t, time.Since(began), 2*time.Second)
	// A stream that was at the other one goes on here.
	require.Equal(t, one.policy(2), one.listen(fmt.Sprintf("since=%d", revision)).event().Revision)
}
