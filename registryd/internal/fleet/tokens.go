package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"path"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

const (
	defaultTokenLife = 24 * time.Hour
	maxTokenLife     = 8760 * time.Hour
	maxTokenUses     = 1_000_000
)

// CreateToken makes a join token. The registry keeps what proofs are checked
// with, encrypted, and not the token.
func (s *Service) CreateToken(ctx context.Context, actor string, r *api.TokenRequest) (*api.TokenCreated, error) {
	row, err := s.newToken(actor, r)
	if err != nil {
		return nil, err
	}
	var secret [32]byte
	var id [8]byte
	_, _ = rand.Read(secret[:]) // never fails
	_, _ = rand.Read(id[:])
	token := api.Token{ID: hex.EncodeToString(id[:]), Secret: secret[:]}
	row.ID = token.ID
	if row.SealedKey, err = enrol.SealTokenKey(s.o.SealKey, token.ID, token.Key()); err != nil {
		return nil, api.Because(api.Internal, err)
	}
	err = s.update(ctx, actor, func(c *change) error {
		if err := c.PutToken(row); err != nil {
			return err
		}
		return c.log("token.create", token.ID, r)
	})
	if err != nil {
		return nil, err
	}
	return &api.TokenCreated{TokenInfo: info(row), Token: token.Reveal()}, nil
}

func (s *Service) newToken(actor string, r *api.TokenRequest) (*store.Token, error) {
	now := s.now()
	row := &store.Token{
		Uses: max(r.Uses, 1), Name: r.Name, NamePattern: r.NamePattern, Labels: r.Labels,
		Note: r.Note, CreatedAt: now, CreatedBy: actor,
	}
	life := defaultTokenLife
	if r.ValidFor != "" {
		var err error
		if life, err = time.ParseDuration(r.ValidFor); err != nil || life <= 0 || life > maxTokenLife {
			return nil, api.Refuse(api.BadRequest, "valid_for is %.32q, a duration above 0 and up to %s is allowed, like 24h", r.ValidFor, maxTokenLife)
		}
	}
	row.ExpiresAt = now.Add(life)
	if row.NamePattern == "" {
		row.NamePattern = "*"
	}
	_, patternErr := path.Match(row.NamePattern, "")
	switch {
	case r.Uses < 0 || r.Uses > maxTokenUses:
		return nil, api.Refuse(api.BadRequest, "uses is %d, 1 to %d are allowed", r.Uses, maxTokenUses)
	case r.Name != "" && row.Uses != 1:
		return nil, api.Refuse(api.BadRequest, "a token for one name is used once, and uses is %d", row.Uses)
	case patternErr != nil || len(row.NamePattern) > api.MaxName:
		return nil, api.Refuse(api.BadRequest, "name_pattern %.64q is none: * and ? stand for characters, at most %d bytes", row.NamePattern, api.MaxName)
	case len(r.Note) > maxNote:
		return nil, api.Refuse(api.BadRequest, "the note has %d bytes, at most %d are allowed", len(r.Note), maxNote)
	}
	if r.Name != "" {
		if err := api.CheckName(r.Name); err != nil {
			return nil, err
		}
	}
	return row, api.CheckLabels(r.Labels)
}

func info(t *store.Token) api.TokenInfo {
	pattern := t.NamePattern
	if t.Name != "" {
		pattern = t.Name
	}
	return api.TokenInfo{
		ID: t.ID, Uses: t.Uses, Used: t.Used, NamePattern: pattern, Labels: t.Labels, Note: t.Note,
		CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy, ExpiresAt: t.ExpiresAt,
	}
}

// Tokens lists the join tokens, without what makes them work.
func (s *Service) Tokens(ctx context.Context) ([]api.TokenInfo, error) {
	out := []api.TokenInfo{}
	err := s.view(ctx, func(tx *store.Tx) error {
		rows, err := tx.Tokens()
		for _, row := range rows {
			out = append(out, info(row))
		}
		return err
	})
	return out, err
}

// DeleteToken ends a join token.
func (s *Service) DeleteToken(ctx context.Context, actor, id string) error {
	return s.update(ctx, actor, func(c *change) error {
		err := c.DeleteToken(id)
		if errors.Is(err, store.ErrNotFound) {
			return api.Refuse(api.NotFound, "there is no token %.32q", id)
		}
		if err != nil {
			return err
		}
		return c.log("token.delete", id, nil)
	})
}
