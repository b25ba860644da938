package replay

import (
	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/reason"
)

// cursor remembers where the block before was found: the blocks of a request
// mostly come in runs of one stream and one statement. It is used under the
// store's lock, by one call.
type cursor struct {
	l   *Local
	key fingerprintKey

	scope, kid, stream string
	epoch              uint64
	state              *keyState
	chain              *chain
	window             *window

	self, prev  block.Digest
	fingerprint statement
}

// seek brings the cursor to the window of b, as far as there is one.
func (a *cursor) seek(b *Block) {
	sameKey := a.state != nil && a.kid == b.KID && a.scope == b.Scope
	if sameKey && a.window != nil && !a.window.dead && a.epoch == b.Epoch && a.stream == b.Stream {
		return
	}
	a.scope, a.kid, a.stream, a.epoch = b.Scope, b.KID, b.Stream, b.Epoch
	if !sameKey {
		a.state = a.l.keys[keyID{b.Scope, b.KID}]
	}
	a.chain, a.window = nil, nil
	if a.state != nil {
		if e := a.state.epoch(b.Epoch); e != nil {
			a.chain, a.window = e.chain, e.window(b.Stream)
		}
	}
	if a.chain == nil { // another scope may know the epoch
		a.chain = a.l.chains[chainID{b.KID, b.Epoch}]
	}
}

func (a *cursor) keyOf(b *Block) *keyState {
	a.seek(b)
	return a.state
}

// check holds a statement against what is known of its key; it is to be called
// after keyOf. All blocks of a group but the first find it known.
func (a *cursor) check(s statement) reason.Reason {
	if a.chain != nil {
		if k := a.chain.known(s.seq); k != nil {
			if k.self != s.self {
				return reason.Equivocation
			}
			return ""
		}
		if why := a.chain.check(s); why != "" {
			return why
		}
	}
	if a.state != nil {
		return a.state.checkEpochs(a.epoch, s)
	}
	return ""
}

func (a *cursor) windowOf(b *Block) *window {
	a.seek(b)
	return a.window
}

// found tells the cursor what was made for the block it stands at.
func (a *cursor) found(w *window) {
	a.state, a.chain, a.window = w.key, w.epoch.chain, w
}

// statementOf returns b's statement in fingerprints.
func (a *cursor) statementOf(b *Block) statement {
	if a.fingerprint.seq == 0 || a.self != b.Statement || a.prev != b.Prev {
		a.self, a.prev = b.Statement, b.Prev
		a.fingerprint.self, a.fingerprint.previous = a.key.of(b.Statement), a.key.of(b.Prev)
	}
	a.fingerprint.seq = b.Seq
	return a.fingerprint
}
