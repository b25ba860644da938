package store

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// touchChunk is how many keys may have the same revision.
const touchChunk = 1000

// Key is a signing key.
type Key struct {
	KID        string // hex
	EKHash     string
	State      api.KeyState // pending, enrolled, superseded, revoked
	Reason     string       // of a revocation
	Public     []byte       // TPMT_PUBLIC
	Evidence   []byte       // JSON: attestation as it came, for auditors
	PCRs       []byte       // JSON: quoted registers; nil without
	EnrolledAt time.Time
	AttestedAt time.Time
	ExpiresAt  time.Time // of the lease; of superseded keys, until when they signed
	Revision   uint64
}

// Columns of a key, of the table k.
const (
	keyColumns = `k.kid, k.ek_hash, k.state, k.reason, k.public, k.enrolled_at, k.attested_at, k.expires_at, k.revision`
	keyBlobs   = `, k.evidence, k.pcrs`
)

// keyRow holds what Scan fills, until it is a Key.
type keyRow struct {
	Key
	enrolled, attested, expires int64
}

func (r *keyRow) columns() []any {
	return []any{
		&r.KID, &r.EKHash, &r.State, &r.Reason, &r.Public, &r.enrolled, &r.attested, &r.expires, &r.Revision,
	}
}

func (r *keyRow) blobs() []any { return []any{&r.Evidence, &r.PCRs} }

func (r *keyRow) key() *Key {
	k := r.Key
	k.EnrolledAt, k.AttestedAt, k.ExpiresAt = fromMillis(r.enrolled), fromMillis(r.attested), fromMillis(r.expires)
	return &k
}

// Key returns the key, or ErrNotFound.
func (t *Tx) Key(kid string) (*Key, error) {
	if checkTexts(kid) != nil {
		return nil, ErrNotFound
	}
	keys, err := t.keys(`k.kid = $1`, kid)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, ErrNotFound
	}
	return keys[0], nil
}

// KeysOf returns a machine's keys, newest first.
func (t *Tx) KeysOf(ekHash string) ([]*Key, error) {
	if checkTexts(ekHash) != nil {
		return nil, nil
	}
	return t.keys(`k.ek_hash = $1 ORDER BY k.born DESC, k.kid DESC`, ekHash)
}

func (t *Tx) keys(where string, arg string) ([]*Key, error) {
	var keys []*Key
	err := t.each(func(scan scanner) error {
		var r keyRow
		if err := scan(append(r.columns(), r.blobs()...)...); err != nil {
			return err
		}
		keys = append(keys, r.key())
		return nil
	}, `SELECT `+keyColumns+keyBlobs+` FROM machine_keys k WHERE `+where, arg)
	return keys, err
}

// PutKey writes a key under the transaction's next revision, which it sets in
// k. A key stays with its machine: one that another machine has is ErrExists,
// and one of a machine that is not there is ErrNotFound; the transaction may go
// on after both.
func (t *Tx) PutKey(k *Key) error {
	if err := checkKey(k); err != nil {
		return fmt.Errorf("a key: %w", err)
	}
	var owner string
	err := t.one(func(scan scanner) error { return scan(&owner) },
		`SELECT COALESCE((SELECT ek_hash FROM machine_keys WHERE kid = $1), ek_hash) FROM machines WHERE ek_hash = $2`,
		k.KID, k.EKHash)
	if err != nil {
		return fmt.Errorf("the machine of a key: %w", err)
	}
	if owner != k.EKHash {
		return fmt.Errorf("%w: the key %.64q with another machine", ErrExists, k.KID)
	}
	revision, err := t.keyRevision()
	if err != nil {
		return err
	}
	if err := t.later(`INSERT INTO machine_keys (kid, ek_hash, state, reason, public, evidence, pcrs,
				enrolled_at, attested_at, expires_at, revision, born)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
			ON CONFLICT (kid) DO UPDATE SET state = excluded.state, reason = excluded.reason,
				public = excluded.public, evidence = excluded.evidence, pcrs = excluded.pcrs,
				enrolled_at = excluded.enrolled_at, attested_at = excluded.attested_at,
				expires_at = excluded.expires_at, revision = excluded.revision`,
		k.KID, k.EKHash, string(k.State), k.Reason, k.Public, k.Evidence, k.PCRs,
		millis(k.EnrolledAt), millis(k.AttestedAt), millis(k.ExpiresAt), revision, revision); err != nil {
		return err
	}
	k.Revision = revision
	const newest = `FROM machine_keys WHERE ek_hash = $1 ORDER BY born DESC, kid DESC LIMIT 1`
	return t.later(`UPDATE machines SET key_state = (SELECT state `+newest+`),
			key_expires = (SELECT expires_at `+newest+`) WHERE ek_hash = $1`, k.EKHash)
}

