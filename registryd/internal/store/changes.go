package store

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

// pollEvery is how often the revision is asked for. It finds what a lost
// notification would have told, and what other processes wrote to the file.
const pollEvery = 500 * time.Millisecond

// changes wakes those who wait for the revision to rise.
type changes struct {
	look chan struct{} // has a value when the revision is to be asked for now

	mu   sync.Mutex
	seen uint64        // guarded by mu
	next chan struct{} // guarded by mu; closed and made anew when seen rises
}

func newChanges() *changes {
	return &changes{look: make(chan struct{}, 1), next: make(chan struct{})}
}

// heard tells of a revision that somebody announced. It is not believed, since
// seen would never come down again: the store is asked.
func (c *changes) heard(revision uint64) {
	c.mu.Lock()
	known := revision <= c.seen
	c.mu.Unlock()
	if known {
		return
	}
	select {
	case c.look <- struct{}{}:
	default:
	}
}

// saw tells of a revision. One that was told of before wakes nobody.
func (c *changes) saw(revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision <= c.seen {
		return
	}
	c.seen = revision
	close(c.next)
	c.next = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of the revision,
// by this process or another replica (within a second). Take the channel first
// and read after, so that no change falls between.
func (d *DB) Changed() <-chan struct{} {
	d.changes.mu.Lock()
	defer d.changes.mu.Unlock()
	return d.changes.next
}

// watch looks for changes of others until ctx ends.
func (d *DB) watch(ctx context.Context) {
	var telling sync.WaitGroup
	defer telling.Wait()
	telling.Go(func() {
		for ctx.Err() == nil {
			err := d.backend.watch(ctx, d.changes.heard)
			if ctx.Err() != nil {
				return
			}
			d.options.Logger.Warn("the store does not tell of changes; asking it instead", zap.Error(err))
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
			}
		}
	})

	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	reachable := true
	for {
		select {
		case <-tick.C:
		case <-d.changes.look:
		case <-ctx.Done():
			return
		}
		revision, err := d.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && reachable:
			d.options.Logger.Error("the store cannot be reached", zap.Error(err))
		case err == nil && !reachable:
			d.options.Logger.Info("the store can be reached again")
		}
		reachable = err == nil
		d.changes.saw(revision)
	}
}

func (d *DB) poll(ctx context.Context) (revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = d.View(ctx, func(t *Tx) error {
		revision, err = t.Revision()
		return err
	})
	return revision, err
}
