package enrol

import (
	"maps"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// What the event stream and the audit log call the outcomes.
const (
	eventEnrolled = "enrolled"
	eventRenewed  = "renewed"
	eventPending  = "pending"
)

// neverEnrolled is the reason of a pending key that another one replaced. It
// was never trusted, so "superseded" would make it so for the past.
const neverEnrolled = "replaced before it was enrolled"

// write makes the decision durable: machine, key, token, audit entry, event.
func (d *decision) write() (*api.Enrolment, error) {
	if d.unchanged() {
		return d.answer(d.key)
	}
	if d.freed != nil {
		if err := d.tx.PutMachine(d.freed); err != nil {
			return nil, err
		}
	}
	if d.token != nil {
		if err := d.tx.PutToken(d.token); err != nil {
			return nil, err
		}
	}
	retired, err := d.retire()
	if err != nil {
		return nil, err
	}
	k, err := d.makeKey()
	if err != nil {
		return nil, err
	}
	if err := d.putMachine(); err != nil {
		return nil, err
	}
	what := d.event()
	if err := d.tx.PutKey(k); err != nil {
		return nil, err
	}
	if err := d.audit(what, k, retired); err != nil {
		return nil, err
	}
	if err := d.tx.Emit(store.Event{At: d.claim.at, What: what, KIDs: append([]string{k.KID}, retired...)}); err != nil {
		return nil, err
	}
	return d.answer(k)
}

// unchanged reports whether a machine that waits came by again, with nothing
// new: writing that would make every verifier look.
func (d *decision) unchanged() bool {
	fresh := d.key != nil && d.claim.at.Before(d.key.AttestedAt.Add(d.service.o.Lease/2))
	return d.state == api.StatePending && fresh && d.key.State == api.StatePending &&
		d.machine.Name == d.before.Name && d.machine.Evidence == d.before.Evidence && maps.Equal(d.machine.Labels, d.before.Labels)
}

// event says what happened.
func (d *decision) event() string {
	switch {
	case d.state == api.StatePending:
		return eventPending
	case d.key != nil && d.key.State == api.StateEnrolled && d.before.Membership != api.ByNothing:
		return eventRenewed
	default:
		return eventEnrolled
	}
}

// retire ends the machine's other keys, and returns which it ended.
func (d *decision) retire() (kids []string, err error) {
	waited := len(d.older) > 0 && d.key == nil
	for _, k := range d.older {
		waited = waited && k.State == api.StatePending
		if k.State == api.StateEnrolled || k.State == api.StatePending {
			kids = append(kids, k.KID)
		}
	}
	if waited {
		// Nothing was ever built on them, and a machine that waits may not
		// fill the store with keys.
		return kids, d.tx.DeleteMachine(d.machine.EKHash)
	}
	for _, k := range d.older {
		switch k.State {
		case api.StateEnrolled:
			// A lease that has run out is not made longer by its successor.
			k.State, k.Reason = api.StateSuperseded, api.Superseded
			if k.ExpiresAt.After(d.claim.at) {
				k.ExpiresAt = d.claim.at
			}
		case api.StatePending:
			k.State, k.Reason = api.StateRevoked, neverEnrolled
		default:
			continue
		}
		if err := d.tx.PutKey(k); err != nil {
			return nil, err
		}
	}
	return kids, nil
}

func (d *decision) putMachine() error {
	m, c := d.machine, d.claim
	m.EKPublic, m.AKName, m.SeenAt = c.request.EK, c.ak.Name, c.at
	if c.chain {
		m.EKCertificate = c.request.EKCertificate
	}
	return d.tx.PutMachine(m)
}

// makeKey returns the key's row. A key that waits has its lease too, since it
// is approved without the machine being asked again.
func (d *decision) makeKey() (*store.Key, error) {
	c := d.claim
	evidence, pcrs, err := c.evidence()
	if err != nil {
		return nil, err
	}
	k := &store.Key{
		KID: c.kid, EKHash: c.ek.Hash, State: d.state, Public: c.key.TPM,
		Evidence: evidence, PCRs: pcrs,
		AttestedAt: c.at, ExpiresAt: c.at.Add(d.service.o.Lease),
	}
	switch {
	case d.key != nil && d.key.State == api.StateEnrolled:
		k.EnrolledAt = d.key.EnrolledAt
	case d.state == api.StateEnrolled:
		k.EnrolledAt = c.at
	}
	return k, nil
}

// answer tells the machine what became of it.
func (d *decision) answer(k *store.Key) (*api.Enrolment, error) {
	revision, err := d.tx.Revision()
	if err != nil {
		return nil, err
	}
	out := &api.Enrolment{
		State: d.state, Evidence: d.machine.Evidence, KID: k.KID, Name: d.machine.Name, Machine: d.machine.EKHash,
		Revision: revision, Expires: k.ExpiresAt, RenewAt: d.claim.at.Add(d.service.o.Lease / 2),
	}
	if d.state == api.StatePending {
		out.Expires, out.RenewAt = time.Time{}, d.claim.at.Add(pendingRetry)
	}
	return out, nil
}
