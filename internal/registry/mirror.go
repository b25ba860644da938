package registry

import (
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// mirror is what the registry said, taken together.
type mirror struct {
	store    string // of the registry; "" before the first answer
	revision uint64 // up to which nothing is missing
	highest  uint64 // seen in any answer; above revision, something is missing
	records  map[string]stored
	// rewound says that the registry answered with a revision below highest, as
	// one does that was restored from a backup. Once it has passed highest, it
	// has said things under revisions that were seen before with others: only a
	// whole snapshot tells them.
	rewound bool
}

// stored is a record; until is as in known.
type stored struct {
	answer.Record
	until time.Time
}

func newMirror() mirror { return mirror{records: map[string]stored{}} }

// admit takes store and revision of a believed answer.
func (m *mirror) admit(h *answer.Head) {
	m.store = h.Store
	m.highest = max(m.highest, h.Revision)
}

// rewind begins anew, but for what nobody can take back.
func (m *mirror) rewind() {
	m.rewound, m.revision = true, 0
	for kid := range m.records {
		r := m.records[kid]
		r.Revision = 0 // whatever is said next is news
		m.records[kid] = r
	}
}

// learn takes over one record and says whether it was news. A record of an
// older revision is none, since answers can overtake each other; nor is a key
// that is missing here, when the answer is older than what is all here. A
// revocation is never taken back, whatever is said later.
func (m *mirror) learn(kid string, r *answer.Record, asked uint64, until time.Time) (news bool, err error) {
	old, ok := m.records[kid]
	if r.State == "" {
		if !ok || old.Revision > asked || old.State == api.StateRevoked {
			return false, nil
		}
		delete(m.records, kid)
		return true, nil
	}
	if ok && r.Revision <= old.Revision || !ok && asked < m.revision {
		return false, nil
	}
	if ok && (old.State == api.StateRevoked && r.State != api.StateRevoked ||
		old.State == api.StateSuperseded && r.State != api.StateSuperseded && r.State != api.StateRevoked) {
		return false, refuse(RefusedTerminal, "kid %s was %s and is now called %.32q", r.KID, old.State, r.State)
	}
	m.records[kid] = stored{Record: *r, until: until}
	return true, nil
}

// urgent reports whether a record takes trust away, so that it must not be
// forgotten by whatever happens next.
func urgent(r *answer.Record) bool {
	return r.State != api.StateEnrolled && r.State != api.StatePending
}

// apply takes over the records of one believed answer of revision asked, and
// shows them to all views. The lock is held. until is as in known.
func (c *Client) apply(records []answer.Record, asked uint64, until time.Time) (takesTrust bool, err error) {
	kids := make([]string, len(records))
	for i := range records {
		if kids[i], err = parseKID(records[i].KID); err != nil {
			return false, err
		}
	}
	var changes []change
	full := false
	for i := range records {
		r, kid := &records[i], kids[i]
		if _, known := c.mirror.records[kid]; !known && r.State != "" && len(c.mirror.records) >= maxKeys {
			full = true // the others count
			continue
		}
		news, err := c.mirror.learn(kid, r, asked, until)
		if err != nil {
			// That key stays revoked, and the others count.
			c.count(RefusedTerminal)
			c.o.Logger.Error("the registry takes back a revocation, which stays in force here", zap.Error(err))
		}
		if !news {
			continue
		}
		takesTrust = takesTrust || urgent(r)
		if r.State == "" {
			r = nil
		}
		changes = append(changes, change{kid: kid, record: r, until: until})
	}
	c.show(changes)
	if full {
		return takesTrust, refuse(RefusedTooManyKeys, "more than %d keys", maxKeys)
	}
	return takesTrust, nil
}

// show brings changes to all views. The lock is held.
func (c *Client) show(changes []change) {
	if len(changes) == 0 {
		return
	}
	for i, v := range c.views {
		broken := v.update(changes)
		if i == 0 {
			c.report(broken)
		}
	}
	for i := range changes {
		if changes[i].record != nil {
			c.sights.forget(changes[i].kid)
		}
	}
	c.changes.fire()
}

// prove notes that the mirror was current at a moment. The lock is held, so
// that proofs do not overtake each other.
func (c *Client) prove(at time.Time, h *answer.Head) {
	now := c.now()
	if at = local(now, at); at.After(now) {
		at = now
	}
	old := c.proven.Load()
	next := &proof{at: at, until: c.goodUntil(now, at, h)}
	if next.at.Before(old.at) {
		next.at = old.at
	}
	if next.until.Before(old.until) {
		next.until = old.until
	}
	c.proven.Store(next)
	if past(now, old.until) && !past(now, next.until) {
		c.changes.fire() // what waited can be judged
	}
}

// goodUntil is how long an answer of this head, true as of at, is relied on.
func (c *Client) goodUntil(now, at time.Time, h *answer.Head) time.Time {
	until := at.Add(c.o.MaxStale)
	if end := local(now, h.NotAfter); end.Before(until) {
		until = end
	}
	return until
}

// local gives a time by somebody's wall clock the monotonic reading of ours, so
// that turning our clock back does not make it younger.
func local(now, t time.Time) time.Time { return now.Add(t.Sub(now)) }

// past reports whether until is over by the monotonic clock or, where that
// stood still because the machine slept, by the wall clock.
func past(now, until time.Time) bool {
	return now.After(until) || now.Round(0).After(until.Round(0))
}
