package tpmextension

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/registry/enrolment"
	"github.com/telemark-otel/telemark/internal/tpm"
)

// Pauses between attempts to enrol.
const (
	enrolRetryFirst   = time.Second
	enrolRetryMax     = time.Minute
	enrolPendingFirst = 5 * time.Second
	enrolPendingMax   = time.Minute
	enrolRepair       = 5 * time.Minute // after a refusal that somebody has to repair
	enrolSoonest      = time.Second     // whatever a registry says
	enrolWatch        = 30 * time.Second
)

// renewSpread is the part of the time between renewal and end of a lease over
// which a fleet spreads.
const renewSpread = 0.2

// enrolState is where the key stands at the registry.
type enrolState int

const (
	enrolStarting enrolState = iota // nothing was heard yet
	enrolEnrolled                   // the lease runs
	enrolPending                    // waits for approval
	enrolRefused                    // for a reason that somebody has to repair
	enrolRevoked
	enrolExpired // the lease ran out and was not renewed
)

var enrolStates = []enrolState{enrolStarting, enrolEnrolled, enrolPending, enrolRefused, enrolRevoked, enrolExpired}

func (s enrolState) String() string {
	switch s {
	case enrolStarting:
		return "starting"
	case enrolEnrolled:
		return "enrolled"
	case enrolPending:
		return "pending"
	case enrolRefused:
		return "refused"
	case enrolRevoked:
		return "revoked"
	case enrolExpired:
		return "expired"
	default:
		return "unknown"
	}
}

// enrolClient makes one attempt; *enrolment.Client is one.
type enrolClient interface {
	Enrol(ctx context.Context, r enrolment.Request) (*enrolment.Result, error)
}

// errNotEnrolled is why signing is held: no verifier would accept it.
var errNotEnrolled = errors.New("the signing key is not enrolled at the registry; blocks wait")

// enroller keeps the key enrolled, and holds signing while it is not.
type enroller struct {
	cfg    *RegistryConfig
	client enrolClient
	store  leaseStore
	logger *zap.Logger
	// count is told of each attempt: what came of it, and for which reason.
	count func(ctx context.Context, outcome, why string)
	// changed is called when held may give another answer than before.
	changed func()

	// These belong to run.
	known    bool // the registry has taken the key in, as far as we know
	named    bool // the registry has heard the name, and may since have given another
	failures int  // attempts since the last that was answered
	polls    int  // answers "pending" in a row
	lastLog  string
	tried    time.Time // when the last attempt began

	renew chan struct{} // one place: the lease is over though our clock does not say so

	mu    sync.Mutex
	lease keyLease
	last  enrolState // what the last attempt led to: starting when nothing was decided
	err   error      // of the last attempt, nil after a success
	cause string     // of err
	wake  chan struct{}
}

func newEnroller(cfg *RegistryConfig, client enrolClient, store leaseStore, logger *zap.Logger) *enroller {
	return &enroller{
		cfg: cfg, client: client, store: store, logger: logger, wake: make(chan struct{}), renew: make(chan struct{}, 1),
		count: func(context.Context, string, string) {}, changed: func() {},
	}
}

// resume goes on with the lease of an earlier start.
func (e *enroller) resume(l keyLease) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lease, e.known, e.named = l, l.exists(), l.exists()
}

// run enrols and renews until ctx is done.
func (e *enroller) run(ctx context.Context) {
	e.mu.Lock()
	pause, since := time.Duration(0), time.Now()
	if e.lease.left(since) > 0 {
		pause, since = e.lease.renewal(), e.lease.Asked
	}
	e.mu.Unlock()
	for e.pause(ctx, since, pause) {
		pause = e.attempt(ctx)
		since = time.Now()
		e.changed()
	}
}

// renewal is when to renew, from Asked on.
func (l *keyLease) renewal() time.Duration {
	spread := float64(l.ValidFor-l.RenewIn) * renewSpread * rand.Float64() //nolint:gosec // spreads load, guards nothing
	return l.RenewIn + time.Duration(spread)
}

// pause waits until d has passed since then, and notices the end of the lease
// meanwhile. False: ctx is done.
func (e *enroller) pause(ctx context.Context, since time.Time, d time.Duration) bool {
	for {
		now := time.Now()
		wait := min(d-elapsed(since, now), enrolWatch)
		if wait <= 0 {
			return ctx.Err() == nil
		}
		e.mu.Lock()
		left := e.lease.left(now)
		e.mu.Unlock()
		if left > 0 {
			wait = min(wait, left)
		}
		select {
		case <-ctx.Done():
			return false
		case <-e.renew: // but not more often than we look anyway
			d = min(d, elapsed(since, now)+enrolWatch-min(enrolWatch, elapsed(e.tried, now)))
		case <-time.After(wait):
		}
		if left > 0 && e.held() != nil {
			e.changed()
		}
	}
}

