package enrol

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/seal"
)

// session is what the registry has to remember between the two requests of an
// enrolment. The machine keeps it, sealed, so that nothing is written for
// somebody who only knocks:
//
//	u64 expires, Unix ms | nonce, 32 bytes | secret, 32 bytes | HierarchyHash, 32 bytes | id, 32 bytes
//
// Any replica opens it. It is used once: its id is consumed in the transaction
// that writes the outcome.
type session struct {
	expires   time.Time
	nonce     [api.NonceSize]byte
	secret    [sha256.Size]byte // of the credential
	hierarchy [sha256.Size]byte
	id        [32]byte
}

const sessionSize = 8 + 4*32

// newSession begins a session for these keys.
func newSession(h api.Hierarchy, expires time.Time) *session {
	s := &session{expires: expires, hierarchy: [sha256.Size]byte(api.HierarchyHash(h))}
	for _, b := range [][]byte{s.nonce[:], s.secret[:], s.id[:]} {
		_, _ = rand.Read(b) // never fails
	}
	return s
}

func (s *session) seal(sealKey []byte) ([]byte, error) {
	plain := make([]byte, 0, sessionSize)
	plain = binary.BigEndian.AppendUint64(plain, uint64(s.expires.UnixMilli()))
	for _, b := range [][]byte{s.nonce[:], s.secret[:], s.hierarchy[:], s.id[:]} {
		plain = append(plain, b...)
	}
	return seal.Seal(sealKey, sealSession, []byte(sealSession), plain)
}

// openSession opens a session for these keys at now.
func openSession(sealKey, sealed []byte, h api.Hierarchy, now time.Time) (*session, error) {
	if len(sealed) > api.MaxSession {
		return nil, api.Refuse(api.SessionMalformed, "%d bytes", len(sealed))
	}
	plain, err := seal.Open(sealKey, sealSession, []byte(sealSession), sealed)
	if err != nil {
		return nil, api.Because(api.SessionMalformed, err)
	}
	if len(plain) != sessionSize {
		return nil, api.Refuse(api.SessionMalformed, "sealed are %d bytes", len(plain))
	}
	s := &session{expires: time.UnixMilli(int64(binary.BigEndian.Uint64(plain))).UTC()}
	rest := plain[8:]
	for _, b := range []*[32]byte{&s.nonce, &s.secret, &s.hierarchy, &s.id} {
		*b = [32]byte(rest)
		rest = rest[32:]
	}
	if !now.Before(s.expires) {
		return nil, api.Refuse(api.SessionExpired, "it ended at %s", s.expires.Format(time.RFC3339))
	}
	if subtle.ConstantTimeCompare(s.hierarchy[:], api.HierarchyHash(h)) != 1 {
		return nil, api.Refuse(api.SessionMismatch, "endorsement, attestation and signing key are not those that it was opened for")
	}
	return s, nil
}
