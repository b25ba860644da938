// Package instance registers TDX instances: it checks who signed what, has the
// quote verified, holds what was there before against what is said now, and
// writes the outcome, its audit entry and its event in one transaction.
//
// A registration of the second generation carries a nonce that the registry
// sealed (package seal, purpose and additional data "telemark-instance-nonce-v1")
// and that is consumed with the registration:
//
//	u64 expires, Unix ms | random, 32 bytes
package instance

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/audit"
	"github.com/telemark-otel/telemark/internal/tdx"
	"github.com/telemark-otel/telemark/registryd/internal/seal"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// Defaults.
const (
	defaultLease = 24 * time.Hour
	nonceLife    = 2 * time.Minute
)

// Quotes verifies quotes against collateral and policy, and returns *api.Error.
// It is safe for concurrent use.
type Quotes interface {
	Verify(ctx context.Context, quote []byte, now time.Time) (*tdx.Verified, error)
}

// Signer signs answers. *answer.Signer is one.
type Signer interface {
	Sign(kind answer.Kind, v any) ([]byte, error)
}

// Options of New.
type Options struct {
	Store *store.DB
	// Quotes is nil on development machines: then quotes are not verified, but
	// the report data still has to fit.
	Quotes Quotes
	// SealKey is 32 bytes, the same on all replicas.
	SealKey []byte
	// Lease is how long a verification lasts; default 24h.
	Lease time.Duration
	// RequireV1 refuses registrations of the first generation.
	RequireV1 bool
	// AllowEncryptedPPID accepts quotes whose PPID nothing authenticates.
	AllowEncryptedPPID bool
	// Signer signs what was seen of identities; without it nobody is told.
	Signer Signer
	Now    func() time.Time
	Logger *zap.Logger
}

// Service registers instances. Its errors are *api.Error. It is safe for
// concurrent use.
type Service struct {
	o Options
}

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.Store == nil || len(o.SealKey) != seal.KeySize {
		return nil, errors.New("instance: a store and a seal key of 32 bytes are needed")
	}
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Service{o: o}, nil
}

func (s *Service) now() time.Time { return s.o.Now().UTC().Truncate(time.Millisecond) }

// Register registers an instance, or attests a known one again. Generation 1
// is POST /register, 2 is POST /v1/instances. Verification happens before the
// transaction, which judges against what then stands there: of many first
// registrations at once one is written, and the others find it.
func (s *Service) Register(ctx context.Context, r *api.Registration, generation int, peer string) (*api.Instance, error) {
	if generation == 1 && s.o.RequireV1 {
		return nil, api.Refuse(api.V1Required, "registrations of the first generation are switched off")
	}
	if err := check(r, generation); err != nil {
		return nil, err
	}
	said, err := read(r)
	if err != nil {
		return nil, err
	}
	now := s.now()
	known, err := s.read(ctx, hex.EncodeToString(r.InstancePubkey))
	if err != nil {
		return nil, err
	}
	if known != nil { // what would be refused anyway costs no verification
		if err := unchanged(known, r, generation); err != nil {
			return nil, err
		}
		if s.repeated(known, r, generation) {
			return s.view(known), nil
		}
	}
	var session *nonce
	if generation == 2 {
		if session, err = s.open(r.Nonce, now); err != nil {
			return nil, err
		}
	}
	verified, err := s.verify(ctx, r, generation, now)
	if err != nil {
		return nil, err
	}
	if said != nil {
		if err := said.judge(r, verified, s.authentic(verified), session.issued()); err != nil {
			return nil, err
		}
	}
	row, err := s.write(ctx, r, generation, session, verified, said, peer)
	if err != nil {
		if e, ok := errors.AsType[*api.Error](err); ok && said != nil && said.verified && (e.Reason == api.StateRollback || e.Reason == api.IdentitySuperseded) {
			s.noteRefused(ctx, said, e, peer)
		}
		return nil, err
	}
	return s.view(row), nil
}

// authentic reports whether somebody vouches for a quote.
func (s *Service) authentic(v *tdx.Verified) bool {
	return s.o.Quotes != nil && v.TCBStatus != tdx.Unauthenticated
}

