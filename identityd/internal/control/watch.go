package control

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
)

const (
	watchEvery = time.Second
	firstPause = time.Second
	mostPause  = time.Minute
)

// later says why something that should be so is not, and that it is tried again.
func (c *Control) later(why error) {
	c.pause = min(max(2*c.pause, firstPause), mostPause)
	c.behind, c.next = true, time.Now().Add(c.pause)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown.trouble = refusal.Of(why)
}

// healthy says that everything is as it should be.
func (c *Control) healthy() {
	c.behind, c.pause = false, 0
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown.trouble, c.shown.lostDoor = nil, false
}

// show makes what step guards visible.
func (c *Control) show() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown.volume, c.shown.door = c.volume, c.door
}

// watch brings back what ended by itself, and what could not be brought back
// before, until ctx ends.
func (c *Control) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.step.enter(ctx) != nil {
			return
		}
		c.mend(ctx)
		c.step.leave()
	}
}

func (c *Control) mend(ctx context.Context) {
	if c.closed {
		return // nothing comes back that was ended
	}
	// It may be broken off: the next start goes on with it.
	ctx, cancel := context.WithTimeout(ctx, outsideTime)
	defer cancel()
	v := c.o.Machine.View()
	if v.RolledBack {
		c.endRolledBack(ctx)
		return
	}
	if c.volume != nil && !c.alive() && !c.behind {
		c.log.Error("the volume is gone and is mounted again", zap.Error(c.volume.Err()))
		c.later(c.volume.Err())
		c.next = time.Now()
	}
	if c.takeLostDoor() && !c.behind {
		c.later(reason.Refuse(reason.SSHUnavailable, "the port of SSH failed"))
	}
	if !c.behind || time.Now().Before(c.next) {
		return
	}
	c.bringBack(ctx)
}

// endRolledBack takes down what runs from a disk of which it has come out
// meanwhile that it was set back.
func (c *Control) endRolledBack(ctx context.Context) {
	if c.volume == nil && (!c.behind || time.Now().Before(c.next)) {
		return
	}
	c.log.Error("the disk was set back: everything is ended")
	c.bringBack(ctx)
}

func (c *Control) takeLostDoor() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := c.shown.lostDoor
	c.shown.lostDoor = false
	return lost
}
