package store

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations names the steps, in order: file NAME.KIND.sql in the folder
// migrations. A step that was published is never edited.
var migrations = []string{"0001", "0002"}

// migrate brings the store to the version of this program, in one transaction
// that other replicas wait for.
func migrate(ctx context.Context, b backend, steps []string) (err error) {
	s, err := b.beginMigration(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the right to migrate: %w", b.classify(err))
	}
	open := true
	defer func() {
		if open {
			s.rollback()
		}
		err = b.classify(err)
	}()
	if err := s.script(ctx, `CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)`); err != nil {
		return err
	}
	version, err := schemaVersion(ctx, s)
	if err != nil {
		return err
	}
	if version > len(steps) {
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrNewer, version, len(steps))
	}
	if version == len(steps) {
		return nil
	}
	for n := version; n < len(steps); n++ {
		script, err := migrationFiles.ReadFile("migrations/" + steps[n] + "." + b.kind() + ".sql")
		if err != nil {
			return err
		}
		if err := s.script(ctx, string(script)); err != nil {
			return fmt.Errorf("migration %s: %w", steps[n], err)
		}
		if _, err := s.exec(ctx, `INSERT INTO schema_versions (version, applied_at) VALUES ($1, $2)`, n+1, time.Now().UnixMilli()); err != nil {
			return err
		}
	}
	if version == 0 {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		if _, err := s.exec(ctx, `INSERT INTO meta (one, store_id, revision, last_event, audit_seq, audit_hash, audit_at, audit_signed)
				VALUES (1, $1, 0, 0, 0, $2, 0, $3)`, hex.EncodeToString(id[:]), make([]byte, 32), []byte{}); err != nil {
			return err
		}
	}
	open = false
	return s.commit(ctx)
}

func schemaVersion(ctx context.Context, s session) (version int, err error) {
	r, err := s.query(ctx, `SELECT COALESCE(MAX(version), 0) FROM schema_versions`)
	if err != nil {
		return 0, err
	}
	for r.Next() {
		if err := r.Scan(&version); err != nil {
			_ = r.Close()
			return 0, err
		}
	}
	return version, errors.Join(r.Err(), r.Close())
}
