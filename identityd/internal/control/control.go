// Package control is where identityd's rooms meet: it turns each step of the
// state machine into what happens outside, in an order that a crash at any point
// cannot break, and comes back to the last completed state at start.
//
//	register owner   intent → volume made or mounted → identity written into it → finished
//	configure        intent → image resolved, kept in the volume → container made → SSH open → finished
//	expose           intent → SSH closed → container made anew with its port → event logged → finished
//	unlock (reboot)  volume mounted → identity linked → counters witnessed → what ran runs again
//
// It speaks no HTTP, verifies no signature (package request did) and decides no
// policy.
package control

import (
	"context"
	"crypto/ed25519"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/refusal"
	"github.com/telemark-otel/telemark/identityd/internal/sshd"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/identityd/internal/storage"
	"github.com/telemark-otel/telemark/identityd/internal/workload"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/identity/unlock"
)

// Registrar is package registrar's, as far as it is needed here.
type Registrar interface {
	Tell(ctx context.Context) error
	Witness(ctx context.Context) error
}

// Events is package measure's log.
type Events interface {
	// Record returns when the event is in the log, durably, and in the register.
	// The last of its name with the same data is not added again.
	Record(ctx context.Context, e statement.Event) error
	View() statement.Log
	// Problem is why no event can be recorded any more in this boot.
	Problem() error
}

// Quotes is package attest's service.
type Quotes interface {
	Quote(ctx context.Context, reportData [64]byte) ([]byte, error)
	PPID(ctx context.Context) ([]byte, error)
	QuotedAt() time.Time
	// Attest quotes what say returns, with the register as its log has it.
	Attest(ctx context.Context, nonce []byte, say func() (*statement.Statement, error)) (raw, quote []byte, err error)
}

// Options of Open.
type Options struct {
	Machine  *state.Machine
	RunDir   state.Dir // in memory, the machine's: for the volume's key
	Disk     *storage.Disk
	Workload *workload.Manager
	Events   Events
	// Registrar may be nil: then nothing is told.
	Registrar Registrar

	Quotes Quotes

	Source storage.Kind
	Vault  storage.Source // for Source vault

	// ListenSSH opens the port of the temporary way in.
	ListenSSH   func(ctx context.Context) (net.Listener, error)
	SSHHostKey  ed25519.PrivateKey
	TLSKey      []byte // SHA-256 of the SubjectPublicKeyInfo, or empty
	HostPort    uint16
	HostAddress netip.Addr

	Now    func() time.Time // nil: the clock
	Logger *zap.Logger      // nil logs nothing
}

// The bounds of what is waited for.
const (
	patience    = 5 * time.Second  // for the step before this one to end
	tellTime    = 10 * time.Second // for the registry
	closeTime   = 5 * time.Second  // for SSH sessions to end, before the container does and after
	outsideTime = 5 * time.Minute  // for all that cannot be broken off
)

// Control is safe for concurrent use; steps are one at a time.
type Control struct {
	o        Options
	log      *zap.Logger
	requests unlock.Requests
	planned  storage.ID // of a volume to be made in this run of the service

	work sync.WaitGroup  // what Close waits for
	life context.Context // ends with Close
	end  context.CancelFunc

	// step is held by whoever acts on the world outside, and with it:
	step   gate
	volume *storage.Volume // mounted or dead, nil otherwise
	binds  []storage.Bind
	door   *sshd.Server // open or closed; nil when it was never open
	behind bool         // something has to be brought back, see watch
	next   time.Time    // when that is tried again
	pause  time.Duration
	closed bool

	mu    sync.Mutex // for what View shows
	shown shown
}

// shown is what View shows of what step guards.
type shown struct {
	volume   *storage.Volume
	door     *sshd.Server
	lostDoor bool          // its port failed
	trouble  *reason.Error // why what should run does not
}

// Open finishes or undoes the step that a crash interrupted, mounts and starts
// again what ran, where the secrets for it are still there (a restart of the
// service, not of the VM), and returns. What cannot be brought back is an error
// only when going on would be unsafe; else it stands in View and is tried again.
func Open(ctx context.Context, o Options) (*Control, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	c := &Control{o: o, log: o.Logger, planned: storage.NewID(), step: newGate()}
	if _, err := c.loadKept(); err != nil {
		return nil, err
	}
	c.bringBack(ctx)
	if err := ctx.Err(); err != nil {
		c.abandon()
		return nil, refusal.Of(err)
	}
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	c.work.Go(func() { c.watch(c.life) })
	return c, nil
}

// abandon takes down what an Open began that is not wanted any more.
func (c *Control) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), outsideTime)
	defer cancel()
	if err := c.down(ctx); err != nil {
		c.log.Error("not everything could be ended", zap.Error(err))
	}
}

// Close ends SSH, then the container, since its mounts go, and unmounts. It may
// be called again.
func (c *Control) Close(ctx context.Context) error {
	c.end()
	if err := c.step.enter(ctx); err != nil {
		return refusal.Of(err)
	}
	c.closed = true
	err := c.down(ctx)
	c.step.leave()
	c.work.Wait()
	if err != nil {
		return refusal.Of(err)
	}
	return nil
}

// Outcome of a transition that was completed.
type Outcome struct {
	Token string // RegisterOperator: the owner's
	// Registry is why the registry has not heard of it yet: a *reason.Error. nil
	// when it has.
	Registry error
}

// begin waits for its turn, not for long: a step under way may be a pull.
func (c *Control) begin(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.step.enter(waiting); err != nil {
		return reason.Refuse(reason.StepInFlight, "another step is under way")
	}
	if c.closed {
		c.step.leave()
		return reason.Refuse(reason.Stopping, "the service is being stopped")
	}
	return nil
}

// whileOpen is ctx, and ends with Close too: a pull is not waited for then.
func (c *Control) whileOpen(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// told ends a transition: what was done is told to the registry, which may take
// its time, outside the step.
func (c *Control) told(ctx context.Context, out Outcome, err error) (Outcome, error) {
	if err != nil {
		return Outcome{}, refusal.Of(err)
	}
	if c.o.Registrar == nil {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	if err := c.o.Registrar.Tell(ctx); err != nil {
		out.Registry = refusal.Of(err)
	}
	return out, nil
}

// outside is the context of what cannot be broken off any more, though the
// caller may be gone.
func outside(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), outsideTime)
}
