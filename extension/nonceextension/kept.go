package nonceextension

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/telemark-otel/telemark/internal/nonce"
)

// keptNonce is an answer of the issuing server for one key.
type keptNonce struct {
	body     []byte        // as it came
	expires  time.Time     // by the clock of the issuing server
	asked    time.Time     // by ours, with monotonic reading, before it was asked
	lifetime time.Duration // by the clock of the issuing server
}

// lasts says whether the nonce may be handed out. Both clocks have to agree, since ours
// may be wrong or have been set.
func (n *keptNonce) lasts(now time.Time) bool {
	return now.Before(n.expires) && now.Sub(n.asked) < n.lifetime
}

// maxKeptBody is larger than any answer that the issuer gives for one key.
const maxKeptBody = 1 << 10

// parseNonce reads the answer for one key as far as the relay needs it.
func parseNonce(k kid, body []byte, asked time.Time) (keptNonce, bool) {
	var a nonceAnswer
	if json.Unmarshal(body, &a) != nil || a.KID != k.String() {
		return keptNonce{}, false
	}
	if n, err := hex.DecodeString(a.Nonce); err != nil || len(n) < nonce.MinLen || len(n) > nonce.MaxLen {
		return keptNonce{}, false
	}
	issued, err := time.Parse(time.RFC3339Nano, a.IssuedAt)
	if err != nil {
		return keptNonce{}, false
	}
	expires, err := time.Parse(time.RFC3339Nano, a.ExpiresAt)
	if err != nil || !expires.After(issued) {
		return keptNonce{}, false
	}
	return keptNonce{body: body, expires: expires, asked: asked, lifetime: expires.Sub(issued)}, true
}

// keptNonces holds the latest nonce of each key, of a bounded number of keys.
// Keys that are asked for again and again stay when somebody asks for many once: anybody
// who can connect may ask for any.
type keptNonces struct {
	byKID *lru.TwoQueueCache[kid, keptNonce] // nil keeps none
}

func newKeptNonces(size int) (*keptNonces, error) {
	if size == 0 {
		return &keptNonces{}, nil
	}
	c, err := lru.New2Q[kid, keptNonce](size)
	if err != nil {
		return nil, fmt.Errorf("table of `keep`: %w", err)
	}
	return &keptNonces{c}, nil
}

// put keeps n unless a later one is there: answers may overtake each other.
func (c *keptNonces) put(k kid, n keptNonce) {
	if c.byKID == nil || len(n.body) > maxKeptBody {
		return
	}
	if old, ok := c.byKID.Peek(k); ok && old.expires.After(n.expires) && old.lasts(time.Now()) {
		n = old // and it counts as used
	}
	c.byKID.Add(k, n)
}

func (c *keptNonces) get(k kid, now time.Time) (keptNonce, bool) {
	if c.byKID == nil {
		return keptNonce{}, false
	}
	n, ok := c.byKID.Get(k)
	if ok && !n.lasts(now) {
		c.byKID.Remove(k)
		return keptNonce{}, false
	}
	return n, ok
}

func (c *keptNonces) drop(k kid) {
	if c.byKID != nil {
		c.byKID.Remove(k)
	}
}

func (c *keptNonces) len() int {
	if c.byKID == nil {
		return 0
	}
	return c.byKID.Len()
}
