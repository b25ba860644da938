package state

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// Linking writes a state with a higher counter. A host that starts the VM again
// and again from a disk that was set back must not climb to the counter that a
// witness saw.
func TestRollbackThatRebootsOftenIsStillARollback(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	configured(t, m, body(1), "app:1", digestA)
	early := v.file()
	id, err := m.Identity()
	require.NoError(t, err)
	exposed(t, m, body(2), "app:1")
	seen := m.Counter()

	v.reboot(false)
	v.setFile(early)
	for range seen + 3 {
		m = v.start()
		require.NoError(t, m.Link(t0, id, role(m, owner)))
		// An owner's tool on a machine that remembers nothing.
		require.NoError(t, m.Witness(OwnerTool, 0))
		id, err = m.Identity()
		require.NoError(t, err)
		refused(t, m.Witness(Registry, seen), reason.StateRollback)
		require.False(t, sshAllowed(m))
		v.reboot(false)
	}
}

// The other way round: what a witness was told of while it was heard is no
// rollback after the next reboot.
func TestHonestRebootsAreNoRollback(t *testing.T) {
	for name, witnesses := range map[string][]Source{
		"both": {OwnerTool, Registry}, "the registry": {Registry}, "the owner": {OwnerTool},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVM(t)
			m := v.start()
			owned(t, m)
			configured(t, m, body(1), "app:1", digestA)
			for range 5 {
				id, err := m.Identity()
				require.NoError(t, err)
				seen := m.Counter()
				v.reboot(false)
				m = v.start()
				require.NoError(t, m.Link(t0, id, role(m, owner)))
				for _, w := range witnesses {
					require.NoError(t, m.Witness(w, seen))
				}
				// What is told from now on may have been told by a service that was
				// started again.
				v.restart(true)
				m = v.start()
				require.True(t, sshAllowed(m))
			}
		})
	}
}

// The host has a hand in the VM's clock. Statements whose times contradict one
// another are believed by nobody, and exposed is for good.
func TestClockThatIsSetBackDoesNotSpoilTheFacts(t *testing.T) {
	v := newVM(t)
	m := v.start()
	owned(t, m)
	configured(t, m, body(1), "app:1", digestA)
	p, err := m.Expose(t0, body(2), "app:1")
	require.NoError(t, err)
	require.NoError(t, p.Note(t0.Add(-time.Hour), SSHListenerClosed))
	require.NoError(t, p.Note(t0.Add(-2*time.Hour), SSHSessionsEnded))
	require.NoError(t, p.Finish())
	ssh := m.View().SSH
	require.False(t, ssh.ListenerClosed.Before(ssh.Opened), "%v", ssh)
	require.False(t, ssh.SessionsEnded.Before(ssh.ListenerClosed), "%v", ssh)
}

// The host can set back the volume alone, with what was planted in it while SSH was
// open, and leave the newest state beside it.
func TestVolumeThatIsSetBackAloneIsARollback(t *testing.T) {
	v := newVM(t)
	m := v.start()
	early := owned(t, m)
	p, err := m.Configure(t0, body(1), work("app:1"))
	require.NoError(t, err)
	require.NoError(t, p.Resolve(digestA))
	kept, err := m.Identity()
	require.NoError(t, err)
	require.NoError(t, p.Finish())

	v.reboot(false)
	m = v.start()
	refused(t, m.Link(t0, early, role(m, owner)), reason.StateRollback)
	require.False(t, m.View().Linked)
	require.NoError(t, m.Link(t0, kept, role(m, owner)))
}
