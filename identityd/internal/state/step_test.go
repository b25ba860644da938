package state

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

func TestCallsOutOfOrderAreRefused(t *testing.T) {
	v := newVM(t)
	m := v.start()
	refuse := func(configure, expose, ownerReason, operatorReason reason.Reason) {
		t.Helper()
		before := m.Counter()
		if configure != "" {
			_, err := m.Configure(t0, body(90), work("app:9"))
			refused(t, err, configure)
		}
		if expose != "" {
			_, err := m.Expose(t0, body(91), "app:1")
			refused(t, err, expose)
		}
		_, err := m.RegisterOwner(t0, strings.Repeat("00", 32), role(m, owner))
		refused(t, err, ownerReason)
		if operatorReason != "" {
			_, err = m.RegisterOperator(role(m, operator), nil)
			refused(t, err, operatorReason)
		}
		require.Equal(t, before, m.Counter())
		require.False(t, m.Accepted(body(90).Body), "what was refused is not remembered")
	}
	refuse(reason.OperatorMissing, reason.OperatorMissing, reason.OperatorMissing, "")
	token, err := m.RegisterOperator(role(m, operator), nil)
	require.NoError(t, err)
	refuse(reason.OwnerMissing, reason.OwnerMissing, reason.TokenInvalid, reason.OperatorRegistered)
	p, err := m.RegisterOwner(t0, token, role(m, owner))
	require.NoError(t, err)
	require.NoError(t, p.Finish())
	refuse("", reason.WorkloadMissing, reason.OwnerRegistered, reason.OperatorRegistered)
	configured(t, m, body(1), "app:1", digestA)
	p, err = m.Configure(t0, body(2), work("app:2"))
	require.NoError(t, err)
	refuse(reason.StepInFlight, reason.StepInFlight, reason.OwnerRegistered, reason.OperatorRegistered)
	require.NoError(t, p.Undo())
	exposed(t, m, body(3), "app:1")
	refuse(reason.WorkloadExposed, reason.WorkloadExposed, reason.OwnerRegistered, reason.OperatorRegistered)
}

func TestAnotherImageIsNotExposed(t *testing.T) {
	m := newVM(t).start()
	owned(t, m)
	configured(t, m, body(1), "app:1", digestA)
	_, err := m.Expose(t0, body(2), "app:2")
	refused(t, err, reason.ImageMismatch)
	configured(t, m, body(3), "app:2", digestB)
	_, err = m.Expose(t0, body(4), "app:1")
	refused(t, err, reason.ImageMismatch)
	exposed(t, m, body(5), "app:2")
	require.Equal(t, digestB, m.View().Workload.Digest)
}

func TestTagThatMovesWithinAStepIsRefused(t *testing.T) {
	m := newVM(t).start()
	owned(t, m)
	p, err := m.Configure(t0, body(1), work("app:1"))
	require.NoError(t, err)
	refused(t, p.Finish(), reason.StepIncomplete)
	refused(t, p.Resolve("latest"), reason.Internal)
	require.NoError(t, p.Resolve(digestA))
	require.NoError(t, p.Resolve(digestA))
	refused(t, p.Resolve(digestB), reason.ImageMismatch)
	require.NoError(t, p.Finish())
	refused(t, p.Finish(), reason.StepOver)
	refused(t, p.Undo(), reason.StepOver)
}

func TestDoorThatWasClosedDoesNotOpenAgain(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	require.False(t, sshAllowed(m), "there is nothing to reach")
	configured(t, m, body(1), "app:1", digestA)
	require.True(t, sshAllowed(m))

	p, err := m.Expose(t0, body(2), "app:1")
	require.NoError(t, err)
	require.False(t, sshAllowed(m), "from the intent on")
	refused(t, p.Finish(), reason.StepIncomplete)
	refused(t, p.Note(t0, SSHOpened), reason.Internal)
	require.NoError(t, p.Undo())
	require.True(t, sshAllowed(m), "nothing was closed")

	p, err = m.Expose(t0, body(2), "app:1")
	require.NoError(t, err)
	require.NoError(t, p.Note(t0, SSHListenerClosed))
	refused(t, p.Undo(), reason.StepIrreversible)
	v.restart(false)
	m = v.start()
	require.False(t, sshAllowed(m))
	p = m.InFlight()
	refused(t, p.Undo(), reason.StepIrreversible)
	refused(t, p.Finish(), reason.StepIncomplete)
	require.NoError(t, p.Note(t0, SSHListenerClosed))
	require.NoError(t, p.Note(t0, SSHSessionsEnded))
	require.NoError(t, p.Finish())
	v.restart(false)
	m = v.start()
	require.False(t, sshAllowed(m))
	_, err = m.Configure(t0, body(3), work("app:1"))
	refused(t, err, reason.WorkloadExposed)
}

func TestReplayedBodyIsRefused(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	configured(t, m, body(1), "app:1", digestA)
	configured(t, m, body(2), "app:2", digestB)
	for range 2 {
		require.True(t, m.Accepted(body(1).Body))
		_, err := m.Configure(t0, body(1), work("app:1"))
		refused(t, err, reason.Replayed)
		_, err = m.Expose(t0, body(2), "app:2")
		refused(t, err, reason.Replayed)
		v.restart(true)
		m = v.start()
	}
}

