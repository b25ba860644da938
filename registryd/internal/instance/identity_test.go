package instance

import (
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
	"github.com/telemark-otel/telemark/internal/pgtest"
	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/registryd/internal/store"
	"github.com/telemark-otel/telemark/test/tdxlab"
)

func TestStateThatWasSetBackIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		v := newVM(1, 9)
		r.mustTell(v)
		for _, counter := range []uint64{8, 1} {
			_, err := r.told(r.says(v.at(counter)))
			refused(t, api.StateRollback, err)
		}
		require.EqualValues(t, 9, r.seen(v).Counter)
		r.mustTell(v) // a plain renewal
		r.mustTell(v.at(12))
		require.EqualValues(t, 12, r.seen(v).Counter)

		// After a reboot it goes on from what the disk came with.
		_, err := r.told(r.says(v.reboot(7, 11)))
		refused(t, api.StateRollback, err)
		_, err = r.told(r.says(v.reboot(7, 11).at(40)))
		refused(t, api.StateRollback, err)
		r.mustTell(v.reboot(7, 12))
		require.EqualValues(t, 13, r.seen(v).Counter)
		require.Equal(t, api.Hex(public(key(7))), r.seen(v).Instance)
	})
}

func TestIdentityThatWentOnDoesNotComeBackAsAnEarlierInstance(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		v := newVM(1, 9)
		r.mustTell(v)
		second := v.reboot(7, 9)
		r.mustTell(second)
		third := second.reboot(8, 10)
		r.mustTell(third)
		require.Equal(t, 2, r.actions()["identity.link"])
		require.Contains(t, string(r.last("identity.link").Detail), hex.EncodeToString(public(key(7))))

		for _, old := range []*vm{v.at(9), v.at(100), second, second.at(100)} {
			_, err := r.told(r.says(old))
			refused(t, api.IdentitySuperseded, err)
		}
		// Nor without a word.
		silent := r.says(second)
		silent.Statement = nil
		r.quote(silent, 2)
		_, err := r.told(silent)
		refused(t, api.StatementRequired, err)

		i, err := r.Instance(t.Context(), hex.EncodeToString(public(key(7))))
		require.NoError(t, err)
		require.Equal(t, api.TDXSuperseded, i.State)
		require.Equal(t, api.Hex(public(key(8))), i.Facts.SupersededBy)
		page, err := r.Instances(t.Context(), store.InstanceFilter{Limit: 10, State: api.TDXVerified})
		require.NoError(t, err)
		require.Len(t, page.Items, 1)

		// Two that were started from copies of one disk: the second is late.
		r.mustTell(third.reboot(10, 11))
		_, err = r.told(r.says(third.reboot(11, 11)))
		refused(t, api.StateRollback, err)

		id, err := r.Identity(t.Context(), hex.EncodeToString(public(v.origin)))
		require.NoError(t, err)
		require.Equal(t, api.Hex(public(key(10))), id.Instance)
		require.EqualValues(t, 12, id.Counter)
		require.True(t, id.Verified)
		require.Equal(t, "boot-10", id.Facts.Boot)
	})
}

func TestIdentityOutlivesLeasesAndTheSweeper(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		v := newVM(1, 9)
		r.mustTell(v)
		r.at = r.at.Add(400 * 24 * time.Hour)
		require.NoError(t, r.o.Store.Sweep(t.Context(), r.at, r.at, 0))
		require.EqualValues(t, 9, r.seen(v).Counter)
	})
}

func TestPartiesOfAnIdentityStayWithIt(t *testing.T) {
	r := newRig(t, nil)
	v := newVM(1, 9)
	r.mustTell(v)
	for role, reason := range map[string]api.Reason{"operator": api.OperatorChanged, "owner": api.OwnerChanged} {
		next := v.reboot(7, 9)
		reg := r.says(next, func(s *statement.Statement) {
			if role == "operator" {
				s.Operator = public(key(20))
			} else {
				s.Owner = public(key(20))
			}
		})
		if role == "operator" {
			reg.Operator = partyOf(next.instance, key(20))
		} else {
			reg.Owner = partyOf(next.instance, key(20))
		}
		r.quote(reg, 2)
		possess(reg, next.instance)
		_, err := r.told(reg)
		refused(t, reason, err)
	}
}

