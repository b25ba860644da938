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

// fingerprint is a keyed, shortened statement hash; 0 stands for no statement.
type fingerprint uint64

// fingerprintKey makes fingerprints unpredictable to signers.
type fingerprintKey [32]byte

func (k *fingerprintKey) of(d block.Digest) fingerprint {
	if d == (block.Digest{}) {
		return 0
	}
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
	begin fingerprint // what the first statement names, 0 when it names none or was not seen
	refs  int         // scopes in which the epoch is live

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

// check holds s, which is not known, against its neighbours; "" when nothing
// contradicts it.
func (c *chain) check(s statement) reason.Reason {
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
	if s.seq == 1 {
		c.begin = s.previous
	}
	return true
}

// last returns the highest number known, 0 for none.
func (c *chain) last() uint64 {
	var n uint64
	for i := range c.slots {
		n = max(n, c.slots[i].seq)
	}
	return n
}

// find returns the number of the statement with this fingerprint, 0 for none.
func (c *chain) find(self fingerprint) uint64 {
	for i := range c.slots {
		if s := &c.slots[i]; s.seq > 0 && s.self == self {
			return s.seq
		}
	}
	return 0
}

// An agent gives nothing out before it is durable, and begins an epoch by
// naming what was durable last. So the statement that the first one of an epoch
// names is the last that left the agent before; whatever came after it, in its
// epoch or in one between, shows that the agent's state was set back. A name
// that is not known says nothing: an agent that died between writing and giving
// out names what nobody ever saw.

// checkEpochs holds s, a statement of epoch no that is not known, against what
// the epochs of its key say of each other.
func (k *keyState) checkEpochs(no uint64, s statement) reason.Reason {
	if s.seq == 1 && s.previous != 0 && k.goesOn(no, s.previous) {
		return reason.ChainBroken
	}
	for _, e := range k.epochs {
		if e.no <= no || e.chain.begin == 0 {
			continue
		}
		if e.chain.begin == s.self {
			if k.after(no, s.seq, e.no) {
				return reason.ChainBroken
			}
			continue
		}
		if in, seq := k.find(e.no, e.chain.begin); seq > 0 && (no > in || no == in && s.seq > seq) {
			return reason.ChainBroken
		}
	}
	return ""
}

// goesOn says whether something is known between the statement that the first
// of epoch no names and that epoch.
func (k *keyState) goesOn(no uint64, names fingerprint) bool {
	in, seq := k.find(no, names)
	return seq > 0 && k.after(in, seq, no)
}

// find looks for a statement in the epochs below no.
func (k *keyState) find(no uint64, self fingerprint) (in, seq uint64) {
	for _, e := range k.epochs {
		if e.no < no {
			if seq := e.chain.find(self); seq > 0 {
				return e.no, seq
			}
		}
	}
	return 0, 0
}

// after says whether a statement is known after (in, seq) and before epoch no.
func (k *keyState) after(in, seq, no uint64) bool {
	for _, e := range k.epochs {
		if e.no == in && e.chain.last() > seq || e.no > in && e.no < no && e.chain.last() > 0 {
			return true
		}
	}
	return false
}
