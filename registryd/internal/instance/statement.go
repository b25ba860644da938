package instance

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"time"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// word is what an instance says of itself in a registration.
type word struct {
	raw      []byte
	said     *statement.Statement
	origin   string
	facts    *api.InstanceFacts // set by judge
	verified bool               // set by judge
}

// read reads the statement of a registration and holds it against the rest of
// it; nil without one.
func read(r *api.Registration) (*word, error) {
	if len(r.Statement) == 0 {
		return nil, nil
	}
	if len(r.Statement) > statement.Max {
		return nil, api.Refuse(api.StatementMalformed, "it has %d bytes, at most %d are read", len(r.Statement), statement.Max)
	}
	s, err := statement.Parse(r.Statement)
	if err != nil {
		return nil, &api.Error{Reason: api.StatementMalformed, Detail: bounded(err), Err: err}
	}
	switch {
	case s.State == statement.Locked || s.State == statement.RolledBack:
		return nil, api.Refuse(api.StatementContradicted, "an instance that is %s has nothing to register", s.State)
	case !bytes.Equal(s.Instance, r.InstancePubkey):
		return nil, api.Refuse(api.StatementMismatch, "it names the instance %.8x", []byte(s.Instance))
	case !isKey(s.Origin):
		return nil, api.Refuse(api.StatementContradicted, "its origin is a point of low order, for which anybody signs links")
	case !bytes.Equal(s.TLSKey, r.TLSKey):
		return nil, api.Refuse(api.StatementMismatch, "it names another TLS key")
	case hex.EncodeToString(s.Operator) != partyKey(r.Operator):
		return nil, api.Refuse(api.StatementMismatch, "it names the operator %.8x", []byte(s.Operator))
	case hex.EncodeToString(s.Owner) != partyKey(r.Owner):
		return nil, api.Refuse(api.StatementMismatch, "it names the owner %.8x", []byte(s.Owner))
	}
	if !ed25519.Verify(ed25519.PublicKey(r.InstancePubkey), api.PossessionMessage(r), r.Possession) {
		return nil, api.Refuse(api.PossessionInvalid, "possession")
	}
	return &word{raw: r.Statement, said: s, origin: hex.EncodeToString(s.Origin)}, nil
}

