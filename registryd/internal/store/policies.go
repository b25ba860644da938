package store

import (
	"encoding/json"
	"fmt"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Policies returns all policies, in the order of their scopes.
func (t *Tx) Policies() ([]*api.Policy, error) { return t.policies(`ORDER BY scope`) }

// Policy returns the policy of a scope, or ErrNotFound.
func (t *Tx) Policy(scope string) (*api.Policy, error) {
	if checkTexts(scope) != nil {
		return nil, ErrNotFound
	}
	policies, err := t.policies(`WHERE scope = $1`, scope)
	if err != nil {
		return nil, err
	}
	if len(policies) == 0 {
		return nil, ErrNotFound
	}
	return policies[0], nil
}

func (t *Tx) policies(where string, args ...any) ([]*api.Policy, error) {
	var policies []*api.Policy
	err := t.each(func(scan scanner) error {
		var p api.Policy
		var scope, body, by string
		var revision uint64
		var at int64
		if err := scan(&scope, &body, &revision, &at, &by); err != nil {
			return err
		}
		if err := fromJSON(body, &p); err != nil {
			return err
		}
		p.Scope, p.Revision, p.UpdatedAt, p.UpdatedBy = scope, revision, fromMillis(at), by
		policies = append(policies, &p)
		return nil
	}, `SELECT scope, body, revision, updated_at, updated_by FROM policies `+where, args...)
	return policies, err
}

// PutPolicy writes a policy under the next revision, which it sets in p.
func (t *Tx) PutPolicy(p *api.Policy) error {
	if err := checkTexts(p.Scope, p.UpdatedBy); err != nil {
		return fmt.Errorf("a policy: %w", err)
	}
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("%w: a policy: %w", ErrInvalid, err)
	}
	if p.Scope == "" || len(p.Scope) > maxScope || len(body) > maxBlob {
		return fmt.Errorf("%w: a policy of %d bytes with the scope %.64q", ErrInvalid, len(body), p.Scope)
	}
	revision, err := t.NextRevision()
	if err != nil {
		return err
	}
	if err := t.later(`INSERT INTO policies (scope, body, revision, updated_at, updated_by) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (scope) DO UPDATE SET body = excluded.body, revision = excluded.revision,
				updated_at = excluded.updated_at, updated_by = excluded.updated_by`,
		p.Scope, string(body), revision, millis(p.UpdatedAt), p.UpdatedBy); err != nil {
		return err
	}
	p.Revision = revision
	return nil
}

// DeletePolicy removes a policy under the next revision, or says ErrNotFound.
func (t *Tx) DeletePolicy(scope string) error {
	if checkTexts(scope) != nil {
		return ErrNotFound
	}
	n, err := t.exec(`DELETE FROM policies WHERE scope = $1`, scope)
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrNotFound
	}
	_, err = t.NextRevision()
	return err
}
