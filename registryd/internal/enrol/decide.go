package enrol

import (
	"crypto/subtle"
	"errors"
	"maps"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// decision is one claim against what the store holds, inside one transaction.
type decision struct {
	service *Service
	tx      *store.Tx
	claim   *claim

	machine *store.Machine // as it will be written
	known   bool           // the machine was there before
	before  store.Machine  // as it was
	key     *store.Key     // nil when it was not there before
	older   []*store.Key   // the machine's other keys
	token   *store.Token   // that was used up by one
	state   api.KeyState   // pending or enrolled
	freed   *store.Machine // that only waits, and loses its name to this one

	squatter string // that only waits, and was forgotten since it had this one's key
}

// decide consumes the session and finds out what becomes of the machine.
func (d *decision) decide() error {
	err := d.tx.ConsumeSession(d.claim.session.id, d.claim.session.expires)
	if errors.Is(err, store.ErrExists) {
		return api.Refuse(api.SessionUsed, "this request was answered before")
	}
	if err != nil {
		return err
	}
	if err := d.read(); err != nil {
		return err
	}
	if d.machine.Revoked != "" {
		return api.Refuse(api.MachineRevoked, "machine %s: %.256q", d.machine.EKHash, d.machine.Revoked)
	}
	if err := d.checkKey(); err != nil {
		return err
	}
	if err := d.admit(); err != nil {
		return err
	}
	if err := d.freeKey(); err != nil {
		return err
	}
	if err := d.name(); err != nil {
		return err
	}
	return d.checkPace()
}

// read gets the machine, and its keys.
func (d *decision) read() error {
	hash := d.claim.ek.Hash
	m, err := d.tx.Machine(hash)
	switch {
	case errors.Is(err, store.ErrNotFound):
		d.machine = &store.Machine{EKHash: hash, CreatedAt: d.claim.at}
		return nil
	case err != nil:
		return err
	}
	d.machine, d.known, d.before = m, true, *m
	keys, err := d.tx.KeysOf(hash)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.KID == d.claim.kid {
			d.key = k
		} else {
			d.older = append(d.older, k)
		}
	}
	return nil
}

// checkKey refuses a key that belongs elsewhere, or to the past.
func (d *decision) checkKey() error {
	if d.key == nil {
		k, err := d.tx.Key(d.claim.kid)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case err != nil:
			return err
		case k.State == api.StatePending:
			d.squatter = k.EKHash // see freeKey
			return nil
		default:
			return keyTaken(k.EKHash, d.claim.kid)
		}
	}
	switch d.key.State {
	case api.StateEnrolled, api.StatePending:
		return nil
	case api.StateRevoked, api.StateSuperseded:
		return api.Refuse(api.KeyRevoked, "key %s is %s", d.key.KID, d.key.State)
	default:
		return api.Refuse(api.Internal, "key %s is in state %.32q", d.key.KID, string(d.key.State))
	}
}

func keyTaken(holder, kid string) error {
	return api.Refuse(api.KeyTaken, "key %s is that of machine %s", kid, holder)
}

// freeKey forgets a machine that waits and has this one's key. The TPM of this
// one is genuine, so that what it certified is in it; software certifies
// anything.
func (d *decision) freeKey() error {
	if d.squatter == "" {
		return nil
	}
	if d.state != api.StateEnrolled || !d.machine.Evidence.Genuine() {
		return keyTaken(d.squatter, d.claim.kid)
	}
	err := d.tx.DeleteMachine(d.squatter)
	if errors.Is(err, store.ErrInvalid) { // has other keys, which an operator looked at
		return keyTaken(d.squatter, d.claim.kid)
	}
	return err
}

// maxKeysAnHour bounds how often a machine changes its key: keys and audit
// entries are kept for ever.
const maxKeysAnHour = 20

// checkPace refuses a key that comes too soon after the one before.
func (d *decision) checkPace() error {
	if d.key != nil {
		return nil
	}
	at, recent := d.claim.at, 0
	for _, k := range d.older {
		if d.state == api.StatePending && k.State == api.StatePending && at.Before(k.AttestedAt.Add(pendingRetry)) {
			return api.Refuse(api.RateLimited, "another key waits since %s; one a minute is taken", k.AttestedAt.Format(time.RFC3339))
		}
		if !k.EnrolledAt.IsZero() && at.Before(k.EnrolledAt.Add(time.Hour)) {
			recent++
		}
	}
	if recent >= maxKeysAnHour {
		return api.Refuse(api.RateLimited, "%d keys of this machine were enrolled within an hour", recent)
	}
	return nil
}

