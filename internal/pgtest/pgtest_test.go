package pgtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/pgtest"
)

func ask(t *testing.T, dsn, query string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer func() { require.NoError(t, conn.Close(ctx)) }()
	var answer string
	return answer, conn.QueryRow(ctx, query).Scan(&answer)
}

func TestDatabasesAreSeparateAndSynced(t *testing.T) {
	one, other := pgtest.DSN(t), pgtest.DSN(t)
	first, err := ask(t, one, "SELECT current_database()::text")
	require.NoError(t, err)
	second, err := ask(t, other, "SELECT current_database()::text")
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	fsync, err := ask(t, one, "SELECT current_setting('fsync')")
	require.NoError(t, err)
	require.Equal(t, "on", fsync)
}

func TestCrashedServerComesBack(t *testing.T) {
	s := pgtest.New(t)
	dsn := s.DSN(t)
	s.Crash(t)
	_, err := ask(t, dsn, "SELECT 'here'")
	require.Error(t, err)
	s.Start(t)
	answer, err := ask(t, dsn, "SELECT 'here'")
	require.NoError(t, err)
	require.Equal(t, "here", answer)
	s.Stop(t)
}
