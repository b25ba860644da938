package statement_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/internal/identity/statement"
)

var (
	t0      = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	digestA = "sha256:" + strings.Repeat("a", 64)
	digestB = "sha256:" + strings.Repeat("b", 64)

	origin   = key(1)
	instance = key(2)
)

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+n)), 32)))
}

func public(k ed25519.PrivateKey) []byte { return k.Public().(ed25519.PublicKey) }

func hexOf(n byte) string { return hex.EncodeToString(public(key(n))) }

func image(name, digest string) statement.Event {
	return statement.Event{Name: statement.Image, Data: statement.ImageData(name, digest)}
}

func sshOpen(s *statement.Statement) statement.Event {
	return statement.Event{Name: statement.SSHOpen, Data: hex.EncodeToString(s.SSHHostKey)}
}

func sshClosed(name, digest string) statement.Event {
	return statement.Event{Name: statement.SSHClosed, Data: statement.ImageData(name, digest)}
}

// configured is a machine in its first boot whose workload runs, SSH open.
func configured() *statement.Statement {
	s := &statement.Statement{
		Version: 1, Instance: public(instance), Origin: public(instance), Boot: "boot-1",
		State: statement.WorkloadConfigured, Counter: 9, Operator: public(key(3)), Owner: public(key(4)),
		TLSKey: []byte(strings.Repeat("t", 32)), SSHHostKey: public(key(5)), Storage: "owner",
		Workload: &statement.Workload{Image: "localhost/app:1", Digest: digestA, Port: 8080},
		SSH:      statement.SSH{Opened: t0},
		Log:      statement.Log{Register: statement.RTMR3, Base: make([]byte, 48)},
	}
	s.Log.Events = []statement.Event{image("localhost/app:1", digestA), sshOpen(s)}
	return s
}

// exposed is the same machine after that.
func exposed() *statement.Statement {
	s := configured()
	s.State, s.Counter = statement.WorkloadExposed, 14
	s.SSH.ListenerClosed, s.SSH.SessionsEnded = t0.Add(time.Hour), t0.Add(time.Hour+time.Second)
	s.Log.Events = append(s.Log.Events, sshClosed("localhost/app:1", digestA))
	return s
}

// rebooted is the exposed machine after a reboot, running again.
func rebooted() *statement.Statement {
	s := exposed()
	s.Origin, s.Boot, s.Counter = public(origin), "boot-2", 16
	s.Link = &statement.Link{At: t0.Add(2 * time.Hour), Counter: 14, Signature: ed25519.Sign(origin, statement.LinkMessage(s.Instance, 14))}
	s.Log.Events = []statement.Event{image("localhost/app:1", digestA), sshClosed("localhost/app:1", digestA)}
	return s
}

// owned is a machine that has an owner and nothing to run.
func owned() *statement.Statement {
	s := configured()
	s.State, s.Counter, s.Workload, s.SSH, s.Log.Events = statement.OwnerRegistered, 5, nil, statement.SSH{}, nil
	return s
}

func bareOf(state string) *statement.Statement {
	return &statement.Statement{
		Version: 1, Instance: public(instance), Origin: public(instance), Boot: "boot-2", State: state,
		TLSKey: []byte(strings.Repeat("t", 32)), Log: statement.Log{Register: statement.RTMR3, Base: make([]byte, 48)},
	}
}

// register is what RTMR3 holds when the log is true.
func register(s *statement.Statement) [48]byte {
	if s.Log.Register == statement.None {
		return [48]byte{}
	}
	return statement.Replay([48]byte(s.Log.Base), s.Log.Events)
}

