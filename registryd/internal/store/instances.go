package store

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Instance is a TDX instance.
type Instance struct {
	Pubkey       string // hex
	PPID         []byte
	Quote        []byte
	Operator     *api.Party
	Owner        *api.Party
	Generation   int
	State        api.InstanceState // verified, unverified, revoked or superseded
	Revoked      string
	TCBStatus    string
	Advisories   []string
	Measurements *api.Measurements
	TLSKey       []byte
	PolicyName   string
	PPIDProven   bool
	RegisteredAt time.Time
	VerifiedAt   time.Time
	ExpiresAt    time.Time
	Revision     uint64
	// Origin is the identity's (hex), Statement what the instance said last, and
	// Facts what followed; zero for one that never said anything.
	Origin    string
	Statement []byte
	Facts     *api.InstanceFacts
}

const instanceColumns = `pubkey, ppid, quote, operator, owner, generation, state, revoked, tcb_status, advisories,
			measurements, tls_key, policy, ppid_proven, registered_at, verified_at, expires_at, revision, origin, statement, facts`

func scanInstance(scan scanner) (*Instance, error) {
	var i Instance
	var operator, owner, advisories, measurements, facts string
	var proven int
	var registered, verified, expires int64
	if err := scan(&i.Pubkey, &i.PPID, &i.Quote, &operator, &owner, &i.Generation, &i.State, &i.Revoked, &i.TCBStatus,
		&advisories, &measurements, &i.TLSKey, &i.PolicyName, &proven, &registered, &verified, &expires, &i.Revision,
		&i.Origin, &i.Statement, &facts); err != nil {
		return nil, err
	}
	i.PPIDProven = proven != 0
	i.RegisteredAt, i.VerifiedAt, i.ExpiresAt = fromMillis(registered), fromMillis(verified), fromMillis(expires)
	for _, c := range []struct {
		text string
		into any
	}{{operator, &i.Operator}, {owner, &i.Owner}, {advisories, &i.Advisories}, {measurements, &i.Measurements}, {facts, &i.Facts}} {
		if err := fromJSON(c.text, c.into); err != nil {
			return nil, err
		}
	}
	return &i, nil
}

// Instance returns the instance, or ErrNotFound.
func (t *Tx) Instance(pubkey string) (i *Instance, err error) {
	if checkTexts(pubkey) != nil {
		return nil, ErrNotFound
	}
	err = t.one(func(scan scanner) error {
		i, err = scanInstance(scan)
		return err
	}, `SELECT `+instanceColumns+` FROM instances WHERE pubkey = $1`, pubkey)
	return i, err
}

// PutInstance writes an instance under the next revision, which it sets in i.
func (t *Tx) PutInstance(i *Instance) error {
	if err := checkInstance(i); err != nil {
		return fmt.Errorf("an instance: %w", err)
	}
	revision, err := t.NextRevision()
	if err != nil {
		return err
	}
	if err := t.later(`INSERT INTO instances (`+instanceColumns+`, operator_key, owner_key)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)
			ON CONFLICT (pubkey) DO UPDATE SET ppid = excluded.ppid, quote = excluded.quote,
				operator = excluded.operator, owner = excluded.owner, generation = excluded.generation,
				state = excluded.state, revoked = excluded.revoked, tcb_status = excluded.tcb_status,
				advisories = excluded.advisories, measurements = excluded.measurements,
				tls_key = excluded.tls_key, policy = excluded.policy, ppid_proven = excluded.ppid_proven,
				registered_at = excluded.registered_at, verified_at = excluded.verified_at,
				expires_at = excluded.expires_at, revision = excluded.revision, origin = excluded.origin,
				statement = excluded.statement, facts = excluded.facts,
				operator_key = excluded.operator_key, owner_key = excluded.owner_key`,
		i.Pubkey, i.PPID, i.Quote, toJSON(i.Operator), toJSON(i.Owner), i.Generation, string(i.State), i.Revoked, i.TCBStatus,
		toJSON(i.Advisories), toJSON(i.Measurements), i.TLSKey, i.PolicyName, flag(i.PPIDProven), millis(i.RegisteredAt),
		millis(i.VerifiedAt), millis(i.ExpiresAt), revision, i.Origin, i.Statement, toJSON(i.Facts), partyKey(i.Operator), partyKey(i.Owner)); err != nil {
		return err
	}
	i.Revision = revision
	return nil
}

// partyKey returns what lists are filtered by.
func partyKey(p *api.Party) string {
	if p == nil {
		return ""
	}
	return hex.EncodeToString(p.Pubkey)
}

func checkInstance(i *Instance) error {
	if err := checkIDs(i.Pubkey); err != nil {
		return err
	}
	switch i.State {
	case api.TDXVerified, api.TDXUnverified, api.TDXRevoked, api.TDXSuperseded:
	default:
		return fmt.Errorf("%w: there is no state %.64q to keep", ErrInvalid, i.State)
	}
	if len(i.Advisories) > maxPage || len(partyKey(i.Operator)) > maxText || len(partyKey(i.Owner)) > maxText {
		return fmt.Errorf("%w: too many advisories, or too long a key", ErrInvalid)
	}
	if err := checkTexts(append([]string{i.Revoked, i.TCBStatus, i.PolicyName}, i.Advisories...)...); err != nil {
		return err
	}
	if i.Origin != "" {
		if err := checkIDs(i.Origin); err != nil {
			return err
		}
	}
	return checkBlobs(i.PPID, i.Quote, i.TLSKey, i.Statement)
}

// InstanceFilter selects instances; zero members select all.
type InstanceFilter struct {
	State    api.InstanceState // verified, unverified, revoked, superseded; expired too
	Operator string            // hex of the key
	Owner    string
	After    string // cursor: pubkey
	Limit    int
}

// Instances returns instances in the order of their keys, and the next cursor.
// A page has at most 1,000 of them; they come with their quotes.
func (t *Tx) Instances(f InstanceFilter) ([]*Instance, string, error) {
	if err := checkTexts(f.Operator, f.Owner, f.After); err != nil {
		return nil, "", err
	}
	var w where
	w.term("pubkey > %s", f.After)
	if f.Operator != "" {
		w.term("operator_key = %s", strings.ToLower(f.Operator))
	}
	if f.Owner != "" {
		w.term("owner_key = %s", strings.ToLower(f.Owner))
	}
	switch f.State {
	case "":
	case api.TDXVerified:
		w.term("state = %s AND expires_at > %s", string(f.State), millis(t.db.options.Now()))
	case api.TDXExpired:
		w.term("state = %s AND expires_at <= %s", string(api.TDXVerified), millis(t.db.options.Now()))
	case api.TDXUnverified, api.TDXRevoked, api.TDXSuperseded:
		w.term("state = %s", string(f.State))
	default:
		return nil, "", fmt.Errorf("%w: there is no state %.64q", ErrInvalid, f.State)
	}
	limit := page(f.Limit)
	var instances []*Instance
	err := t.each(func(scan scanner) error {
		i, err := scanInstance(scan)
		instances = append(instances, i)
		return err
	}, `SELECT `+instanceColumns+` FROM instances WHERE `+strings.Join(w.terms, " AND ")+
		` ORDER BY pubkey LIMIT `+w.arg(limit+1), w.args...)
	if err != nil || len(instances) <= limit {
		return instances, "", err
	}
	instances = instances[:limit]
	return instances, instances[limit-1].Pubkey, nil
}
