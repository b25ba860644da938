package tpmsignprocessor

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
)

// backoff spaces attempts: pauses double up to a bound and are jittered.
type backoff struct{ pause time.Duration }

func newBackoff() *backoff { return &backoff{pause: firstPause} }

// take returns the pause before the next attempt, give or take a quarter.
func (b *backoff) take() time.Duration {
	pause := b.pause
	b.pause = min(2*b.pause, maxPause)
	return pause*3/4 + rand.N(pause/2) //nolint:gosec // jitter is no secret
}

func (b *backoff) reset() { b.pause = firstPause }

// sleep waits for the next attempt, false when one of the contexts ended.
func (b *backoff) sleep(ctx, other context.Context) bool {
	timer := time.NewTimer(b.take())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-other.Done():
		return false
	}
}
