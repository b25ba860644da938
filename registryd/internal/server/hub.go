package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// Bounds of what the hub keeps for streams that are a little behind.
const (
	keepBytes   = 16 << 20 // of key entries
	pageEvents  = 256
	readTimeout = 5 * time.Second
)

// hub reads the store's events, once for all streams. A stream has a position,
// the revision up to which it was told everything, and asks what comes behind.
//
// When the store cannot be read the hub goes stale, and streams send no more
// heartbeats: what another replica revokes would not be seen, and verifiers must
// notice.
type hub struct {
	store  Store
	teller Teller
	every  time.Duration // at least so often the store is read
	stale  time.Duration // after so long without reading nothing is said of now
	keep   int           // events
	logger *zap.Logger

	mu       sync.Mutex
	events   []kept        // ascending
	bytes    int           // of all of them
	floor    uint64        // events behind it are all in events
	revision uint64        // of the store, when it was read last
	readAt   time.Time     // zero before the first time
	moved    chan struct{} // closed when any of these changes
	ended    chan struct{} // closed when streams have to end
	closed   bool
	hurry    chan struct{} // wakes the reader
}

type kept struct {
	event *answer.Event // not changed
	size  int
}

func newHub(o Options) *hub {
	return &hub{
		store: o.Store, teller: o.Fleet, every: o.Heartbeat, stale: o.StaleAfter, keep: o.KeepEvents, logger: o.Logger,
		moved: make(chan struct{}), ended: make(chan struct{}), hurry: make(chan struct{}, 1),
	}
}

// run reads until ctx ends.
func (h *hub) run(ctx context.Context) {
	failing := false
	t := time.NewTicker(h.every)
	defer t.Stop()
	for {
		// Taken before reading, so that no change falls in between.
		changed := h.store.Changed()
		err := h.read(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			h.logger.Warn("Events cannot be read; streams fall silent until they can.", zap.Error(err))
		case err == nil && failing:
			h.logger.Info("Events can be read again.")
		}
		failing = err != nil
		if failing {
			changed = nil // the ticker is fast enough for a store that fails
		}
		select {
		case <-changed:
		case <-h.hurry:
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// read takes what is new in the store.
func (h *hub) read(ctx context.Context) error {
	for {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		more, err := h.page(ctx)
		cancel()
		if err != nil || !more {
			return err
		}
	}
}

func (h *hub) page(ctx context.Context) (more bool, err error) {
	h.mu.Lock()
	position, first := h.revision, h.readAt.IsZero()
	h.mu.Unlock()
	var revision uint64
	var events []store.Event
	began := time.Now()
	err = h.store.View(ctx, func(tx *store.Tx) error {
		if revision, err = tx.Revision(); err != nil {
			return err
		}
		if first {
			// A few events for streams that were open before a restart.
			position = revision - min(revision, pageEvents)
		}
		events, err = tx.Events(position, pageEvents)
		return err
	})
	if err != nil {
		return false, err
	}
	told := make([]kept, 0, len(events))
	for i := range events {
		e, err := h.teller.Event(ctx, &events[i])
		if err != nil {
			return false, err
		}
		told = append(told, kept{e, sizeOf(e)})
	}
	more = len(events) == pageEvents
	if more {
		revision = events[len(events)-1].Revision
	}
	h.take(position, revision, told, began)
	return more, nil
}

// take adds events that were read from position on.
func (h *hub) take(position, revision uint64, told []kept, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.readAt.IsZero():
		h.floor = position
	case revision < h.revision:
		// A store whose revision went back is another one. Streams notice by
		// their position.
		h.events, h.bytes, h.floor = nil, 0, revision
	}
	if len(told) > 0 && told[0].event.Previous > max(position, h.floor) {
		// Events are gone before we saw them.
		h.events, h.bytes, h.floor = nil, 0, told[0].event.Previous
	}
	for _, k := range told {
		h.events, h.bytes = append(h.events, k), h.bytes+k.size
	}
	drop := 0
	for drop < len(h.events) && (len(h.events)-drop > h.keep || h.bytes > keepBytes) {
		h.bytes -= h.events[drop].size
		h.floor = h.events[drop].event.Revision
		drop++
	}
	h.events = slices.Delete(h.events, 0, drop)
	if revision != h.revision || h.readAt.IsZero() {
		close(h.moved)
		h.moved = make(chan struct{})
	}
	h.revision, h.readAt = revision, at
}

func sizeOf(e *answer.Event) int {
	n := 256
	for i := range e.Records {
		n += 256 + len(e.Records[i].Entry)
	}
	return n
}

// news is what a stream learns.
type news struct {
	events   []*answer.Event
	revision uint64        // that these lead to
	gone     bool          // the position is behind what is kept
	ahead    bool          // the position is one that the store has not reached
	fresh    bool          // the store was read a moment ago
	moved    chan struct{} // closed when there is more
	ended    chan struct{} // closed when the stream has to end
}

// after returns the events behind a position.
func (h *hub) after(position uint64, now time.Time) news {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := news{revision: h.revision, moved: h.moved, ended: h.ended}
	n.fresh = !h.readAt.IsZero() && now.Sub(h.readAt) < h.stale
	switch {
	case position > h.revision:
		n.ahead = true
	case position < h.floor:
		n.gone = true
	default:
		i, _ := slices.BinarySearchFunc(h.events, position, func(k kept, p uint64) int {
			if k.event.Revision <= p {
				return -1
			}
			return 1
		})
		for _, k := range h.events[i:] {
			n.events = append(n.events, k.event)
		}
	}
	return n
}

// ready waits a moment for a hub that was not read yet.
func (h *hub) ready(ctx context.Context) news {
	n := h.after(0, time.Now())
	if n.fresh {
		return n
	}
	h.wake()
	t := time.NewTimer(h.stale)
	defer t.Stop()
	select {
	case <-n.moved:
	case <-t.C:
	case <-n.ended:
	case <-ctx.Done():
	}
	return h.after(0, time.Now())
}

// older reads from the store what the hub does not keep: events behind position,
// up to a page. gone says that some of them do not exist any more.
func (h *hub) older(ctx context.Context, position uint64) (events []*answer.Event, gone bool, err error) {
	var found []store.Event
	err = h.store.View(ctx, func(tx *store.Tx) error {
		var err error
		found, err = tx.Events(position, pageEvents)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if len(found) == 0 || found[0].Previous > position {
		return nil, true, nil
	}
	for i := range found {
		e, err := h.teller.Event(ctx, &found[i])
		if err != nil {
			return nil, false, err
		}
		events = append(events, e)
	}
	return events, false, nil
}

// wake has the store read now.
func (h *hub) wake() {
	select {
	case h.hurry <- struct{}{}:
	default:
	}
}

// ending is closed when streams that are let in from now on have to end.
func (h *hub) ending() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// cut ends the streams that are open now.
func (h *hub) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		close(h.ended)
		h.ended = make(chan struct{})
	}
}

// close ends all streams, and those that come.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.ended)
	}
}
