package tpm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/tpm/private"
	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// ParseDevice checks a device string without opening anything. Its error says
// which forms are accepted.
func ParseDevice(s string) error {
	_, err := wire.ParseAddress(s)
	return err
}

// SoftwareDir returns the directory of a device string that names an swtpm of
// our own.
func SoftwareDir(device string) (dir string, ok bool) {
	a, err := wire.ParseAddress(device)
	if err != nil || a.Kind != wire.SWTPM {
		return "", false
	}
	return a.Target, true
}

// Options bound how a Device waits. The zero value is right for most.
type Options struct {
	// CommandTimeout bounds one ordinary command; 0 is 10 s.
	CommandTimeout time.Duration
	// CreateTimeout bounds one command that makes a key; 0 is 2 min.
	CreateTimeout time.Duration
	// RetryFor bounds how long a command that the TPM asks to send again
	// (TPM_RC_RETRY and the like) is sent again; 0 is 5 s, negative is never.
	RetryFor time.Duration
	// OwnerAuth and EndorsementAuth authorise the hierarchies; empty where
	// nobody has set them. No byte of them may be zero.
	OwnerAuth, EndorsementAuth []byte
	// Algorithm is that of the signing key that is opened, and so of the keys that
	// come with it; empty is ES256.
	Algorithm Algorithm
	// Report, when not nil, is told of reconnects, restarts of swtpm and the
	// like, for logs. It must not block and not call the Device.
	Report func(Event)
}

// Event is something worth a log line.
type Event struct {
	Message string
	Err     error // may be nil
}

const (
	defaultCommandTimeout = 10 * time.Second
	defaultCreateTimeout  = 2 * time.Minute
	defaultRetryFor       = 5 * time.Second
)

func (o Options) withDefaults() (Options, error) {
	if o.CommandTimeout == 0 {
		o.CommandTimeout = defaultCommandTimeout
	}
	if o.CreateTimeout == 0 {
		o.CreateTimeout = defaultCreateTimeout
	}
	if o.RetryFor == 0 {
		o.RetryFor = defaultRetryFor
	}
	var err error
	if o.Algorithm, err = ParseAlgorithm(string(o.Algorithm)); err != nil {
		return o, err
	}
	if o.CommandTimeout < 0 || o.CreateTimeout < 0 {
		return o, fmt.Errorf("TPM time-outs of %v and %v: must not be negative", o.CommandTimeout, o.CreateTimeout)
	}
	if err := checkAuth("owner", o.OwnerAuth); err != nil {
		return o, err
	}
	return o, checkAuth("endorsement", o.EndorsementAuth)
}

// Device is an open TPM.
type Device struct {
	addr wire.Address
	opts Options

	life context.Context // ends with Close
	end  context.CancelFunc
	once sync.Once

	// inFlight is the connection that Close breaks when it cannot wait.
	inFlight atomic.Pointer[wire.Conn]

	slot         chan struct{} // holds one token while a goroutine owns the rest
	link         *link         // nil: not connected
	proc         *swtpm.Process
	lock         *private.Lock // of the directory, for swtpm
	wasConnected bool
}

// Open opens a device: the path of a character device or socket
// ("/dev/tpmrm0"), "unix:PATH", "tcp:HOST:PORT" (both a raw TPM stream, as
// swtpm serves it) or "swtpm:DIR", which starts an swtpm that keeps its state
// in DIR and ends with the Device.
func Open(ctx context.Context, device string, opts Options) (*Device, error) {
	addr, err := wire.ParseAddress(device)
	if err != nil {
		return nil, err
	}
	opts, err = opts.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Device{addr: addr, opts: opts, slot: make(chan struct{}, 1)}
	if addr.Kind == wire.SWTPM {
		if d.lock, err = private.LockDir(ctx, addr.Target, "lock", swtpm.StateFile); err != nil {
			return nil, err
		}
	}
	d.life, d.end = context.WithCancel(context.Background())
	connected := func(*link) (nothing, error) { return nothing{}, nil }
	if _, err := ask(ctx, d, "opening "+addr.String(), connected); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// String returns the device string.
func (d *Device) String() string { return d.addr.String() }

func (d *Device) report(err error, format string, args ...any) {
	if d.opts.Report != nil {
		d.opts.Report(Event{Message: fmt.Sprintf(format, args...), Err: err})
	}
}

// ask runs fn with the connection, alone, and returns its result. When ctx
// ends first, ask returns, and fn goes on in the background, since a TPM
// executes what it was sent.
func ask[T any](ctx context.Context, d *Device, what string, fn func(*link) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := d.acquire(ctx); err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.err = d.run(func(l *link) (err error) {
			r.value, err = fn(l)
			return err
		})
		<-d.slot
		done <- r
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return none, fmt.Errorf("%s: %w", what, r.err)
		}
		return r.value, nil
	case <-ctx.Done():
		return none, fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
}

// nothing is the result of what has none.
type nothing = struct{}

func (d *Device) acquire(ctx context.Context) error {
	if d.life.Err() != nil {
		return ErrClosed
	}
	select {
	case d.slot <- struct{}{}:
		if d.life.Err() != nil { // both were ready
			<-d.slot
			return ErrClosed
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-d.life.Done():
		return ErrClosed
	}
}

// run connects if need be, runs fn, and drops a connection that is of no more use.
func (d *Device) run(fn func(*link) error) error {
	if d.link == nil {
		if err := d.connect(); err != nil {
			d.drop()
			return err
		}
	}
	err := fn(d.link)
	switch {
	case d.link.broken != nil || Classify(err) == Gone:
		d.report(err, "lost the connection to the TPM %s", d.addr)
		d.drop()
	case isCode(err, tpm2.TPMRCObjectMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCMemory):
		// Whatever fills the TPM goes away with the connection, or with the
		// flushing at the start of the next.
		d.report(err, "the TPM %s has no room", d.addr)
		d.drop()
	}
	return err
}

// ifConnected runs fn with the connection, alone, when there is one and no
// other user keeps it too long.
func (d *Device) ifConnected(fn func(*link)) {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if d.acquire(ctx) != nil {
		return
	}
	defer func() { <-d.slot }()
	if d.link == nil {
		return
	}
	fn(d.link)
	if d.link.broken != nil {
		d.drop()
	}
}

// closePatience is how long Close waits for the command under way.
const closePatience = 3 * time.Second

// Close ends the connection, and swtpm when it was started by Open. It waits a
// while for the command under way. It may be called twice.
func (d *Device) Close() error {
	d.once.Do(func() {
		d.end()
		timer := time.NewTimer(closePatience)
		defer timer.Stop()
		select {
		case d.slot <- struct{}{}:
		case <-timer.C:
			if c := d.inFlight.Load(); c != nil {
				_ = (*c).Close()
			}
			d.slot <- struct{}{}
		}
		defer func() { <-d.slot }()
		if d.link != nil && d.proc != nil {
			// Orderly, so that swtpm does not count an interrupted session
			// against its dictionary attack counter. Part 3, section 9.4.
			_, _ = exec(d.link, tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear})
		}
		d.drop()
		if d.lock != nil {
			_ = d.lock.Unlock()
		}
	})
	return nil
}
