package state

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/strictjson"
)

// identity is what lies inside the encrypted volume, as JSON with nothing after
// it: the means to go on after a reboot. It is secret.
type identity struct {
	Version    int     `json:"version"` // 1
	OriginSeed api.Hex `json:"origin_seed"`
	MACKey     api.Hex `json:"mac_key"`
	Counter    uint64  `json:"counter"` // when it was written
}

// Identity returns what the caller keeps inside the encrypted volume, in a file
// of mode 0600 that is replaced whole, durably before a step is finished: from then
// on neither a state that is older than it is taken nor a volume without it.
func (m *Machine) Identity() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.run.linked() {
		return nil, reason.Refuse(reason.StateUnlinked, "the storage is locked")
	}
	m.given = m.rec.Counter
	return json.Marshal(&identity{1, m.run.OriginSeed, m.run.MACKey, m.rec.Counter})
}

func parseIdentity(content []byte) (*identity, error) {
	var id identity
	if len(content) > 4<<10 || strictjson.Unmarshal(content, &id) != nil ||
		id.Version != 1 || len(id.OriginSeed) != ed25519.SeedSize || len(id.MACKey) != keySize {
		return nil, reason.Refuse(reason.IdentityInvalid, "it is malformed")
	}
	return &id, nil
}

// linkMessage is what the origin signs; see Link.Signature.
func linkMessage(instance []byte, counter uint64) []byte {
	b := append([]byte(nil), "telemark-identity-link-v1\x00"...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(instance)))
	b = append(b, instance...)
	b = binary.BigEndian.AppendUint32(b, 8)
	return binary.BigEndian.AppendUint64(b, counter)
}

// Verify reports whether the identity that began with origin goes on with
// instance.
func (l *Link) Verify(origin, instance ed25519.PublicKey) bool {
	return len(origin) == ed25519.PublicKeySize && ed25519.Verify(origin, linkMessage(instance, l.Counter), l.Signature)
}

// Link goes on, after a reboot, with the identity that was found in the
// unlocked volume. The owner has signed the new instance key. What the disk
// claims has to be authentic under that identity, and not older than it.
func (m *Machine) Link(now time.Time, content []byte, owner Role) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.run.RolledBack:
		return reason.Refuse(reason.StateRollback, "the disk was set back")
	case m.run.linked():
		return reason.Refuse(reason.StateLinked, "the state is %s", m.rec.State)
	}
	id, err := parseIdentity(content)
	if err != nil {
		return err
	}
	r, err := decode(m.found, id.MACKey)
	if err != nil {
		return err
	}
	origin := ed25519.NewKeyFromSeed(id.OriginSeed)
	if !bytes.Equal(origin.Public().(ed25519.PublicKey), r.Origin) {
		return reason.Refuse(reason.IdentityInvalid, "it began with another key")
	}
	if r.Counter < id.Counter {
		return reason.Refuse(reason.StateRollback, "its counter is %d, and the volume saw %d", r.Counter, id.Counter)
	}
	if id.Counter < r.Kept {
		return reason.Refuse(reason.StateRollback, "the volume is of counter %d, and held %d before", id.Counter, r.Kept)
	}
	if !bytes.Equal(owner.Pubkey, r.Owner.Pubkey) {
		return reason.Refuse(reason.OwnerRegistered, "another key is the owner's")
	}
	p, err := m.party(owner)
	if err != nil {
		return err
	}
	next := *r
	next.Instance, next.Owner = m.public(), p
	next.Owed = max(m.burned, r.Counter) + 1
	next.UnheardRegistry, next.UnheardOwner = cmp.Or(r.UnheardRegistry, r.Counter), cmp.Or(r.UnheardOwner, r.Counter)
	next.Link = &Link{
		At: when(now), Counter: r.Counter,
		Signature: ed25519.Sign(origin, linkMessage(next.Instance, r.Counter)),
	}
	return m.write(next, func(s *run) {
		s.OriginSeed, s.MACKey = id.OriginSeed, id.MACKey
		s.Registry, s.Tool = true, true
	})
}

// Source is who saw counters from outside.
type Source string

// The sources.
const (
	Registry  Source = "registry"
	OwnerTool Source = "owner"
)

// Witness takes the counter that somebody outside saw last, 0 for none: fetched
// from the registry under a fresh nonce, or sent by the owner's tool in a signed
// request. The first word of each after a reboot is held against what the disk
// came with, so it has to be asked before it is told of anything newer; it is
// written down, under a higher counter. A disk
// that is behind is state_rollback for the rest of the boot: no step begins, and
// SSHAllowed stays false.
func (m *Machine) Witness(from Source, seen uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.run.RolledBack:
		return reason.Refuse(reason.StateRollback, "the disk was set back")
	case !m.run.linked():
		return reason.Refuse(reason.StateUnlinked, "the storage is locked")
	}
	next := m.rec
	var pending func(*run) *bool
	var unheard *uint64
	switch from {
	case Registry:
		pending, unheard = func(r *run) *bool { return &r.Registry }, &next.UnheardRegistry
	case OwnerTool:
		pending, unheard = func(r *run) *bool { return &r.Tool }, &next.UnheardOwner
	default:
		return reason.Refuse(reason.Internal, "%.32q is no witness", string(from))
	}
	r := m.run
	if have := cmp.Or(*unheard, m.rec.Counter); seen > have {
		m.run.RolledBack, r.RolledBack = true, true
		if err := r.save(m.runDir); err != nil {
			return err
		}
		return reason.Refuse(reason.StateRollback, "the disk came with counter %d, and the %s saw %d", have, from, seen)
	}
	if !*pending(&r) {
		return nil
	}
	// The disk first: once this is known to have been heard, the witness may be
	// told of something newer.
	*unheard = 0
	if err := m.write(next, nil); err != nil {
		return err
	}
	r = m.run
	*pending(&r) = false
	if err := r.save(m.runDir); err != nil {
		return err
	}
	m.run = r
	return nil
}