// keyRevision is the revision of the next key: another one after every 1,000
// keys, as in TouchKeys.
func (t *Tx) keyRevision() (uint64, error) {
	revision, err := t.NextRevision()
	if err != nil {
		return 0, err
	}
	if t.put == touchChunk {
		revision++
		t.state.revision, t.put = revision, 0
	}
	t.put++
	return revision, nil
}

func checkKey(k *Key) error {
	if err := checkIDs(k.KID, k.EKHash); err != nil {
		return err
	}
	switch k.State {
	case api.StatePending, api.StateEnrolled, api.StateSuperseded, api.StateRevoked:
	default:
		return fmt.Errorf("%w: there is no state %.64q to keep", ErrInvalid, k.State)
	}
	if err := checkTexts(k.Reason); err != nil {
		return err
	}
	return checkBlobs(k.Public, k.Evidence, k.PCRs)
}

// TouchKeys gives all keys of the machines that match the next revision, since
// a policy changed what is said of them: all, by a label, or by name. Beyond
// 1,000 keys it takes a revision for each 1,000 of them, so that pages of
// KeysSince stay small; what the transaction writes afterwards, and its event,
// have the last one.
func (t *Tx) TouchKeys(all bool, labelKey, labelValue, name string) (kids []string, err error) {
	if err := checkTexts(labelKey, labelValue, name); err != nil {
		return nil, err
	}
	// The subquery comes first whatever a planner knows of the tables.
	query, args := `SELECT kid FROM machine_keys`, []any{}
	switch {
	case all:
	case labelKey != "":
		query = `WITH meant AS MATERIALIZED (SELECT ek_hash FROM machine_labels WHERE k = $1 AND v = $2)
			SELECT k.kid FROM meant JOIN machine_keys k ON k.ek_hash = meant.ek_hash`
		args = append(args, labelKey, labelValue)
	case name != "":
		query = `WITH meant AS MATERIALIZED (SELECT ek_hash FROM machines WHERE name_key = $1 AND name_key <> '')
			SELECT k.kid FROM meant JOIN machine_keys k ON k.ek_hash = meant.ek_hash`
		args = append(args, fold(name))
	default:
		return nil, fmt.Errorf("%w: no key is meant", ErrInvalid)
	}
	err = t.each(func(scan scanner) error {
		var kid string
		err := scan(&kid)
		kids = append(kids, kid)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	revision, err := t.NextRevision()
	if err != nil {
		return nil, err
	}
	slices.Sort(kids)
	for chunk := range slices.Chunk(kids, touchChunk) {
		if err := t.touch(chunk, all, revision); err != nil {
			return nil, err
		}
		t.state.revision, revision = revision, revision+1
	}
	return kids, nil
}

// touch gives keys a revision; whole says that there are no others between the
// first and the last of them.
func (t *Tx) touch(kids []string, whole bool, revision uint64) error {
	if whole {
		return t.later(`UPDATE machine_keys SET revision = $1 WHERE kid >= $2 AND kid <= $3`,
			revision, kids[0], kids[len(kids)-1])
	}
	for _, kid := range kids {
		if err := t.later(`UPDATE machine_keys SET revision = $1 WHERE kid = $2`, revision, kid); err != nil {
			return err
		}
	}
	return nil
}

// KeyAndMachine is a key with the machine it belongs to.
type KeyAndMachine struct {
	Key     *Key
	Machine *Machine
}

// KeysSince returns up to limit keys whose revision is above after, in the order
// of (revision, kid), each with its machine. A revision is never cut in two:
// the last page may be longer than limit. Evidence and PCRs of keys, and
// EKPublic, EKCertificate and AKName of machines are left out.
func (t *Tx) KeysSince(after uint64, limit int) ([]KeyAndMachine, error) {
	limit = min(max(limit, 1), 10*maxPage)
	found, err := t.keysSince(nil, bounded(after), "", math.MaxInt64, limit)
	if err != nil || len(found) < limit {
		return found, err
	}
	last := found[len(found)-1].Key
	return t.keysSince(found, int64(last.Revision)-1, last.KID, int64(last.Revision), math.MaxInt32)
}

// keysSince appends the keys behind (after+1, kid) up to a revision.
func (t *Tx) keysSince(found []KeyAndMachine, after int64, kid string, through int64, limit int) ([]KeyAndMachine, error) {
	err := t.each(func(scan scanner) error {
		var k keyRow
		var m machineRow
		if err := scan(append(k.columns(), m.columns()...)...); err != nil {
			return err
		}
		machine, err := m.machine()
		found = append(found, KeyAndMachine{k.key(), machine})
		return err
	}, `SELECT `+keyColumns+`, `+machineColumns+` FROM machine_keys k JOIN machines m ON m.ek_hash = k.ek_hash
			WHERE (k.revision, k.kid) > ($1, $2) AND k.revision <= $3
			ORDER BY k.revision, k.kid LIMIT $4`, after+1, kid, through, limit)
	return found, err
}
