package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

const (
	channel = "telemark_registry" // of NOTIFY; the payload is a revision
	// writersLock is the advisory lock of those who write: "telemark" as a
	// number. It ends with the transaction, whatever becomes of its holder.
	writersLock = 0x74656c656d61726b
	maxQueue    = 256 // statements that wait to be sent
)

// pgBackend is a pool of connections. Writers of all replicas queue up at one
// advisory lock, and read what was committed before they got it.
type pgBackend struct {
	pool   *pgxpool.Pool
	logger *zap.Logger
}

func openPostgres(ctx context.Context, dsn string, o Options) (*pgBackend, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("reading the store's address: %w", err) // has no password in it
	}
	if err := checkTransport(dsn, config.ConnConfig); err != nil {
		return nil, err
	}
	config.MaxConns = int32(o.MaxConns)
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if _, ok := config.ConnConfig.RuntimeParams["application_name"]; !ok {
		config.ConnConfig.RuntimeParams["application_name"] = "registryd"
	}
	config.PingTimeout = 5 * time.Second
	config.AfterConnect = setUp
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	b := &pgBackend{pool: pool, logger: o.Logger}
	if err := b.inspect(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return b, nil
}

// setUp prepares a connection. A replica that stands still in the middle of a
// transaction must not stop the others for ever; what was answered for has to be
// on disk, whatever the server's default is; and plans, which the server keeps,
// must go along indexes also when they were made while the tables were empty.
func setUp(ctx context.Context, conn *pgx.Conn) error {
	settings := [][2]string{
		{"lock_timeout", strconv.FormatInt(lockTime.Milliseconds(), 10) + "ms"},
		{"idle_in_transaction_session_timeout", "30s"},
		{"client_min_messages", "warning"},
		{"enable_seqscan", "off"},
		{"enable_sort", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"jit", "off"}, // which costs more than any query here, and is taken by its price
	}
	var b strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&b, "SET %s = '%s'; ", s[0], s[1])
	}
	b.WriteString(`SELECT set_config('synchronous_commit', 'on', false)
		WHERE current_setting('synchronous_commit') IN ('off', 'local')`)
	_, err := conn.Exec(ctx, b.String())
	return err
}

// inspect looks at the server's settings that decide what a commit is worth.
func (b *pgBackend) inspect(ctx context.Context) error {
	var encoding, fsync string
	err := b.pool.QueryRow(ctx, `SELECT current_setting('server_encoding'), current_setting('fsync')`).Scan(&encoding, &fsync)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the store's database has the encoding %.64q, it has to be UTF8", encoding)
	}
	if fsync != "on" {
		b.logger.Error("the PostgreSQL server runs with fsync off: what the registry answered for is lost when its machine fails")
	}
	return nil
}

func (b *pgBackend) kind() string { return "postgres" }

