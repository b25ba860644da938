package replay

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/reason"
)

// ErrCursor is returned for a cursor that no page gave.
var ErrCursor = errors.New("the cursor is not one of this store")

const (
	defaultPage = 100
	// MaxPage is the largest StatusQuery.Limit.
	MaxPage = 1000

	// What is refused may name anything: longer names are cut.
	maxRefusedName = 64
)

// refusedID names what was refused without having a window.
type refusedID struct{ scope, kid, stream string }

// Refused implements Store.
func (l *Local) Refused(scope, kid, stream string, r reason.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.keys[keyID{scope, kid}]; k != nil {
		for _, e := range slices.Backward(k.epochs) {
			if w := e.window(stream); w != nil {
				if w.refused == nil {
					w.refused = make(map[reason.Reason]uint64)
				}
				w.refused[r]++
				return
			}
		}
	}
	id := refusedID{scope, kid[:min(len(kid), maxRefusedName)], stream[:min(len(stream), maxRefusedName)]}
	n, ok := l.unknown.Get(id)
	if !ok {
		n = make(map[reason.Reason]uint64, 1)
		l.unknown.Add(id, n)
	}
	n[r]++
}

// row is the sort key of a status row, and what a cursor holds.
type row struct {
	scope, kid, stream string
	epoch              uint64
	window             *window // nil: refused only
}

func compareRows(a, b row) int {
	return cmp.Or(
		cmp.Compare(a.scope, b.scope), cmp.Compare(a.kid, b.kid),
		cmp.Compare(a.stream, b.stream), cmp.Compare(a.epoch, b.epoch),
	)
}

// Status implements Store.
func (l *Local) Status(_ context.Context, q StatusQuery) (StatusPage, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, MaxPage)
	after, err := parseCursor(q.Cursor)
	if err != nil {
		return StatusPage{}, err
	}

	rows := l.rows(q, after)
	slices.SortFunc(rows, compareRows)
	var page StatusPage
	if len(rows) > limit {
		rows = rows[:limit]
		page.Next = rows[limit-1].cursor()
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now
	for _, r := range rows {
		if r.window != nil {
			page.Streams = append(page.Streams, r.window.status(now))
			continue
		}
		refused, _ := l.unknown.Peek(refusedID{r.scope, r.kid, r.stream})
		page.Streams = append(page.Streams, StreamStatus{
			Scope: r.scope, KID: r.kid, Stream: r.stream, Refused: maps.Clone(refused),
		})
	}
	return page, nil
}

// rows collects what comes after a cursor, in any order.
func (l *Local) rows(q StatusQuery, after *row) []row {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rows []row
	add := func(r row) {
		if (q.KID == "" || r.kid == q.KID) && (after == nil || compareRows(r, *after) > 0) {
			rows = append(rows, r)
		}
	}
	for id, k := range l.keys {
		for _, e := range k.epochs {
			for _, w := range e.windows {
				add(row{id.scope, id.kid, w.stream, e.no, w})
			}
		}
	}
	for _, id := range l.unknown.Keys() {
		add(row{id.scope, id.kid, id.stream, 0, nil})
	}
	return rows
}

func (w *window) status(now int64) StreamStatus {
	s := StreamStatus{
		Scope: w.key.id.scope, KID: w.key.id.kid, Stream: w.stream, Epoch: w.epoch.no,
		Verified:   w.verified,
		Refused:    maps.Clone(w.refused),
		Duplicates: w.duplicates,
		GapsClosed: w.gapsClosed,
		LateFills:  w.lateFills,
		InFlight:   w.flights.owned(),
		LastBlock:  w.settled.top(),
		Silent:     w.silent,
		Farewell:   w.gone(),
	}
	s.GapsOpen, s.GapsReported = w.open(now)
	for _, p := range w.partials {
		s.ItemsMissing += uint64(p.missing(now))
	}
	if w.lastSeen > 0 {
		s.LastSeen = time.UnixMilli(w.lastSeen)
	}
	if w.location != nil {
		at := *w.location
		s.LastLocation = &at
	}
	return s
}

// cursor: base64url of string scope | string kid | string stream | uv epoch.
func (r row) cursor() string {
	b := appendString(nil, r.scope)
	b = appendString(b, r.kid)
	b = appendString(b, r.stream)
	b = binary.AppendUvarint(b, r.epoch)
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(s string) (*row, error) {
	if s == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil, ErrCursor
	}
	r := reader{b: b}
	at := row{scope: r.string(), kid: r.string(), stream: r.string(), epoch: r.uv()}
	if r.finish() != nil {
		return nil, ErrCursor
	}
	return &at, nil
}
