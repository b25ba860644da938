package registry

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/policy"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// kidLen is that of a TPM Name with SHA-256: 000b and the digest.
const kidLen = 34

// Keys is what one verifier sees of the registry: its keys under that
// verifier's own default policy. It is a verdict.KeySource.
type Keys struct {
	client   *Client
	defaults *policy.Policy
	view     atomic.Pointer[view]
}

// view is immutable.
type view struct {
	keys  *table[*known]
	names *table[int] // bound attribute, 0, value in lower case → keys that are named so
	binds map[string]int
}

// known is one key. Exactly one of key and broken is set.
type known struct {
	key    *verdict.Key
	broken error
	// until is how long the answer that this key came with may be relied on by
	// itself, zero when it came with all others.
	until time.Time
}

func newKeys(c *Client, defaults *policy.Policy) *Keys {
	k := &Keys{client: c, defaults: defaults}
	k.view.Store(&view{keys: &table[*known]{}, names: &table[int]{}, binds: map[string]int{}})
	return k
}

// Lookup implements verdict.KeySource. A kid that is seen for the first time is
// asked for in the background; until its answer is there, it is unavailable.
func (k *Keys) Lookup(kid []byte) (*verdict.Key, error) {
	if len(kid) != kidLen || kid[0] != 0x00 || kid[1] != 0x0b {
		return nil, nil // no registry can know it
	}
	c := k.client
	e, ok := k.view.Load().keys.getBytes(kid)
	if !ok {
		return nil, c.unknown(string(kid))
	}
	if now := c.now(); past(now, c.proven.Load().until) && past(now, e.until) {
		return nil, c.stale()
	}
	if e.broken != nil {
		return nil, fmt.Errorf("%w: what the registry says of this key cannot be read: %w", verdict.ErrUnavailable, e.broken)
	}
	return e.key, nil
}

// Recheck implements verdict.Rechecker. The kid is asked for as one that is not
// known, and the answer means: nothing newer is.
func (k *Keys) Recheck(kid []byte) error { return k.client.unknown(string(kid)) }

// Binds reports whether any key binds the attribute.
func (k *Keys) Binds(attribute string) bool { return k.view.Load().binds[attribute] > 0 }

// Names reports whether value, under an attribute that a key binds, names the
// machine of that key. Case does not count.
func (k *Keys) Names(attribute, value string) bool {
	v := k.view.Load()
	if v.binds[attribute] == 0 {
		return false
	}
	_, ok := v.names.get(nameKey(attribute, strings.ToLower(value)))
	return ok
}

// Len returns the number of keys, of whatever state.
func (k *Keys) Len() int { return k.view.Load().keys.size }

// Changed returns a channel that is closed when something is known that was
// not before. Take it before looking up, and wait on it after.
func (k *Keys) Changed() <-chan struct{} { return k.client.changes.wait() }

// Asking reports whether some key that came with telemetry is being asked for, so
// that Changed may fire soon.
func (k *Keys) Asking() bool { return k.client.asking() }

// Known reports whether all keys have been known at some time, if only from the
// cache. Until then nobody can say which names belong to machines.
func (k *Keys) Known() bool { return !k.client.proven.Load().at.IsZero() }

// Close ends the view; it answers from what it knew.
func (k *Keys) Close() { k.client.forget(k) }

func nameKey(attribute, value string) string { return attribute + "\x00" + value }

// change is one key that was learned, or with a nil record, forgotten.
type change struct {
	kid    string // raw
	record *answer.Record
	until  time.Time
}

// update applies changes; the client's lock is held. It returns what cannot be
// read.
func (k *Keys) update(changes []change) (broken []error) {
	v := k.view.Load()
	keys, names, binds := v.keys.edit(), v.names.edit(), maps.Clone(v.binds)
	count := func(of *known, n int) {
		if of == nil || of.key == nil {
			return
		}
		for attribute, value := range keyfile.NamesOf(of.key) {
			key := nameKey(attribute, value)
			was, _ := names.get(key)
			if was+n > 0 {
				names.set(key, was+n)
			} else {
				names.remove(key)
			}
			if binds[attribute] += n; binds[attribute] <= 0 {
				delete(binds, attribute)
			}
		}
	}
	for i := range changes {
		c := &changes[i]
		old, _ := keys.get(c.kid)
		count(old, -1)
		if c.record == nil {
			keys.remove(c.kid)
			continue
		}
		e := readRecord(c.kid, c.record, k.defaults)
		e.until = c.until
		if e.broken != nil {
			broken = append(broken, fmt.Errorf("kid %x: %w", c.kid, e.broken))
		}
		count(e, +1)
		keys.set(c.kid, e)
	}
	k.view.Store(&view{keys: keys.done(), names: names.done(), binds: binds})
	return broken
}

// readRecord makes a key of a record. What cannot be read is nobody's key and
// nobody's refusal; but a revocation counts whatever else stands there.
func readRecord(kid string, r *answer.Record, defaults *policy.Policy) *known {
	revoked := &verdict.Key{KID: kid, Revoked: "revoked", Policy: defaults}
	if r.State == api.StatePending {
		return &known{key: &verdict.Key{KID: kid, Pending: true, Policy: defaults}}
	}
	key, err := keyfile.ParseEntry(r.Entry, defaults)
	if err == nil {
		err = agree(kid, r, key)
	}
	switch {
	case r.State == api.StateRevoked && err != nil:
		return &known{key: revoked}
	case err != nil:
		return &known{broken: err}
	default:
		return &known{key: key}
	}
}

// agree holds the entry against the record that it came in.
func agree(kid string, r *answer.Record, key *verdict.Key) error {
	if key.KID != kid {
		return errors.New("the entry is of another key")
	}
	if r.Evidence == "" || key.Evidence.String() != string(r.Evidence) {
		return fmt.Errorf("the record says evidence %.32q, the entry %q", r.Evidence, key.Evidence)
	}
	ok := false
	switch r.State {
	case api.StateEnrolled:
		ok = key.Revoked == "" && !key.NotAfter.IsZero()
	case api.StateSuperseded:
		ok = key.Revoked == verdict.Superseded
	case api.StateRevoked:
		ok = key.Revoked != "" && key.Revoked != verdict.Superseded
	case api.StatePending, api.StateExpired:
	default:
		return fmt.Errorf("state %.32q is not known", r.State)
	}
	if !ok {
		return fmt.Errorf("the entry does not stand for a key that is %s", r.State)
	}
	return nil
}

// parseKID reads a kid as it stands in records.
func parseKID(s string) (string, error) {
	kid, err := hex.DecodeString(s)
	if err != nil || len(kid) != kidLen || kid[0] != 0x00 || kid[1] != 0x0b || strings.ToLower(s) != s {
		return "", refuse(RefusedMalformed, "%.80q is not a kid", s)
	}
	return string(kid), nil
}