// The first that the registry hears of an identity may be one of its later boots.
func TestOriginDoesNotComeBackThoughItNeverRegistered(t *testing.T) {
	r := newRig(t, nil)
	v := newVM(1, 9)
	r.mustTell(v.reboot(7, 9))
	_, err := r.told(r.says(v.at(100)))
	refused(t, api.IdentitySuperseded, err)
}

func TestLockedOrRolledBackInstanceHasNothingToRegister(t *testing.T) {
	r := newRig(t, nil)
	v := newVM(1, 0)
	for _, state := range []string{statement.Locked, statement.RolledBack} {
		reg := r.says(v, func(s *statement.Statement) { s.State, s.Operator, s.Owner = state, nil, nil })
		reg.Operator, reg.Owner = nil, nil
		r.quote(reg, 2)
		_, err := r.told(reg)
		refused(t, api.StatementContradicted, err)
		require.ErrorContains(t, err, "has nothing to register")
	}
}

func TestInstanceIsOfOneIdentity(t *testing.T) {
	r := newRig(t, nil)
	v := newVM(1, 9)
	r.mustTell(v.reboot(7, 9))
	_, err := r.told(r.says(newVM(2, 50).reboot(7, 50)))
	refused(t, api.StatementMismatch, err)
}

func TestRevokedIdentityDoesNotComeBackWithAnotherKey(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		v := newVM(1, 9)
		r.mustTell(v)
		_, err := r.Revoke(t.Context(), "ops", hex.EncodeToString(public(v.instance)), "stolen")
		require.NoError(t, err)
		_, err = r.told(r.says(v))
		refused(t, api.InstanceRevoked, err)
		_, err = r.told(r.says(v.reboot(7, 9)))
		refused(t, api.InstanceRevoked, err)
		id, err := r.Identity(t.Context(), hex.EncodeToString(public(v.origin)))
		require.NoError(t, err)
		require.Equal(t, "stolen", id.Revoked)
	})
}

func TestAttemptsToGoBackAreAuditedOnceAnHour(t *testing.T) {
	r := newRig(t, nil)
	v := newVM(1, 9)
	r.mustTell(v)
	r.mustTell(v.reboot(7, 9))
	for range 5 {
		_, err := r.told(r.says(v.reboot(8, 3)))
		refused(t, api.StateRollback, err)
		_, err = r.told(r.says(v))
		refused(t, api.IdentitySuperseded, err)
	}
	r.mustTell(v.reboot(7, 9)) // a renewal forgets nothing
	_, err := r.told(r.says(v))
	refused(t, api.IdentitySuperseded, err)
	require.Equal(t, 1, r.actions()["identity.refused"])
	require.Contains(t, string(r.last("identity.refused").Detail), `"reason":"state_rollback"`)
	r.at = r.at.Add(refusedEvery)
	_, err = r.told(r.says(v))
	refused(t, api.IdentitySuperseded, err)
	require.Equal(t, 2, r.actions()["identity.refused"])

	// A quote that nothing verifies adds nothing.
	r.at = r.at.Add(refusedEvery)
	reg := r.says(v.reboot(8, 3))
	r.quote(reg, 2, func(q *tdxlab.Quote) { q.BadSignature = true })
	_, err = r.told(reg)
	refused(t, api.QuoteSignature, err)
	require.Equal(t, 2, r.actions()["identity.refused"])
}

