package tpmextension

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/telemark-otel/telemark/internal/registry/enrolment"
	"github.com/telemark-otel/telemark/internal/signing"
)

// registry is the signer's connection to the registry. A nil one is that of a
// key that is not enrolled by the agent: nothing is ever held.
type registry struct {
	cfg      *RegistryConfig
	http     *http.Client
	storage  storage.Client // nil = nothing is kept
	enroller atomic.Pointer[enroller]
}

// openRegistry opens what a missing TPM does not hold up. It returns nil
// without a registry.
func openRegistry(ctx context.Context, cfg *Config, set extension.Settings, host component.Host) (*registry, error) {
	section := cfg.Registry.Get()
	if section == nil {
		return nil, nil //nolint:nilnil // no registry is a configuration of its own
	}
	client, err := section.ToClient(ctx, host.GetExtensions(), set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	stored, err := openLeases(ctx, host, cfg.Storage, set.ID)
	if err != nil {
		return nil, err
	}
	return &registry{cfg: section, http: client, storage: stored}, nil
}

// close is for the end, when nothing enrols any more.
func (r *registry) close(ctx context.Context) error {
	if r == nil {
		return nil
	}
	r.http.CloseIdleConnections()
	if r.storage == nil {
		return nil
	}
	return r.storage.Close(ctx)
}

// prepareEnrolment makes the enroller of a key that was opened, with the lease
// of before.
func (s *signer) prepareEnrolment(ctx context.Context, kid []byte) error {
	r := s.registry
	if r == nil {
		return nil
	}
	store := newLeaseStore(r.storage, kid, r.cfg.Endpoint)
	lease, err := store.load(ctx, time.Now())
	if err != nil {
		return err
	}
	algorithm, err := r.cfg.algorithm()
	if err != nil {
		return err
	}
	if algorithm == 0 { // a certificate that the TPM got since makes no other machine of it
		algorithm = lease.EK
	}
	client, err := enrolment.New(enrolment.Options{
		Endpoint: r.cfg.Endpoint, HTTP: r.http, Device: s.opening.dev, Key: s.opening.key,
		EK: algorithm, EventLog: r.cfg.EventLog, Timeout: r.cfg.Timeout,
	})
	if err != nil {
		return err
	}
	e := newEnroller(r.cfg, client, store, s.logger)
	e.resume(lease)
	e.changed = s.enrolmentChanged
	e.count = func(ctx context.Context, outcome, why string) {
		s.telemetry.TPMEnrolments.Add(ctx, 1, metric.WithAttributes(
			attribute.String("outcome", outcome), attribute.String("reason", why)))
	}
	r.enroller.Store(e)
	return nil
}

// enrol keeps the key enrolled in the background, until ctx is done.
func (s *signer) enrol(ctx context.Context) {
	if e := s.registry.current(); e != nil {
		s.background.Go(func() { e.run(ctx) })
	}
}

func (r *registry) current() *enroller {
	if r == nil {
		return nil
	}
	return r.enroller.Load()
}

// held says why the registry holds signing, nil when it does not.
func (r *registry) held() error {
	if e := r.current(); e != nil {
		return e.held()
	}
	return nil
}

// wait returns when the registry does not hold signing. The error is that of ctx.
func (r *registry) wait(ctx context.Context) error {
	if e := r.current(); e != nil {
		return e.wait(ctx)
	}
	return nil
}

// passed tells the enroller of the time of a nonce.
func (r *registry) passed(issued time.Time) {
	if e := r.current(); e != nil {
		e.passed(issued)
	}
}

// enrolmentChanged shows in the component's status what the registry said, and
// takes back what it showed when signing goes on.
func (s *signer) enrolmentChanged() {
	if err := s.registry.held(); err != nil {
		s.health.set(stateFailing, err) // the enroller logs
		return
	}
	if _, err := s.health.get(); errors.Is(err, errNotEnrolled) {
		s.recovered()
	}
}

func (s *signer) observeEnrolmentState(_ context.Context, o metric.Int64Observer) error {
	e := s.registry.current()
	if e == nil {
		return nil
	}
	now := e.state(time.Now())
	for _, state := range enrolStates {
		value := int64(0)
		if state == now {
			value = 1
		}
		o.Observe(value, metric.WithAttributes(attribute.String("state", state.String())))
	}
	return nil
}

func (s *signer) observeLeaseRemaining(_ context.Context, o metric.Float64Observer) error {
	if e := s.registry.current(); e != nil {
		if left, ok := e.remaining(time.Now()); ok {
			o.Observe(left.Seconds())
		}
	}
	return nil
}

func (e *enroller) state(now time.Time) enrolState {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stateLocked(now)
}

// remaining is how long the lease lasts, false without one.
func (e *enroller) remaining(now time.Time) (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lease.remaining(now), e.lease.exists()
}

// status is the enrolment's part of a status page, nil without a registry.
func (r *registry) status(now time.Time) *signing.Enrolment {
	if r == nil {
		return nil
	}
	shown, _ := shownURL(r.cfg.Endpoint)
	out := &signing.Enrolment{State: enrolStarting.String(), Registry: shown}
	e := r.current()
	if e == nil {
		return out
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	out.State, out.Error, out.Reason = e.stateLocked(now).String(), message(e.err), e.cause
	if e.lease.exists() {
		out.Machine, out.Name, out.Evidence = e.lease.Machine, e.lease.Name, string(e.lease.Evidence)
		out.Expires = e.lease.Expires
	}
	return out
}
