package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	sqliteReaders = 4
	maxStatements = 256        // prepared ones that a connection keeps
	applicationID = 0x544C4D4B // of the file, "TLMK"

	recoveryTime = 10 * time.Second // bounds the wait for another process that recovers the store
)

// sqliteBackend has one connection that writes and some that read. Each keeps
// its prepared statements.
type sqliteBackend struct {
	db      *sql.DB
	writer  chan *sqliteConn // holds the connection while it is free
	readers chan *sqliteConn
	closed  chan struct{}
}

// sqliteConn is used by one transaction at a time.
type sqliteConn struct {
	conn       *sql.Conn // nil after a failed rollback, to be opened again
	statements map[string]*sql.Stmt
	reading    bool
}

func openSQLite(ctx context.Context, name string) (*sqliteBackend, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("opening the store %q: %w", name, err)
	}
	if err := private(path); err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		"_pragma": {
			"busy_timeout(10000)",
			"journal_mode(WAL)",
			"synchronous(FULL)",
			"foreign_keys(ON)",
			"trusted_schema(OFF)",
			"temp_store(MEMORY)",
			"journal_size_limit(67108864)",
		},
		"_dqs": {"0"},
	}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("opening the store %q: %w", name, err)
	}
	b := &sqliteBackend{
		db:      db,
		writer:  make(chan *sqliteConn, 1),
		readers: make(chan *sqliteConn, sqliteReaders),
		closed:  make(chan struct{}),
	}
	b.writer <- &sqliteConn{}
	for range sqliteReaders {
		b.readers <- &sqliteConn{reading: true}
	}
	// The first connection makes the files that the others share.
	w := <-b.writer
	if err = w.openFirst(ctx, db); err == nil {
		err = ours(ctx, w.conn)
	}
	b.writer <- w
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store %q: %w", name, b.classify(err)), b.close())
	}
	if err := private(path); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// openFirst opens the first connection. While another process recovers the log
// of one that was killed, SQLite says "locked" at once, whatever busy_timeout
// says.
func (c *sqliteConn) openFirst(ctx context.Context, db *sql.DB) error {
	for deadline := time.Now().Add(recoveryTime); ; {
		err := c.open(ctx, db)
		if !busy(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// busy reports whether another connection held what was needed.
func busy(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// private makes sure that nobody but the owner reads the store. The database
// gives its own mode to the files beside it. An existing file is not opened:
// closing it would drop the locks that this process may hold on it.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) //nolint:gosec // the operator names his store
	if err == nil {
		err = f.Close()
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("making the store %q: %w", path, err)
	}
	for _, file := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(file) //nolint:gosec // as above
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("looking at the store %q: %w", file, err)
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("the store %q is not a file", file)
		}
		if info.Mode().Perm()&0o077 == 0 {
			continue
		}
		if err := os.Chmod(file, 0o600); err != nil { //nolint:gosec // as above
			return fmt.Errorf("the store %q can be read by others: %w", file, err)
		}
	}
	return nil
}

// ours refuses the database of another program, which migrations mark with
// applicationID.
func ours(ctx context.Context, conn *sql.Conn) error {
	var id, tables int
	if err := conn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if tables > 0 && id != applicationID {
		return errors.New("the file is the database of another program")
	}
	return nil
}

func (c *sqliteConn) open(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	if c.reading {
		if _, err := conn.ExecContext(ctx, "PRAGMA query_only = ON"); err != nil {
			return errors.Join(err, conn.Close())
		}
	}
	c.conn, c.statements = conn, make(map[string]*sql.Stmt)
	return nil
}

// discard closes a connection that cannot be trusted to be outside of a
// transaction.
func (c *sqliteConn) discard() {
	if c.conn == nil {
		return
	}
	for _, s := range c.statements {
		_ = s.Close()
	}
	// A bad connection is not put back into database/sql's pool.
	_ = c.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = c.conn.Close()
	c.conn, c.statements = nil, nil
}

func (b *sqliteBackend) kind() string { return "sqlite" }

func (b *sqliteBackend) begin(ctx context.Context, writing bool) (session, error) {
	free, begin := b.readers, "BEGIN"
	if writing {
		free, begin = b.writer, "BEGIN IMMEDIATE"
	}
	var c *sqliteConn
	select {
	case c = <-free:
	case <-b.closed:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s := &sqliteSession{c: c, free: free}
	if c.conn == nil {
		if err := c.open(ctx, b.db); err != nil {
			free <- c
			return nil, err
		}
	}
	if _, err := s.exec(ctx, begin); err != nil {
		s.rollback()
		return nil, err
	}
	return s, nil
}

func (b *sqliteBackend) beginMigration(ctx context.Context) (session, error) {
	return b.begin(ctx, true)
}

func (b *sqliteBackend) classify(err error) error {
	var e *sqlite.Error
	switch {
	case err == nil, errors.Is(err, ErrUnavailable):
		return err
	case errors.As(err, &e):
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_MISMATCH,
			sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG:
			return err // of the statement, not of the database
		}
	case !lost(err) && !errors.Is(err, driver.ErrBadConn) && !errors.Is(err, sql.ErrConnDone):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (b *sqliteBackend) announce(context.Context, session, uint64) error { return nil }

// watch has nobody to listen to; the poll looks for other processes.
func (b *sqliteBackend) watch(ctx context.Context, _ func(uint64)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (b *sqliteBackend) close() error {
	close(b.closed)
	for range sqliteReaders {
		(<-b.readers).discard()
	}
	(<-b.writer).discard()
	return b.db.Close()
}

type sqliteSession struct {
	c    *sqliteConn
	free chan *sqliteConn
}

func (s *sqliteSession) prepared(ctx context.Context, statement string) (*sql.Stmt, error) {
	if p, ok := s.c.statements[statement]; ok {
		return p, nil
	}
	if len(s.c.statements) >= maxStatements {
		for _, p := range s.c.statements {
			_ = p.Close()
		}
		clear(s.c.statements)
	}
	p, err := s.c.conn.PrepareContext(ctx, strings.ReplaceAll(statement, "$", "?"))
	if err != nil {
		return nil, err
	}
	s.c.statements[statement] = p
	return p, nil
}

func (s *sqliteSession) query(ctx context.Context, statement string, args ...any) (rows, error) {
	p, err := s.prepared(ctx, statement)
	if err != nil {
		return nil, err
	}
	r, err := p.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s *sqliteSession) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	p, err := s.prepared(ctx, statement)
	if err != nil {
		return 0, err
	}
	r, err := p.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

func (s *sqliteSession) later(ctx context.Context, statement string, args ...any) error {
	_, err := s.exec(ctx, statement, args...)
	return err
}

func (s *sqliteSession) script(ctx context.Context, statements string) error {
	_, err := s.c.conn.ExecContext(ctx, statements)
	return err
}

func (s *sqliteSession) commit(ctx context.Context) error {
	if _, err := s.exec(ctx, "COMMIT"); err != nil {
		s.rollback()
		return err
	}
	s.free <- s.c
	return nil
}

func (s *sqliteSession) rollback() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := s.exec(ctx, "ROLLBACK"); err != nil {
		s.c.discard()
	}
	s.free <- s.c
}