// admit fills in why the machine is genuine and why it is ours, and says what
// follows (see the package comment).
func (d *decision) admit() error {
	m := d.machine
	if d.claim.chain {
		m.Evidence = strongest(m.Evidence, api.EvidenceChain)
	}
	if m.Allowed {
		m.Evidence = strongest(m.Evidence, api.EvidenceVouched)
		if m.Membership == api.ByNothing {
			m.Membership = api.ByAllowList
		}
	}
	// A token is looked at only when it is needed: the agent sends its proof
	// until it knows that it is enrolled, and it may have run out since.
	if proof := d.claim.request.Token; proof != nil && m.Membership == api.ByNothing {
		if err := d.useToken(proof); err != nil {
			return err
		}
	}
	ours, genuine := m.Membership != api.ByNothing, m.Evidence.Genuine()
	m.Evidence = strongest(m.Evidence, api.EvidenceUnproven)
	queue := d.service.o.Queue
	switch {
	case ours:
		d.state = api.StateEnrolled
		return nil
	case queue == QueueAll, queue == QueueGenuine && genuine:
		d.state = api.StatePending
		return d.checkQueue()
	case !genuine && d.claim.certificate != nil:
		return d.claim.certificate
	case !genuine:
		return api.Refuse(api.NotGenuine, "EK hash %s: there is no EK certificate", m.EKHash)
	default:
		return api.Refuse(api.NotOurs, "EK hash %s is not on the allow-list, the machine has no join token, and there is no queue", m.EKHash)
	}
}

// strongest returns the better of two proofs.
func strongest(a, b api.Evidence) api.Evidence {
	rank := func(e api.Evidence) int {
		switch e {
		case api.EvidenceChain:
			return 3
		case api.EvidenceVouched:
			return 2
		case api.EvidenceUnproven:
			return 1
		default:
			return 0
		}
	}
	if rank(a) >= rank(b) {
		return a
	}
	return b
}

// checkQueue refuses another machine when as many wait as may.
func (d *decision) checkQueue() error {
	if d.key != nil || len(d.older) > 0 { // waits already
		return nil
	}
	n, err := d.tx.CountPending()
	if err != nil {
		return err
	}
	if n >= d.service.o.MaxPending {
		return api.Refuse(api.QueueFull, "%d machines wait", n)
	}
	return nil
}

// useToken makes the machine ours by a join token. The proof comes first: to
// those who do not know the token, nothing is told of it.
func (d *decision) useToken(proof *api.TokenProof) error {
	t, err := d.tx.Token(proof.ID)
	if errors.Is(err, store.ErrNotFound) {
		return api.Refuse(api.TokenUnknown, "token %.32q", proof.ID)
	}
	if err != nil {
		return err
	}
	key, err := openTokenKey(d.service.o.SealKey, t.ID, t.SealedKey)
	if err != nil {
		return api.Because(api.Internal, err)
	}
	want := api.JoinProof(key, d.claim.request.Session, d.claim.request.Hierarchy)
	if subtle.ConstantTimeCompare(want, proof.Proof) != 1 {
		return api.Refuse(api.TokenProofInvalid, "token %s", t.ID)
	}
	if !d.claim.at.Before(t.ExpiresAt) {
		return api.Refuse(api.TokenExpired, "token %s", t.ID)
	}
	if t.Used >= t.Uses {
		return api.Refuse(api.TokenUsedUp, "token %s: %d uses", t.ID, t.Uses)
	}
	t.Used++
	d.token = t
	m := d.machine
	m.Membership, m.MembershipBy = api.ByToken, t.ID
	m.Labels = withLabels(m.Labels, t.Labels)
	return nil
}

// withLabels adds labels to those that an operator gave the machine itself,
// which stay, as far as there is room.
func withLabels(own, added map[string]string) map[string]string {
	if len(own) == 0 {
		return added
	}
	out := maps.Clone(added)
	if out == nil {
		out = make(map[string]string, len(own))
	}
	maps.Copy(out, own)
	if len(out) > api.MaxLabels {
		return own
	}
	return out
}