func TestBodyWhoseStepWasUndoneMayComeAgainUntilAnotherDoes(t *testing.T) {
	m := newVM(t).start()
	owned(t, m)
	for range 3 {
		p, err := m.Configure(t0, body(1), work("app:1"))
		require.NoError(t, err)
		require.True(t, m.Accepted(body(1).Body), "it is under way")
		require.NoError(t, p.Undo())
		require.False(t, m.Accepted(body(1).Body))
	}
	for name, next := range map[string]Auth{"older form": body(2), "v1": {V1: true}} {
		next.Counter = m.Counter()
		p, err := m.Configure(t0, next, work("app:2"))
		require.NoError(t, err, name)
		require.NoError(t, p.Undo())
		_, err = m.Configure(t0, body(1), work("app:1"))
		refused(t, err, reason.Replayed)
	}
}

func TestRememberedBodiesAreBoundedAndNoneIsForgotten(t *testing.T) {
	m := newVM(t).start()
	owned(t, m)
	m.mu.Lock()
	next := m.rec
	for i := range MaxRemembered {
		d := body(1000 + i).Body
		next.Accepted = append(next.Accepted, d[:])
	}
	require.NoError(t, m.write(next, nil))
	m.mu.Unlock()
	_, err := m.Configure(t0, body(1), work("app:1"))
	refused(t, err, reason.ReplayMemoryFull)
	_, err = m.Configure(t0, body(1000), work("app:1"))
	refused(t, err, reason.Replayed)
	configured(t, m, Auth{V1: true, Counter: m.Counter()}, "app:1", digestA)
}

func TestLargestStateFits(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	w := Workload{Image: strings.Repeat("<", 512), Port: 65535}
	for i := range 32 {
		w.PersistDirs = append(w.PersistDirs, fmt.Sprintf("%02d", i)+strings.Repeat("\x01", 254))
	}
	m.mu.Lock()
	next := m.rec
	for i := range MaxRemembered {
		d := body(1000 + i).Body
		next.Accepted = append(next.Accepted, d[:])
	}
	require.NoError(t, m.write(next, nil))
	m.mu.Unlock()
	for range 2 {
		p, err := m.Configure(t0, Auth{V1: true, Counter: m.Counter()}, w)
		require.NoError(t, err)
		require.NoError(t, p.Resolve(digestA))
		v.restart(true)
		m = v.start()
		require.NoError(t, m.InFlight().Finish())
	}
	w.PersistDirs = append(w.PersistDirs, "/more")
	_, err := m.Configure(t0, Auth{V1: true, Counter: m.Counter()}, w)
	refused(t, err, reason.BadRequest)
}

func TestRequestSignedForAnotherCounterIsRefused(t *testing.T) {
	m := newVM(t).start()
	owned(t, m)
	auth := Auth{V1: true, Counter: m.Counter()}
	for _, wrong := range []uint64{0, auth.Counter - 1, auth.Counter + 1} {
		_, err := m.Configure(t0, Auth{V1: true, Counter: wrong}, work("app:1"))
		refused(t, err, reason.CounterMismatch)
	}
	p, err := m.Configure(t0, auth, work("app:1"))
	require.NoError(t, err)
	require.NoError(t, p.Undo())
	_, err = m.Configure(t0, auth, work("app:1"))
	refused(t, err, reason.CounterMismatch)
}

func TestIdentityGoesOnOverReboots(t *testing.T) {
	v := newVM(t)
	m := v.start()
	origin := m.Instance()
	id := owned(t, m)
	configured(t, m, body(1), "app:1", digestA)
	require.NoError(t, m.RegistryTold(m.Counter()))
	require.False(t, m.View().RegistryOwed)
	var instance ed25519.PublicKey
	for range 3 {
		seen := m.Counter()
		v.reboot(true)
		m = v.start()
		require.NotEqual(t, instance, m.Instance())
		instance = m.Instance()
		view := m.View()
		require.False(t, view.Linked)
		require.Equal(t, role(m, owner).Pubkey, []byte(view.Owner.Pubkey), "whom to ask")

		v.restart(true) // still locked
		m = v.start()
		require.Equal(t, instance, m.Instance())
		require.NoError(t, m.Link(t0, id, role(m, owner)))
		require.NoError(t, m.Witness(Registry, seen))
		view = m.View()
		require.True(t, view.RegistryOwed)
		require.True(t, view.Link.Verify(origin, instance))
		require.False(t, view.Link.Verify(origin, origin))
		require.True(t, ed25519.Verify(instance, view.Owner.Pubkey, view.Owner.IdentitySignature))
		require.NotEqual(t, view.Operator.Instance, view.Instance)
		refused(t, m.Renew(role(m, stranger)), reason.OperatorRegistered)
		require.NoError(t, m.Renew(role(m, operator)))
		refused(t, m.Renew(role(m, operator)), reason.OperatorRegistered)
		require.True(t, sshAllowed(m))
		require.True(t, m.Accepted(body(1).Body))
		var err error
		id, err = m.Identity()
		require.NoError(t, err)
	}
}

func TestNoRandomnessNoKey(t *testing.T) {
	v := newVM(t)
	_, err := Open(Options{Dir: v.disk, RunDir: v.run, BootID: "b", Random: func([]byte) error { return errors.New("no randomness") }})
	require.ErrorContains(t, err, "no randomness")
	require.Empty(t, v.run.live)
	_, err = Open(Options{Dir: v.disk, RunDir: v.run})
	refused(t, err, reason.Internal)
}
