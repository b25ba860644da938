package state

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// Role is somebody who asks to be operator or owner: its key, and its signature
// over the raw instance key of this boot, which package request has verified.
type Role struct {
	Pubkey    []byte
	Signature []byte
}

// tokenSize is the bytes of an owner's token.
const tokenSize = 32

// hashToken is what is kept of a token.
func hashToken(token []byte) []byte {
	h := sha256.New()
	h.Write([]byte("telemark-owner-token-v1\x00"))
	h.Write(token)
	return h.Sum(nil)
}

// party answers the role's signature with the instance's.
func (m *Machine) party(who Role) (*Party, error) {
	if len(who.Pubkey) != ed25519.PublicKeySize || len(who.Signature) != ed25519.SignatureSize {
		return nil, reason.Refuse(reason.PubkeyMalformed, "%d bytes of key, %d of signature", len(who.Pubkey), len(who.Signature))
	}
	instance := m.public()
	if string(instance) == string(who.Pubkey) {
		return nil, reason.Refuse(reason.PubkeyTaken, "it is this instance's key")
	}
	return &Party{
		Pubkey: bytesOf(who.Pubkey), InstanceSignature: bytesOf(who.Signature),
		IdentitySignature: ed25519.Sign(m.key, who.Pubkey), Instance: instance,
	}, nil
}

// RegisterOperator gives the instance its operator, once, and returns the owner's
// token, which is kept nowhere: 32 random bytes as lower-case hexadecimal digits.
// Nothing is done outside, so that it is one write and never under way. owner, if
// not empty, is the only key that may become owner.
func (m *Machine) RegisterOperator(who Role, owner []byte) (token string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ready(); err != nil {
		return "", err
	}
	if m.rec.State != Fresh {
		return "", reason.Refuse(reason.OperatorRegistered, "the state is %s", m.rec.State)
	}
	p, err := m.party(who)
	if err != nil {
		return "", err
	}
	if len(owner) != 0 && len(owner) != ed25519.PublicKeySize {
		return "", reason.Refuse(reason.PubkeyMalformed, "the owner's key has %d bytes", len(owner))
	}
	secret := make([]byte, tokenSize)
	if err := m.random(secret); err != nil {
		return "", reason.Because(reason.Internal, fmt.Errorf("make the owner's token: %w", err))
	}
	next := m.rec
	next.State, next.Operator, next.Expected = OperatorRegistered, p, bytesOf(owner)
	next.Owed = max(m.burned, next.Counter) + 1
	if err := m.write(next, func(r *run) { r.TokenHash = hashToken(secret) }); err != nil {
		return "", err
	}
	return hex.EncodeToString(secret), nil
}

// RegisterOwner begins to give the instance its owner. Of any number of calls
// with the token one gets a Pending. From then on the token is worth something to
// that owner's key only: should the step be undone, because the storage cannot be
// mounted, the same owner may try again, and nobody else.
func (m *Machine) RegisterOwner(now time.Time, token string, who Role) (*Pending, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ready(); err != nil {
		return nil, err
	}
	if token == "" {
		return nil, reason.Refuse(reason.TokenMissing, "there is none")
	}
	if m.rec.State == Fresh {
		return nil, reason.Refuse(reason.OperatorMissing, "the state is %s", m.rec.State)
	}
	good := m.tokenFits(token)
	if m.rec.State != OperatorRegistered {
		if good {
			return nil, reason.Refuse(reason.TokenUsed, "the state is %s", m.rec.State)
		}
		return nil, reason.Refuse(reason.OwnerRegistered, "the state is %s", m.rec.State)
	}
	if !good {
		return nil, reason.Refuse(reason.TokenInvalid, "it is another one")
	}
	p, err := m.party(who)
	if err != nil {
		return nil, err
	}
	if len(m.rec.Expected) != 0 && string(m.rec.Expected) != string(p.Pubkey) {
		if m.rec.Bound {
			return nil, reason.Refuse(reason.TokenUsed, "another key came with it first")
		}
		return nil, reason.Refuse(reason.OwnerNotExpected, "another key is expected")
	}
	if err := mayBegin(&m.rec, RegisterOwner); err != nil {
		return nil, err
	}
	next := m.rec
	next.Expected, next.Bound = p.Pubkey, true
	return m.begin(now, next, Step{Kind: RegisterOwner, Owner: p})
}

// tokenFits takes the same time whatever was sent, but for its length.
func (m *Machine) tokenFits(token string) bool {
	if len(token) != 2*tokenSize || len(m.run.TokenHash) == 0 {
		return false
	}
	secret, err := hex.DecodeString(token)
	if err != nil || hex.EncodeToString(secret) != token {
		return false
	}
	return subtle.ConstantTimeCompare(hashToken(secret), m.run.TokenHash) == 1
}

// Renew replaces the operator's signature by one over the instance key of this
// boot, which the registry wants to see after a reboot.
func (m *Machine) Renew(who Role) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ready(); err != nil {
		return err
	}
	p, err := m.party(who)
	if err != nil {
		return err
	}
	switch {
	case m.rec.Operator == nil:
		return reason.Refuse(reason.OperatorMissing, "the state is %s", m.rec.State)
	case string(m.rec.Operator.Pubkey) != string(p.Pubkey) || string(m.rec.Operator.Instance) == string(p.Instance):
		return reason.Refuse(reason.OperatorRegistered, "only its operator can sign it anew, once after a reboot")
	}
	next := m.rec
	next.Operator = p
	next.Owed = max(m.burned, next.Counter) + 1
	return m.write(next, nil)
}
