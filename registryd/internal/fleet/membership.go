package fleet

import (
	"context"
	"errors"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// admit writes a machine that is ours. What its operator vouches for is
// genuine; keys that waited are trusted from now on; and whatever is said of
// the others changes with name and labels.
func (c *change) admit(m *store.Machine) error {
	if m.Allowed && m.Evidence != api.EvidenceChain {
		m.Evidence = api.EvidenceVouched
	}
	if err := c.PutMachine(m); err != nil {
		return err
	}
	keys, err := c.KeysOf(m.EKHash)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.State == api.StatePending {
			k.State, k.EnrolledAt = api.StateEnrolled, c.at
		}
		if err := c.PutKey(k); err != nil {
			return err
		}
		c.touch(k.KID)
	}
	return nil
}

// waiting reports whether a machine has a key that waits for approval.
func waiting(tx *store.Tx, m *store.Machine) (bool, error) {
	keys, err := tx.KeysOf(m.EKHash)
	return len(keys) > 0 && keys[0].State == api.StatePending, err
}

// Approve takes a machine that waits into the fleet, vouches for one that is in
// it, or, with Reinstate, takes back one that was revoked: it may then enrol a
// new key. Who may say Reinstate is for the caller to know.
func (s *Service) Approve(ctx context.Context, actor, id string, r *api.ApproveRequest) (*api.Machine, error) {
	if err := api.CheckLabels(r.Labels); err != nil {
		return nil, err
	}
	var out *api.Machine
	err := s.update(ctx, actor, func(c *change) error {
		m, err := find(c.Tx, id)
		if err != nil {
			return err
		}
		waits, err := waiting(c.Tx, m)
		if err != nil {
			return err
		}
		switch {
		case m.Revoked != "" && !r.Reinstate:
			return api.Refuse(api.Conflict, "machine %s was revoked; an admin takes it back, who says so (reinstate)", m.EKHash)
		case waits || m.Revoked != "":
		case !r.Vouch:
			return api.Refuse(api.Conflict, "machine %s does not wait for approval", m.EKHash)
		case r.Name != "" || r.Labels != nil:
			// They decide which policies apply.
			return api.Refuse(api.Conflict, "name and labels are given to a machine that waits, and %s does not", m.EKHash)
		}
		was := m.Revoked
		if r.Name != "" {
			m.Name = r.Name
		}
		if err := api.CheckName(m.Name); err != nil {
			return api.Refuse(api.NameInvalid, "the machine has no name yet: give it one")
		}
		if err := freeName(c.Tx, m.Name, m.EKHash); err != nil {
			return err
		}
		if r.Labels != nil {
			m.Labels = r.Labels
		}
		c.approve(m, r.Vouch)
		if err := c.admit(m); err != nil {
			return err
		}
		detail := map[string]any{"name": m.Name, "labels": m.Labels, "vouch": r.Vouch}
		if was != "" {
			detail["was_revoked"] = was
		}
		if err := errors.Join(c.log("machine.approve", m.EKHash, detail), c.emit("approved")); err != nil {
			return err
		}
		out, err = s.machine(c.Tx, m)
		return err
	})
	return out, err
}

func (c *change) approve(m *store.Machine, vouch bool) {
	m.Revoked = ""
	if m.Membership != api.ByAllowList {
		m.Membership, m.MembershipBy = api.ByApproval, c.actor
	}
	switch {
	case vouch && !m.Evidence.Genuine():
		m.Evidence = api.EvidenceVouched
	case m.Evidence == "":
		m.Evidence = api.EvidenceUnproven
	}
}

// Reject deletes a machine that waits.
func (s *Service) Reject(ctx context.Context, actor, id string) error {
	return s.update(ctx, actor, func(c *change) error {
		m, err := find(c.Tx, id)
		if err != nil {
			return err
		}
		waits, err := waiting(c.Tx, m)
		if err != nil {
			return err
		}
		if !waits {
			return api.Refuse(api.Conflict, "machine %s does not wait for approval; `telemark fleet revoke` is for the others", m.EKHash)
		}
		keys, err := c.KeysOf(m.EKHash)
		if err != nil {
			return err
		}
		for _, k := range keys {
			c.touch(k.KID)
		}
		if err := c.DeleteMachine(m.EKHash); err != nil {
			return err
		}
		return errors.Join(c.log("machine.reject", m.EKHash, map[string]string{"name": m.Name}), c.emit("rejected"))
	})
}

// Replace gives name and labels of a machine to the one with another EK hash,
// which is thereby allowed and vouched for. The old machine and its keys are
// revoked, and it keeps its name with an appendix.
func (s *Service) Replace(ctx context.Context, actor, id string, r *api.ReplaceRequest) (*api.Machine, error) {
	if err := errors.Join(api.CheckEKHash(r.EKHash), api.CheckRevocation(r.Reason)); err != nil {
		return nil, err
	}
	var out *api.Machine
	err := s.update(ctx, actor, func(c *change) error {
		old, err := find(c.Tx, id)
		if err != nil {
			return err
		}
		if old.EKHash == r.EKHash || old.Name == "" {
			return api.Refuse(api.Conflict, "machine %s cannot be replaced by itself, nor without a name", old.EKHash)
		}
		m, err := c.Machine(r.EKHash)
		if errors.Is(err, store.ErrNotFound) {
			m, err = &store.Machine{EKHash: r.EKHash, CreatedAt: c.at}, nil
		}
		if err != nil {
			return err
		}
		name := old.Name
		old.Name = retiredName(name, old.EKHash)
		if err := c.revokeMachine(old, r.Reason); err != nil {
			return err
		}
		m.Name, m.Labels, m.Allowed, m.Revoked = name, old.Labels, true, ""
		m.Membership, m.MembershipBy = api.ByAllowList, actor
		if err := c.admit(m); err != nil {
			return err
		}
		detail := map[string]string{"name": name, "by": m.EKHash, "reason": r.Reason}
		if err := errors.Join(c.log("machine.replace", old.EKHash, detail), c.emit("replaced")); err != nil {
			return err
		}
		out, err = s.machine(c.Tx, m)
		return err
	})
	return out, err
}

// retiredName is what a replaced machine is called: at most api.MaxName bytes.
func retiredName(name, ekHash string) string {
	appendix := ".replaced." + ekHash[:12]
	return name[:min(len(name), api.MaxName-len(appendix))] + appendix
}
