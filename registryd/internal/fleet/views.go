package fleet

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/keyfile"
	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

// Machine returns one machine by EK hash or by name, with its keys.
func (s *Service) Machine(ctx context.Context, id string) (*api.Machine, error) {
	var out *api.Machine
	err := s.view(ctx, func(tx *store.Tx) error {
		m, err := find(tx, id)
		if err != nil {
			return err
		}
		out, err = s.machine(tx, m)
		return err
	})
	return out, err
}

// Machines lists machines, without their keys.
func (s *Service) Machines(ctx context.Context, f store.MachineFilter) (*api.Page[api.Machine], error) {
	page := &api.Page[api.Machine]{Items: []api.Machine{}}
	err := s.view(ctx, func(tx *store.Tx) error {
		rows, next, err := tx.Machines(f)
		if err != nil {
			return err
		}
		page.Next = next
		for _, row := range rows {
			m, err := s.machine(tx, row)
			if err != nil {
				return err
			}
			m.Keys = nil
			page.Items = append(page.Items, *m)
		}
		return nil
	})
	return page, err
}

func (s *Service) machine(tx *store.Tx, m *store.Machine) (*api.Machine, error) {
	out := &api.Machine{
		Machine: m.EKHash, Kind: api.KindTPM, Name: m.Name, Labels: m.Labels, Evidence: m.Evidence,
		Membership: m.Membership, Revoked: m.Revoked, CreatedAt: m.CreatedAt, SeenAt: m.SeenAt, Revision: m.Revision,
	}
	if len(m.EKCertificate) > 0 {
		// Some vendors' certificates break strict DER; they are judged at enrolment.
		if c, err := x509.ParseCertificate(m.EKCertificate); err == nil {
			out.EKCertificate = fmt.Sprintf("%s, serial %x", c.Issuer, c.SerialNumber)
		}
	}
	keys, err := tx.KeysOf(m.EKHash)
	if err != nil {
		return nil, err
	}
	policies, err := tx.Policies()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		key, err := s.keyOf(k, m, policies)
		if err != nil {
			return nil, err
		}
		out.Keys = append(out.Keys, *key)
	}
	if len(out.Keys) > 0 {
		out.State = out.Keys[0].State
	}
	return out, nil
}

// Key returns what is known of a key, for people.
func (s *Service) Key(ctx context.Context, kid string) (*api.Key, error) {
	var out *api.Key
	err := s.view(ctx, func(tx *store.Tx) error {
		k, err := findKey(tx, kid)
		if err != nil {
			return err
		}
		out, err = s.key(tx, k)
		return err
	})
	return out, err
}

func (s *Service) key(tx *store.Tx, k *store.Key) (*api.Key, error) {
	m, err := tx.Machine(k.EKHash)
	if err != nil {
		return nil, err
	}
	policies, err := tx.Policies()
	if err != nil {
		return nil, err
	}
	return s.keyOf(k, m, policies)
}

func (s *Service) keyOf(k *store.Key, m *store.Machine, policies []*api.Policy) (*api.Key, error) {
	entry, err := entryOf(k, m, policies)
	if err != nil {
		return nil, err
	}
	return &api.Key{
		KID: k.KID, Machine: k.EKHash, Name: m.Name, State: s.state(k), Reason: k.Reason, EnrolledAt: k.EnrolledAt,
		AttestedAt: k.AttestedAt, ExpiresAt: k.ExpiresAt, Revision: k.Revision, Entry: entry,
	}, nil
}

// state is the stored one, or expired when the lease has run out.
func (s *Service) state(k *store.Key) api.KeyState {
	if k.State == api.StateEnrolled && !s.now().Before(k.ExpiresAt) {
		return api.StateExpired
	}
	return k.State
}

// recordOf is what verifiers are told of a key.
func recordOf(k *store.Key, m *store.Machine, policies []*api.Policy) (answer.Record, error) {
	entry, err := entryOf(k, m, policies)
	return answer.Record{KID: k.KID, State: k.State, Evidence: m.Evidence, Revision: k.Revision, Entry: entry}, err
}

// entryOf writes a key as it stands in a keys.file, nil for one that waits.
func entryOf(k *store.Key, m *store.Machine, policies []*api.Policy) (json.RawMessage, error) {
	if k.State == api.StatePending {
		return nil, nil
	}
	public, algorithm, err := readKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.KID, err)
	}
	notAfter := k.ExpiresAt.UTC().Truncate(time.Millisecond)
	e := keyfile.Entry{
		KID: k.KID, Name: m.Name, Algorithm: algorithm, PublicKey: public, TPMPublic: k.Public,
		NotAfter: &notAfter, Revoked: revocation(k), Labels: m.Labels, Evidence: string(m.Evidence),
	}
	if err := merge(&e, policies, m); err != nil {
		return nil, err
	}
	return json.Marshal(&e)
}

// revocation is what a verifier is told of a key that is not trusted any more.
func revocation(k *store.Key) string {
	switch {
	case k.State == api.StateSuperseded:
		return api.Superseded
	case k.State == api.StateRevoked && k.Reason == "":
		return string(api.StateRevoked)
	case k.State == api.StateRevoked:
		return k.Reason
	default:
		return ""
	}
}

// readKey returns the public key as PEM, and what it signs with.
func readKey(area []byte) (public, algorithm string, err error) {
	key, err := tpmattest.ParseKey(area)
	if err != nil {
		return "", "", fmt.Errorf("read the public area: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public)
	if err != nil {
		return "", "", fmt.Errorf("encode the public key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), key.Algorithm, nil
}