// attempt enrols once and returns the pause until the next time.
func (e *enroller) attempt(ctx context.Context) time.Duration {
	e.tried = time.Now()
	var request enrolment.Request
	if !e.named {
		request.Name = e.cfg.Name
	}
	var noToken error
	if !e.known {
		var err error
		request.Token, err = e.cfg.readToken()
		switch {
		case errors.Is(err, errNoToken):
			noToken = err // it may be known without
		case err != nil:
			return e.failed(ctx, &enrolment.Error{Cause: causeToken, Err: err})
		}
	}
	result, err := e.client.Enrol(ctx, request)
	switch {
	case ctx.Err() != nil:
		return 0
	case err != nil:
		return e.failed(ctx, withToken(err, noToken))
	case result.State == api.StatePending:
		return e.pending(ctx, result, noToken)
	default:
		return e.enrolled(ctx, result)
	}
}

// causeToken is the cause of an enrolment that fails for want of its token.
const causeToken = "token_file"

// withToken adds to a refusal that there was no token.
func withToken(err, noToken error) *enrolment.Error {
	e, ok := errors.AsType[*enrolment.Error](err)
	if !ok {
		e = &enrolment.Error{Cause: enrolment.CauseTPM, Retryable: tpm.Classify(err) != tpm.Permanent, Err: err}
	}
	if noToken != nil && !e.Retryable {
		with := *e
		with.Err = fmt.Errorf("%w (%w)", e.Err, noToken)
		return &with
	}
	return e
}

func (e *enroller) enrolled(ctx context.Context, r *enrolment.Result) time.Duration {
	e.count(ctx, "enrolled", "")
	lease := keyLease{Result: *r}
	// Before anything is signed, and though the Collector may be shutting down:
	// who signed may also go on after a restart.
	if err := e.store.save(context.WithoutCancel(ctx), &lease); err != nil {
		e.logger.Warn("the registry's lease is not kept; the next start will wait for the registry", zap.Error(err))
	}
	e.mu.Lock()
	before := e.lease
	e.lease, e.last, e.err, e.cause = lease, enrolEnrolled, nil, ""
	close(e.wake)
	e.wake = make(chan struct{})
	e.mu.Unlock()
	e.logEnrolled(&before, r)
	e.known, e.named, e.failures, e.polls, e.lastLog = true, true, 0, 0, ""
	return max(lease.renewal()-elapsed(r.Asked, time.Now()), enrolSoonest)
}

func (e *enroller) logEnrolled(before *keyLease, r *enrolment.Result) {
	fields := []zap.Field{
		zap.String("name", r.Name), zap.String("machine", r.Machine), zap.String("evidence", string(r.Evidence)),
		zap.Duration("lease", r.ValidFor), zap.Time("expires_at", r.Expires),
	}
	switch {
	case !e.known:
		e.logger.Info("the signing key is enrolled at the registry", fields...)
	case e.failures > 0:
		e.logger.Info("the lease is renewed again", append(fields, zap.Int("failures", e.failures))...)
	default:
		e.logger.Debug("the lease is renewed", fields...)
	}
	if e.known && before.exists() && before.Name != r.Name {
		e.logger.Info("the registry gave this machine another name", zap.String("name", r.Name), zap.String("before", before.Name))
	}
	if e.cfg.Name != "" && r.Name != e.cfg.Name && before.Name != r.Name {
		e.logger.Warn("the registry has this machine under another name than `registry::name`, which is not used", zap.String("name", r.Name))
	}
	if !r.Evidence.Genuine() && before.Evidence != r.Evidence {
		e.logger.Warn("nothing shows the registry that this key is in a TPM: verdicts on its data say unproven_tpm",
			zap.String("machine", r.Machine))
	}
	if r.ClockAhead != 0 && before.ClockAhead == 0 {
		e.logger.Warn("this machine's clock is not the registry's; set it", zap.Duration("registry_ahead", r.ClockAhead))
	}
}

// pending takes the lease away: verifiers do not know the key.
func (e *enroller) pending(ctx context.Context, r *enrolment.Result, noToken error) time.Duration {
	e.count(ctx, "pending", "")
	err := fmt.Errorf("machine %s waits for somebody to approve it at the registry", r.Machine)
	if noToken != nil {
		err = fmt.Errorf("%w (%w)", err, noToken)
	}
	e.drop(ctx, enrolPending, err, "")
	if e.polls == 0 {
		e.logger.Warn("this machine waits for approval at the registry; blocks wait",
			zap.String("machine", r.Machine), zap.String("name", r.Name), zap.String("evidence", string(r.Evidence)), zap.Error(noToken))
	}
	e.known, e.named, e.failures, e.lastLog = false, true, 0, ""
	e.polls++
	return jitter(min(enrolPendingMax, enrolPendingFirst<<min(e.polls-1, 10)))
}

