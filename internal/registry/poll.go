package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	// auditEvery is how often a snapshot is asked for while events arrive: were
	// a registry's stream wrong about itself, it would show here.
	auditEvery = time.Minute
	// pollGap is the least time between two snapshots, and busyGap where several
	// followed each other like that: nothing that arrives makes a verifier ask
	// without end.
	pollGap = 200 * time.Millisecond
	busyGap = time.Second
	polls   = 3 // in a row
)

// poll asks for snapshots: at once, when something was missed, every refresh
// while there is no stream, and now and then while there is one. first is closed
// when the first attempt has ended.
func (c *Client) poll(ctx context.Context, first chan struct{}) {
	busy := min(busyGap, c.o.Refresh)
	pace := rate.NewLimiter(rate.Every(busy), polls)
	for ctx.Err() == nil {
		err := c.catchUp(ctx)
		if ctx.Err() != nil {
			break
		}
		c.ended(err)
		if first != nil {
			close(first)
			first = nil
		}
		gap := pollGap
		if !pace.AllowN(c.now(), 1) {
			gap = busy
		}
		if !sleep(ctx, gap) {
			break
		}
		if pause := c.pollPause(err) - gap; pause > 0 && !c.pause(ctx, pause, err != nil) {
			break
		}
	}
	if first != nil {
		close(first)
	}
}

func (c *Client) pollPause(err error) time.Duration {
	pause := c.o.Refresh
	if err == nil && c.streaming.Load() {
		pause = auditEvery
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		pause = max(pause, s.RetryAfter)
	}
	return jitter(pause)
}

// jitter keeps a thousand verifiers from asking in the same moment.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // spreads load, nothing more
}

// pause waits until d has passed or, unless the registry does not answer, a
// snapshot is wanted.
func (c *Client) pause(ctx context.Context, d time.Duration, failed bool) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	kick := c.kick
	if failed {
		kick = nil
	}
	select {
	case <-t.C:
		return true
	case <-kick:
		return true
	case <-ctx.Done():
		return false
	}
}

// want asks for a snapshot soon.
func (c *Client) want() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// catchUp reads all pages of what changed. Each page counts by itself, so that a
// long snapshot that breaks goes on where it broke.
func (c *Client) catchUp(ctx context.Context) error {
	select {
	case <-c.kick: // whoever wanted a snapshot gets this one
	default:
	}
	c.mu.Lock()
	since, whole := c.mirror.revision, c.mirror.rewound
	if c.o.Cache != "" {
		since = min(since, c.cache.through) // what the cache lacks, too
		whole = whole || c.cache.wantsWhole
	}
	if whole {
		since = 0
	}
	c.mu.Unlock()
	seen := map[string]struct{}{} // of a whole snapshot
	var pages [][]byte
	asked := c.now()
	for {
		s, q, encoded, err := c.fetchPage(ctx, since)
		if err != nil {
			return err
		}
		if whole {
			for i := range s.Records {
				seen[s.Records[i].KID] = struct{}{}
			}
			pages = append(pages, encoded)
		}
		if err := c.takePage(s, q, encoded, whole, asked); err != nil {
			return err
		}
		if !s.More {
			if whole {
				c.takeWhole(s, seen, pages)
			}
			return nil
		}
		since = s.Through
	}
}

// takePage takes over one page.
func (c *Client) takePage(s *answer.Snapshot, q *question, encoded []byte, whole bool, asked time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mirror.admit(&s.Head)
	takesTrust, err := c.apply(s.Records, s.Revision, time.Time{})
	if err != nil {
		return err
	}
	if s.Since <= c.mirror.revision && s.Through > c.mirror.revision {
		c.mirror.revision = s.Through
	}
	if !whole {
		c.keepAnswer(frame{frameSnapshot, encoded}, s.Since, s.Through, takesTrust)
	}
	if s.More || c.mirror.revision < c.mirror.highest {
		if !s.More {
			c.want() // it went on while we read
		}
		return nil
	}
	c.complete.Store(&asked)
	c.synced = true
	c.prove(q.asked, &s.Head)
	c.keepProof(frame{frameSnapshot, encoded}, s.Revision)
	if c.sights.settle(asked) {
		c.changes.fire()
	}
	return nil
}

// takeWhole follows a snapshot since 0: it replaces what the cache holds, and
// keys that are not in it are gone.
func (c *Client) takeWhole(s *answer.Snapshot, seen map[string]struct{}, pages [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mirror.rewound = false
	if c.o.Cache != "" {
		c.replaceAnswers(pages, s.Through, frame{frameSnapshot, pages[len(pages)-1]})
	}
	var gone []change
	for kid := range c.mirror.records {
		r := c.mirror.records[kid]
		if _, ok := seen[r.KID]; !ok && r.Revision <= s.Through && r.State != api.StateRevoked {
			delete(c.mirror.records, kid)
			gone = append(gone, change{kid: kid})
		}
	}
	c.show(gone)
}
