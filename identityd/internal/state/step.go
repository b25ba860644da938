package state

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// Auth says by which signed request a step was asked for. Package request has
// verified it; here it is made sure that it works once.
type Auth struct {
	V1      bool
	Counter uint64            // V1: the counter it was signed for
	Body    [sha256.Size]byte // SHA-256 of the raw body
}

// Pending is a step under way. Exactly one of Finish and Undo ends it; either
// may be called again when it failed with state_unavailable.
type Pending struct {
	m    *Machine
	step Step
}

// Fact is something that a step did outside and that is remembered by itself.
type Fact string

// The facts.
const (
	SSHOpened         Fact = "ssh_opened"          // in Configure
	SSHListenerClosed Fact = "ssh_listener_closed" // in Expose
	SSHSessionsEnded  Fact = "ssh_sessions_ended"  // in Expose
)

// Step is what the step is about, as it began.
func (p *Pending) Step() Step { return p.step }

// InFlight returns the step under way, nil without one. After Open it is the one
// that a crash interrupted: the caller finishes what it began, or undoes it.
func (m *Machine) InFlight() *Pending {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rec.Step == nil || !m.run.linked() {
		return nil
	}
	return &Pending{m, *m.rec.Step}
}

// Configure begins to configure a workload. Its digest may be left to Resolve.
func (m *Machine) Configure(now time.Time, auth Auth, w Workload) (*Pending, error) {
	w.PersistDirs = slices.Clone(w.PersistDirs)
	if !w.valid() {
		return nil, reason.Refuse(reason.BadRequest, "the workload is out of bounds")
	}
	return m.signedStep(now, auth, Step{Kind: Configure, Workload: &w})
}

// Expose begins to expose the workload that is configured, whose image the
// caller names as the owner wrote it.
func (m *Machine) Expose(now time.Time, auth Auth, image string) (*Pending, error) {
	return m.signedStep(now, auth, Step{Kind: Expose}, func(r *record) error {
		if r.Workload.Image != image {
			return reason.Refuse(reason.ImageMismatch, "%.64q is asked for, %.64q is configured", image, r.Workload.Image)
		}
		return nil
	})
}

func (m *Machine) signedStep(now time.Time, auth Auth, s Step, checks ...func(*record) error) (*Pending, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ready(); err != nil {
		return nil, err
	}
	next := m.rec
	if err := next.remember(auth); err != nil {
		return nil, err
	}
	if err := mayBegin(&m.rec, s.Kind); err != nil {
		return nil, err
	}
	for _, check := range checks {
		if err := check(&m.rec); err != nil {
			return nil, err
		}
	}
	if !auth.V1 {
		s.Body = bytesOf(auth.Body[:])
	}
	return m.begin(now, next, s)
}

// remember sees to it that a request works once.
func (r *record) remember(auth Auth) error {
	if auth.V1 {
		if auth.Counter != r.Counter {
			return reason.Refuse(reason.CounterMismatch, "signed for %d, the counter is %d", auth.Counter, r.Counter)
		}
		r.Retry = nil
		return nil
	}
	if r.accepted(auth.Body) {
		return reason.Refuse(reason.Replayed, "these bytes were accepted before")
	}
	if string(r.Retry) != string(auth.Body[:]) {
		if len(r.Accepted) >= MaxRemembered {
			return reason.Refuse(reason.ReplayMemoryFull, "%d are remembered", len(r.Accepted))
		}
		r.Accepted = append(slices.Clip(r.Accepted), bytesOf(auth.Body[:]))
	}
	r.Retry = nil
	return nil
}

// mayBegin is the order of things.
func mayBegin(r *record, k Kind) error {
	at := r.State.order()
	switch {
	case r.State == WorkloadExposed:
		return reason.Refuse(reason.WorkloadExposed, "nothing comes after that")
	case at < OperatorRegistered.order():
		return reason.Refuse(reason.OperatorMissing, "the state is %s", r.State)
	case r.Step != nil:
		return reason.Refuse(reason.StepInFlight, "%s is under way", r.Step.Kind)
	case k != RegisterOwner && at < OwnerRegistered.order():
		return reason.Refuse(reason.OwnerMissing, "the state is %s", r.State)
	case k == Expose && at < WorkloadConfigured.order():
		return reason.Refuse(reason.WorkloadMissing, "the state is %s", r.State)
	case k == RegisterOwner && at >= OwnerRegistered.order():
		return reason.Refuse(reason.OwnerRegistered, "the state is %s", r.State)
	default:
		return nil
	}
}

