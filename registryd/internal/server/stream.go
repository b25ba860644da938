package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// A message of the stream:
//
//	id: REVISION          of events only
//	event: WHAT           or heartbeat
//	data: BASE64          of the signed answer
//
// and an empty line.

// What an event is called that stands for ones that cannot be told any more.
const incomplete = "incomplete"

// stream is one client that listens.
type stream struct {
	*call
	nonce    []byte
	position uint64 // everything up to it was told
	count    uint64 // of heartbeats
	buffer   bytes.Buffer
}

// why a stream ended, for metrics.
const (
	endClient      = "client"
	endSlow        = "slow"
	endExpired     = "expired"
	endShutdown    = "shutdown"
	endCredentials = "credentials"
	endFailed      = "failed"
)

func (s *Server) events(c *call) error {
	st := &stream{call: c}
	since, given, err := sinceOf(c.r)
	if err != nil {
		return err
	}
	if st.nonce, err = nonceOf(c.r); err != nil {
		return err
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return &delayed{api.Refuse(api.Busy, "%d event streams are open", cap(s.streams)), 10 * time.Second}
	}
	now := s.hub.ready(c.r.Context())
	if s.stopping.Load() || !now.fresh {
		return api.Refuse(api.StoreUnavailable, "events cannot be read now")
	}
	st.position = now.revision
	if given {
		st.position = since
	}
	s.o.Metrics.Streams.Inc()
	defer s.o.Metrics.Streams.Dec()

	c.Header().Set("Content-Type", "text/event-stream")
	c.Header().Set("X-Accel-Buffering", "no")
	c.WriteHeader(http.StatusOK)
	why := st.run(c.outdated)
	s.o.Metrics.Cut.WithLabelValues(why).Inc()
	return nil
}

// sinceOf reads where to begin: ?since=, or what a browser's EventSource sends
// when it comes again.
func sinceOf(r *http.Request) (since uint64, given bool, err error) {
	text := r.URL.Query().Get("since")
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		text = last
	}
	if text == "" {
		return 0, false, nil
	}
	since, err = strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, false, api.Refuse(api.BadRequest, "since: %.32q is no revision", text)
	}
	return since, true, nil
}

// run serves the stream, and says why it ended.
func (st *stream) run(ended <-chan struct{}) string {
	s := st.server
	ctx := st.r.Context()
	beat := time.NewTicker(s.o.Heartbeat)
	defer beat.Stop()
	var expired <-chan time.Time
	if end := st.identity.Expires; !end.IsZero() {
		t := time.NewTimer(end.Sub(s.o.Now()))
		defer t.Stop()
		expired = t.C
	}
	// The first heartbeat says where the stream begins.
	due := true
	for {
		moved, err := st.tell(ctx, due)
		if err != nil {
			return st.ending(err)
		}
		due = false
		select {
		case <-moved:
		case <-beat.C:
			due = true
		case <-expired:
			return endExpired
		case <-ended:
			if s.stopping.Load() {
				return endShutdown
			}
			return endCredentials
		case <-ctx.Done():
			return endClient
		}
	}
}

func (st *stream) ending(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return endSlow // net/http has ended the context, too
	case st.r.Context().Err() != nil:
		return endClient
	default:
		st.server.o.Logger.Warn("An event stream failed.", zap.Error(err), zap.String("client", st.peer()))
		return endFailed
	}
}

// tell sends what is new, and a heartbeat when one is due. It returns what to
// wait for.
func (st *stream) tell(ctx context.Context, due bool) (<-chan struct{}, error) {
	hub := st.server.hub
	for {
		n := hub.after(st.position, time.Now())
		switch {
		case n.ahead && due:
			// Another replica was ahead of us, for a moment; or the store is
			// another one.
			return n.moved, st.wait(n)
		case n.ahead:
			return n.moved, nil
		case n.gone:
			events, gone, err := hub.older(ctx, st.position)
			if err != nil {
				return nil, err
			}
			if gone {
				err = st.skip(n.revision)
			} else {
				err = st.send(events)
			}
			if err != nil {
				return nil, err
			}
			continue
		case len(n.events) > 0:
			if err := st.send(n.events); err != nil {
				return nil, err
			}
		}
		st.position = n.revision
		if due && n.fresh {
			if err := st.heartbeat(); err != nil {
				return nil, err
			}
		}
		return n.moved, nil
	}
}

// wait gives the hub a moment to reach the position, and gives up on it then.
func (st *stream) wait(n news) error {
	st.server.hub.wake()
	t := time.NewTimer(2 * st.server.o.Heartbeat)
	defer t.Stop()
	select {
	case <-n.moved:
		return nil
	case <-n.ended:
		return nil
	case <-st.r.Context().Done():
		return st.r.Context().Err()
	case <-t.C:
		return st.skip(n.revision)
	}
}

// send tells events, each signed for this stream alone.
func (st *stream) send(events []*answer.Event) error {
	for _, e := range events {
		signed, err := st.server.o.Fleet.SignEvent(e, st.nonce)
		if err != nil {
			return err
		}
		if err := st.write(e.Revision, e.What, signed); err != nil {
			return err
		}
		st.position = e.Revision
		st.server.o.Metrics.Events.Inc()
	}
	return nil
}

// skip tells the client to take a snapshot, since there are events that it will
// never see.
func (st *stream) skip(revision uint64) error {
	return st.send([]*answer.Event{{
		Head:     answer.Head{Revision: revision},
		Previous: min(st.position, revision), What: incomplete, Incomplete: true,
	}})
}

func (st *stream) heartbeat() error {
	st.count++
	signed, err := st.server.o.Fleet.SignedHeartbeat(st.nonce, st.count, st.position)
	if err != nil {
		return err
	}
	st.server.o.Metrics.Heartbeats.Inc()
	return st.write(0, "heartbeat", signed)
}

// write sends one message. A client that does not take it in time is cut off.
func (st *stream) write(id uint64, what string, signed []byte) error {
	b := &st.buffer
	b.Reset()
	if id != 0 {
		b.WriteString("id: ")
		b.WriteString(strconv.FormatUint(id, 10))
		b.WriteByte('\n')
	}
	b.WriteString("event: " + what + "\ndata: ")
	b.Write(base64.StdEncoding.AppendEncode(nil, signed))
	b.WriteString("\n\n")
	err := st.Push(b.Bytes(), st.server.o.WriteTimeout)
	if b.Cap() > 64<<10 {
		*b = bytes.Buffer{} // a thousand streams keep no large buffers
	}
	return err
}
