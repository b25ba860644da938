package replay

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// chainLen is how many recent statements per key and epoch are known.
const chainLen = 64

const fingerprintDomain = "telemark-replay-statement-v1\x00"

// fingerprint is a keyed, shortened statement hash.
type fingerprint uint64

// fingerprintKey makes fingerprints unpredictable to signers.
type fingerprintKey [32]byte

func (k *fingerprintKey) of(d block.Digest) fingerprint {
	var in [len(fingerprintDomain) + len(k) + len(d)]byte
	b := append(in[:0], fingerprintDomain...)
	b = append(b, k[:]...)
	b = append(b, d[:]...)
	sum := sha256.Sum256(b)
	return fingerprint(binary.BigEndian.Uint64(sum[:8]))
}

// chain knows recent statements of one key and epoch, over all scopes. Slot
// seq % chainLen keeps the highest sequence number that belongs there.
type chain struct {
	id    chainID
	slots [chainLen]statement
	refs  int // scopes in which the epoch is live

	record string // its key in the Persister
	dirty  bool
}

type chainID struct {
	kid   string
	epoch uint64
}

type statement struct {
	seq      uint64 // 0 = empty
	self     fingerprint
	previous fingerprint
}

func (c *chain) known(seq uint64) *statement {
	if s := &c.slots[seq%chainLen]; s.seq == seq && seq > 0 {
		return s
	}
	return nil
}

// check holds s against what is known; "" when nothing contradicts it.
func (c *chain) check(s statement) reason.Reason {
	if k := c.known(s.seq); k != nil {
		if k.self != s.self {
			return reason.Equivocation
		}
		return ""
	}
	if k := c.known(s.seq - 1); k != nil && k.self != s.previous {
		return reason.ChainBroken
	}
	if k := c.known(s.seq + 1); k != nil && k.previous != s.self {
		return reason.ChainBroken
	}
	return ""
}

// learn remembers s, which was checked, and says whether it was news.
func (c *chain) learn(s statement) bool {
	slot := &c.slots[s.seq%chainLen]
	if slot.seq >= s.seq {
		return false
	}
	*slot = s
	return true
}
