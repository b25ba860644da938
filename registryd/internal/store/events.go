package store

import (
	"errors"
	"fmt"
	"time"
)

const (
	maxEventKIDs = 256
	maxPage      = 1000 // of a list, and of events and audit entries
)

// Event is something that changed.
type Event struct {
	Revision uint64 // set by Emit
	Previous uint64 // revision of the event before, set by Emit
	At       time.Time
	What     string   // see answer.Event
	KIDs     []string // at most 256
	More     bool     // more keys than that
	Instance string   // hex
}

// Emit appends an event under the transaction's next revision; at most one in
// a transaction. It is seen by Events once the transaction is durable. KIDs
// beyond 256 are left out, and More set.
func (t *Tx) Emit(e Event) error {
	if _, err := t.NextRevision(); err != nil {
		return err
	}
	if t.event != nil {
		return errors.New("store: a second event in one transaction")
	}
	if err := checkTexts(e.What, e.Instance); err != nil {
		return fmt.Errorf("an event: %w", err)
	}
	if len(e.KIDs) > maxEventKIDs {
		e.KIDs, e.More = e.KIDs[:maxEventKIDs:maxEventKIDs], true
	}
	if err := checkIDs(e.KIDs...); err != nil {
		return fmt.Errorf("an event: %w", err)
	}
	if e.At.IsZero() {
		e.At = t.db.options.Now()
	}
	t.event = &e
	return nil
}

// writeEvent runs when the transaction's last revision is known.
func (t *Tx) writeEvent() error {
	e := t.event
	if e == nil {
		return nil
	}
	err := t.later(`INSERT INTO events (revision, previous, at, what, kids, more, instance)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		t.state.revision, t.state.lastEvent, millis(e.At), e.What, toJSON(e.KIDs), flag(e.More), e.Instance)
	t.state.lastEvent = t.state.revision
	return err
}

// Events returns up to limit (at most 1,000) events with a revision above
// after, in order.
func (t *Tx) Events(after uint64, limit int) ([]Event, error) {
	var events []Event
	err := t.each(func(scan scanner) error {
		var e Event
		var at int64
		var more int
		var kids string
		if err := scan(&e.Revision, &e.Previous, &at, &e.What, &kids, &more, &e.Instance); err != nil {
			return err
		}
		e.At, e.More = fromMillis(at), more != 0
		events = append(events, e)
		return fromJSON(kids, &events[len(events)-1].KIDs)
	}, `SELECT revision, previous, at, what, kids, more, instance FROM events
			WHERE revision > $1 ORDER BY revision LIMIT $2`, bounded(after), page(limit))
	return events, err
}
