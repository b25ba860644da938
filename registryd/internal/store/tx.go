package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/telemark-otel/telemark/internal/registry/audit"
)

var (
	errOver    = errors.New("store: the transaction is over")
	errReading = errors.New("store: a write in a reading transaction")
	errState   = fmt.Errorf("%w: the state was changed by somebody who did not wait for his turn", errConflict)
)

// Tx is a transaction; it belongs to one goroutine.
type Tx struct {
	db      *DB
	ctx     context.Context // of the one call that it lives in
	session session         // nil when the transaction is over
	writing bool

	before state // as the transaction found it
	state  state // as it leaves it
	dirty  bool  // something was written
	put    int   // keys that PutKey wrote under the revision
	event  *Event
	failed error // the first error of the database: nothing goes on after it
}

// state is the one row of the table meta.
type state struct {
	schema      int
	storeID     string
	revision    uint64
	lastEvent   uint64
	auditSeq    uint64
	auditHash   []byte
	auditAt     int64
	auditSigned []byte
}

// load reads the state; in a writing transaction the turn is ours already.
func (t *Tx) load() error {
	err := t.one(func(scan scanner) error {
		return scan(&t.state.schema, &t.state.storeID, &t.state.revision, &t.state.lastEvent,
			&t.state.auditSeq, &t.state.auditHash, &t.state.auditAt, &t.state.auditSigned)
	}, `SELECT (SELECT MAX(version) FROM schema_versions), store_id, revision, last_event,
			audit_seq, audit_hash, audit_at, audit_signed FROM meta WHERE one = 1`)
	if err != nil {
		return fmt.Errorf("reading the state of the store: %w", err)
	}
	// Another replica may have been replaced by a newer program meanwhile.
	if t.state.schema > len(migrations) {
		return ErrNewer
	}
	t.before = t.state
	return nil
}

// finish writes what the transaction gathered, ahead of the commit.
func (t *Tx) finish() error {
	if t.state.auditSeq != t.before.auditSeq && t.db.options.Sign != nil {
		signed, err := t.db.options.Sign(t.state.auditSeq, t.state.auditHash, exactMillis(t.state.auditAt))
		if err != nil {
			return fmt.Errorf("signing the head of the audit log: %w", err)
		}
		t.state.auditSigned = signed
	}
	if err := t.writeEvent(); err != nil {
		return err
	}
	if t.state.revision == t.before.revision && t.state.auditSeq == t.before.auditSeq {
		return nil
	}
	if t.state.revision != t.before.revision {
		if err := t.db.backend.announce(t.ctx, t.session, t.state.revision); err != nil {
			return t.fail(err)
		}
	}
	// The condition holds as long as writers take turns.
	changed, err := t.exec(`UPDATE meta SET revision = $1, last_event = $2, audit_seq = $3, audit_hash = $4,
			audit_at = $5, audit_signed = $6 WHERE one = 1 AND revision = $7 AND audit_seq = $8`,
		t.state.revision, t.state.lastEvent, t.state.auditSeq, t.state.auditHash,
		t.state.auditAt, present(t.state.auditSigned), t.before.revision, t.before.auditSeq)
	if err != nil {
		return err
	}
	if changed != 1 {
		return t.fail(errState)
	}
	return nil
}

// Revision returns the store's revision. In a writing transaction that changed
// something it is the new one.
func (t *Tx) Revision() (uint64, error) {
	if err := t.usable(); err != nil {
		return 0, err
	}
	return t.state.revision, nil
}

// NextRevision takes the next revision for what this transaction changes; all
// changes of one transaction share one, but for 1,000 keys and more.
func (t *Tx) NextRevision() (uint64, error) {
	if err := t.writable(); err != nil {
		return 0, err
	}
	if t.state.revision == t.before.revision {
		t.state.revision++
		t.dirty = true
	}
	return t.state.revision, nil
}

// AuditHead returns the last signed head, zero before the first entry. In a
// transaction that appended to the log it is the one before.
func (t *Tx) AuditHead() (audit.Head, error) {
	if err := t.usable(); err != nil {
		return audit.Head{}, err
	}
	if t.before.auditSeq == 0 {
		return audit.Head{}, nil
	}
	return audit.Head{
		Seq: t.before.auditSeq, Hash: t.before.auditHash,
		At: exactMillis(t.before.auditAt), Signed: t.before.auditSigned,
	}, nil
}

func (t *Tx) usable() error {
	if t.session == nil {
		return errOver
	}
	return t.failed
}

func (t *Tx) writable() error {
	if err := t.usable(); err != nil {
		return err
	}
	if !t.writing {
		return errReading
	}
	return nil
}

// fail ends the use of the transaction: PostgreSQL has aborted it, and SQLite
// may have, so that what came after would stand on its own.
func (t *Tx) fail(err error) error {
	if t.failed == nil {
		t.failed = t.db.backend.classify(err)
	}
	return t.failed
}

// scanner reads the columns of one row.
type scanner func(into ...any) error

// each calls row for every row of a query. row must not use the transaction.
func (t *Tx) each(row func(scanner) error, statement string, args ...any) (err error) {
	if err := t.usable(); err != nil {
		return err
	}
	r, err := t.session.query(t.ctx, statement, args...)
	if err != nil {
		return t.fail(err)
	}
	for r.Next() {
		if err := row(r.Scan); err != nil {
			_ = r.Close()
			t.failed = fmt.Errorf("store: a row that cannot be read: %w", err)
			return t.failed
		}
	}
	if err := errors.Join(r.Err(), r.Close()); err != nil {
		return t.fail(err)
	}
	return nil
}

// one reads one row, or returns ErrNotFound.
func (t *Tx) one(row func(scanner) error, statement string, args ...any) error {
	found := false
	err := t.each(func(scan scanner) error {
		found = true
		return row(scan)
	}, statement, args...)
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// exec changes rows now and returns how many.
func (t *Tx) exec(statement string, args ...any) (int64, error) {
	if err := t.writable(); err != nil {
		return 0, err
	}
	t.dirty = true
	n, err := t.session.exec(t.ctx, statement, args...)
	if err != nil {
		return 0, t.fail(err)
	}
	return n, nil
}

// later changes rows before anything is read, or committed.
func (t *Tx) later(statement string, args ...any) error {
	if err := t.writable(); err != nil {
		return err
	}
	t.dirty = true
	if err := t.session.later(t.ctx, statement, args...); err != nil {
		return t.fail(err)
	}
	return nil
}