func TestWhatFollowsFromAStatement(t *testing.T) {
	img := "localhost/app:1@" + digestA
	with := func(s *statement.Statement, edit func(*statement.Statement)) *statement.Statement {
		edit(s)
		return s
	}
	for name, c := range map[string]struct {
		s    *statement.Statement
		want statement.Facts
	}{
		"fresh": {
			with(bareOf(statement.Fresh), func(s *statement.Statement) { s.Counter = 1 }),
			statement.Facts{Boot: "boot-2", State: "fresh", Counter: 1, SSH: "never_opened", Evidence: "rtmr3"},
		},
		"fresh, nothing written": {bareOf(statement.Fresh), statement.Facts{Boot: "boot-2", State: "fresh", SSH: "never_opened", Evidence: "rtmr3"}},
		"locked":                 {bareOf(statement.Locked), statement.Facts{Boot: "boot-2", State: "locked", SSH: "never_opened", Evidence: "rtmr3"}},
		"rolled back":            {bareOf(statement.RolledBack), statement.Facts{Boot: "boot-2", State: "rolled_back", SSH: "never_opened", Evidence: "rtmr3"}},
		"rolled back after SSH was closed": {
			with(bareOf(statement.RolledBack), func(s *statement.Statement) {
				s.Log.Events = []statement.Event{image("a", digestA), sshClosed("a", digestA)}
			}), statement.Facts{Boot: "boot-2", State: "rolled_back", SSH: "open", Evidence: "rtmr3"},
		},
		"owned": {owned(), statement.Facts{Boot: "boot-1", State: "owner_registered", Counter: 5, SSH: "never_opened", Evidence: "rtmr3"}},
		"configuring": {
			with(owned(), func(s *statement.Statement) {
				s.Step, s.Log.Events = statement.Configure, []statement.Event{image("localhost/app:1", digestA), sshOpen(s)}
			}), statement.Facts{Boot: "boot-1", State: "owner_registered", Step: "configure", Counter: 5, Image: img, SSH: "open", Evidence: "rtmr3"},
		},
		"configuring was undone": {
			with(owned(), func(s *statement.Statement) {
				s.Log.Events = []statement.Event{image("localhost/app:1", digestA), sshOpen(s)}
			}), statement.Facts{Boot: "boot-1", State: "owner_registered", Counter: 5, SSH: "open", Evidence: "rtmr3"},
		},
		"configured": {configured(), statement.Facts{Boot: "boot-1", State: "workload_configured", Counter: 9, Image: img, SSH: "open", Evidence: "rtmr3"}},
		"configured again": {
			with(configured(), func(s *statement.Statement) {
				s.Log.Events = append(s.Log.Events, image("x", digestB), image("localhost/app:1", digestA))
			}), statement.Facts{Boot: "boot-1", State: "workload_configured", Counter: 9, Image: img, SSH: "open", Evidence: "rtmr3"},
		},
		"being exposed": {
			with(exposed(), func(s *statement.Statement) { s.State, s.Step = statement.WorkloadConfigured, statement.Expose }),
			statement.Facts{Boot: "boot-1", State: "workload_configured", Step: "expose", Counter: 14, Image: img, SSH: "open", Evidence: "rtmr3"},
		},
		"exposed": {exposed(), statement.Facts{
			Boot: "boot-1", State: "workload_exposed", Counter: 14, Image: img, SSH: "closed",
			SSHClosed: t0.Add(time.Hour + time.Second), Evidence: "rtmr3",
		}},
		"exposed, register not to be had": {
			with(exposed(), func(s *statement.Statement) { s.Log.Register, s.Log.Base = statement.None, nil }),
			statement.Facts{
				Boot: "boot-1", State: "workload_exposed", Counter: 14, Image: img, SSH: "closed",
				SSHClosed: t0.Add(time.Hour + time.Second), Evidence: "statement",
			},
		},
		"somebody used the register before": {
			with(exposed(), func(s *statement.Statement) { s.Log.Base[0] = 1 }),
			statement.Facts{
				Boot: "boot-1", State: "workload_exposed", Counter: 14, Image: img, SSH: "closed",
				SSHClosed: t0.Add(time.Hour + time.Second), Evidence: "statement", Base: "01" + strings.Repeat("00", 47),
			},
		},
		"rebooted": {rebooted(), statement.Facts{
			Boot: "boot-2", State: "workload_exposed", Counter: 16, Image: img, SSH: "closed",
			SSHClosed: t0.Add(time.Hour + time.Second), Evidence: "rtmr3",
		}},
		"rebooted, nothing runs yet": {
			with(rebooted(), func(s *statement.Statement) { s.Log.Events = nil }),
			statement.Facts{Boot: "boot-2", State: "workload_exposed", Counter: 16, SSH: "never_opened", Evidence: "rtmr3"},
		},
		"image pinned": {
			with(configured(), func(s *statement.Statement) {
				s.Workload.Image = "app@" + digestA
				s.Log.Events[0] = image("app@"+digestA, digestA)
			}),
			statement.Facts{Boot: "boot-1", State: "workload_configured", Counter: 9, Image: "app@" + digestA, SSH: "open", Evidence: "rtmr3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := c.s.Encode()
			require.NoError(t, err)
			s, err := statement.Parse(raw)
			require.NoError(t, err)
			facts, err := s.Judge(register(s))
			require.NoError(t, err)
			require.Equal(t, c.want, *facts)
		})
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		s    *statement.Statement
		edit func(*statement.Statement)
		want statement.Kind
	}{
		{"link from itself", rebooted(), func(s *statement.Statement) { s.Origin = s.Instance }, statement.BadLink},
		{"origin without link", configured(), func(s *statement.Statement) { s.Origin = public(origin) }, statement.BadLink},
		{"link by another key", rebooted(), func(s *statement.Statement) {
			s.Link.Signature = ed25519.Sign(key(9), statement.LinkMessage(s.Instance, 14))
		}, statement.BadLink},
		{"link to another instance", rebooted(), func(s *statement.Statement) {
			s.Link.Signature = ed25519.Sign(origin, statement.LinkMessage(public(key(9)), 14))
		}, statement.BadLink},
		{"link of another counter", rebooted(), func(s *statement.Statement) { s.Link.Counter = 13 }, statement.BadLink},
		{"link of a later counter", rebooted(), func(s *statement.Statement) { s.Counter = 14 }, statement.BadLink},
		{"link without time", rebooted(), func(s *statement.Statement) { s.Link.At = time.Time{} }, statement.BadLink},

		{"operator missing", configured(), func(s *statement.Statement) { s.Operator = nil }, statement.BadRoles},
		{"owner missing", configured(), func(s *statement.Statement) { s.Owner = nil }, statement.BadRoles},
		{"owner of a fresh machine", configured(), func(s *statement.Statement) { s.State = statement.OperatorRegistered }, statement.BadRoles},
		{"workload missing", configured(), func(s *statement.Statement) { s.Workload = nil }, statement.BadRoles},
		{"workload without configure", owned(), func(s *statement.Statement) { s.Workload = configured().Workload }, statement.BadRoles},
		{"its own owner", configured(), func(s *statement.Statement) { s.Owner = s.Instance }, statement.BadRoles},
		{"its own operator", configured(), func(s *statement.Statement) { s.Operator = s.Instance }, statement.BadRoles},
		{"locked with a counter", bareOf(statement.Locked), func(s *statement.Statement) { s.Counter = 3 }, statement.BadRoles},
		{"locked with an owner", bareOf(statement.Locked), func(s *statement.Statement) { s.Owner = public(key(4)) }, statement.BadRoles},
		{"no counter", configured(), func(s *statement.Statement) { s.Counter = 0 }, statement.BadRoles},
		{"exposing twice", exposed(), func(s *statement.Statement) { s.Step = statement.Expose }, statement.BadRoles},
		{"configuring what is exposed", exposed(), func(s *statement.Statement) { s.Step = statement.Configure }, statement.BadRoles},
		{"registering an owner twice", owned(), func(s *statement.Statement) { s.Step = statement.RegisterOwner }, statement.BadRoles},
		{"step of a locked machine", bareOf(statement.Locked), func(s *statement.Statement) { s.Step = statement.Configure }, statement.BadRoles},

		{"opened without owner", bareOf(statement.RolledBack), func(s *statement.Statement) { s.SSH.Opened = t0 }, statement.BadSSH},
		{"closed, not exposed", configured(), func(s *statement.Statement) { s.SSH.ListenerClosed = t0.Add(time.Hour) }, statement.BadSSH},
		{"exposed, listener open", exposed(), func(s *statement.Statement) { s.SSH.ListenerClosed = time.Time{} }, statement.BadSSH},
		{"exposed, sessions there", exposed(), func(s *statement.Statement) { s.SSH.SessionsEnded = time.Time{} }, statement.BadSSH},
		{"sessions ended first", exposed(), func(s *statement.Statement) { s.SSH.SessionsEnded = t0.Add(time.Minute) }, statement.BadSSH},
		{"closed before opened", exposed(), func(s *statement.Statement) { s.SSH.Opened = t0.Add(2 * time.Hour) }, statement.BadSSH},

		{"events before an owner", bareOf(statement.Locked), func(s *statement.Statement) { s.Log.Events = []statement.Event{image("a", digestA)} }, statement.BadOrder},
		{"event after ssh-closed", exposed(), func(s *statement.Statement) {
			s.Log.Events = append(s.Log.Events, image("localhost/app:1", digestA))
		}, statement.BadOrder},
		{"opened again after ssh-closed", exposed(), func(s *statement.Statement) { s.Log.Events = append(s.Log.Events, sshOpen(s)) }, statement.BadOrder},
		{"closed twice", exposed(), func(s *statement.Statement) {
			s.Log.Events = append(s.Log.Events, sshClosed("localhost/app:1", digestA))
		}, statement.BadOrder},
		{"opened twice", configured(), func(s *statement.Statement) { s.Log.Events = append(s.Log.Events, sshOpen(s)) }, statement.BadOrder},
		{"closed about another image", exposed(), func(s *statement.Statement) { s.Log.Events[2] = sshClosed("localhost/app:1", digestB) }, statement.BadOrder},
		{"closed without an image", rebooted(), func(s *statement.Statement) { s.Log.Events = s.Log.Events[1:] }, statement.BadOrder},

		{"another image was measured", configured(), func(s *statement.Statement) { s.Log.Events[0] = image("localhost/app:1", digestB) }, statement.BadWorkload},
		{"measured under another name", configured(), func(s *statement.Statement) { s.Log.Events[0] = image("localhost/app:2", digestA) }, statement.BadWorkload},
		{"never measured", configured(), func(s *statement.Statement) { s.Log.Events = s.Log.Events[1:] }, statement.BadWorkload},
		{"another one was measured last", configured(), func(s *statement.Statement) {
			s.Log.Events = append(s.Log.Events, image("other", digestB))
		}, statement.BadWorkload},

		{"log says closed, state does not", exposed(), func(s *statement.Statement) {
			s.State, s.SSH.ListenerClosed, s.SSH.SessionsEnded = statement.WorkloadConfigured, time.Time{}, time.Time{}
		}, statement.BadSSH},
		{"state says closed, log does not", exposed(), func(s *statement.Statement) { s.Log.Events = s.Log.Events[:2] }, statement.BadSSH},
		{"state says closed, log does not, never opened", exposed(), func(s *statement.Statement) { s.Log.Events = s.Log.Events[:1] }, statement.BadSSH},
		{"opened after a reboot and not closed", rebooted(), func(s *statement.Statement) {
			s.Log.Events = []statement.Event{s.Log.Events[0], sshOpen(s)}
		}, statement.BadSSH},
		{"opened, not in the log", configured(), func(s *statement.Statement) { s.Log.Events = s.Log.Events[:1] }, statement.BadSSH},
		{"in the log, not opened", configured(), func(s *statement.Statement) { s.SSH.Opened = time.Time{} }, statement.BadSSH},
		{"another host key", configured(), func(s *statement.Statement) { s.SSHHostKey = public(key(8)) }, statement.BadSSH},
		{"no host key", configured(), func(s *statement.Statement) { s.SSHHostKey = nil }, statement.BadSSH},

		{"malformed all the same", configured(), func(s *statement.Statement) { s.Version = 2 }, statement.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.s.Judge(register(c.s))
			require.NoError(t, err, "it is good before it is changed")
			c.edit(c.s)
			_, err = c.s.Judge(register(c.s))
			require.ErrorIs(t, err, &statement.Error{Kind: c.want})
		})
	}
}

