package group

import (
	"errors"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/receipt"
)

// openGroup is a closed group on its way to being signed.
type openGroup struct {
	*signedGroup // apart, so that a ticket does not keep its neighbours' leaves

	leaves []*Leaf
	spans  []span
	closed time.Time
}

// signature is what an attempt leads to when nothing fails.
type signature struct {
	protected, sig []byte
	hash           block.Digest // of the statement
	stats          Stats
}

type span struct {
	ticket *Ticket
	count  int
}

// maxSaving is how long a signature is kept for want of its save. After it the
// group is signed again: the claims may be too old by now.
const maxSaving = 5 * time.Minute

var errSavedLate = errors.New("the statement was saved too late")

// commit tries until the group is signed and its statement saved. The error is
// ErrClosed.
func (c *Committer) commit(g *openGroup, claims Claims) (signature, error) {
	for attempt := 1; ; attempt++ {
		var err error
		if attempt > 1 {
			claims, err = c.cfg.Claims(c.ctx)
		}
		var s signature
		if err == nil {
			s, err = c.attempt(g, claims, attempt)
		} else {
			c.cfg.Observer.AttemptFailed(StageClaims, attempt, err)
		}
		if err == nil {
			s.stats.Total = time.Since(g.closed)
			return s, nil
		}
		if err := c.pause(attempt); err != nil {
			return signature{}, err
		}
	}
}

// attempt makes a statement and signs it. While the signer works, the statement
// is saved as the one that may be the epoch's last:
//
//	crash before Save ends   nothing was given out, the chain ends before this statement
//	crash after Save         the chain ends with this statement, whether or not anybody saw it
//
// so a statement that anybody saw is never missing from the chain.
func (c *Committer) attempt(g *openGroup, claims Claims, attempt int) (signature, error) {
	c.mu.Lock()
	o := c.origin
	c.mu.Unlock()
	protected, err := o.statement(g, claims)
	if err != nil {
		c.cfg.Observer.AttemptFailed(StageClaims, attempt, err)
		return signature{}, err
	}
	sigStructure := receipt.SigStructure(protected, g.tree.Root())
	state := State{Epoch: g.epoch, Seq: g.seq, Prev: receipt.StatementHash(sigStructure)}
	saved := make(chan error, 1)
	go func() { saved <- c.save(state) }()

	begin := time.Now()
	sig, err := c.cfg.Signer.Sign(c.ctx, o.Algorithm.Digest(sigStructure))
	end := time.Now()
	if want := o.Algorithm.SignatureSize(); err == nil && len(sig) != want {
		err = fmt.Errorf("signature of %d bytes, want %d", len(sig), want)
	}
	saveErr := <-saved
	if saveErr != nil {
		c.cfg.Observer.AttemptFailed(StageSave, 1, saveErr)
	}
	if err != nil {
		c.cfg.Observer.AttemptFailed(StageSign, attempt, err)
		return signature{}, err
	}
	// A signature is not thrown away for a full disk, at first: only the save is repeated.
	for tries := 1; saveErr != nil; tries++ {
		if err := c.pause(tries); err != nil {
			return signature{}, err
		}
		if saveErr = c.save(state); saveErr != nil {
			c.cfg.Observer.AttemptFailed(StageSave, tries+1, saveErr)
		}
	}
	if time.Since(end) > maxSaving {
		return signature{}, errSavedLate
	}
	return signature{
		protected: protected, sig: sig, hash: state.Prev,
		stats: Stats{Seq: g.seq, Leaves: len(g.leaves), Attempts: attempt, Signing: end.Sub(begin)},
	}, nil
}

func (o *Origin) statement(g *openGroup, claims Claims) ([]byte, error) {
	s := receipt.Statement{
		Algorithm: o.Algorithm, KID: o.KID,
		Audience: claims.Audience, IssuedAt: claims.IssuedAt.Unix(), Nonce: claims.Nonce,
		UEID: claims.UEID, Location: claims.Location,
		Epoch: g.epoch, Seq: g.seq, Size: g.tree.Size(), Prev: o.Prev,
	}
	return s.EncodeProtected()
}

func (c *Committer) save(s State) error {
	if c.cfg.Chain == nil {
		return nil
	}
	return c.cfg.Chain.Save(c.ctx, s)
}

// pause waits after a failed attempt. The error is ErrClosed.
func (c *Committer) pause(attempt int) error {
	timer := time.NewTimer(c.cfg.Backoff(attempt))
	defer timer.Stop()
	select {
	case <-timer.C:
		if c.ctx.Err() == nil {
			return nil
		}
	case <-c.ctx.Done():
	}
	return ErrClosed
}

// settle tells the tickets; err is nil or ErrClosed. False: the group was given
// up, or is given up now, and its signature is not used.
func (c *Committer) settle(g *openGroup, s signature, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != g {
		return false
	}
	if err == nil {
		g.protected, g.sig = s.protected, s.sig
		c.origin.Prev = s.hash
	}
	c.settleLocked(err)
	return err == nil
}

// giveUp settles the group in flight without waiting for signer and chain.
func (c *Committer) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != nil {
		c.settleLocked(ErrClosed)
	}
}

func (c *Committer) settleLocked(err error) {
	for _, s := range c.flight.spans {
		s.ticket.settleLocked(s.count, err)
	}
	c.flight = nil
}
