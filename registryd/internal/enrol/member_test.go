package enrol_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/registry/api"
	"github.com/telemark-otel/telemark/internal/tpmattest/attesttest"
	"github.com/telemark-otel/telemark/registryd/internal/enrol"
	"github.com/telemark-otel/telemark/registryd/internal/store"
)

func TestPendingMachineIsEnrolledByATokenOrAnImport(t *testing.T) {
	for name, join := range map[string]func(*world, *machine){
		"token": func(w *world, m *machine) { m.token = w.newToken(1) },
		"allow-list": func(w *world, m *machine) {
			w.update(func(tx *store.Tx) error {
				row, err := tx.Machine(m.hash(w.t))
				if err != nil {
					return err
				}
				row.Allowed = true
				return tx.PutMachine(row)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.newMachine()
			first := w.pending(m)
			require.Zero(t, first.Expires)
			require.Equal(t, w.clock.now().Add(time.Minute), first.RenewAt)
			join(w, m)
			w.clock.pass(time.Minute)
			got := w.enrolled(m)
			require.Equal(t, w.clock.now(), w.keyRow(got.KID).EnrolledAt)
			require.Equal(t, "enrolled", w.events()[len(w.events())-1].What)
		})
	}
}

// A machine that waits and asks again makes no noise; once in half a lease its
// attestation is renewed, so that it can be approved.
func TestPendingMachineAsksAgain(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	w.pending(m)
	for range 3 {
		w.clock.pass(time.Minute)
		w.pending(m)
	}
	require.Len(t, w.events(), 1)
	require.Len(t, w.log(0), 1)
	w.clock.pass(lease / 2)
	w.pending(m)
	require.Len(t, w.events(), 2)
	require.Equal(t, w.clock.now().Add(lease), w.keyRow(m.kid()).ExpiresAt)
}

// A key that was never trusted is not one that was replaced in good order: it
// would be trusted for the past.
func TestPendingKeyThatIsReplacedIsForgotten(t *testing.T) {
	w := newWorld(t)
	m := w.newMachine()
	first := w.pending(m)
	w.clock.pass(time.Minute)
	m.anotherKey("second", attesttest.KeyAttributes)
	second := w.pending(m)
	require.Equal(t, []string{second.KID, first.KID}, w.events()[1].KIDs)
	m.anotherKey("third", attesttest.KeyAttributes)
	m.token = w.newToken(1)
	w.enrolled(m)
	w.view(func(tx *store.Tx) error {
		keys, err := tx.KeysOf(m.hash(t))
		require.Len(t, keys, 1)
		require.Equal(t, m.kid(), keys[0].KID)
		return err
	})
}

func TestQueueIsBounded(t *testing.T) {
	w := newWorld(t, func(o *enrol.Options) { o.MaxPending = 1 })
	tpm := attesttest.New(t)
	first := w.machineOn(tpm, "first")
	w.pending(first)
	tpm.Flush(first.ek, first.ak, first.key)
	second := w.machineOn(tpm, "second")
	w.refused(api.QueueFull, second)
	second.token = w.newToken(1)
	w.enrolled(second)
	tpm.Flush(second.ek, second.ak, second.key)
	w.clock.pass(lease)
	w.pending(w.machineOn(tpm, "first"))
}

// revoke does what fleet does.
func (w *world) revoke(m *machine, machineToo bool) {
	w.update(func(tx *store.Tx) error {
		if machineToo {
			row, err := tx.Machine(m.hash(w.t))
			if err != nil {
				return err
			}
			row.Revoked = "stolen"
			if err := tx.PutMachine(row); err != nil {
				return err
			}
		}
		key, err := tx.Key(m.kid())
		if err != nil {
			return err
		}
		key.State, key.Reason = api.StateRevoked, "stolen"
		return tx.PutKey(key)
	})
}

func TestRevokedMachineStaysOut(t *testing.T) {
	w, m := withToken(t)
	w.enrolled(m)
	w.revoke(m, true)
	w.refused(api.MachineRevoked, m)
	m.anotherKey("new", attesttest.KeyAttributes)
	m.token = w.newToken(1)
	w.refused(api.MachineRevoked, m)
	entries := w.log(1)
	require.Len(t, entries, 1, "said once an hour")
	require.Equal(t, "machine.refuse", entries[0].Action)
	require.Equal(t, m.hash(t), entries[0].Subject)
	require.Contains(t, string(entries[0].Detail), `"refused":"machine_revoked"`)
	w.clock.pass(time.Hour)
	w.refused(api.MachineRevoked, m)
	require.Len(t, w.log(2), 1)
}

func TestRevokedKeyStaysOutAndItsMachineDoesNot(t *testing.T) {
	w, m := withToken(t)
	w.enrolled(m)
	w.revoke(m, false)
	revoked := m.kid()
	w.refused(api.KeyRevoked, m)
	m.anotherKey("new", attesttest.KeyAttributes)
	w.enrolled(m)
	require.Equal(t, api.StateRevoked, w.keyRow(revoked).State, "and is not made superseded")
}

// One TPM with two EKs: its key belongs to the machine that enrolled it.
func TestKeyOfAnotherMachineIsTaken(t *testing.T) {
	w, m := withToken(t)
	w.enrolled(m)
	m.tpm.Flush(m.ek)
	second := *m
	second.ek = w.machineEK(m.tpm, "second")
	second.certificate, second.token = nil, w.newToken(1)
	w.refused(api.KeyTaken, &second)
	require.Equal(t, m.hash(t), w.keyRow(m.kid()).EKHash)
}

// fleet replace gives the name away: the old machine is out, the new one is in
// by its EK hash and has the name without asking.
func TestReplacedMachine(t *testing.T) {
	w, old := withToken(t)
	old.name = "edge-a"
	w.enrolled(old)
	successor := w.newMachine()
	successor.name, successor.certificate = "edge-a", nil
	w.refused(api.NotGenuine, successor)
	successor.token = w.newToken(1)
	w.refused(api.NameTaken, successor)

	w.revoke(old, true)
	w.update(func(tx *store.Tx) error {
		row, err := tx.Machine(old.hash(t))
		if err != nil {
			return err
		}
		row.Name = "edge-a.replaced"
		return tx.PutMachine(row)
	})
	w.allow(successor, "edge-a")
	successor.name = ""
	got := w.enrolled(successor)
	require.Equal(t, "edge-a", got.Name)
	require.Equal(t, api.EvidenceVouched, got.Evidence)
	w.refused(api.MachineRevoked, old)
}

// A machine that an operator approved is a member from then on.
func TestApprovedMachineRenews(t *testing.T) {
	w := newWorld(t, func(o *enrol.Options) { o.Queue = enrol.QueueAll })
	m := w.newMachine()
	m.certificate = nil
	w.pending(m)
	require.Equal(t, w.clock.now().Add(lease), w.keyRow(m.kid()).ExpiresAt, "approved, it has its lease")
	w.update(func(tx *store.Tx) error {
		row, err := tx.Machine(m.hash(t))
		if err != nil {
			return err
		}
		row.Membership, row.MembershipBy = api.ByApproval, "alice"
		if err := tx.PutMachine(row); err != nil {
			return err
		}
		key, err := tx.Key(m.kid())
		if err != nil {
			return err
		}
		key.State, key.EnrolledAt = api.StateEnrolled, w.clock.now()
		return tx.PutKey(key)
	})
	got := w.enrolled(m)
	require.Equal(t, api.EvidenceUnproven, got.Evidence)
	require.Equal(t, "renewed", w.events()[1].What)
	require.Equal(t, api.ByApproval, w.machineRow(m).Membership)
}

// A store that cannot be written to is said to be away, and nothing is lost.
func TestClosedStoreIsUnavailable(t *testing.T) {
	w, m := withToken(t)
	r := w.request(m)
	require.NoError(t, w.db.Close())
	_, err := w.complete(r)
	refusedFor(t, api.StoreUnavailable, err)
}
