package fleet

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

const (
	scopeDefault = "default"
	scopeLabel   = "label:"
	scopeName    = "name:"

	// maxLocation bounds a location policy in bytes: it stands in the record of
	// every key that it speaks of, up to 1,000 of them in one answer.
	maxLocation = 12 << 10
)

// Policies lists the policies.
func (s *Service) Policies(ctx context.Context) ([]*api.Policy, error) {
	var out []*api.Policy
	err := s.view(ctx, func(tx *store.Tx) error {
		var err error
		out, err = tx.Policies()
		return err
	})
	return out, err
}

// PutPolicy writes the policy of a scope, and gives a new revision to all keys
// that it speaks of.
func (s *Service) PutPolicy(ctx context.Context, actor string, p *api.Policy) (*api.Policy, error) {
	key, value, err := checkScope(p.Scope)
	if err != nil {
		return nil, err
	}
	if p.Bind == nil && p.BindRequired == nil && p.Freshness == "" && p.RequireEvidence == "" && len(p.Location) == 0 {
		return nil, api.Refuse(api.BadRequest, "policy %s demands nothing: name what it demands, or delete it", p.Scope)
	}
	if len(p.Location) > maxLocation {
		return nil, api.Refuse(api.BadRequest, "policy %s: its location has %d bytes, at most %d are allowed: draw the area with fewer points", p.Scope, len(p.Location), maxLocation)
	}
	var entry keyfile.Entry
	if err := setMembers(&entry, p); err != nil {
		return nil, err
	}
	if err := entry.CheckPolicy(); err != nil {
		return nil, api.Refuse(api.BadRequest, "policy %s: %s", p.Scope, err)
	}
	err = s.update(ctx, actor, func(c *change) error {
		p.UpdatedAt, p.UpdatedBy = c.at, actor
		if p.Revision, err = c.NextRevision(); err != nil {
			return err
		}
		if err := c.PutPolicy(p); err != nil {
			return err
		}
		return c.policyChanged("policy.put", p, key, value)
	})
	return p, err
}

// DeletePolicy removes the policy of a scope.
func (s *Service) DeletePolicy(ctx context.Context, actor, scope string) error {
	key, value, err := checkScope(scope)
	if err != nil {
		return err
	}
	return s.update(ctx, actor, func(c *change) error {
		err := c.DeletePolicy(scope)
		if errors.Is(err, store.ErrNotFound) {
			return api.Refuse(api.NotFound, "there is no policy for %.300q", scope)
		}
		if err != nil {
			return err
		}
		return c.policyChanged("policy.delete", &api.Policy{Scope: scope}, key, value)
	})
}

func (c *change) policyChanged(action string, p *api.Policy, key, value string) error {
	name := ""
	if key == "" {
		name = value
	}
	kids, err := c.TouchKeys(p.Scope == scopeDefault, key, value, name)
	if err != nil {
		return err
	}
	c.touch(kids...)
	return errors.Join(c.log(action, p.Scope, p), c.emit("policy_changed"))
}

// checkScope returns key and value of a label's scope, or the name of a
// machine's as the value.
func checkScope(scope string) (key, value string, err error) {
	if scope == scopeDefault {
		return "", "", nil
	}
	if name, ok := strings.CutPrefix(scope, scopeName); ok {
		return "", name, api.CheckName(name)
	}
	if label, ok := strings.CutPrefix(scope, scopeLabel); ok {
		if key, value, ok = strings.Cut(label, "="); ok {
			return key, value, api.CheckLabels(map[string]string{key: value})
		}
	}
	return "", "", api.Refuse(api.BadRequest, "scope %.300q: want default, label:KEY=VALUE or name:NAME", scope)
}

// applies reports whether a policy speaks of a machine, and how narrowly.
func applies(p *api.Policy, m *store.Machine) (rank int, ok bool) {
	if p.Scope == scopeDefault {
		return 2, true
	}
	if name, is := strings.CutPrefix(p.Scope, scopeName); is {
		return 0, m.Name != "" && strings.EqualFold(name, m.Name)
	}
	key, value, _ := strings.Cut(strings.TrimPrefix(p.Scope, scopeLabel), "=")
	got, has := m.Labels[key]
	return 1, has && got == value
}

// merge sets the members of the policies that apply, narrowest first, so that
// each comes from the narrowest that has it.
func merge(e *keyfile.Entry, policies []*api.Policy, m *store.Machine) error {
	type ranked struct {
		rank int
		*api.Policy
	}
	var found []ranked
	for _, p := range policies {
		if rank, ok := applies(p, m); ok {
			found = append(found, ranked{rank, p})
		}
	}
	slices.SortFunc(found, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.Scope, b.Scope))
	})
	for _, p := range found {
		if err := setMembers(e, p.Policy); err != nil {
			return err
		}
	}
	return nil
}

// setMembers sets what p says and e does not yet. What is bound and what has to
// be is one member.
func setMembers(e *keyfile.Entry, p *api.Policy) error {
	if e.Bind == nil && e.BindRequired == nil {
		e.Bind, e.BindRequired = p.Bind, p.BindRequired
	}
	if e.Freshness == "" {
		e.Freshness = p.Freshness
	}
	if e.RequireEvidence == "" {
		e.RequireEvidence = p.RequireEvidence
	}
	// null says nothing; {} says that anywhere will do.
	if e.Location == nil && len(p.Location) > 0 && string(p.Location) != "null" {
		e.Location = &keyfile.Location{}
		if err := strictjson.Unmarshal(p.Location, e.Location); err != nil {
			return api.Refuse(api.BadRequest, "policy %s: location: %s", p.Scope, err)
		}
	}
	return nil
}
