package fleet

import (
	"context"
	"errors"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// RevokeMachine revokes a machine and all its keys. It may be said again, with
// a harder reason too.
func (s *Service) RevokeMachine(ctx context.Context, actor, id, why string) (*api.Machine, error) {
	if err := api.CheckRevocation(why); err != nil {
		return nil, err
	}
	var out *api.Machine
	err := s.update(ctx, actor, func(c *change) error {
		m, err := find(c.Tx, id)
		if err != nil {
			return err
		}
		if err := c.revokeMachine(m, why); err != nil {
			return err
		}
		if err := errors.Join(c.log("machine.revoke", m.EKHash, map[string]string{"name": m.Name, "reason": why}), c.emit(eventOf(why))); err != nil {
			return err
		}
		out, err = s.machine(c.Tx, m)
		return err
	})
	return out, err
}

// RevokeKey revokes one key; its machine may enrol another one.
func (s *Service) RevokeKey(ctx context.Context, actor, kid, why string) (*api.Key, error) {
	if err := api.CheckRevocation(why); err != nil {
		return nil, err
	}
	var out *api.Key
	err := s.update(ctx, actor, func(c *change) error {
		k, err := findKey(c.Tx, kid)
		if err != nil {
			return err
		}
		if err := c.revokeKey(k, why); err != nil {
			return err
		}
		if err := errors.Join(c.log("key.revoke", k.KID, map[string]string{"machine": k.EKHash, "reason": why}), c.emit(eventOf(why))); err != nil {
			return err
		}
		out, err = s.key(c.Tx, k)
		return err
	})
	return out, err
}

// eventOf is what verifiers are told: superseded keys stay good for the past.
func eventOf(why string) string {
	if why == api.Superseded {
		return "superseded"
	}
	return "revoked"
}

func (c *change) revokeMachine(m *store.Machine, why string) error {
	m.Revoked = why
	if err := c.PutMachine(m); err != nil {
		return err
	}
	keys, err := c.KeysOf(m.EKHash)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := c.revokeKey(k, why); err != nil {
			return err
		}
	}
	return nil
}

// neverEnrolled is the reason of a key that was superseded while it waited.
const neverEnrolled = "superseded before it was enrolled"

// revokeKey moves a key to a terminal state. One that was revoked stays so:
// "superseded" would make acceptable again what is not. Nor does it make so
// what never was.
func (c *change) revokeKey(k *store.Key, why string) error {
	switch {
	case k.State == api.StateRevoked:
		return nil
	case k.State == api.StatePending && why == api.Superseded:
		k.State, k.Reason = api.StateRevoked, neverEnrolled
	case why != api.Superseded:
		k.State, k.Reason = api.StateRevoked, why
	case k.State == api.StateSuperseded:
		return nil
	default:
		k.State, k.Reason = api.StateSuperseded, why
		if k.ExpiresAt.After(c.at) {
			k.ExpiresAt = c.at
		}
	}
	c.touch(k.KID)
	return c.PutKey(k)
}

func findKey(tx *store.Tx, kid string) (*store.Key, error) {
	k, err := tx.Key(kid)
	if errors.Is(err, store.ErrNotFound) {
		return nil, api.Refuse(api.NotFound, "there is no key %.80q", kid)
	}
	return k, err
}
