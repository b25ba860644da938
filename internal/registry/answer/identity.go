package answer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Errors of Identity.Answers.
var (
	ErrNonce = errors.New("the registry's answer was made for another request")
	ErrOther = errors.New("the registry's answer is about another identity")
	ErrTime  = errors.New("the registry's answer was not made now")
)

// Identity answers GET /v1/identities/{origin}?nonce=: the witness of an
// instance that was started anew. Of an identity that the registry does not know
// the counter is 0 and Instance empty.
type Identity struct {
	Head
	Origin   api.Hex `json:"origin"`
	Instance api.Hex `json:"instance"` // the present instance key
	Counter  uint64  `json:"counter"`  // the highest that was seen
	// Verified is false when no quote was verified that said so.
	Verified bool `json:"verified"`
}

// Known reports whether the registry knows the identity.
func (i *Identity) Known() bool { return len(i.Instance) != 0 }

// Answers holds an answer that Open read against the question: about which
// identity it was, under which nonce, when it was asked and what time it is now,
// which may differ from the registry's by skew.
func (i *Identity) Answers(origin, nonce []byte, asked, now time.Time, skew time.Duration) error {
	if len(nonce) == 0 || !bytes.Equal(i.Nonce, nonce) {
		return ErrNonce
	}
	if len(origin) != ed25519.PublicKeySize || !bytes.Equal(i.Origin, origin) {
		return fmt.Errorf("%w: %.64q", ErrOther, hex.EncodeToString(i.Origin))
	}
	switch {
	case i.Store == "" || i.IssuedAt.IsZero() || !i.NotAfter.After(i.IssuedAt):
		return fmt.Errorf("%w: it names no store or no time", ErrMalformed)
	case i.Counter > math.MaxInt64:
		return fmt.Errorf("%w: its counter is %d", ErrMalformed, i.Counter)
	case !i.Known() && (i.Counter != 0 || i.Verified):
		return fmt.Errorf("%w: it knows a counter and no instance", ErrMalformed)
	case i.Known() && len(i.Instance) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: the instance's key has %d bytes", ErrMalformed, len(i.Instance))
	case i.IssuedAt.After(now.Add(skew)) || i.IssuedAt.Before(asked.Add(-skew)) || now.After(i.NotAfter.Add(skew)):
		return fmt.Errorf("%w: it was issued at %s, here it is %s; compare the clocks", ErrTime,
			i.IssuedAt.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}
