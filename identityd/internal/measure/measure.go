// Package measure keeps the event log of this boot and extends it into RTMR3,
// each event exactly once, whatever crash comes in between: the intent is
// written with the boot id and what the register held, and after a crash the
// register is compared before anything is extended.
//
//	register = before the intended event   it was not extended: the intent is void, whoever wanted it asks again
//	register = after it                    it was: the event is in the log
//	anything else                          somebody else extended the register
//
// In the last case, which is checked before every event and after it, the log is
// foreign for the rest of the boot: no event is recorded any more, and the log
// goes on to be told as it is, so that no verifier accepts it. To go on without
// the register then would hide that something in this VM does what nobody
// expected; where another program has to use the register, NoRegister says so
// from the beginning.
//
// Where RTMR3 cannot be extended the log is kept all the same; then the quote's
// report data alone vouch for it. What is decided at the first start holds for
// the boot.
package measure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/tdx/guest"
)

// Options of Open.
type Options struct {
	// Guest may be nil where there is no TDX: then there is no register either.
	Guest  guest.Guest
	RunDir state.Dir // in memory, of this boot; one file of it, "events", is the log's
	BootID string
	// NoRegister leaves RTMR3 to somebody else.
	NoRegister bool
	// Timeout of one call of the register; 0 is 10 s.
	Timeout time.Duration
}

// Log is safe for concurrent use.
type Log struct {
	o Options

	// one is held by whoever records: it may wait for the kernel.
	one chan struct{}
	// intent is what may or may not have been extended; for the holder of one.
	intent *intent

	mu      sync.Mutex
	log     statement.Log
	problem error
}

// Open reads the log of this boot, or begins one, and ends what a crash
// interrupted. A register that fits neither is no error here: Problem says it,
// and Record.
func Open(ctx context.Context, o Options) (*Log, error) {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	l := &Log{o: o, one: make(chan struct{}, 1)}
	found, err := load(o.RunDir, o.BootID)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return l, l.begin(ctx)
	}
	l.log, l.intent = found.log(), found.Intent
	if l.log.Register == statement.None {
		return l, nil
	}
	if err := l.settle(ctx); err != nil && reason.Of(err) != reason.EventLogForeign {
		return nil, err
	}
	return l, nil
}

func (l *Log) begin(ctx context.Context) error {
	if l.o.Guest != nil && !l.o.NoRegister {
		base, err := l.read(ctx)
		switch {
		case err == nil:
			l.log.Register, l.log.Base = statement.RTMR3, base[:]
		case !errors.Is(err, guest.ErrReadOnly):
			return err
		}
	}
	return l.save(l.log, nil)
}

// Record adds an event, durably, and extends the register. One that the log has
// already, with the same data and as the last of its name, is not added again.
// After an error it may have been extended: asking again finds out. Errors are
// *reason.Error.
func (l *Log) Record(ctx context.Context, e statement.Event) error {
	select {
	case l.one <- struct{}{}:
		defer func() { <-l.one }()
	case <-ctx.Done():
		return reason.Because(reason.EventLogUnavailable, fmt.Errorf("wait for another event: %w", ctx.Err()))
	}
	if err := l.Problem(); err != nil {
		return err
	}
	log := l.View()
	if log.Register == statement.RTMR3 {
		// Also when nothing is in between: somebody else may have extended it.
		if err := l.settle(ctx); err != nil {
			return err
		}
		log = l.View()
	}
	if has(&log, e) {
		return nil
	}
	if err := log.Next(e); err != nil {
		return reason.Refuse(reason.EventRefused, "%s", err)
	}
	if full(&log, e) {
		return reason.Refuse(reason.EventLogFull, "%d events", len(log.Events))
	}
	if log.Register == statement.None {
		return l.commit(log, e)
	}
	return l.extend(ctx, log, e)
}

// extend is the protocol: intent, register, event.
func (l *Log) extend(ctx context.Context, log statement.Log, e statement.Event) error {
	held := replay(&log)
	in := &intent{Event: e, Held: held[:]}
	if err := l.save(log, in); err != nil {
		return err
	}
	l.intent = in
	limited, cancel := context.WithTimeout(ctx, l.o.Timeout)
	defer cancel()
	if err := l.o.Guest.ExtendRTMR3(limited, e.Digest()); err != nil {
		return reason.Because(reason.EventLogUnavailable, err)
	}
	if err := l.settle(ctx); err != nil {
		return err
	}
	if log = l.View(); !has(&log, e) {
		return reason.Refuse(reason.EventLogUnavailable, "the register is as it was, though it was extended")
	}
	return nil
}

// settle compares the register with what it should hold, and ends an intent.
func (l *Log) settle(ctx context.Context) error {
	log := l.View()
	held := replay(&log)
	got, err := l.read(ctx)
	if err != nil {
		return reason.Because(reason.EventLogUnavailable, err)
	}
	switch {
	case got == held:
		l.intent = nil // it was not extended
		return nil
	case l.intent != nil && got == statement.Extend(held, l.intent.Event.Digest()):
		return l.commit(log, l.intent.Event)
	default:
		err := reason.Refuse(reason.EventLogForeign, "RTMR3 begins with %x, and the events of this boot make it %x", got[:8], held[:8])
		l.mu.Lock()
		l.problem = err
		l.mu.Unlock()
		return err
	}
}

func (l *Log) read(ctx context.Context) ([48]byte, error) {
	if l.o.Guest == nil {
		return [48]byte{}, reason.Refuse(reason.EventLogUnavailable, "the log of this boot is held against RTMR3, which is gone")
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.Timeout)
	defer cancel()
	got, err := l.o.Guest.RTMR3(ctx)
	if err != nil {
		return got, reason.Because(reason.EventLogUnavailable, err)
	}
	return got, nil
}

// commit writes the log with the event in it.
func (l *Log) commit(log statement.Log, e statement.Event) error {
	log.Events = append(slices.Clip(log.Events), e)
	if err := l.save(log, nil); err != nil {
		return err
	}
	l.intent = nil
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = log
	return nil
}

// View returns the log for a statement.
func (l *Log) View() statement.Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.log
	log.Base, log.Events = slices.Clone(log.Base), slices.Clone(log.Events)
	return log
}

// Problem is a *reason.Error when the log is foreign: it is for the rest of the
// boot.
func (l *Log) Problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
}

func replay(log *statement.Log) [48]byte {
	return statement.Replay([48]byte(log.Base), log.Events)
}

// has reports whether e is in the log as the last of its name.
func has(log *statement.Log, e statement.Event) bool {
	for _, other := range slices.Backward(log.Events) {
		if other.Name == e.Name {
			return other.Data == e.Data
		}
	}
	return false
}

// full leaves room for ssh-open and ssh-closed, so that the door can always be
// closed, for going back to an image that was measured before, and for the rest
// of a statement.
func full(log *statement.Log, e statement.Event) bool {
	if e.Name != statement.Image {
		return false
	}
	events, bytes := statement.MaxEvents-4, statement.Max*5/8
	for _, other := range log.Events {
		if other == e {
			events, bytes = statement.MaxEvents-2, statement.Max*3/4
		}
	}
	size := len(e.Data)
	for _, other := range log.Events {
		size += len(other.Data) + 32 // names and punctuation
	}
	return len(log.Events) >= events || size > bytes
}