// What is extended cannot be taken back: whoever took over the VM later cannot
// hide that SSH was opened.
func TestLogThatTheRegisterContradictsIsRefused(t *testing.T) {
	s := exposed()
	true48 := register(s)
	for name, edit := range map[string]func(*statement.Statement){
		"ssh-open hidden": func(s *statement.Statement) {
			s.Log.Events = append(s.Log.Events[:1:1], s.Log.Events[2])
			s.SSH.Opened = time.Time{}
		},
		"another image": func(s *statement.Statement) {
			s.Workload.Digest = digestB
			s.Log.Events[0] = image("localhost/app:1", digestB)
			s.Log.Events[2] = sshClosed("localhost/app:1", digestB)
		},
		"another base":      func(s *statement.Statement) { s.Log.Base[47] = 1 },
		"ssh-closed hidden": func(s *statement.Statement) { *s = *configured() },
	} {
		t.Run(name, func(t *testing.T) {
			s := exposed()
			edit(s)
			_, err := s.Judge(true48)
			require.ErrorIs(t, err, &statement.Error{Kind: statement.BadRegister})
		})
	}
	// Events can be hidden before a base, which is why such a log is worth no more
	// than the statement.
	s.SSH.Opened = time.Time{}
	base := statement.Replay([48]byte{}, s.Log.Events[:2])
	s.Link = rebooted().Link
	s.Origin = public(origin)
	s.Counter = 16
	s.Log.Base, s.Log.Events = base[:], []statement.Event{}
	facts, err := s.Judge(base)
	require.NoError(t, err)
	require.Equal(t, statement.ByStatement, facts.Evidence)
	require.NotEmpty(t, facts.Base)
}

func TestErrorsAreBounded(t *testing.T) {
	s := configured()
	s.State = strings.Repeat("\x1b[31m", 1000)
	_, err := s.Encode()
	require.ErrorIs(t, err, &statement.Error{Kind: statement.Malformed})
	require.Less(t, len(err.Error()), 300)
	require.NotContains(t, err.Error(), "\x1b")
	require.NotErrorIs(t, err, &statement.Error{Kind: statement.BadSSH})
}
