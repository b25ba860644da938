package instance

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/seal"
)

const sealNonce = "telemark-instance-nonce-v1"

// nonce is an opened one.
type nonce struct {
	id      [32]byte
	expires time.Time
}

// issued is when the nonce was given.
func (n *nonce) issued() time.Time { return n.expires.Add(-nonceLife) }

// Nonce returns a nonce for a registration of the second generation. Nothing
// is written for it.
func (s *Service) Nonce(context.Context) (*api.InstanceNonce, error) {
	expires := s.now().Add(nonceLife)
	content := binary.BigEndian.AppendUint64(nil, uint64(expires.UnixMilli()))
	content = append(content, make([]byte, 32)...)
	_, _ = rand.Read(content[8:]) // never fails
	sealed, err := seal.Seal(s.o.SealKey, sealNonce, []byte(sealNonce), content)
	if err != nil {
		return nil, api.Because(api.Internal, err)
	}
	return &api.InstanceNonce{Nonce: sealed, ExpiresAt: expires}, nil
}

func (s *Service) open(sealed []byte, now time.Time) (*nonce, error) {
	if len(sealed) == 0 || len(sealed) > api.MaxSession {
		return nil, api.Refuse(api.SessionMalformed, "nonce has %d bytes; POST /v1/nonces gives one", len(sealed))
	}
	content, err := seal.Open(s.o.SealKey, sealNonce, []byte(sealNonce), sealed)
	switch {
	case errors.Is(err, seal.ErrNotSealed), err == nil && len(content) != 40:
		return nil, api.Refuse(api.SessionMalformed, "the nonce was not made by this registry")
	case err != nil:
		return nil, api.Because(api.Internal, err)
	}
	n := &nonce{id: [32]byte(content[8:]), expires: time.UnixMilli(int64(binary.BigEndian.Uint64(content))).UTC()}
	if !now.Before(n.expires) {
		return nil, api.Refuse(api.SessionExpired, "the nonce ended at %s", n.expires.Format(time.RFC3339))
	}
	return n, nil
}