// bounded is an error's text as far as it is told.
func bounded(err error) string {
	const most = 300
	text := err.Error()
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

// judge holds the statement against the quote that vouches for it.
func (w *word) judge(r *api.Registration, v *tdx.Verified, verified bool, asOf time.Time) error {
	register := rtmr3(r.AttestationQuote)
	if len(v.Measurements.RTMRs[3]) == len(register) {
		register = [48]byte(v.Measurements.RTMRs[3])
	}
	f, err := w.said.Judge(register)
	if err != nil {
		return &api.Error{Reason: api.StatementContradicted, Detail: bounded(err), Err: err}
	}
	w.verified = verified
	w.facts = &api.InstanceFacts{
		Origin: w.said.Origin, Boot: f.Boot, State: f.State, Step: f.Step, Counter: f.Counter, Image: f.Image,
		SSH: f.SSH, SSHClosed: f.SSHClosed, Evidence: api.FactEvidence(f.Evidence), RTMR3Base: f.Base, AsOf: asOf,
	}
	switch {
	case !verified:
		w.facts.Evidence = api.FactsUnverified
	case w.facts.Evidence != api.FactsRTMR3 && w.facts.Evidence != api.FactsStatement:
		return api.Refuse(api.Internal, "there is no evidence %.32q", f.Evidence)
	}
	return nil
}

// rtmr3 reads the register from a quote of which tdx.ReportData was read before:
//
//	header 48 | report, its first 472 bytes | RTMR3 48 | report data 64
func rtmr3(quote []byte) [48]byte { return [48]byte(quote[48+472 : 48+472+48]) }

// follows holds the statement against what was seen of its identity; id is nil
// for one that is not known. It changes nothing.
func (w *word) follows(id *store.Identity, known *store.Instance) error {
	instance := hex.EncodeToString(w.said.Instance)
	switch {
	case known != nil && known.Origin != "" && known.Origin != w.origin:
		return api.Refuse(api.StatementMismatch, "the instance was known as of the identity %.16s", known.Origin)
	case id == nil:
		return nil
	case known != nil && known.State == api.TDXSuperseded:
		return api.Refuse(api.IdentitySuperseded, "it goes on with %s", id.Instance)
	case id.Revoked != "":
		return api.Refuse(api.InstanceRevoked, "the identity was revoked: %s", id.Revoked)
	case id.Verified && !w.verified:
		// Such a quote can be made by anybody.
		return api.Refuse(api.PPIDEncrypted, "the identity was seen with verified quotes, and nothing verifies this one")
	case !id.Verified && w.verified:
		return nil // what anybody could say before counts for nothing
	}
	if id.Instance != instance {
		switch {
		case w.said.Link == nil:
			return api.Refuse(api.IdentitySuperseded, "it goes on with %s", id.Instance)
		case w.said.Link.Counter < id.Counter:
			return api.Refuse(api.StateRollback, "the instance goes on from counter %d, and %d was seen", w.said.Link.Counter, id.Counter)
		}
	}
	switch {
	case w.said.Counter < id.Counter:
		return api.Refuse(api.StateRollback, "the counter is %d, and %d was seen", w.said.Counter, id.Counter)
	case id.Operator != "" && id.Operator != hex.EncodeToString(w.said.Operator):
		return api.Refuse(api.OperatorChanged, "the identity has the operator %s", id.Operator)
	case id.Owner != "" && id.Owner != hex.EncodeToString(w.said.Owner):
		return api.Refuse(api.OwnerChanged, "the identity has the owner %s", id.Owner)
	default:
		return nil
	}
}

// keep judges the statement against what stands there, in the transaction that
// writes, and writes what was seen of the identity. It completes the facts of
// row, and returns what else belongs into the audit log.
func (w *word) keep(tx *store.Tx, row, known *store.Instance, now time.Time) ([]audit.Entry, error) {
	id, err := tx.Identity(w.origin)
	if errors.Is(err, store.ErrNotFound) {
		id, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := w.follows(id, known); err != nil {
		return nil, err
	}
	row.Origin, row.Statement, row.Facts = w.origin, w.raw, w.facts
	w.facts.VerifiedAt = row.VerifiedAt
	entries := w.door(row, known)

	next := &store.Identity{
		Origin: w.origin, Instance: row.Pubkey, Counter: w.said.Counter, Verified: w.verified,
		Operator: partyKey(row.Operator), Owner: partyKey(row.Owner), FirstSeenAt: now, SeenAt: now,
	}
	if id != nil && id.Verified == w.verified {
		next.FirstSeenAt, next.RefusedAt = id.FirstSeenAt, id.RefusedAt
		if id.Instance != row.Pubkey {
			if err := supersede(tx, id.Instance, w.said.Instance); err != nil {
				return nil, err
			}
			entries = append(entries, entry("identity.link", row.Pubkey, map[string]any{
				"origin": w.origin, "previous": id.Instance, "seen": id.Counter, "link_counter": w.said.Link.Counter, "counter": w.said.Counter,
			}))
		}
	}
	return entries, tx.PutIdentity(next)
}

// door notes when the way in was first seen closed, in this boot.
func (w *word) door(row, known *store.Instance) []audit.Entry {
	if w.facts.SSH != statement.SSHIsClosed {
		return nil
	}
	if known != nil && known.Facts != nil && known.Facts.SSH == statement.SSHIsClosed && known.Facts.Boot == w.facts.Boot &&
		known.Facts.Evidence == w.facts.Evidence {
		w.facts.SSHClosedSeen = known.Facts.SSHClosedSeen
		return nil
	}
	w.facts.SSHClosedSeen = w.facts.AsOf
	return []audit.Entry{entry("instance.ssh_closed", row.Pubkey, map[string]any{
		"origin": w.origin, "boot": w.facts.Boot, "image": w.facts.Image, "evidence": w.facts.Evidence, "as_of": w.facts.AsOf,
	})}
}

// supersede marks the instance key that an identity does not go on with.
func supersede(tx *store.Tx, pubkey string, by []byte) error {
	old, err := tx.Instance(pubkey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	if old.State != api.TDXRevoked {
		old.State = api.TDXSuperseded
	}
	if old.Facts != nil {
		old.Facts.SupersededBy = by
	}
	return tx.PutInstance(old)
}
