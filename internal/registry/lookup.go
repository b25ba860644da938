package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/answer"
	"github.com/telemark-otel/telemark/internal/verdict"
)

// unknown says what is known of a kid that the mirror does not hold: nil when
// it is certain that it stands for nobody.
func (c *Client) unknown(kid string) error {
	now, p := c.now(), c.proven.Load()
	if past(now, p.until) {
		// Nothing is relied on, not even that a key is missing. It is asked for,
		// since the registry may be back.
		p = &proof{}
	}
	switch c.sights.see(kid, now, *c.complete.Load(), p.at) {
	case adviceUnknown:
		return nil
	case adviceAsk:
		c.ask(kid)
	case adviceFull:
		c.want() // one snapshot answers for all of them
		c.looked(OutcomeDelayed)
	case adviceWait:
	}
	return fmt.Errorf("%w: the registry is being asked for this key", verdict.ErrUnavailable)
}

// asking reports whether an answer about some kid is under way: not while the
// registry does not answer at all.
func (c *Client) asking() bool { return !c.failing.Load() && c.sights.waiting() }

func (c *Client) looked(o Outcome) {
	if c.o.Observer != nil {
		c.o.Observer.LookedUp(o)
	}
}

// ask looks one key up in the background. What exceeds the rate is left to the
// next snapshot, which answers for everything that was seen before it; so is
// everything while the registry does not answer.
func (c *Client) ask(kid string) {
	if c.slot() {
		if c.begin(func(run context.Context) {
			defer func() { <-c.slots }()
			c.lookUp(run, kid)
		}) {
			return
		}
		<-c.slots
	}
	c.sights.answered(kid, c.now(), time.Time{})
	c.want()
	c.looked(OutcomeDelayed)
}

// slot takes the right to one look-up.
func (c *Client) slot() bool {
	if c.failing.Load() {
		return false
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return false
	}
	if c.limiter.AllowN(c.now(), 1) {
		return true
	}
	<-c.slots
	return false
}

func (c *Client) lookUp(ctx context.Context, kid string) {
	k, q, err := c.fetchKey(ctx, kid)
	if err == nil {
		err = c.takeKey(kid, k, q)
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		c.sights.answered(kid, c.now(), time.Time{})
		c.looked(OutcomeFailed)
		c.distrust(err)
		c.want()
		return
	case k.Record.State == "":
		c.sights.answered(kid, c.now(), q.asked)
		c.looked(OutcomeUnknown)
	default:
		// Where it was no news, since an event had told of it meanwhile or nothing
		// has changed, nobody has forgotten the sighting.
		c.sights.answered(kid, c.now(), q.asked)
		c.looked(OutcomeKnown)
	}
	c.changes.fire()
}

// takeKey takes over the answer about one key. It may be newer than the mirror,
// and is then relied on by itself until the mirror has caught up.
func (c *Client) takeKey(kid string, k *answer.Key, q *question) error {
	until := c.goodUntil(c.now(), q.asked, &k.Head)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mirror.admit(&k.Head)
	if c.mirror.highest > c.mirror.revision {
		c.want()
	}
	_, err := c.apply([]answer.Record{k.Record}, k.Revision, until)
	return err
}
