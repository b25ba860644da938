package store

import (
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

func TestIdentityComesBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		i := &Identity{
			Origin: hash(1), Instance: hash(2), Counter: math.MaxInt64, Verified: true, Operator: hash(3), Owner: hash(4),
			Revoked: "why", FirstSeenAt: clock, SeenAt: clock.Add(time.Second),
		}
		update(t, a, func(tx *Tx) error { return tx.PutIdentity(i) })
		require.NotZero(t, i.Revision)
		read := func() (got *Identity) {
			view(t, b, func(tx *Tx) (err error) {
				got, err = tx.Identity(hash(1))
				return err
			})
			return got
		}
		require.Equal(t, i, read())

		// A note about a refusal is nothing that anybody is told.
		before := read().Revision
		update(t, b, func(tx *Tx) error { return tx.NoteRefused(hash(1), clock.Add(time.Hour)) })
		require.Equal(t, clock.Add(time.Hour), read().RefusedAt)
		view(t, a, func(tx *Tx) error {
			now, err := tx.Revision()
			require.Equal(t, before, now)
			_, missing := tx.Identity(hash(7))
			require.ErrorIs(t, missing, ErrNotFound)
			_, missing = tx.Identity(strings.Repeat("x", maxText+1))
			require.ErrorIs(t, missing, ErrNotFound)
			return err
		})
		require.ErrorIs(t, a.Update(t.Context(), func(tx *Tx) error { return tx.NoteRefused(hash(7), clock) }), ErrNotFound)
		for _, bad := range []*Identity{
			{Origin: hash(1), Instance: hash(2), Counter: math.MaxInt64 + 1},
			{Instance: hash(2)},
			{Origin: hash(1)},
			{Origin: "ABC", Instance: hash(2)},
			{Origin: hash(1), Instance: hash(2), Revoked: "a\x00b"},
		} {
			require.ErrorIs(t, a.Update(t.Context(), func(tx *Tx) error { return tx.PutIdentity(bad) }), ErrInvalid)
		}
	})
}

func TestInstanceKeepsWhatItSaid(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, a, b *DB) {
		said := &Instance{
			Pubkey: hash(1), State: api.TDXSuperseded, Generation: 2, Origin: hash(2), Statement: []byte("{}"),
			Facts:        &api.InstanceFacts{Origin: api.Hex{1}, Boot: "boot", SSH: "closed", Counter: 1 << 60, AsOf: clock},
			RegisteredAt: clock, VerifiedAt: clock, ExpiresAt: clock,
		}
		silent := &Instance{Pubkey: hash(3), State: api.TDXVerified, Generation: 1, RegisteredAt: clock, VerifiedAt: clock, ExpiresAt: clock}
		update(t, a, func(tx *Tx) error {
			require.NoError(t, tx.PutInstance(said))
			return tx.PutInstance(silent)
		})
		view(t, b, func(tx *Tx) error {
			got, err := tx.Instance(hash(1))
			require.NoError(t, err)
			require.Equal(t, said.Facts, got.Facts)
			require.Equal(t, said.Statement, got.Statement)
			require.Equal(t, said.Origin, got.Origin)
			got, err = tx.Instance(hash(3))
			require.NoError(t, err)
			require.Nil(t, got.Facts)
			require.Empty(t, got.Statement)
			page, _, err := tx.Instances(InstanceFilter{State: api.TDXSuperseded, Limit: 10})
			require.Len(t, page, 1)
			return err
		})
		require.ErrorIs(t, a.Update(t.Context(), func(tx *Tx) error {
			return tx.PutInstance(&Instance{Pubkey: hash(5), State: api.TDXVerified, Origin: "ABC"})
		}), ErrInvalid)
	})
}

// A store that an earlier version made is brought up to date with what stands in
// it.
func TestInstancesOfAnEarlierVersionStay(t *testing.T) {
	t.Parallel()
	postgres, pgOptions := pgtest.DSN(t), options()
	pgOptions.MaxConns, pgOptions.Logger = 2, zap.NewNop()
	sqlite := filepath.Join(t.TempDir(), "registry.db")
	for dsn, begin := range map[string]func() (backend, error){
		sqlite:   func() (backend, error) { return openSQLite(t.Context(), sqlite) },
		postgres: func() (backend, error) { return openPostgres(t.Context(), postgres, pgOptions) },
	} {
		old, err := begin()
		require.NoError(t, err)
		require.NoError(t, migrate(t.Context(), old, migrations[:1]))
		s, err := old.begin(t.Context(), true)
		require.NoError(t, err)
		require.NoError(t, s.script(t.Context(), `INSERT INTO instances (pubkey, operator, owner, operator_key, owner_key, generation, state,
			revoked, tcb_status, advisories, measurements, policy, ppid_proven, registered_at, verified_at, expires_at, revision)
			VALUES ('ab', '', '', '', '', 2, 'verified', '', '', '', '', '', 1, 1, 1, 1, 1)`))
		require.NoError(t, s.commit(t.Context()))
		require.NoError(t, old.close())
		view(t, open(t, dsn), func(tx *Tx) error {
			i, err := tx.Instance("ab")
			require.NoError(t, err)
			require.Nil(t, i.Facts)
			require.Empty(t, i.Origin)
			return nil
		})
	}
}
