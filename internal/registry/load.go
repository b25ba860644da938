package registry

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/answer"
)

// load takes over what the cache holds. Whatever is wrong with it, it is then
// as if there were none: nobody is trusted until the registry answers.
func (c *Client) load() {
	if c.o.Cache == "" {
		return
	}
	frames, err := readCache(c.o.Cache)
	if err == nil && len(frames) > 0 {
		err = c.replay(frames)
	}
	if err != nil {
		c.count(RefusedCache)
		c.o.Logger.Error("the cached answers of the registry are not believed; keys are trusted when the registry answers",
			zap.String("cache", c.o.Cache), zap.Error(err))
		return
	}
	if len(frames) > 0 {
		s := c.Status()
		c.o.Logger.Info("cached answers of the registry read", zap.String("cache", c.o.Cache), zap.Int("keys", s.Keys),
			zap.Uint64("revision", s.Revision), zap.Duration("age", s.Age.Round(time.Second)), zap.Bool("usable", s.Usable))
	}
}

// replayed is what a file says, before any of it is taken over.
type replayed struct {
	c       *Client
	mirror  mirror
	records [][]answer.Record
	until   []uint64 // revision of each of records
	proof   *answer.Head
}

// replay verifies the frames again, one after the other.
func (c *Client) replay(frames []frame) error {
	r := &replayed{c: c, mirror: newMirror()}
	for i, f := range frames {
		last := i == len(frames)-1
		if err := r.frame(f, i == 0, last); err != nil {
			return fmt.Errorf("frame %d: %w", i+1, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	records := c.mirror.records
	c.mirror = r.mirror
	c.mirror.records, c.mirror.revision = records, 0
	for i, batch := range r.records {
		if _, err := c.apply(batch, r.until[i], time.Time{}); err != nil {
			return err
		}
		c.mirror.revision = r.until[i]
	}
	k := &c.cache
	for _, f := range frames[:len(frames)-1] {
		k.add(f, r.mirror.revision)
	}
	k.base, k.dirty = k.size, false
	k.proof = &frames[len(frames)-1]
	// A clock that was turned back must not make old knowledge young.
	if !r.proof.IssuedAt.After(c.now().Add(c.o.Skew)) {
		c.prove(r.proof.IssuedAt, r.proof)
	}
	return nil
}

// frame verifies one frame. The last one is the proof; it may repeat a
// snapshot of the chain.
func (r *replayed) frame(f frame, first, last bool) error {
	switch {
	case last && f.kind == frameHeartbeat:
		var h answer.Heartbeat
		if err := r.open(answer.KindHeartbeat, f, &h, &h.Head); err != nil {
			return err
		}
		if h.Revision > r.mirror.revision {
			return fmt.Errorf("the proof is of revision %d, the answers lead to %d", h.Revision, r.mirror.revision)
		}
		r.proof = &h.Head
		return nil
	case f.kind == frameSnapshot && first && last:
		return fmt.Errorf("the proof is missing")
	case f.kind == frameSnapshot:
		return r.snapshot(f, first, last)
	case f.kind == frameEvent && !first && !last:
		return r.event(f)
	default:
		return fmt.Errorf("kind %q does not belong there", f.kind)
	}
}

func (r *replayed) snapshot(f frame, first, last bool) error {
	var s answer.Snapshot
	if err := r.open(answer.KindSnapshot, f, &s, &s.Head); err != nil {
		return err
	}
	if err := checkSnapshot(&s, s.Since); err != nil {
		return err
	}
	if last {
		if s.More || s.Through > r.mirror.revision {
			return fmt.Errorf("the proof is of revision %d, the answers lead to %d", s.Through, r.mirror.revision)
		}
		r.proof = &s.Head
		return nil
	}
	if first && s.Since != 0 || s.Since > r.mirror.revision || s.Through < r.mirror.revision {
		return fmt.Errorf("a snapshot from %d through %d does not follow on %d", s.Since, s.Through, r.mirror.revision)
	}
	return r.take(s.Records, s.Through)
}

func (r *replayed) event(f frame) error {
	var e answer.Event
	if err := r.open(answer.KindEvent, f, &e, &e.Head); err != nil {
		return err
	}
	if err := checkEvent(&e); err != nil {
		return err
	}
	if e.Previous > r.mirror.revision || e.Revision <= r.mirror.revision || e.Incomplete {
		return fmt.Errorf("an event of revision %d after %d does not follow on %d", e.Revision, e.Previous, r.mirror.revision)
	}
	return r.take(e.Records, e.Revision)
}

func (r *replayed) take(records []answer.Record, through uint64) error {
	for i := range records {
		if _, err := parseKID(records[i].KID); err != nil {
			return err
		}
	}
	r.records, r.until = append(r.records, records), append(r.until, through)
	r.mirror.revision = through
	return nil
}

// open verifies what does not depend on who asked and when.
func (r *replayed) open(kind answer.Kind, f frame, into any, h *answer.Head) error {
	if err := r.c.o.Verifier.Open(kind, f.encoded, into); err != nil {
		return refusedOpen(err)
	}
	if err := wellFormed(h); err != nil {
		return err
	}
	if r.mirror.store != "" && h.Store != r.mirror.store {
		return fmt.Errorf("it holds answers of two stores")
	}
	r.mirror.admit(h)
	return nil
}
