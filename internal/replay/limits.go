package replay

import (
	"errors"
	"fmt"
	"time"
)

// Limits are the times and bounds of a store.
type Limits struct {
	MaxDelay    time.Duration // how old a nonce may be
	Skew        time.Duration // how far clocks may differ
	GapTimeout  time.Duration // when a hole is reported
	ClaimLease  time.Duration // how long a claim keeps others out
	SilentAfter time.Duration // when a stream counts as silent; 0 = never

	MaxEpochs   int // live epochs per scope and key
	MaxStreams  int // streams per scope, key and epoch
	MaxRanges   int // ranges above the watermark, per stream
	MaxInFlight int // blocks in flight, per stream
	MaxPartial  int // bytes of bitmaps of incomplete blocks, per scope and key
	MaxRefused  int // names without a window whose refusals are counted
}

// DefaultLimits returns the limits that fit most.
func DefaultLimits() Limits {
	return Limits{
		MaxDelay:    24 * time.Hour,
		Skew:        30 * time.Second,
		GapTimeout:  time.Minute,
		ClaimLease:  30 * time.Second,
		SilentAfter: 3 * time.Minute,
		MaxEpochs:   8,
		MaxStreams:  64,
		MaxRanges:   1024,
		MaxInFlight: 1 << 16,
		MaxPartial:  1 << 20,
		MaxRefused:  4096,
	}
}

func (l *Limits) validate() error {
	if l.MaxDelay <= 0 || l.GapTimeout <= 0 || l.ClaimLease <= 0 || l.Skew < 0 || l.SilentAfter < 0 {
		return errors.New("replay limits: times must be positive")
	}
	if l.GapTimeout > l.MaxDelay {
		return fmt.Errorf("replay limits: gap timeout %v is longer than max delay %v", l.GapTimeout, l.MaxDelay)
	}
	if l.MaxEpochs < 1 || l.MaxStreams < 1 || l.MaxRanges < 2 || l.MaxInFlight < 1 || l.MaxPartial < 1 || l.MaxRefused < 1 {
		return errors.New("replay limits: bounds must be positive")
	}
	return nil
}

// times are the limits in the unit of the windows, milliseconds.
type times struct {
	keep, gap, lease, silent int64
	young                    int64 // how long a scope may meet what was running before it
}

func (l *Limits) times() times {
	young := l.SilentAfter
	if young == 0 {
		young = DefaultLimits().SilentAfter
	}
	return times{
		young:  young.Milliseconds(),
		keep:   (l.MaxDelay + l.Skew).Milliseconds(),
		gap:    l.GapTimeout.Milliseconds(),
		lease:  l.ClaimLease.Milliseconds(),
		silent: l.SilentAfter.Milliseconds(),
	}
}