// begin writes the intent.
func (m *Machine) begin(now time.Time, next record, s Step) (*Pending, error) {
	s.Begun, s.Since, s.Boot = max(m.burned, m.rec.Counter)+1, when(now), m.run.Boot
	next.Step = &s
	if err := m.write(next, nil); err != nil {
		return nil, err
	}
	return &Pending{m, s}, nil
}

func when(now time.Time) time.Time { return now.UTC().Truncate(time.Second) }

// current returns the record while the step is still the one under way.
func (p *Pending) current() (record, error) {
	r := p.m.rec
	if r.Step == nil || r.Step.Begun != p.step.Begun {
		return r, reason.Refuse(reason.StepOver, "%s", p.step.Kind)
	}
	return r, nil
}

// Resolve writes what the image's name was resolved to, before anything is
// started from it.
func (p *Pending) Resolve(digest string) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	next, err := p.current()
	if err != nil {
		return err
	}
	s := *next.Step
	if s.Kind != Configure || !isDigest(digest) {
		return reason.Refuse(reason.Internal, "%s cannot be resolved to %.80q", s.Kind, digest)
	}
	if s.Workload.Digest == digest {
		return nil
	}
	if s.Workload.Digest != "" {
		return reason.Refuse(reason.ImageMismatch, "it was resolved to %.80q before", s.Workload.Digest)
	}
	w := *s.Workload
	w.Digest = digest
	s.Workload, next.Step = &w, &s
	return p.m.write(next, nil)
}

// Note writes a fact; one that is written already stays.
func (p *Pending) Note(now time.Time, f Fact) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	next, err := p.current()
	if err != nil {
		return err
	}
	var at *time.Time
	switch {
	case f == SSHOpened && next.Step.Kind == Configure:
		at = &next.SSH.Opened
	case f == SSHListenerClosed && next.Step.Kind == Expose:
		at = &next.SSH.ListenerClosed
	case f == SSHSessionsEnded && next.Step.Kind == Expose:
		at = &next.SSH.SessionsEnded
	default:
		return reason.Refuse(reason.Internal, "%s is no fact of %s", f, next.Step.Kind)
	}
	if !at.IsZero() {
		return nil
	}
	// Whoever sets the clock back must not make one fact contradict another.
	*at = when(now)
	for _, earlier := range []time.Time{next.SSH.Opened, next.SSH.ListenerClosed} {
		if at.Before(earlier) {
			*at = earlier
		}
	}
	return p.m.write(next, nil)
}

// Finish completes the step. What is not recorded as done is step_incomplete: an
// image that was not resolved, a door that was not closed.
func (p *Pending) Finish() error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	next, err := p.current()
	if err != nil {
		return err
	}
	s := next.Step
	next.Step, next.Retry = nil, nil
	switch s.Kind {
	case RegisterOwner:
		next.State, next.Owner = OwnerRegistered, s.Owner
	case Configure:
		if s.Workload.Digest == "" {
			return reason.Refuse(reason.StepIncomplete, "the image is not resolved")
		}
		next.State, next.Workload = WorkloadConfigured, s.Workload
	case Expose:
		if next.SSH.ListenerClosed.IsZero() || next.SSH.SessionsEnded.IsZero() {
			return reason.Refuse(reason.StepIncomplete, "SSH is not closed")
		}
		next.State = WorkloadExposed
	default:
		return reason.Refuse(reason.Internal, "step %.32q is unknown", s.Kind)
	}
	next.Owed = max(p.m.burned, next.Counter) + 1
	next.Kept = max(next.Kept, p.m.given)
	return p.m.write(next, nil)
}

// Undo forgets the step, after the caller has undone what it did. The request
// that asked for it may be sent again until another is accepted. A step that
// closed SSH cannot be undone.
func (p *Pending) Undo() error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	next, err := p.current()
	if err != nil {
		return err
	}
	if next.Step.Kind == Expose && next.SSH.closing() {
		return reason.Refuse(reason.StepIrreversible, "SSH was closed")
	}
	next.Retry = api.Hex(next.Step.Body)
	next.Step = nil
	return p.m.write(next, nil)
}
