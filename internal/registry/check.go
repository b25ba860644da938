package registry

import (
	"crypto/subtle"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/answer"
)

// maxStore bounds the id of a store in bytes.
const maxStore = 128

// question is what is known when a request is sent, and what its answer is held
// against.
type question struct {
	nonce []byte
	asked time.Time
	store string // "" when no store is known yet
	floor uint64 // the highest revision seen before asking
}

func (c *Client) question() (*question, error) {
	n, err := c.nonce()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &question{nonce: n, asked: c.now(), store: c.mirror.store, floor: max(c.mirror.highest, c.mirror.revision)}, nil
}

// check judges what stands in every answer.
func (q *question) check(h *answer.Head, now time.Time, skew time.Duration) error {
	if subtle.ConstantTimeCompare(h.Nonce, q.nonce) != 1 {
		return refuse(RefusedNonce, "it was made for another request")
	}
	if err := wellFormed(h); err != nil {
		return err
	}
	if q.store != "" && h.Store != q.store {
		return refuse(RefusedStore, "the store is %.64q, it was %.64q; if the registry was set up anew, remove the cache and restart", h.Store, q.store)
	}
	if h.Revision < q.floor {
		return refuse(RefusedRollback, "the revision is %d, %d was seen before; if the registry was restored from a backup, remove the cache and restart",
			h.Revision, q.floor)
	}
	if h.IssuedAt.After(now.Add(skew)) || h.IssuedAt.Before(q.asked.Add(-skew)) {
		return refuse(RefusedClock, "issued at %s, here it is %s; compare the clocks", h.IssuedAt.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if now.After(h.NotAfter) {
		return refuse(RefusedExpired, "it was good until %s, here it is %s", h.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

func wellFormed(h *answer.Head) error {
	if h.Store == "" || len(h.Store) > maxStore || strings.ContainsFunc(h.Store, func(r rune) bool { return r < ' ' || r > '~' }) {
		return refuse(RefusedMalformed, "its store has no name")
	}
	if h.IssuedAt.IsZero() || !h.NotAfter.After(h.IssuedAt) {
		return refuse(RefusedMalformed, "it says no time, or ends before it begins")
	}
	return nil
}

// checkSnapshot holds a page against what was asked.
func checkSnapshot(s *answer.Snapshot, since uint64) error {
	last := since
	for i := range s.Records {
		r := &s.Records[i]
		if r.Revision < last || r.Revision <= since || r.Revision > s.Through {
			return refuse(RefusedMalformed, "a record of revision %d stands in a snapshot from %d through %d, or out of order", r.Revision, since, s.Through)
		}
		last = r.Revision
	}
	switch {
	case s.Since != since:
		return refuse(RefusedMalformed, "the snapshot is since %d, asked was since %d", s.Since, since)
	case s.More && (s.Through <= since || s.Through > s.Revision):
		return refuse(RefusedMalformed, "a page through %d does not lead on from %d", s.Through, since)
	case !s.More && s.Through != s.Revision:
		return refuse(RefusedMalformed, "the last page ends at %d, the revision is %d", s.Through, s.Revision)
	default:
		return nil
	}
}

// checkEvent holds an event against itself.
func checkEvent(e *answer.Event) error {
	if e.Revision < e.Previous || e.Revision == e.Previous && !e.Incomplete {
		return refuse(RefusedMalformed, "an event of revision %d comes after %d", e.Revision, e.Previous)
	}
	return nil
}
