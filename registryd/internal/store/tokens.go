package store

import (
	"fmt"
	"time"
)

// Token is a join token.
type Token struct {
	ID          string
	SealedKey   []byte // api.Token.Key, encrypted by the caller
	Uses, Used  int
	Name        string
	NamePattern string
	Labels      map[string]string
	Note        string
	CreatedAt   time.Time
	CreatedBy   string
	ExpiresAt   time.Time
}

// Token returns the token, or ErrNotFound.
func (t *Tx) Token(id string) (*Token, error) {
	if checkTexts(id) != nil {
		return nil, ErrNotFound
	}
	tokens, err := t.tokens(`WHERE id = $1`, id)
	if err != nil {
		return nil, err
	}
	if len(tokens) == 0 {
		return nil, ErrNotFound
	}
	return tokens[0], nil
}

// Tokens returns all tokens, by time of creation.
func (t *Tx) Tokens() ([]*Token, error) { return t.tokens(`ORDER BY created_at, id`) }

func (t *Tx) tokens(where string, args ...any) ([]*Token, error) {
	var tokens []*Token
	err := t.each(func(scan scanner) error {
		var tok Token
		var labels string
		var created, expires int64
		if err := scan(&tok.ID, &tok.SealedKey, &tok.Uses, &tok.Used, &tok.Name, &tok.NamePattern, &labels,
			&tok.Note, &created, &tok.CreatedBy, &expires); err != nil {
			return err
		}
		tok.CreatedAt, tok.ExpiresAt = fromMillis(created), fromMillis(expires)
		tokens = append(tokens, &tok)
		return fromJSON(labels, &tok.Labels)
	}, `SELECT id, sealed_key, uses, used, name, name_pattern, labels, note, created_at, created_by, expires_at
			FROM join_tokens `+where, args...)
	return tokens, err
}

// PutToken writes a token.
func (t *Tx) PutToken(tok *Token) error {
	if err := checkToken(tok); err != nil {
		return fmt.Errorf("a join token: %w", err)
	}
	return t.later(`INSERT INTO join_tokens (id, sealed_key, uses, used, name, name_pattern, labels, note,
				created_at, created_by, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			ON CONFLICT (id) DO UPDATE SET sealed_key = excluded.sealed_key, uses = excluded.uses,
				used = excluded.used, name = excluded.name, name_pattern = excluded.name_pattern,
				labels = excluded.labels, note = excluded.note, created_at = excluded.created_at,
				created_by = excluded.created_by, expires_at = excluded.expires_at`,
		tok.ID, present(tok.SealedKey), tok.Uses, tok.Used, tok.Name, tok.NamePattern, toJSON(tok.Labels), tok.Note,
		millis(tok.CreatedAt), tok.CreatedBy, millis(tok.ExpiresAt))
}

func checkToken(tok *Token) error {
	if err := checkIDs(tok.ID); err != nil {
		return err
	}
	if err := checkTexts(tok.Name, tok.NamePattern, tok.Note, tok.CreatedBy); err != nil {
		return err
	}
	if err := checkLabels(tok.Labels); err != nil {
		return err
	}
	return checkBlobs(tok.SealedKey)
}

// DeleteToken deletes a token, or says ErrNotFound.
func (t *Tx) DeleteToken(id string) error {
	if checkTexts(id) != nil {
		return ErrNotFound
	}
	n, err := t.exec(`DELETE FROM join_tokens WHERE id = $1`, id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// ConsumeSession remembers that a session (or nonce) was used, until its end;
// ErrExists says that it was used before. The transaction may go on then.
func (t *Tx) ConsumeSession(id [32]byte, expires time.Time) error {
	n, err := t.exec(`INSERT INTO used_sessions (id, expires_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`,
		id[:], millis(expires))
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: a session that was used", ErrExists)
	}
	return err
}

// Value returns a small value that all replicas share, or ErrNotFound. Such
// values are public or encrypted by the caller, such as the newest collateral
// seen.
func (t *Tx) Value(name string) (value []byte, err error) {
	if checkTexts(name) != nil {
		return nil, ErrNotFound
	}
	err = t.one(func(scan scanner) error { return scan(&value) }, `SELECT value FROM shared_values WHERE name = $1`, name)
	return value, err
}

// PutValue writes such a value, of at most 8 MiB.
func (t *Tx) PutValue(name string, value []byte) error {
	if err := checkTexts(name); err != nil {
		return err
	}
	if name == "" || len(name) > maxName || len(value) > maxValue {
		return fmt.Errorf("%w: a value of %d bytes with the name %.64q", ErrInvalid, len(value), name)
	}
	return t.later(`INSERT INTO shared_values (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, present(value))
}
