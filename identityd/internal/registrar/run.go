package registrar

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/state"
)

// Run tells what is owed and renews the lease until ctx ends. It looks at the
// state every second, which costs nothing, and talks to the registry when
// something is owed, and not before the last failure says.
func (r *Registrar) Run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if due, renew := r.due(); due {
			_ = r.attempt(ctx, renew) // stands in Status, and in the log
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// due reports whether the registry is to be spoken to now, and whether it is
// because the lease runs out.
func (r *Registrar) due() (due, renew bool) {
	v := r.o.Machine.View()
	if !v.Linked || v.RolledBack || v.State == state.Fresh {
		return false, false
	}
	now := r.o.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil && r.failedAt == v.Counter {
		// The one thing that helps changes the state.
		if r.failed.Reason == reason.OperatorRenewalNeeded || now.Before(r.nextTry) {
			return false, false
		}
	}
	renew = !v.RegistryPending && !v.RegistryOwed && !now.Before(r.renewAt)
	return r.mayAsk(&v) || v.RegistryOwed || renew, renew
}

// mayAsk reports whether the registry's word on counters is open and can come to
// something: it is signed, or not needed any more.
func (r *Registrar) mayAsk(v *state.View) bool {
	return v.RegistryPending && (r.verifier != nil || !v.OwnerPending)
}

// attempt talks to the registry once and remembers how it went.
func (r *Registrar) attempt(ctx context.Context, renew bool) error {
	return r.inTurn(ctx, func(ctx context.Context) error {
		counter := r.o.Machine.Counter()
		err := r.tell(ctx, renew)
		if err == nil {
			r.succeeded()
			return nil
		}
		return r.failedWith(err, counter)
	})
}

func (r *Registrar) succeeded() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		r.o.Logger.Info("The registry can be told again.")
	}
	r.failed, r.failures, r.nextTry = nil, 0, time.Time{}
}

// failedWith decides, once, when it is tried again.
func (r *Registrar) failedWith(err error, counter uint64) *reason.Error {
	e := refusal.Of(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failedAt != counter {
		r.failures = 0
	}
	wait := backoff(r.failures)
	if e.Reason == reason.RegistryRefused {
		wait = spread(refusedWait)
	}
	if l, ok := later(err); ok {
		wait = max(wait, min(l, lastRetry))
	}
	r.failures++
	again := r.failed != nil && r.failed.Reason == e.Reason
	r.failed, r.failedAt, r.nextTry = e, counter, r.o.Now().Add(wait)
	if e.Reason == reason.OperatorRenewalNeeded {
		r.nextTry = time.Time{} // when the operator has signed; see due
	}
	level := zap.WarnLevel
	if again { // told once
		level = zap.DebugLevel
	}
	r.o.Logger.Log(level, "The registry was not told.", zap.String("reason", string(e.Reason)), zap.Time("next_try", r.nextTry), zap.Error(err))
	return e
}

// backoff is the wait after so many failures in a row before this one.
func backoff(failures int) time.Duration {
	d := lastRetry
	if failures < 16 {
		d = min(firstRetry<<failures, lastRetry)
	}
	return spread(d)
}

// spread returns between half of d and d, so that instances that lost their
// registry together do not come back together.
func spread(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads attempts, and no secret
}

// renewal is when, at the latest at two thirds of its life, a lease is renewed.
func renewal(lease time.Duration) time.Duration { return lease/2 + spread(lease/6) }
