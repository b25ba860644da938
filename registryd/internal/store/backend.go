package store

import (
	"context"
	"errors"
)

// errConflict marks a transaction that lost against another one and may run
// again.
var errConflict = errors.New("store: ran into another transaction")

// Errors of connections.
var (
	errClosed = errors.New("the store is closed")
	errLost   = errors.New("the connection is lost")
)

// lost tells errors that come from this side of the connection and say nothing
// of a statement.
func lost(err error) bool {
	return errors.Is(err, errClosed) || errors.Is(err, errLost) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// backend is all that differs between the databases, but for the migrations.
// Statements have their parameters as $1, $2, … in both.
type backend interface {
	kind() string
	// begin starts a transaction. A reading one sees one state of the database;
	// a writing one is alone among all writers of all replicas, and sees what
	// the one before it committed.
	begin(ctx context.Context, writing bool) (session, error)
	// beginMigration starts a transaction that excludes every other one of its
	// kind, and every writer.
	beginMigration(ctx context.Context) (session, error)
	// classify wraps what the database said in ErrUnavailable or errConflict,
	// where it is one of these.
	classify(err error) error
	// announce tells the other replicas of a revision once s is committed.
	announce(ctx context.Context, s session, revision uint64) error
	// watch calls saw with revisions that were announced, until ctx ends or
	// the telling breaks.
	watch(ctx context.Context, saw func(revision uint64)) error
	// close waits until transactions are over.
	close() error
}

// session is one transaction. It ends with commit, whatever that returns, or
// with rollback.
type session interface {
	// query returns rows, which have to be closed before the next call.
	query(ctx context.Context, statement string, args ...any) (rows, error)
	// exec returns how many rows were changed.
	exec(ctx context.Context, statement string, args ...any) (int64, error)
	// later is exec at any time up to the next query, exec or commit, which
	// then returns its error.
	later(ctx context.Context, statement string, args ...any) error
	// script runs statements without parameters.
	script(ctx context.Context, statements string) error
	commit(ctx context.Context) error
	rollback()
}

// rows is what both drivers return.
type rows interface {
	Next() bool
	Scan(into ...any) error
	Err() error
	Close() error
}
