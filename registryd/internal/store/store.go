// Package store keeps the registry's state in SQLite (one machine) or
// PostgreSQL (several stateless replicas), behind one set of calls. It decides
// nothing: rules stand in enrol, fleet and instance, which read and write
// inside one transaction.
//
// Writers take turns, over all replicas: the audit log is one chain and
// revisions are given out in the order in which they become visible. Readers
// never wait for writers.
//
// What Update answered for is on disk: SQLite syncs each commit (synchronous =
// FULL), PostgreSQL is held to synchronous_commit. What it leaves out: backups
// (a store that is restored has revisions that go back, which verifiers refuse)
// and the encryption of secrets, which callers do.
package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Errors that callers tell apart. ErrUnavailable wraps what the database said:
// nothing was changed, or (where the connection broke in a commit) the caller
// cannot know and has to ask again.
var (
	ErrNotFound    = errors.New("store: not there")
	ErrExists      = errors.New("store: there already")
	ErrUnavailable = errors.New("store: cannot be reached")
	// ErrInvalid says that a value cannot be kept: too long, not UTF-8, a
	// cursor that the store never made.
	ErrInvalid = errors.New("store: not a value that can be kept")
	// ErrNewer says that a newer version of the program made the store.
	ErrNewer = errors.New("store: made by a newer version of this program, which has to be used from then on")
)

const (
	maxTries    = 8                // of one Update, when it conflicts with another one
	viewTime    = time.Minute      // bounds View
	updateTime  = 2 * time.Minute  // bounds Update, the wait for its turn included
	commitTime  = 15 * time.Second // bounds a commit, which a caller's end does not stop
	lockTime    = 20 * time.Second // bounds the wait for another replica's transaction
	defaultConn = 8
)

// Options of Open.
type Options struct {
	Logger *zap.Logger
	Now    func() time.Time // time.Now when nil
	// Sign signs the head of the audit log; it is called inside each writing
	// transaction that appended to it. Heads are not signed when it is nil.
	Sign func(seq uint64, hash []byte, at time.Time) ([]byte, error)
	// MaxConns bounds connections to PostgreSQL; 0 is 8, at least 2.
	MaxConns int
}

// DB is an open store. It serves any number of goroutines.
type DB struct {
	options Options
	backend backend
	id      string
	turn    chan struct{} // holds one value while nobody of this process writes
	changes *changes
	stop    context.CancelFunc
	watched sync.WaitGroup
	closed  sync.Once
}

// Open opens a store, and migrates it under a lock that other replicas wait
// for. dsn is a file name, or a URL postgres://…. A store of a newer version
// than this program's is refused.
func Open(ctx context.Context, dsn string, o Options) (*DB, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxConns == 0 {
		o.MaxConns = defaultConn
	}
	o.MaxConns = max(o.MaxConns, 2)

	var b backend
	var err error
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		b, err = openPostgres(ctx, dsn, o)
	} else {
		b, err = openSQLite(ctx, dsn)
	}
	if err != nil {
		return nil, err
	}
	d := &DB{options: o, backend: b, turn: make(chan struct{}, 1), changes: newChanges()}
	d.turn <- struct{}{}
	if err := d.prepare(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	watching, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.watched.Go(func() { d.watch(watching) })
	return d, nil
}

// prepare migrates the store and learns what it is.
func (d *DB) prepare(ctx context.Context) error {
	if err := migrate(ctx, d.backend, migrations); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	return d.View(ctx, func(t *Tx) error {
		revision, err := t.Revision()
		d.id = t.state.storeID
		d.changes.seen = revision
		return err
	})
}

// Close closes the store. It waits for transactions that are under way.
func (d *DB) Close() error {
	var err error
	d.closed.Do(func() {
		d.stop()
		d.watched.Wait()
		err = d.backend.close()
	})
	return err
}

// ID is random and made with the store.
func (d *DB) ID() string { return d.id }

// Kind returns "sqlite" or "postgres".
func (d *DB) Kind() string { return d.backend.kind() }

// Ping reports whether the store can be read and written now. It waits for the
// writer before it.
func (d *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	return d.inTurn(ctx, func() error {
		return d.once(ctx, true, func(*Tx) error { return nil })
	})
}

// View runs fn in a reading transaction, on one consistent state.
func (d *DB) View(ctx context.Context, fn func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	return d.once(ctx, false, fn)
}

// Update runs fn in a writing transaction. When fn returns nil and Update
// returns nil, everything fn wrote is durable. fn may run again after a
// conflict, so that it must not have effects outside. The Tx that it got, and
// what it calls, must not be used by several goroutines, and no Update or View
// may run inside it.
func (d *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, updateTime)
	defer cancel()
	return d.inTurn(ctx, func() error {
		var err error
		for try := range maxTries {
			if err = d.once(ctx, true, fn); !errors.Is(err, errConflict) {
				return err
			}
			select {
			case <-time.After(rand.N(time.Millisecond << try)): //nolint:gosec // spreads attempts, and no secret
			case <-ctx.Done():
			}
		}
		return fmt.Errorf("%w: %d attempts ran into others: %w", ErrUnavailable, maxTries, err)
	})
}

// inTurn runs write when no other writer of this process runs, so that those
// who wait do not hold a connection each.
func (d *DB) inTurn(ctx context.Context, write func() error) error {
	select {
	case <-d.turn:
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for other writers: %w", ErrUnavailable, ctx.Err())
	}
	defer func() { d.turn <- struct{}{} }()
	return write()
}

// once runs fn in one transaction.
func (d *DB) once(ctx context.Context, writing bool, fn func(*Tx) error) (err error) {
	s, err := d.backend.begin(ctx, writing)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", d.backend.classify(err))
	}
	t := &Tx{db: d, ctx: ctx, session: s, writing: writing}
	open := true
	defer func() {
		t.session = nil
		if open { // also when fn panics
			s.rollback()
		}
	}()
	if err := t.load(); err != nil {
		return err
	}
	if err := fn(t); err != nil {
		// A conflict is told as such, whatever fn made of it.
		if errors.Is(t.failed, errConflict) {
			return t.failed
		}
		return err
	}
	if t.failed != nil {
		return t.failed
	}
	if !writing || !t.dirty {
		return nil
	}
	if err := t.finish(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	commit, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	open = false
	if err := s.commit(commit); err != nil {
		return fmt.Errorf("committing: %w", d.backend.classify(err))
	}
	if t.state.revision != t.before.revision {
		d.changes.saw(t.state.revision)
	}
	return nil
}
