package instance

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

const (
	// answerTTL is how long a signed answer about an identity proves something.
	answerTTL = 15 * time.Minute
	// refusedEvery bounds what attempts to go back add to the audit log, for each
	// identity. It takes a quote that was verified and a fresh nonce to add any.
	refusedEvery = time.Hour
)

// revokeIdentity revokes the identity that an instance is or was.
func revokeIdentity(tx *store.Tx, origin, why string) error {
	if origin == "" {
		return nil
	}
	id, err := tx.Identity(origin)
	if err != nil {
		return err
	}
	if id.Revoked == "" {
		id.Revoked = why
	}
	return tx.PutIdentity(id)
}

// noteRefused writes into the audit log that an instance with a verified quote
// went back behind what was seen. It is bounded by refusedEvery, and a failure to
// write changes nothing about the refusal.
func (s *Service) noteRefused(ctx context.Context, w *word, refused *api.Error, peer string) {
	err := s.o.Store.Update(ctx, func(tx *store.Tx) error {
		now := s.now()
		id, err := tx.Identity(w.origin)
		if err != nil {
			return err
		}
		if !id.RefusedAt.IsZero() && now.Sub(id.RefusedAt) < refusedEvery && !now.Before(id.RefusedAt) {
			return nil
		}
		if err := tx.NoteRefused(w.origin, now); err != nil {
			return err
		}
		e := entry("identity.refused", hex.EncodeToString(w.said.Instance), map[string]any{
			"reason": refused.Reason, "origin": w.origin, "seen": id.Counter, "present": id.Instance, "counter": w.said.Counter,
		})
		e.At, e.Actor = now, "peer:"+peer
		return tx.Audit(e)
	})
	if err != nil {
		s.o.Logger.Warn("An attempt to go back could not be written into the audit log.", zap.Error(err), zap.String("origin", w.origin))
	}
}

// SignedIdentity answers with an answer.Identity, also for an identity that is
// not known: "never seen" counts only when it is signed.
func (s *Service) SignedIdentity(ctx context.Context, origin string, nonce []byte) ([]byte, error) {
	if s.o.Signer == nil {
		return nil, api.Refuse(api.Internal, "there is no key to sign with")
	}
	key, err := hex.DecodeString(origin)
	if err != nil {
		return nil, api.Refuse(api.BadRequest, "%.80q is not 64 hexadecimal digits", origin)
	}
	now := s.now()
	out := answer.Identity{
		Head:   answer.Head{Store: s.o.Store.ID(), Nonce: nonce, IssuedAt: now, NotAfter: now.Add(answerTTL)},
		Origin: key,
	}
	err = s.o.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		if out.Revision, err = tx.Revision(); err != nil {
			return err
		}
		id, err := tx.Identity(origin)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		out.Counter, out.Verified = id.Counter, id.Verified
		out.Instance, err = hex.DecodeString(id.Instance)
		return err
	})
	if err != nil {
		return nil, store.Refusal(err)
	}
	signed, err := s.o.Signer.Sign(answer.KindIdentity, &out)
	if err != nil {
		return nil, api.Because(api.Internal, err)
	}
	return signed, nil
}

// Identity returns what was seen of an identity.
func (s *Service) Identity(ctx context.Context, origin string) (*api.Identity, error) {
	var out *api.Identity
	err := s.o.Store.View(ctx, func(tx *store.Tx) error {
		id, err := tx.Identity(origin)
		if errors.Is(err, store.ErrNotFound) {
			return api.Refuse(api.NotFound, "there is no identity that began with %.80q", origin)
		}
		if err != nil {
			return err
		}
		out = &api.Identity{
			Counter: id.Counter, Verified: id.Verified, Revoked: id.Revoked, FirstSeen: id.FirstSeenAt, SeenAt: id.SeenAt, Revision: id.Revision,
		}
		out.Origin, _ = hex.DecodeString(id.Origin) // as they were written
		out.Instance, _ = hex.DecodeString(id.Instance)
		present, err := tx.Instance(id.Instance)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		out.Facts = present.Facts
		return nil
	})
	return out, store.Refusal(err)
}
