package control

import (
	"context"
	"crypto/ed25519"

	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Attest returns the statement's bytes and a quote over statement.AttestData of
// the nonce.
func (c *Control) Attest(ctx context.Context, nonce []byte) (raw, quote []byte, err error) {
	raw, quote, err = c.o.Quotes.Attest(ctx, nonce, c.Statement)
	if err != nil {
		return nil, nil, refusal.Of(err)
	}
	return raw, quote, nil
}

// Statement is what the instance says of itself now.
func (c *Control) Statement() (*statement.Statement, error) { return c.statement(), nil }

// statement says nothing of what a disk merely claims.
func (c *Control) statement() *statement.Statement {
	v, log := c.together()
	s := &statement.Statement{
		Version: 1, Instance: v.Instance, Origin: v.Instance, Boot: v.Boot, State: statement.Locked,
		TLSKey: c.o.TLSKey, SSHHostKey: api.Hex(c.o.SSHHostKey.Public().(ed25519.PublicKey)), Storage: string(c.o.Source),
		Log: log,
	}
	if !v.Linked || !v.Witnessed && !v.RolledBack {
		return s // the disk may have been set back, for all that is known
	}
	s.State, s.Counter, s.Origin = string(v.State), v.Counter, v.Origin
	if v.Link != nil {
		s.Link = &statement.Link{At: v.Link.At, Counter: v.Link.Counter, Signature: v.Link.Signature}
	}
	if v.RolledBack {
		s.State = statement.RolledBack
		return s
	}
	s.Operator, s.Owner = pubkey(v.Operator), pubkey(v.Owner)
	s.SSH = statement.SSH{Opened: v.SSH.Opened, ListenerClosed: v.SSH.ListenerClosed, SessionsEnded: v.SSH.SessionsEnded}
	if v.Step != nil {
		s.Step = string(v.Step.Kind)
	}
	if w := v.Workload; w != nil {
		s.Workload = &statement.Workload{Image: w.Image, Digest: w.Digest, Port: w.Port}
	}
	return s
}

// together returns state and log of one moment. Every step raises the counter
// before it records anything.
func (c *Control) together() (state.View, statement.Log) {
	for {
		before := c.o.Machine.Counter()
		log := c.o.Events.View()
		if v := c.o.Machine.View(); v.Counter == before {
			return v, log
		}
	}
}

func pubkey(p *state.Party) api.Hex {
	if p == nil {
		return nil
	}
	return p.Pubkey
}