// verify judges the quote and what it was made for.
func (s *Service) verify(ctx context.Context, r *api.Registration, generation int, now time.Time) (*tdx.Verified, error) {
	want := api.ReportDataV0(r)
	if generation == 2 {
		want = api.ReportDataV1(r)
	}
	if s.o.Quotes == nil {
		got, err := tdx.ReportData(r.AttestationQuote)
		if err != nil {
			return nil, err
		}
		return &tdx.Verified{ReportData: got}, bound(got, want)
	}
	v, err := s.o.Quotes.Verify(ctx, r.AttestationQuote, now)
	if err != nil {
		if _, ok := errors.AsType[*api.Error](err); !ok {
			err = api.Because(api.Internal, err)
		}
		return nil, err
	}
	switch {
	case v.PPID == nil && !s.o.AllowEncryptedPPID:
		return nil, api.Refuse(api.PPIDEncrypted, "nothing proves the platform")
	case v.PPID != nil && string(v.PPID) != string(r.PPID):
		return nil, api.Refuse(api.PPIDMismatch, "the registration names %x", []byte(r.PPID))
	}
	return v, bound(v.ReportData, want)
}

func bound(got, want [64]byte) error {
	if got != want {
		return api.Refuse(api.ReportDataMismatch, "the quote has %x…, these fields give %x…", got[:8], want[:8])
	}
	return nil
}

// write judges against what stands there now, and writes.
func (s *Service) write(ctx context.Context, r *api.Registration, generation int, session *nonce, v *tdx.Verified, said *word, peer string) (*store.Instance, error) {
	pubkey := hex.EncodeToString(r.InstancePubkey)
	var row *store.Instance
	err := s.o.Store.Update(ctx, func(tx *store.Tx) error {
		now := s.now()
		known, err := tx.Instance(pubkey)
		switch {
		case errors.Is(err, store.ErrNotFound):
			known = nil
		case err != nil:
			return err
		default:
			if err := unchanged(known, r, generation); err != nil {
				return err
			}
			if s.repeated(known, r, generation) {
				row = known
				return nil
			}
			if known.PPIDProven && v.PPID == nil {
				// Such a quote can be made by anybody who reads what we tell of
				// the instance.
				return api.Refuse(api.PPIDEncrypted, "the platform of this instance is proven, and nothing proves that this is it")
			}
		}
		if session != nil {
			if err := tx.ConsumeSession(session.id, session.expires); errors.Is(err, store.ErrExists) {
				return api.Refuse(api.SessionUsed, "this nonce was used for another registration")
			} else if err != nil {
				return err
			}
		}
		row = s.row(r, generation, v, now)
		action, what := "instance.register", "instance_registered"
		if known != nil {
			row.RegisteredAt = known.RegisteredAt
			action, what = "instance.attest", "instance_attested"
		}
		var more []audit.Entry
		if said != nil {
			if more, err = said.keep(tx, row, known, now); err != nil {
				return err
			}
		}
		if err := tx.PutInstance(row); err != nil {
			return err
		}
		if err := record(tx, now, "peer:"+peer, action, what, pubkey, detailOf(row, said)); err != nil {
			return err
		}
		for _, e := range more {
			e.At, e.Actor = now, "peer:"+peer
			if err := tx.Audit(e); err != nil {
				return err
			}
		}
		return nil
	})
	return row, store.Refusal(err)
}

// detailOf is what the audit log says of a registration.
func detailOf(row *store.Instance, said *word) map[string]any {
	detail := map[string]any{
		"generation": row.Generation, "tcb_status": row.TCBStatus, "state": row.State, "policy": row.PolicyName,
		"operator": partyKey(row.Operator), "owner": partyKey(row.Owner), "tls_key": hex.EncodeToString(row.TLSKey),
	}
	if row.Measurements != nil {
		detail["mrtd"] = row.Measurements.MRTD
	}
	if said != nil {
		detail["origin"], detail["counter"] = said.origin, said.said.Counter
	}
	return detail
}

func (s *Service) row(r *api.Registration, generation int, v *tdx.Verified, now time.Time) *store.Instance {
	row := &store.Instance{
		Pubkey: hex.EncodeToString(r.InstancePubkey), PPID: r.PPID, Quote: r.AttestationQuote,
		Operator: r.Operator, Owner: r.Owner, Generation: generation, State: api.TDXVerified,
		TCBStatus: v.TCBStatus, Advisories: v.Advisories, TLSKey: r.TLSKey, PolicyName: v.Policy,
		PPIDProven: v.PPID != nil, RegisteredAt: now, VerifiedAt: now, ExpiresAt: now.Add(s.o.Lease),
	}
	if s.o.Quotes == nil {
		row.State = api.TDXUnverified
		return row
	}
	row.Measurements = &v.Measurements
	if !s.authentic(v) {
		row.State = api.TDXUnverified
	}
	return row
}