// With verification switched off anybody can say anything: it is kept apart from
// what was verified, and never stands in its place.
func TestUnverifiedStatementsNeverMoveWhatWasVerified(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		v, other := newVM(1, 9), newVM(4, 3)
		r.mustTell(v)
		on := r.o.Quotes
		r.o.Quotes = nil
		_, err := r.told(r.says(v.at(10)))
		refused(t, api.PPIDEncrypted, err)
		_, err = r.told(r.says(v.reboot(7, 9)))
		refused(t, api.PPIDEncrypted, err)
		require.EqualValues(t, 9, r.seen(v).Counter)

		// On a development machine all works, and says that it proves nothing.
		i := r.mustTell(other.at(1000))
		require.Equal(t, api.FactsUnverified, i.Facts.Evidence)
		require.Equal(t, api.TDXUnverified, i.State)
		require.False(t, r.seen(other).Verified)
		_, err = r.told(r.says(other.at(999)))
		refused(t, api.StateRollback, err)
		require.Zero(t, r.actions()["identity.refused"])

		// What was said then is forgotten with the first verified word.
		r.o.Quotes = on
		i = r.mustTell(other)
		require.Equal(t, api.FactsStatement, i.Facts.Evidence)
		require.EqualValues(t, 3, r.seen(other).Counter)
		require.True(t, r.seen(other).Verified)
	})
}

func TestUnknownIdentityIsToldAsSuchUnderSignature(t *testing.T) {
	r := newRig(t, nil)
	i := r.seen(newVM(1, 1))
	require.False(t, i.Known())
	require.Zero(t, i.Counter)
	_, err := r.Identity(t.Context(), strings.Repeat("ab", 32))
	refused(t, api.NotFound, err)
	r.o.Signer = nil
	_, err = r.SignedIdentity(t.Context(), strings.Repeat("ab", 32), make([]byte, 32))
	refused(t, api.Internal, err)
}

// Of a hundred registrations at once, at two replicas, of growing counters and
// from two copies of the disk, what is kept never went back, and one copy won.
func TestHundredStatementsAtOnceNeverMoveTheCounterBack(t *testing.T) {
	for kind, dsn := range map[string]string{"sqlite": filepath.Join(t.TempDir(), "registry.db"), "postgres": pgtest.DSN(t)} {
		t.Run(kind, func(t *testing.T) { raceOfStatements(t, newRigOn(t, dsn, nil), newRigOn(t, dsn, nil)) })
	}
}

func raceOfStatements(t *testing.T, r, replica *rig) {
	v := newVM(1, 9)
	r.mustTell(v)
	regs := make([]*api.Registration, 100)
	for n := range regs {
		regs[n] = r.says(v.reboot(byte(10+n%2), 9).at(uint64(10 + n)))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var highest uint64
	winners, reasons := map[string]bool{}, map[api.Reason]int{}
	for n, reg := range regs {
		wg.Go(func() {
			_, err := []*rig{r, replica}[n/2%2].told(reg)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				reasons[api.ReasonOf(err)]++
				return
			}
			winners[hex.EncodeToString(reg.InstancePubkey)] = true
			highest = max(highest, uint64(10+n))
		})
	}
	wg.Wait()
	require.Len(t, winners, 1)
	require.Equal(t, highest, r.seen(v).Counter)
	require.GreaterOrEqual(t, reasons[api.StateRollback], 50)
	for reason := range reasons {
		require.Equal(t, api.StateRollback, reason)
	}
	require.Equal(t, 1, r.actions()["identity.link"])

	// Every accepted counter is at least the one before.
	require.NoError(t, r.o.Store.View(t.Context(), func(tx *store.Tx) error {
		entries, err := tx.AuditEntries(0, 1000)
		require.NoError(t, err)
		var last uint64
		for i := range entries {
			var detail struct{ Counter uint64 }
			require.NoError(t, json.Unmarshal(entries[i].Detail, &detail))
			if entries[i].Action == "instance.register" || entries[i].Action == "instance.attest" {
				require.GreaterOrEqual(t, detail.Counter, last)
				last = detail.Counter
			}
		}
		return nil
	}))
}
