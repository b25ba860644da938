package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/audit"
)

func TestAuditIsOneChainOverReplicas(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		const writers, each = 6, 10
		var all sync.WaitGroup
		for w := range writers {
			db := []*DB{a, b}[w%2]
			all.Go(func() {
				for range each {
					if err := db.Update(context.Background(), func(tx *Tx) error {
						for _, action := range []string{"first", "second"} {
							if err := tx.Audit(audit.Entry{Actor: "w", Action: action}); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						t.Errorf("a writer: %v", err)
					}
				}
			})
		}
		all.Wait()
		entries := verifyAudit(t, a)
		require.Len(t, entries, 2*writers*each)
		for i, e := range entries {
			require.Equal(t, []string{"first", "second"}[i%2], e.Action)
			require.Equal(t, clock, e.At)
		}
	})
}

func TestAuditKeepsWhatWasHashed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, _ *DB) {
		detail := `{"z": [1.0, "é \u0000 \\"],` + "\n" + ` "a": 1e2}`
		update(t, a, func(tx *Tx) error {
			require.ErrorIs(t, tx.Audit(audit.Entry{Actor: "a\x00b"}), ErrInvalid)
			require.ErrorIs(t, tx.Audit(audit.Entry{Actor: "a\xff"}), ErrInvalid)
			require.ErrorIs(t, tx.Audit(audit.Entry{Detail: []byte(`{`)}), ErrInvalid)
			require.ErrorIs(t, tx.Audit(audit.Entry{Detail: []byte(`"` + strings.Repeat("x", maxDetail) + `"`)}), ErrInvalid)
			return tx.Audit(audit.Entry{Actor: "ä", Action: "b", Subject: "c", Detail: []byte(detail), At: clock.AddDate(1, 0, 0)})
		})
		entries := verifyAudit(t, a)
		require.Len(t, entries, 1)
		require.Equal(t, `{"z":[1.0,"é \u0000 \\"],"a":1e2}`, string(entries[0].Detail))
		require.Equal(t, clock.AddDate(1, 0, 0), entries[0].At)
	})
}

func TestAuditLogIsAppendOnly(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		for n := range 3 {
			update(t, a, func(tx *Tx) error { return enrol(tx, n) })
		}
		before := verifyAudit(t, b)
		const row = ` INTO audit_log (seq, at, actor, action, subject, detail, hash) `
		statements := []string{
			`UPDATE audit_log SET actor = 'nobody'`,
			`UPDATE audit_log SET actor = 'nobody' WHERE seq = 2`,
			`DELETE FROM audit_log`,
			`DELETE FROM audit_log WHERE seq = 3`,
			`INSERT` + row + `SELECT 9, at, actor, action, subject, detail, hash FROM audit_log WHERE seq = 3`,
			`INSERT` + row + `SELECT 0, at, actor, action, subject, detail, hash FROM audit_log WHERE seq = 3`,
			`INSERT` + row + `SELECT * FROM audit_log WHERE seq = 1 ON CONFLICT (seq) DO UPDATE SET actor = 'nobody'`,
		}
		switch a.Kind() {
		case "sqlite":
			statements = append(statements, `REPLACE`+row+`SELECT 2, at, 'nobody', action, subject, detail, hash FROM audit_log WHERE seq = 2`)
		case "postgres":
			statements = append(statements, `TRUNCATE audit_log`)
		}
		for _, statement := range statements {
			require.ErrorContains(t, raw(t, a, statement), "append-only", statement)
		}
		require.Equal(t, before, verifyAudit(t, b))
	})
}

// Somebody who owns the database can switch the triggers off.
func TestForgedAuditLogIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		forge  string
		expect error
	}{
		"changed":   {`UPDATE audit_log SET actor = 'nobody' WHERE seq = 2`, audit.ErrChanged},
		"removed":   {`DELETE FROM audit_log WHERE seq = 2`, audit.ErrGap},
		"cut off":   {`DELETE FROM audit_log WHERE seq = 3`, audit.ErrTruncated},
		"all of it": {`DELETE FROM audit_log`, audit.ErrTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, a, b *DB) {
				for n := range 3 {
					update(t, a, func(tx *Tx) error { return enrol(tx, n) })
				}
				off := map[string]string{
					"sqlite":   `DROP TRIGGER audit_log_update; DROP TRIGGER audit_log_delete`,
					"postgres": `ALTER TABLE audit_log DISABLE TRIGGER ALL`,
				}
				require.NoError(t, raw(t, a, off[a.Kind()]))
				require.NoError(t, raw(t, a, c.forge))
				view(t, b, func(tx *Tx) error {
					head, err := tx.AuditHead()
					require.NoError(t, err)
					var chain audit.Chain
					require.NoError(t, chain.Expect(head.Seq, head.Hash))
					entries, err := tx.AuditEntries(0, 10)
					require.NoError(t, err)
					var found error
					for _, e := range entries {
						if found = chain.Append(&e); found != nil {
							break
						}
					}
					if found == nil {
						found = chain.End()
					}
					require.ErrorIs(t, found, c.expect)
					return nil
				})
			})
		})
	}
}

func TestChangeWhoseHeadCannotBeSignedIsRefused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		noKey := errors.New("no key")
		a.options.Sign = func(uint64, []byte, time.Time) ([]byte, error) { return nil, noKey }
		require.ErrorIs(t, a.Update(t.Context(), func(tx *Tx) error { return enrol(tx, 1) }), noKey)
		update(t, b, func(tx *Tx) error { return enrol(tx, 2) })
		require.Len(t, verifyAudit(t, b), 1)
		// What is not audited needs no signature.
		update(t, a, func(tx *Tx) error { return putKey(tx, 3) })
	})
}
