package registrar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tdx"
)

// quoteAttempts is how often a registration is made anew because an event came
// between its statement and its quote.
const quoteAttempts = 3

// tell asks what the registry saw, where that is open, and tells it what is
// owed; with renew also what it knows, for the lease.
func (r *Registrar) tell(ctx context.Context, renew bool) error {
	v := r.o.Machine.View()
	switch {
	case v.RolledBack:
		return reason.Refuse(reason.StateRollback, "nothing is told of a state that was set back")
	case !v.Linked:
		return reason.Refuse(reason.StateUnlinked, "nothing is told of a state that is locked")
	}
	if v.RegistryPending {
		if err := r.askFirst(ctx, &v); err != nil {
			return err
		}
		v = r.o.Machine.View()
	}
	if v.Operator == nil || !v.RegistryOwed && !renew {
		return nil
	}
	if !bytes.Equal(v.Operator.Instance, v.Instance) {
		return reason.Refuse(reason.OperatorRenewalNeeded, "it signed the instance key of an earlier boot")
	}
	ppid, err := r.o.PPID(ctx)
	if err != nil {
		return reason.Because(reason.QuoteUnavailable, fmt.Errorf("learn the platform's PPID: %w", err))
	}
	nonce, err := r.nonce(ctx)
	if r.o.FirstGeneration && errors.Is(err, errNoV1) {
		return r.registerFirst(ctx, ppid)
	}
	if err != nil {
		return err
	}
	return r.register(ctx, ppid, nonce)
}

// askFirst gets the registry's word before it is told of anything newer. One
// whose word is worth nothing is passed over once the owner has spoken.
func (r *Registrar) askFirst(ctx context.Context, v *state.View) error {
	if r.verifier != nil {
		_, err := r.witness(ctx)
		return err
	}
	if v.OwnerPending {
		return reason.Refuse(reason.RegistryUnpinned, "the owner has not said yet which counter was the last")
	}
	return r.o.Machine.Witness(state.Registry, 0)
}

// register is a registration of the second generation.
func (r *Registrar) register(ctx context.Context, ppid, nonce []byte) error {
	s, reg, err := r.quoted(ctx, ppid, nonce)
	if err != nil {
		return err
	}
	i, err := r.post(ctx, reg)
	if err != nil {
		return r.explain(ctx, err)
	}
	if !bytes.Equal(i.Pubkey, reg.InstancePubkey) {
		return reason.Refuse(reason.RegistryAnswerInvalid, "it registered the instance %.8x", []byte(i.Pubkey))
	}
	if err := r.confirm(ctx, s); err != nil {
		return err
	}
	if err := r.o.Machine.RegistryTold(s.Counter); err != nil {
		return err
	}
	now := r.o.Now()
	lease := i.ExpiresAt.Sub(i.VerifiedAt) // by one clock, the registry's
	if lease <= 0 || lease > 366*firstLease {
		lease = firstLease
	}
	r.mu.Lock()
	r.lastOK, r.renewAt, r.expires = now, now.Add(renewal(lease)), now.Add(lease)
	r.mu.Unlock()
	r.o.Logger.Info("The registry knows.", zap.Uint64("counter", s.Counter), zap.String("state", s.State), zap.Duration("lease", lease))
	return nil
}

// quoted returns a registration with a quote in which RTMR3 is what the
// statement's log makes of it: an event may be recorded in between, and the
// registry would refuse that as a contradiction. A register that somebody else
// extended is told as it is, for the registry's log to show it.
func (r *Registrar) quoted(ctx context.Context, ppid, nonce []byte) (*statement.Statement, *api.Registration, error) {
	for attempt := 1; ; attempt++ {
		s, reg, err := r.build(ppid)
		if err != nil {
			return nil, nil, err
		}
		if reg.Statement, err = s.Encode(); err != nil {
			return nil, nil, reason.Because(reason.Internal, fmt.Errorf("encode the statement: %w", err))
		}
		reg.Nonce, reg.TLSKey = nonce, r.o.TLSKey
		reg.Possession = r.o.Machine.Sign(api.PossessionMessage(reg))
		if reg.AttestationQuote, err = r.quote(ctx, api.ReportDataV1(reg)); err != nil {
			return nil, nil, err
		}
		if attempt == quoteAttempts || ofOneMoment(s, reg.AttestationQuote) {
			return s, reg, nil
		}
	}
}

func ofOneMoment(s *statement.Statement, quote []byte) bool {
	if s.Log.Register != statement.RTMR3 || len(s.Log.Base) != 48 {
		return true
	}
	got, err := tdx.RTMR3(quote)
	return err == nil && got == statement.Replay([48]byte(s.Log.Base), s.Log.Events)
}

// registerFirst is a registration of the first generation: no nonce, no
// statement.
func (r *Registrar) registerFirst(ctx context.Context, ppid []byte) error {
	s, reg, err := r.build(ppid)
	if err != nil {
		return err
	}
	if reg.AttestationQuote, err = r.quote(ctx, api.ReportDataV0(reg)); err != nil {
		return err
	}
	if err := r.postFirst(ctx, reg); err != nil {
		return err
	}
	if err := r.o.Machine.RegistryTold(s.Counter); err != nil {
		return err
	}
	now := r.o.Now()
	r.mu.Lock()
	r.lastOK, r.renewAt, r.expires = now, now.Add(renewal(firstLease)), time.Time{}
	r.mu.Unlock()
	r.o.Logger.Warn("The registry knows, by the first generation: neither when nor what state.", zap.Uint64("counter", s.Counter))
	return nil
}

// build takes statement and signatures of one state.
func (r *Registrar) build(ppid []byte) (*statement.Statement, *api.Registration, error) {
	for range 3 { // a transition may come between
		s, err := r.o.Statement()
		if err != nil {
			return nil, nil, reason.Because(reason.Internal, fmt.Errorf("make the statement: %w", err))
		}
		v := r.o.Machine.View()
		reg := &api.Registration{InstancePubkey: v.Instance, PPID: ppid}
		if v.Operator != nil {
			reg.Operator = v.Operator.Registration()
		}
		if v.Owner != nil {
			reg.Owner = v.Owner.Registration()
		}
		if s.Counter <= v.Counter && bytes.Equal(s.Instance, v.Instance) && same(s.Operator, reg.Operator) && same(s.Owner, reg.Owner) {
			return s, reg, nil
		}
	}
	return nil, nil, reason.Refuse(reason.StepInFlight, "the state changes while it is told")
}

func same(key []byte, p *api.Party) bool {
	if p == nil {
		return len(key) == 0
	}
	return bytes.Equal(key, p.Pubkey)
}

func (r *Registrar) quote(ctx context.Context, data [64]byte) ([]byte, error) {
	q, err := r.o.Quote(ctx, data)
	if err != nil {
		return nil, reason.Because(reason.QuoteUnavailable, fmt.Errorf("make a quote for the registry: %w", err))
	}
	return q, nil
}

// explain looks behind a refusal that says that somebody else goes on with this
// identity: anybody can say so, and what the registry signs counts.
func (r *Registrar) explain(ctx context.Context, refused error) error {
	word, ok := errors.AsType[*said](refused)
	if !ok || r.verifier == nil || word.reason != api.StateRollback && word.reason != api.IdentitySuperseded {
		return refused
	}
	if _, err := r.witness(ctx); reason.Of(err) == reason.StateRollback {
		return err
	}
	return refused
}