func (b *pgBackend) begin(ctx context.Context, writing bool) (session, error) {
	if writing {
		return b.start(ctx, fmt.Sprintf("BEGIN; SELECT pg_advisory_xact_lock(%d)", writersLock))
	}
	return b.start(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
}

func (b *pgBackend) beginMigration(ctx context.Context) (session, error) {
	return b.start(ctx, fmt.Sprintf("BEGIN; SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock(%d)", writersLock))
}

// start begins a transaction. Connections that died in the pool are passed
// over: nothing was done on them.
func (b *pgBackend) start(ctx context.Context, begin string) (session, error) {
	var err error
	for range b.pool.Config().MaxConns + 1 {
		var conn *pgxpool.Conn
		if conn, err = b.pool.Acquire(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", errLost, err)
		}
		s := &pgSession{conn: conn, backend: b, queue: &pgx.Batch{}}
		if err = s.script(ctx, begin); err == nil {
			return s, nil
		}
		dead := conn.Conn().IsClosed()
		s.rollback()
		if !dead || ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

func (b *pgBackend) classify(err error) error {
	var e *pgconn.PgError
	switch {
	case err == nil, errors.Is(err, ErrUnavailable), errors.Is(err, errConflict):
		return err
	case errors.As(err, &e) && len(e.Code) == 5:
		switch e.Code {
		case "40001", "40P01": // serialisation failure, deadlock
			return fmt.Errorf("%w: %w", errConflict, err)
		case "25006": // the server has become a standby
			b.pool.Reset()
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case "25P03", "55P03": // idle in a transaction, waiting for a lock
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		switch e.Code[:2] {
		case "08", "53", "57", "58", "F0", "XX", "28": // connection, resources, operator, system, internal, password
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	case lost(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// announce tells other replicas of a revision, at the commit.
func (b *pgBackend) announce(ctx context.Context, s session, revision uint64) error {
	return s.later(ctx, `SELECT pg_notify($1, $2)`, channel, strconv.FormatUint(revision, 10))
}

// watch listens on a connection of its own.
func (b *pgBackend) watch(ctx context.Context, saw func(uint64)) error {
	conn, err := pgx.ConnectConfig(ctx, b.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if revision, err := strconv.ParseUint(n.Payload, 10, 63); err == nil {
			saw(revision)
		}
	}
}

func (b *pgBackend) close() error {
	b.pool.Close()
	return nil
}

// pgSession is a transaction on one connection. Statements whose results
// nobody wants are sent together with the next one that somebody waits for.
type pgSession struct {
	conn    *pgxpool.Conn
	backend *pgBackend
	queue   *pgx.Batch // never nil
}

// note marks errors that came with the end of the connection.
func (s *pgSession) note(err error) error {
	if err != nil && s.conn.Conn().IsClosed() {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

func (s *pgSession) query(ctx context.Context, statement string, args ...any) (rows, error) {
	if s.queue.Len() == 0 {
		r, err := s.conn.Query(ctx, statement, args...)
		if err != nil {
			return nil, s.note(err)
		}
		return &pgRows{Rows: r, session: s}, nil
	}
	results, err := s.send(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	r, err := results.Query()
	if err != nil {
		_ = results.Close()
		return nil, s.note(err)
	}
	return &pgRows{Rows: r, session: s, results: results}, nil
}

// send sends the queue and one statement, whose result is next.
func (s *pgSession) send(ctx context.Context, statement string, args ...any) (pgx.BatchResults, error) {
	s.queue.Queue(statement, args...)
	results := s.conn.SendBatch(ctx, s.queue)
	n := s.queue.Len() - 1
	s.queue = &pgx.Batch{} // results go on using the old one
	for range n {
		if _, err := results.Exec(); err != nil {
			_ = results.Close()
			return nil, s.note(err)
		}
	}
	return results, nil
}

func (s *pgSession) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	results, err := s.send(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	tag, err := results.Exec()
	if err := errors.Join(err, results.Close()); err != nil {
		return 0, s.note(err)
	}
	return tag.RowsAffected(), nil
}

func (s *pgSession) later(ctx context.Context, statement string, args ...any) error {
	if s.queue.Len() >= maxQueue {
		_, err := s.exec(ctx, statement, args...)
		return err
	}
	s.queue.Queue(statement, args...)
	return nil
}

func (s *pgSession) script(ctx context.Context, statements string) error {
	_, err := s.conn.Exec(ctx, statements)
	return s.note(err)
}

func (s *pgSession) commit(ctx context.Context) error {
	defer s.conn.Release()
	if s.queue.Len() > 0 {
		results, err := s.send(ctx, "SELECT 1")
		if err != nil {
			return err
		}
		if err := results.Close(); err != nil {
			return s.note(err)
		}
	}
	tag, err := s.conn.Exec(ctx, "COMMIT")
	if err != nil {
		return s.note(err)
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("the database answered %q to a commit", tag.String())
	}
	return nil
}

// rollback gives the connection back. The pool closes one that is not outside
// of a transaction.
func (s *pgSession) rollback() {
	defer s.conn.Release()
	if s.conn.Conn().IsClosed() || s.conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = s.conn.Exec(ctx, "ROLLBACK")
}

type pgRows struct {
	pgx.Rows
	session *pgSession
	results pgx.BatchResults // nil when the query was sent alone
}

// Scan reads empty bytes as nil, as SQLite's driver does.
func (r *pgRows) Scan(into ...any) error {
	if err := r.Rows.Scan(into...); err != nil {
		return err
	}
	for _, v := range into {
		if b, ok := v.(*[]byte); ok && len(*b) == 0 {
			*b = nil
		}
	}
	return nil
}

func (r *pgRows) Err() error { return r.session.note(r.Rows.Err()) }

func (r *pgRows) Close() error {
	r.Rows.Close()
	if r.results == nil {
		return nil
	}
	return r.session.note(r.results.Close())
}
