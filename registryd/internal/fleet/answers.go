package fleet

import (
	"context"
	"errors"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

const (
	defaultSnapshot = 1000
	maxSnapshot     = 5000

	// maxPage bounds the records of a snapshot in bytes, so that its answer stays
	// below what is read. A page ends with a revision, and those are bounded by
	// the store (1,000 keys a policy change) and by maxLocation.
	maxPage = 1 << 20
)

func (s *Service) head(revision uint64, nonce []byte) answer.Head {
	now := s.now()
	return answer.Head{Store: s.o.Store.ID(), Nonce: nonce, Revision: revision, IssuedAt: now, NotAfter: now.Add(s.o.AnswerTTL)}
}

func (s *Service) sign(kind answer.Kind, v any) ([]byte, error) {
	encoded, err := s.o.Signer.Sign(kind, v)
	if err != nil {
		return nil, api.Because(api.Internal, err)
	}
	return encoded, nil
}

// SignedKey answers a verifier with an answer.Key, also for a key that is
// unknown: "unknown" counts only when it is signed.
func (s *Service) SignedKey(ctx context.Context, kid string, nonce []byte) ([]byte, error) {
	var k answer.Key
	err := s.view(ctx, func(tx *store.Tx) error {
		revision, err := tx.Revision()
		if err != nil {
			return err
		}
		k = answer.Key{Head: s.head(revision, nonce)}
		k.Record, err = record(tx, kid)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.sign(answer.KindKey, &k)
}

// record returns what is known of one key, an empty state for nothing.
func record(tx *store.Tx, kid string) (answer.Record, error) {
	k, err := tx.Key(kid)
	if errors.Is(err, store.ErrNotFound) {
		return answer.Record{KID: kid}, nil
	}
	if err != nil {
		return answer.Record{}, err
	}
	m, err := tx.Machine(k.EKHash)
	if err != nil {
		return answer.Record{}, err
	}
	policies, err := tx.Policies()
	if err != nil {
		return answer.Record{}, err
	}
	return recordOf(k, m, policies)
}

// SignedSnapshot answers a verifier with an answer.Snapshot of at most limit
// records, or a few more; 0 is 1,000.
func (s *Service) SignedSnapshot(ctx context.Context, since uint64, nonce []byte, limit int) ([]byte, error) {
	if limit <= 0 {
		limit = defaultSnapshot
	}
	limit = min(limit, maxSnapshot)
	var out answer.Snapshot
	err := s.view(ctx, func(tx *store.Tx) error {
		revision, err := tx.Revision()
		if err != nil {
			return err
		}
		rows, err := tx.KeysSince(since, limit)
		if err != nil {
			return err
		}
		policies, err := tx.Policies()
		if err != nil {
			return err
		}
		out = answer.Snapshot{Head: s.head(revision, nonce), Since: since, Through: revision, Records: make([]answer.Record, 0, len(rows))}
		size := 0
		for _, row := range rows {
			if n := len(out.Records); size > maxPage && row.Key.Revision > out.Records[n-1].Revision {
				break
			}
			r, err := recordOf(row.Key, row.Machine, policies)
			if err != nil {
				return err
			}
			out.Records, size = append(out.Records, r), size+len(r.Entry)
		}
		if n := len(out.Records); n > 0 && (n < len(rows) || n >= limit) {
			out.Through = out.Records[n-1].Revision
			out.More = out.Through < revision
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.sign(answer.KindSnapshot, &out)
}

// Event is an event of the store as verifiers are told it, with the records as
// they are now, and not signed yet.
func (s *Service) Event(ctx context.Context, e *store.Event) (*answer.Event, error) {
	out := &answer.Event{Head: s.head(e.Revision, nil), Previous: e.Previous, What: e.What, Instance: e.Instance, Incomplete: e.More}
	err := s.view(ctx, func(tx *store.Tx) error {
		out.Records = make([]answer.Record, 0, len(e.KIDs))
		for _, kid := range e.KIDs {
			r, err := record(tx, kid)
			if err != nil {
				return err
			}
			out.Records = append(out.Records, r)
		}
		return nil
	})
	return out, err
}

// SignEvent signs an event for one stream. It does not change e, which many
// streams share.
func (s *Service) SignEvent(e *answer.Event, nonce []byte) ([]byte, error) {
	own := *e
	own.Head = s.head(e.Revision, nonce)
	return s.sign(answer.KindEvent, &own)
}

// SignedHeartbeat makes an answer.Heartbeat. revision is the one up to which the
// stream's events were sent.
func (s *Service) SignedHeartbeat(nonce []byte, count, revision uint64) ([]byte, error) {
	return s.sign(answer.KindHeartbeat, &answer.Heartbeat{Head: s.head(revision, nonce), Count: count})
}
