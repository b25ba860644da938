package store

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/pgtest"
)

func TestReplicasMigrateOneAfterTheOther(t *testing.T) {
	for kind, dsn := range map[string]string{
		"sqlite": filepath.Join(t.TempDir(), "registry.db"), "postgres": pgtest.DSN(t),
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ids := make([]string, 5)
			var all sync.WaitGroup
			for n := range ids {
				all.Go(func() {
					db, err := Open(context.Background(), dsn, options())
					if err != nil {
						t.Errorf("opening: %v", err)
						return
					}
					ids[n] = db.ID()
					if err := db.Update(context.Background(), func(tx *Tx) error { return enrol(tx, n) }); err != nil {
						t.Errorf("writing: %v", err)
					}
					if err := db.Close(); err != nil {
						t.Errorf("closing: %v", err)
					}
				})
			}
			all.Wait()
			require.Len(t, ids[0], 32)
			for _, id := range ids {
				require.Equal(t, ids[0], id)
			}
			require.Len(t, verifyAudit(t, open(t, dsn)), len(ids))
		})
	}
}

func TestStoreOfANewerVersionIsRefused(t *testing.T) {
	for kind, dsn := range map[string]string{
		"sqlite": filepath.Join(t.TempDir(), "registry.db"), "postgres": pgtest.DSN(t),
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			old := open(t, dsn)
			update(t, old, func(tx *Tx) error { return enrol(tx, 1) })
			// A newer replica comes while the old one runs.
			require.NoError(t, raw(t, old, fmt.Sprintf(`INSERT INTO schema_versions (version, applied_at) VALUES (%d, 0)`, len(migrations)+1)))
			require.ErrorIs(t, old.Update(t.Context(), func(tx *Tx) error { return enrol(tx, 2) }), ErrNewer)
			_, err := Open(t.Context(), dsn, options())
			require.ErrorIs(t, err, ErrNewer)
			require.NotErrorIs(t, err, ErrUnavailable)
		})
	}
}

func TestMigrationThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		steps := append([]string{}, migrations...)
		require.Error(t, migrate(t.Context(), a.backend, append(steps, "0000-missing")))
		s, err := b.backend.beginMigration(t.Context())
		require.NoError(t, err)
		defer s.rollback()
		version, err := schemaVersion(t.Context(), s)
		require.NoError(t, err)
		require.Equal(t, len(migrations), version)
	})
}

// Both databases have the same tables, columns and indexes.
func TestMigrationsAgree(t *testing.T) {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	require.NoError(t, err)
	require.Len(t, files, 2*len(migrations))
	column := regexp.MustCompile(`(?m)^  ([a-z_]+) +(TEXT|BIGINT|INTEGER|BYTEA|BLOB)\b|^CREATE TABLE ([a-z_]+)|^CREATE (?:UNIQUE )?(INDEX .*;)|NOT (NULL)`)
	same := strings.NewReplacer("INTEGER", "BIGINT", "BLOB", "BYTEA")
	for n, step := range migrations {
		require.Equal(t, fmt.Sprintf("%04d", n+1), step[:4])
		var found [2][][]string
		for i, kind := range []string{"sqlite", "postgres"} {
			script, err := migrationFiles.ReadFile("migrations/" + step + "." + kind + ".sql")
			require.NoError(t, err)
			for _, m := range column.FindAllStringSubmatch(string(script), -1) {
				found[i] = append(found[i], []string{m[1], same.Replace(m[2]), m[3], m[4], m[5]})
			}
		}
		require.NotEmpty(t, found[0])
		require.Equal(t, found[0], found[1])
	}
}

func TestDatabaseOfAnotherProgramIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	db := open(t, path)
	require.NoError(t, raw(t, db, `PRAGMA application_id = 7`))
	_, err := Open(t.Context(), path, options())
	require.ErrorContains(t, err, "another program")

	text := filepath.Join(t.TempDir(), "notes.txt")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o600))
	_, err = Open(t.Context(), text, options())
	require.ErrorIs(t, err, ErrUnavailable)
	_, err = Open(t.Context(), t.TempDir(), options())
	require.ErrorContains(t, err, "not a file")
	_, err = Open(t.Context(), filepath.Join(t.TempDir(), "no", "such", "folder.db"), options())
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestStoreIsReadableByItsOwnerOnly(t *testing.T) {
	modes := func(path string) (modes []fs.FileMode) {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			info, err := os.Stat(path + suffix)
			require.NoError(t, err)
			modes = append(modes, info.Mode().Perm())
		}
		return modes
	}
	private := []fs.FileMode{0o600, 0o600, 0o600}
	path := filepath.Join(t.TempDir(), "a?b=c%d#e f.db")
	db := open(t, path)
	update(t, db, func(tx *Tx) error { return enrol(tx, 1) })
	require.Equal(t, private, modes(path))

	for _, suffix := range []string{"", "-wal", "-shm"} {
		require.NoError(t, os.Chmod(path+suffix, 0o644))
	}
	open(t, path)
	require.Equal(t, private, modes(path))
}

func TestPasswordStaysOutOfErrors(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:hunter2@127.0.0.1:1/db?connect_timeout=1",
		"postgres://u:hunter2@127.0.0.1:port/db",
		"postgres://u:hunter2@[::1/db",
		"postgres://u:hunter2@127.0.0.1/db?sslmode=perhaps",
	} {
		_, err := Open(t.Context(), dsn, options())
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
