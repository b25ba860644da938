package store

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// "prefer", which is what no sslmode means, sends the password and everything
// else in the clear to whoever answers and offers no TLS.
func TestDatabaseOnAnotherMachineIsNotSpokenToInTheClearByDefault(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	ended, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ended.Done() // nothing is to be dialled
	for dsn, refused := range map[string]bool{
		"postgres://registry@db.example/registry":                                   true,
		"postgres://registry@192.0.2.7,127.0.0.1/registry":                          true,
		"postgres://registry@127.0.0.1,192.0.2.7/registry":                          true,
		"postgres://registry@db.example/registry?sslmode=":                          true,
		"postgres://registry@db.example/registry?sslmode=verify-full":               false,
		"postgres://registry@db.example/registry?sslmode=disable":                   false,
		"postgres://registry@127.0.0.1/registry":                                    false,
		"postgres://registry@[::1]/registry":                                        false,
		"postgres://registry@localhost/registry":                                    false,
		"postgres://registry@/registry?host=/var/run/postgresql":                    false,
		"postgres://registry@/registry?host=/var/run/postgresql,db.example&port=54": true,
	} {
		_, err := openPostgres(ended, dsn, Options{MaxConns: 2})
		require.Error(t, err)
		if refused {
			require.ErrorContains(t, err, "sslmode", dsn)
		} else {
			require.NotContains(t, err.Error(), "sslmode", dsn)
		}
	}
	t.Setenv("PGSSLMODE", "verify-full")
	_, err := openPostgres(ended, "postgres://registry@db.example/registry", Options{MaxConns: 2})
	require.NotContains(t, err.Error(), "sslmode")
}
