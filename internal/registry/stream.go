package registry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
)

const (
	// silence is how long a stream may go without a heartbeat, which comes every
	// second: three are missed then, and half a second is grace.
	silence = 3500 * time.Millisecond

	firstReconnect = time.Second
	lastReconnect  = 30 * time.Second

	// maxLine bounds a line of the stream: a signed answer in base64.
	maxLine = answer.MaxSize/3*4 + 1024
)

var (
	errSilent = errors.New("three heartbeats of the registry's event stream are missing")
	errLate   = errors.New("the registry's event stream is held up on the way")
	errEnded  = errors.New("the registry ended the event stream")
)

// follow reads the stream of events, again and again, once a snapshot was read.
func (c *Client) follow(ctx context.Context, first <-chan struct{}) {
	select {
	case <-first:
	case <-ctx.Done():
		return
	}
	pause := firstReconnect
	for ctx.Err() == nil {
		alive := false
		if c.isSynced() {
			var err error
			alive, err = c.stream(ctx)
			if ctx.Err() != nil {
				return
			}
			// What was missed, at once and over a new connection: whatever
			// swallowed the stream may swallow the old one too.
			c.requests.drop(nil)
			c.want()
			c.o.Logger.Info("there is no event stream, the registry is asked every refresh instead", zap.Error(err),
				zap.Duration("refresh", c.o.Refresh))
			c.distrust(err)
			c.observe()
		}
		if alive || !c.isSynced() {
			pause = firstReconnect
		}
		if !sleep(ctx, jitter(pause)) {
			return
		}
		pause = min(2*pause, lastReconnect)
	}
}

func (c *Client) isSynced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced
}

// stream is one connection. It always ends with an error; alive says that there
// was a heartbeat.
func (c *Client) stream(parent context.Context) (alive bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	q, err := c.question()
	if err != nil {
		return false, err
	}
	// A client of its own: what swallows the stream must not swallow the
	// snapshots that look behind it.
	client, err := newHTTP(ctx, c.o.HTTP)
	if err != nil {
		return false, fmt.Errorf("set up the connection to the registry: %w", err)
	}
	defer client.CloseIdleConnections()
	s := &stream{client: c, q: q, watchdog: time.AfterFunc(max(c.o.Timeout, silence), func() { cancel(errSilent) })}
	defer s.watchdog.Stop()
	defer c.streaming.Store(false)

	values := q.values()
	c.mu.Lock()
	s.revision = c.mirror.revision
	c.mu.Unlock()
	values.Set("since", strconv.FormatUint(s.revision, 10))
	resp, err := send(ctx, client, c.address(values, "v1", "events"), mediaEvents)
	if err != nil {
		return false, because(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is given up
	if resp.StatusCode != http.StatusOK || !hasType(resp, mediaEvents) {
		return false, statusError(resp)
	}
	err = s.read(resp.Body)
	return s.count > 0, because(ctx, err)
}

// stream is the state of one connection; it belongs to its reader.
type stream struct {
	client   *Client
	q        *question
	watchdog *time.Timer
	revision uint64 // of the last message
	count    uint64 // of heartbeats
	quickest time.Duration
}

// read takes messages, as of HTML, "Server-sent events", 9.2.6: data lines
// belong together until an empty line. Other fields than event and data say
// nothing that is not signed too.
func (s *stream) read(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 4096), maxLine)
	var event string
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 {
			if len(data) > 0 {
				if err := s.message(event, data); err != nil {
					return err
				}
			}
			event, data = "", data[:0]
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			event = string(value[:min(len(value), 64)])
		case "data":
			if len(data)+len(value) > maxLine {
				return refuse(RefusedMalformed, "a message of the event stream has more than %d bytes", maxLine)
			}
			data = append(data, value...)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return refuse(RefusedMalformed, "a line of the event stream has more than %d bytes", maxLine)
	case err != nil:
		return fmt.Errorf("read the registry's event stream: %w", err)
	default:
		return errEnded
	}
}

func (s *stream) message(event string, data []byte) error {
	encoded, err := base64.StdEncoding.Strict().DecodeString(string(data))
	if err != nil {
		return refuse(RefusedMalformed, "a message of the event stream is not base64")
	}
	if event == string(answer.KindHeartbeat) {
		return s.heartbeat(encoded)
	}
	return s.event(encoded)
}

// check judges the head of a message against the stream that it came on.
func (s *stream) check(h *answer.Head) error {
	c, q := s.client, *s.q
	q.floor = s.revision
	c.mu.Lock()
	q.store = c.mirror.store
	c.mu.Unlock()
	if err := q.check(h, c.now(), c.o.Skew); err != nil {
		return err
	}
	s.revision = h.Revision
	return nil
}

// heartbeat is the registry's word that up to its revision no event is missing
// on this stream. It proves the mirror to be current only if the mirror is there.
func (s *stream) heartbeat(encoded []byte) error {
	c := s.client
	var h answer.Heartbeat
	if err := c.o.Verifier.Open(answer.KindHeartbeat, encoded, &h); err != nil {
		return refusedOpen(err)
	}
	if err := s.check(&h.Head); err != nil {
		return err
	}
	if h.Count != s.count+1 {
		return refuse(RefusedCount, "heartbeat %d comes after %d", h.Count, s.count)
	}
	// Clocks differ, by an amount that does not change much: what grows is the
	// time that messages are held up.
	lag := c.now().Sub(h.IssuedAt)
	if s.count == 0 || lag < s.quickest {
		s.quickest = lag
	}
	s.count++
	if lag-s.quickest > silence {
		return errLate
	}
	s.watchdog.Reset(silence)

	c.mu.Lock()
	c.mirror.admit(&h.Head)
	current := h.Revision == c.mirror.revision && c.mirror.revision >= c.mirror.highest
	if current {
		c.prove(h.IssuedAt, &h.Head)
		c.keepProof(frame{frameHeartbeat, encoded}, h.Revision)
	}
	behind := c.mirror.highest > c.mirror.revision
	c.mu.Unlock()
	if behind {
		c.want()
	}
	if !c.streaming.Swap(true) {
		c.o.Logger.Info("the registry's event stream is there")
		c.observe()
	}
	return nil
}

// event applies what changed. A change counts whatever came before it; that the
// mirror is complete, only the next one in line can say.
func (s *stream) event(encoded []byte) error {
	c := s.client
	var e answer.Event
	if err := c.o.Verifier.Open(answer.KindEvent, encoded, &e); err != nil {
		return refusedOpen(err)
	}
	if err := s.check(&e.Head); err != nil {
		return err
	}
	if err := checkEvent(&e); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mirror.admit(&e.Head)
	takesTrust, err := c.apply(e.Records, e.Revision, time.Time{})
	if err != nil {
		return err
	}
	switch {
	case e.Revision <= c.mirror.revision:
	case e.Incomplete || e.Previous > c.mirror.revision:
		c.want()
	default:
		c.mirror.revision = e.Revision
		c.keepAnswer(frame{frameEvent, encoded}, e.Previous, e.Revision, takesTrust)
	}
	return nil
}