// Instance returns an instance.
func (s *Service) Instance(ctx context.Context, pubkey string) (*api.Instance, error) {
	if _, err := hex.DecodeString(pubkey); err != nil || len(pubkey) != 64 {
		return nil, api.Refuse(api.InstanceKeyInvalid, "%.80q is not 64 hexadecimal digits", pubkey)
	}
	row, err := s.read(ctx, pubkey)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, api.Refuse(api.NotFound, "there is no instance %s", pubkey)
	}
	return s.view(row), nil
}

// Instances lists instances.
func (s *Service) Instances(ctx context.Context, f store.InstanceFilter) (*api.Page[api.Instance], error) {
	page := &api.Page[api.Instance]{Items: []api.Instance{}}
	err := s.o.Store.View(ctx, func(tx *store.Tx) error {
		rows, next, err := tx.Instances(f)
		page.Next = next
		for _, row := range rows {
			row.Statement = nil
			page.Items = append(page.Items, *s.view(row))
		}
		return err
	})
	return page, store.Refusal(err)
}

// Revoke revokes an instance for good, and with it the identity that it is or
// was, so that it does not come back with another key after a reboot.
func (s *Service) Revoke(ctx context.Context, actor, pubkey, why string) (*api.Instance, error) {
	if err := api.CheckRevocation(why); err != nil {
		return nil, err
	}
	var row *store.Instance
	err := s.o.Store.Update(ctx, func(tx *store.Tx) error {
		var err error
		row, err = tx.Instance(pubkey)
		if errors.Is(err, store.ErrNotFound) {
			return api.Refuse(api.NotFound, "there is no instance %.80q", pubkey)
		}
		if err != nil {
			return err
		}
		if row.State == api.TDXRevoked {
			return nil
		}
		row.State, row.Revoked = api.TDXRevoked, why
		if err := tx.PutInstance(row); err != nil {
			return err
		}
		if err := revokeIdentity(tx, row.Origin, why); err != nil {
			return err
		}
		return record(tx, s.now(), actor, "instance.revoke", "instance_revoked", row.Pubkey, map[string]any{"reason": why})
	})
	if err != nil {
		return nil, store.Refusal(err)
	}
	return s.view(row), nil
}

// read returns nil for an instance that is not known.
func (s *Service) read(ctx context.Context, pubkey string) (*store.Instance, error) {
	var row *store.Instance
	err := s.o.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		row, err = tx.Instance(pubkey)
		if errors.Is(err, store.ErrNotFound) {
			row, err = nil, nil
		}
		return err
	})
	return row, store.Refusal(err)
}

// record writes audit entry and event.
func record(tx *store.Tx, at time.Time, actor, action, what, pubkey string, detail map[string]any) error {
	e := entry(action, pubkey, detail)
	e.At, e.Actor = at, actor
	if err := tx.Audit(e); err != nil {
		return err
	}
	return tx.Emit(store.Event{At: at, What: what, Instance: pubkey})
}

// entry is one of the audit log, without time and actor.
func entry(action, pubkey string, detail map[string]any) audit.Entry {
	encoded, err := json.Marshal(detail)
	if err != nil { // texts, numbers and times
		panic("instance: " + err.Error())
	}
	return audit.Entry{Action: action, Subject: pubkey, Detail: encoded}
}

// view is what the registry tells of an instance.
func (s *Service) view(row *store.Instance) *api.Instance {
	pubkey, _ := hex.DecodeString(row.Pubkey) // as it was written
	out := &api.Instance{
		PPID: row.PPID, AttestationQuote: row.Quote, Operator: row.Operator, Owner: row.Owner,
		Pubkey: pubkey, Kind: api.KindTDX, State: row.State, Revoked: row.Revoked, Generation: row.Generation,
		Freshness: "none", RegisteredAt: row.RegisteredAt, VerifiedAt: row.VerifiedAt, ExpiresAt: row.ExpiresAt,
		TCBStatus: row.TCBStatus, Advisories: row.Advisories, Measurements: row.Measurements, TLSKey: row.TLSKey,
		Policy: row.PolicyName, PPIDProven: row.PPIDProven, Revision: row.Revision,
		Facts: row.Facts, Statement: row.Statement,
	}
	if row.Generation == 2 {
		out.Freshness = "nonce"
	}
	if row.State == api.TDXVerified && !s.now().Before(row.ExpiresAt) {
		out.State = api.TDXExpired
	}
	return out
}
