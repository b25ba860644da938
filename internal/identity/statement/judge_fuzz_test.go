package statement_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
)

// liar makes one change to a statement, as whoever took over the VM could.
func liar(s *statement.Statement, what, how byte) {
	times := []time.Time{{}, t0, t0.Add(time.Hour), t0.Add(2 * time.Hour)}
	events := []statement.Event{
		image("localhost/app:1", digestA), image("localhost/app:2", digestB), sshOpen(s),
		sshClosed("localhost/app:1", digestA), sshClosed("localhost/app:2", digestB),
	}
	at := 0
	if n := len(s.Log.Events); n > 0 {
		at = int(how) % n
	}
	log := slices.Clone(s.Log.Events)
	switch what % 11 {
	case 0:
		s.State = []string{
			statement.Fresh, statement.OperatorRegistered, statement.OwnerRegistered, statement.WorkloadConfigured,
			statement.WorkloadExposed, statement.Locked, statement.RolledBack,
		}[how%7]
	case 1:
		s.Step = []string{"", statement.RegisterOwner, statement.Configure, statement.Expose}[how%4]
	case 2:
		s.SSH.Opened = times[how%4]
	case 3:
		s.SSH.ListenerClosed = times[how%4]
	case 4:
		s.SSH.SessionsEnded = times[how%4]
	case 5:
		if len(log) > 0 {
			log = slices.Delete(log, at, at+1)
		}
	case 6:
		log = slices.Insert(log, at, events[how%5])
	case 7:
		if len(log) > 0 {
			log[at], log[0] = log[0], log[at]
		}
	case 8:
		s.Workload = [...]*statement.Workload{nil, {Image: "localhost/app:2", Digest: digestB, Port: 1}}[how%2]
	case 9: // a base that the register once had
		base := statement.Replay([48]byte{}, log[:at])
		s.Log.Base, log = base[:], log[at:]
	case 10:
		s.Log.Register, s.Log.Base = statement.None, nil
	}
	s.Log.Events = log
}

// Whatever a VM says that was taken over, what it extended before cannot be
// unsaid: with the register for evidence nobody is told that SSH is closed, or was
// never opened, when it was opened and not closed.
func FuzzJudge(f *testing.F) {
	for _, seed := range [][]byte{{}, {0, 0, 4}, {1, 5, 1, 2, 0}, {1, 9, 2, 2, 0}, {2, 0, 3, 1, 3}, {3, 10, 0}, {1, 6, 3, 3, 2, 4, 3, 0, 4}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, lies []byte) {
		if len(lies) > 41 {
			return
		}
		which := byte(0)
		if len(lies) > 0 {
			which, lies = lies[0], lies[1:]
		}
		s := []*statement.Statement{owned(), configured(), exposed(), rebooted()}[which%4]
		history, held := slices.Clone(s.Log.Events), register(s)
		for ; len(lies) > 1; lies = lies[2:] {
			liar(s, lies[0], lies[1])
		}
		facts, err := s.Judge(held)
		if err != nil || facts.Evidence != statement.ByRegister {
			return
		}
		require.True(t, slices.Equal(history, s.Log.Events), "%v in place of %v", s.Log.Events, history)
		opened := slices.ContainsFunc(history, func(e statement.Event) bool { return e.Name == statement.SSHOpen })
		closed := slices.ContainsFunc(history, func(e statement.Event) bool { return e.Name == statement.SSHClosed })
		switch facts.SSH {
		case statement.SSHIsClosed:
			require.True(t, closed)
			require.Equal(t, history[len(history)-1].Data, facts.Image)
		case statement.SSHNeverOpened:
			require.False(t, opened)
		default:
			require.Equal(t, statement.SSHIsOpen, facts.SSH)
		}
	})
}
