package store

import (
	"context"
	"fmt"
	"time"

	"github.com/telemark-otel/telemark/internal/registry/api"
)

const (
	// sweepChunk bounds how many rows one transaction deletes, since others
	// wait for it.
	sweepChunk = 1000
	// Replicas have clocks of their own. A session that one takes for ended
	// must not be forgotten while another would still accept it.
	sessionMargin = time.Hour
	tokenMargin   = 7 * 24 * time.Hour
)

// Sweep deletes what is past its time: sessions an hour after their end, tokens
// a week after theirs, machines that wait for approval and were not heard of
// since pendingBefore, and events but the last keep. It works in steps, between
// which others write.
func (d *DB) Sweep(ctx context.Context, now, pendingBefore time.Time, keep int) error {
	steps := []func(*Tx) (int64, error){
		func(t *Tx) (int64, error) {
			return t.exec(`DELETE FROM used_sessions WHERE id IN
				(SELECT id FROM used_sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`,
				now.Add(-sessionMargin).UnixMilli(), sweepChunk)
		},
		func(t *Tx) (int64, error) {
			return t.exec(`DELETE FROM join_tokens WHERE id IN
				(SELECT id FROM join_tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`,
				now.Add(-tokenMargin).UnixMilli(), sweepChunk)
		},
		func(t *Tx) (int64, error) { return t.sweepPending(pendingBefore) },
		func(t *Tx) (int64, error) {
			return t.exec(`DELETE FROM events WHERE revision IN
				(SELECT revision FROM events WHERE revision <=
					(SELECT revision FROM events ORDER BY revision DESC LIMIT 1 OFFSET $1)
				ORDER BY revision LIMIT $2)`,
				max(keep, 0), sweepChunk)
		},
	}
	for _, step := range steps {
		for more := true; more; {
			err := d.Update(ctx, func(t *Tx) error {
				n, err := step(t)
				more = n >= sweepChunk
				return err
			})
			if err != nil {
				return fmt.Errorf("sweeping the store: %w", err)
			}
		}
	}
	return nil
}

// sweepPending deletes machines that wait for approval and were never taken in
// by anybody.
func (t *Tx) sweepPending(before time.Time) (int64, error) {
	var old []string
	err := t.each(func(scan scanner) error {
		var ekHash string
		err := scan(&ekHash)
		old = append(old, ekHash)
		return err
	}, `SELECT m.ek_hash FROM machines m WHERE m.key_state = $1 AND m.created_at < $2 AND m.seen_at < $2
			AND m.allowed = 0 AND m.revoked = '' AND NOT EXISTS
				(SELECT 1 FROM machine_keys k WHERE k.ek_hash = m.ek_hash AND k.state <> $1)
			LIMIT $3`, string(api.StatePending), millis(before), sweepChunk)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	if _, err := t.NextRevision(); err != nil {
		return 0, err
	}
	for _, ekHash := range old {
		if err := t.later(`DELETE FROM machines WHERE ek_hash = $1`, ekHash); err != nil {
			return 0, err
		}
	}
	return int64(len(old)), nil
}
