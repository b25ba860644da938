package tpmverifyprocessor

import (
	"context"
	"time"
)

// A block may name a key that the registry's events have not told of yet: the
// machine enrolled a moment ago. The answer takes milliseconds, so the request
// waits a little before its blocks are parked or sent again. That is bounded in
// time and in requests, since whoever sends names keys as he likes.
const (
	keyWait       = 250 * time.Millisecond
	maxKeyWaiters = 64
)

// keyWatch lets one request wait for keys. It is made before the first look-up,
// so that no answer comes in between unseen.
type keyWatch struct {
	p       *verifier
	live    liveKeys // nil where nothing is ever asked for
	changed <-chan struct{}
	left    time.Duration
}

func (p *verifier) watchKeys() keyWatch {
	live, ok := p.keys.(liveKeys)
	if !ok {
		return keyWatch{}
	}
	return keyWatch{p: p, live: live, changed: live.Changed(), left: keyWait}
}

// wait reports whether it is worth judging again what could not be decided.
func (w *keyWatch) wait(ctx context.Context) bool {
	if w.live == nil || w.left <= 0 {
		return false
	}
	began := time.Now()
	select {
	case <-w.changed:
		// It came while the request was judged.
	default:
		if !w.live.Asking() || !w.stay(ctx) {
			return false
		}
	}
	// Keys change all the time: what changed need not be what was asked for.
	w.left -= max(time.Since(began), keyWait/10)
	w.changed = w.live.Changed()
	return true
}

func (w *keyWatch) stay(ctx context.Context) bool {
	if w.p.waiters.Add(1) > maxKeyWaiters {
		w.p.waiters.Add(-1)
		return false
	}
	defer w.p.waiters.Add(-1)
	t := time.NewTimer(w.left)
	defer t.Stop()
	select {
	case <-w.changed:
		return true
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
}
