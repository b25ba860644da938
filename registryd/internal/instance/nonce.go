package instance

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

const nonceTag = "telemark-instance-nonce-v1"

// nonce is an opened one.
type nonce struct {
	id      [32]byte
	expires time.Time
}

func (s *Service) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(s.o.SealKey)
	if err != nil {
		return nil, fmt.Errorf("use the seal key: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Nonce returns a nonce for a registration of the second generation. Nothing
// is written for it.
func (s *Service) Nonce(context.Context) (*api.InstanceNonce, error) {
	aead, err := s.aead()
	if err != nil {
		return nil, api.Because(api.Internal, err)
	}
	expires := s.now().Add(nonceLife)
	content := binary.BigEndian.AppendUint64(nil, uint64(expires.UnixMilli()))
	content = append(content, make([]byte, 32)...)
	_, _ = rand.Read(content[8:])                            // never fails
	sealed := aead.Seal(nil, nil, content, []byte(nonceTag)) //nolint:gosec // the cipher draws its own nonce
	return &api.InstanceNonce{Nonce: sealed, ExpiresAt: expires}, nil
}

func (s *Service) open(sealed []byte, now time.Time) (*nonce, error) {
	if len(sealed) == 0 || len(sealed) > api.MaxSession {
		return nil, api.Refuse(api.SessionMalformed, "nonce has %d bytes; POST /v1/nonces gives one", len(sealed))
	}
	aead, err := s.aead()
	if err != nil {
		return nil, api.Because(api.Internal, err)
	}
	content, err := aead.Open(nil, nil, sealed, []byte(nonceTag))
	if err != nil || len(content) != 40 {
		return nil, api.Refuse(api.SessionMalformed, "the nonce was not made by this registry")
	}
	n := &nonce{id: [32]byte(content[8:]), expires: time.UnixMilli(int64(binary.BigEndian.Uint64(content))).UTC()}
	if !now.Before(n.expires) {
		return nil, api.Refuse(api.SessionExpired, "the nonce ended at %s", n.expires.Format(time.RFC3339))
	}
	return n, nil
}
