package store

import (
	"fmt"
	"math"
	"time"
)

// Identity is what was seen of the identity of instances: it begins with one
// instance key, and goes on with others when the VM is started anew. It is never
// deleted, whatever becomes of the instances.
type Identity struct {
	Origin   string // hex of the first instance key
	Instance string // hex of the present one
	Counter  uint64 // the highest that was seen; at most MaxInt64
	Verified bool   // by a quote that was verified
	Operator string // hex of the key, "" for none yet
	Owner    string
	Revoked  string // why, with one of its instances

	FirstSeenAt time.Time
	SeenAt      time.Time
	// RefusedAt is when the last attempt to go back was written into the audit
	// log.
	RefusedAt time.Time
	Revision  uint64
}

const identityColumns = `origin, instance, counter, verified, operator_key, owner_key, revoked, first_seen_at, seen_at, refused_at, revision`

// Identity returns the identity, or ErrNotFound.
func (t *Tx) Identity(origin string) (*Identity, error) {
	if checkTexts(origin) != nil {
		return nil, ErrNotFound
	}
	var i Identity
	var verified int
	var first, seen, refused int64
	err := t.one(func(scan scanner) error {
		return scan(&i.Origin, &i.Instance, &i.Counter, &verified, &i.Operator, &i.Owner, &i.Revoked, &first, &seen, &refused, &i.Revision)
	}, `SELECT `+identityColumns+` FROM identities WHERE origin = $1`, origin)
	if err != nil {
		return nil, err
	}
	i.Verified = verified != 0
	i.FirstSeenAt, i.SeenAt, i.RefusedAt = fromMillis(first), fromMillis(seen), fromMillis(refused)
	return &i, nil
}

// PutIdentity writes an identity under the next revision, which it sets in i.
// Rules stand with the caller, who read it in the same transaction.
func (t *Tx) PutIdentity(i *Identity) error {
	if err := checkIdentity(i); err != nil {
		return fmt.Errorf("an identity: %w", err)
	}
	revision, err := t.NextRevision()
	if err != nil {
		return err
	}
	if err := t.later(`INSERT INTO identities (`+identityColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			ON CONFLICT (origin) DO UPDATE SET instance = excluded.instance, counter = excluded.counter,
				verified = excluded.verified, operator_key = excluded.operator_key, owner_key = excluded.owner_key,
				revoked = excluded.revoked, first_seen_at = excluded.first_seen_at, seen_at = excluded.seen_at,
				refused_at = excluded.refused_at, revision = excluded.revision`,
		i.Origin, i.Instance, int64(i.Counter), flag(i.Verified), i.Operator, i.Owner, i.Revoked,
		millis(i.FirstSeenAt), millis(i.SeenAt), millis(i.RefusedAt), revision); err != nil {
		return err
	}
	i.Revision = revision
	return nil
}

// NoteRefused remembers when an attempt to go back was written into the audit
// log. It changes nothing that anybody is told, and takes no revision.
func (t *Tx) NoteRefused(origin string, at time.Time) error {
	n, err := t.exec(`UPDATE identities SET refused_at = $2 WHERE origin = $1`, origin, millis(at))
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

func checkIdentity(i *Identity) error {
	if i.Counter > math.MaxInt64 {
		return fmt.Errorf("%w: the counter is %d", ErrInvalid, i.Counter)
	}
	if err := checkIDs(i.Origin, i.Instance); err != nil {
		return err
	}
	return checkTexts(i.Operator, i.Owner, i.Revoked)
}
