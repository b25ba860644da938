package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/geo"
	"github.com/telemark-otel/telemark/internal/reason"
	"github.com/telemark-otel/telemark/internal/travel"
)

// journey is what is kept of where a key said it was, for keys whose policy
// bounds their speed (package travel). It is learned when a block is claimed, so
// that two of one request are held against each other; what is refused, for
// whatever reason, is not learned. Its record goes with whatever is written
// next: a crash forgets the fixes of about the last second, a record that is
// missing is an empty one.
type journey struct {
	track       travel.Track
	trackRecord string // its key in the Persister
	trackDirty  bool
}

// travels judges the way to b's position; only what is new is judged, so that a
// duplicate stays one.
func (w *window) travels(c *call, b *Block, o *Outcome) bool {
	if b.Travel == nil || b.Location == nil || w.settled.has(b.No) {
		return true
	}
	if bad := w.key.track.Check(fixOf(c, b), b.Travel.MaxSpeed); bad != nil {
		o.Reason, o.Travel = reason.ImpossibleTravel, bad
		return false
	}
	return true
}

// learnTravel keeps the position of a block that was claimed.
func (l *Local) learnTravel(c *call, w *window, b *Block) {
	if b.Travel == nil || b.Location == nil {
		return
	}
	if w.key.track.Learn(fixOf(c, b), time.Duration(c.t.keep)*time.Millisecond) {
		l.markTrack(w.key)
	}
}

// forgetTravel begins anew, as with the windows of a key that are cleaned up.
func (l *Local) forgetTravel(k *keyState) {
	if k.track.Len() > 0 {
		k.track = travel.Track{}
		l.markTrack(k)
	}
}

// fixOf takes no time after now: who says that he was somewhere tomorrow would
// be late for ever.
func fixOf(c *call, b *Block) travel.Fix {
	return travel.Fix{
		At:       min(b.Travel.Taken, c.now/1000),
		Position: geo.Position(*b.Location),
		Accuracy: b.Travel.Accuracy,
	}
}

func (l *Local) markTrack(k *keyState) {
	if !k.trackDirty && l.persister != nil {
		k.trackDirty = true
		l.unsaved.tracks = append(l.unsaved.tracks, k)
	}
}

// loadTracks reads what there is.
func (l *Local) loadTracks(ctx context.Context, ids []keyID) error {
	for len(ids) > 0 {
		chunk := ids[:min(len(ids), loadChunk)]
		ids = ids[len(chunk):]
		names := make([]string, len(chunk))
		for i, id := range chunk {
			names[i] = l.recordKey(kindTrack, id, 0, "")
			l.keys[id].trackRecord = names[i]
		}
		values, err := l.persister.Get(ctx, names)
		if err != nil {
			return fmt.Errorf("read window records: %w", err)
		}
		for i, id := range chunk {
			if values[i] == nil {
				continue
			}
			r, err := unseal(names[i], kindTrack, values[i])
			if err != nil {
				return err
			}
			if err := l.keys[id].track.Read(r.b); err != nil {
				return fmt.Errorf("%w: %s: %w", errDamaged, names[i], err)
			}
		}
	}
	return nil
}
