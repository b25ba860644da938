package tpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/telemark-otel/telemark/internal/tpm/swtpm"
	"github.com/telemark-otel/telemark/internal/tpm/wire"
)

// connect makes d.link. The caller holds the slot and calls drop on an error.
func (d *Device) connect() error {
	conn, err := d.dial()
	switch {
	case err == nil:
	case d.life.Err() != nil:
		return ErrClosed
	case isAny(err, ErrTimeout, ErrSWTPMMissing, os.ErrPermission):
		return err
	default:
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	d.inFlight.Store(&conn)
	d.link = &link{conn: conn, opts: &d.opts, life: d.life, shared: d.addr.Shared()}
	if err := d.link.greet(d.report); err != nil {
		return err
	}
	if d.wasConnected {
		d.report(nil, "connected to the TPM %s again", d.addr)
	}
	d.wasConnected = true
	return nil
}

func (d *Device) dial() (wire.Conn, error) {
	ctx, cancel := context.WithTimeout(d.life, d.opts.CommandTimeout)
	defer cancel()
	if d.addr.Kind != wire.SWTPM {
		return wire.Dial(ctx, d.addr)
	}
	dir := d.addr.Target
	exists, err := swtpm.Exists(dir)
	if err != nil {
		return nil, err
	}
	if !exists && !d.wasConnected {
		err := swtpm.Manufacture(d.life, dir, d.lock.File())
		if d.life.Err() != nil { // else a TPM without certificates would stand there for ever
			return nil, ErrClosed
		}
		if err != nil {
			d.report(err, "the software TPM in %s is made without EK certificates", dir)
		}
	}
	proc, conn, err := swtpm.Start(dir, d.lock)
	if err != nil {
		return nil, err
	}
	if d.proc != nil {
		d.report(d.proc.Err(), "swtpm was started again in %s", dir)
	}
	d.proc = proc
	return wire.NewStream(conn), nil
}

// dropPatience is how long swtpm may take to end after its connection was closed.
const dropPatience = time.Second

// drop closes the connection, and so frees what a resource manager holds for
// it. The caller holds the slot.
func (d *Device) drop() {
	if d.link != nil {
		_ = d.link.conn.Close()
		d.inFlight.Store(nil)
		d.link = nil
	}
	if d.proc != nil {
		d.proc.Stop(dropPatience)
	}
}

// greet makes sure that a TPM 2.0 is at the other end and was started up, and
// clears what earlier users left in it, where there can be no other user now.
func (l *link) greet(report func(error, string, ...any)) error {
	_, err := l.property(tpm2.TPMPTManufacturer)
	if isCode(err, tpm2.TPMRCInitialize) && !l.shared {
		// Part 3, section 9.3. The platform does this for a TPM on a board.
		if _, err = exec(l, tpm2.Startup{StartupType: tpm2.TPMSUClear}); err == nil {
			_, err = l.property(tpm2.TPMPTManufacturer)
		}
	}
	switch {
	case errors.Is(err, ErrTimeout) && !l.shared:
		return fmt.Errorf("%w; another program may hold the TPM, which serves one at a time", err)
	case err != nil || l.shared:
		return err
	}
	n, err := l.flushAll()
	if n > 0 {
		report(nil, "flushed %d objects and sessions that an earlier user left in the TPM", n)
	}
	return err
}

// flushAll flushes every transient object and loaded session.
func (l *link) flushAll() (int, error) {
	n := 0
	for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTLoadedSession} {
		handles, err := l.handles(kind)
		if err != nil {
			return n, err
		}
		for _, h := range handles {
			if err := l.flush(h); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}
