package nonceextension

import (
	"context"
	"encoding/hex"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/replay"
)

const sweepEvery = time.Second

// sweeper lets time pass for the windows.
type sweeper struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func startSweeper(e *Extension) *sweeper {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sweeper{cancel: cancel}
	s.done.Go(func() {
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				e.sweep(ctx, now)
			}
		}
	})
	return s
}

func (s *sweeper) stop() {
	s.cancel()
	s.done.Wait()
}

func (e *Extension) sweep(ctx context.Context, now time.Time) {
	// An error is one of storage, which the health of the store tells already; the
	// report is valid beside it.
	r, err := e.windows.Sweep(ctx, now)
	if err != nil {
		e.set.Logger.Debug("The replay windows could not be written.", zap.Error(err))
	}
	e.record(ctx, &r)
	if r.GapsReported > 0 || r.GapsClosed > 0 || r.ItemsMissing > 0 {
		e.set.Logger.Warn("Blocks are missing; GET /metrics/status on the admin listener says whose.",
			zap.Uint64("gaps_reported", r.GapsReported), zap.Uint64("gaps_closed", r.GapsClosed), zap.Uint64("items_missing", r.ItemsMissing))
	}
	if r.LateFills > 0 {
		e.set.Logger.Info("Blocks that had been reported missing came after all.", zap.Uint64("late_fills", r.LateFills))
	}
	if r.EpochsSkipped > 0 {
		e.set.Logger.Warn("An agent was started without anything of it having arrived.", zap.Uint64("epochs_skipped", r.EpochsSkipped))
	}
	for i := range r.Silent {
		s := &r.Silent[i]
		e.set.Logger.Warn("A stream fell silent.",
			zap.String("kid", hex.EncodeToString([]byte(s.KID))), zap.String("stream", s.Stream), zap.String("scope", s.Scope),
			zap.Uint64("epoch", s.Epoch), zap.Uint64("last_block", s.LastBlock), zap.Time("last_seen", s.LastSeen))
	}
}

func (e *Extension) record(ctx context.Context, r *replay.SweepReport) {
	t := e.telemetry
	t.NonceLiveEpochs.Record(ctx, int64(r.LiveEpochs))
	t.NonceStreams.Record(ctx, int64(r.Streams))
	t.NonceStreamsSilent.Record(ctx, int64(r.SilentNow))
	t.NonceGapsReported.Add(ctx, clamp(r.GapsReported))
	t.NonceGapsFilled.Add(ctx, clamp(r.LateFills))
	t.NonceGapsClosed.Add(ctx, clamp(r.GapsClosed))
	t.NonceItemsMissing.Add(ctx, clamp(r.ItemsMissing))
	t.NonceEpochsSkipped.Add(ctx, clamp(r.EpochsSkipped))
}

// clamp keeps a counter from wrapping when an agent jumps over 2^62 numbers.
func clamp(n uint64) int64 {
	const most = 1 << 40
	return int64(min(n, most))
}