// failed notes a failure. The lease stays, but for that of what was revoked.
func (e *enroller) failed(ctx context.Context, err *enrolment.Error) time.Duration {
	e.failures++
	e.polls = 0
	outcome := "failed"
	if !err.Retryable {
		outcome = "refused"
		e.known, e.named = false, false // what it was known for may be gone: introduce ourselves again
	}
	e.count(ctx, outcome, err.Cause)
	e.logFailure(err)
	pause := jitter(min(enrolRetryMax, enrolRetryFirst<<min(e.failures-1, 10)))
	switch {
	case err.Revoked():
		e.drop(ctx, enrolRevoked, err, err.Cause)
		pause = jitter(enrolRepair)
	case !err.Retryable:
		e.note(enrolRefused, err)
		pause = jitter(enrolRepair)
	default:
		e.note(enrolStarting, err)
	}
	if after := err.RetryAfter; after > 0 {
		pause = max(pause, after+time.Duration(float64(after)*nonceJitter*rand.Float64())) //nolint:gosec // spreads load, guards nothing
	}
	return pause
}

// logFailure tells once of each failure, and not of every attempt.
func (e *enroller) logFailure(err *enrolment.Error) {
	if err.Cause == e.lastLog {
		e.logger.Debug("cannot enrol", zap.Error(err), zap.Int("failures", e.failures))
		return
	}
	e.lastLog = err.Cause
	fields := []zap.Field{zap.Error(err), zap.String("reason", err.Cause)}
	if help := api.Reason(err.Cause).Help(); help != "" {
		fields = append(fields, zap.String("help", help))
	}
	if !err.Retryable {
		e.logger.Error("the registry does not enrol the signing key, and somebody has to repair it; trying again now and then", fields...)
		return
	}
	e.logger.Warn("cannot enrol the signing key, or renew its lease; trying again", fields...)
}

func (e *enroller) note(s enrolState, err *enrolment.Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// What cannot be reached has not changed its mind.
	if s != enrolStarting || e.last == enrolEnrolled {
		e.last = s
	}
	e.err, e.cause = err, err.Cause
}

// drop ends the lease at once, also for the next start.
func (e *enroller) drop(ctx context.Context, s enrolState, err error, cause string) {
	e.mu.Lock()
	had := e.lease.exists()
	e.lease, e.last, e.err, e.cause = keyLease{}, s, err, cause
	e.mu.Unlock()
	if !had {
		return
	}
	if err := e.store.forget(context.WithoutCancel(ctx)); err != nil {
		e.logger.Warn("the next start may sign until it asked the registry", zap.Error(err))
	}
}

// passed is told of the time of a nonce, which is what verifiers hold the end
// of the lease against. Where our own clock is behind theirs, as after a start
// without network, the lease is over before we would notice.
func (e *enroller) passed(issued time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lease.over || !e.lease.exists() || e.lease.Expires.IsZero() || !issued.After(e.lease.Expires) {
		return
	}
	e.lease.over = true
	select {
	case e.renew <- struct{}{}:
	default:
	}
}

// wait returns when groups may be signed. The error is that of ctx.
func (e *enroller) wait(ctx context.Context) error {
	for {
		e.mu.Lock()
		left, wake := e.lease.left(time.Now()), e.wake
		e.mu.Unlock()
		if left > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wake:
		}
	}
}

// held says why nothing is signed now, nil when it is.
func (e *enroller) held() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if e.lease.left(now) > 0 {
		return nil
	}
	switch {
	case e.stateLocked(now) == enrolExpired && e.err != nil:
		return fmt.Errorf("%w: the lease ran out: %w", errNotEnrolled, e.err)
	case e.err != nil:
		return fmt.Errorf("%w: %w", errNotEnrolled, e.err)
	default:
		return errNotEnrolled
	}
}

// stateLocked is where the key stands. The caller holds mu.
func (e *enroller) stateLocked(now time.Time) enrolState {
	switch {
	case e.lease.left(now) > 0:
		return enrolEnrolled
	case e.last == enrolRefused || e.last == enrolRevoked || e.last == enrolPending:
		return e.last
	case e.lease.exists():
		return enrolExpired
	default:
		return enrolStarting
	}
}
