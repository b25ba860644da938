package measure_test

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/measure"
	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/identityd/internal/state"
	"github.com/telemark-otel/telemark/internal/identity/statement"
)

func open(v *vm) (*measure.Log, error) {
	return measure.Open(context.Background(), measure.Options{Guest: v, RunDir: v, BootID: "boot-1"})
}

func started(t *testing.T, v *vm) *measure.Log {
	t.Helper()
	l, err := open(v)
	require.NoError(t, err)
	return l
}

var (
	hostKey = strings.Repeat("5a", 32)
	digest  = "sha256:" + strings.Repeat("d", 64)
	events  = []statement.Event{
		{Name: statement.Image, Data: statement.ImageData("app:1", digest)},
		{Name: statement.SSHOpen, Data: hostKey},
		{Name: statement.Image, Data: statement.ImageData("app:2", digest)},
		{Name: statement.Image, Data: statement.ImageData("app:1", digest)},
		{Name: statement.SSHClosed, Data: statement.ImageData("app:1", digest)},
	}
)

func record(l *measure.Log, e statement.Event) error { return l.Record(context.Background(), e) }

func refused(t *testing.T, err error, r reason.Reason) {
	t.Helper()
	require.Equal(t, r, reason.Of(err), "%v", err)
}

func TestEventsAreExtendedOnceAndKept(t *testing.T) {
	v := newVM()
	l := started(t, v)
	for _, e := range events {
		require.NoError(t, record(l, e))
		require.NoError(t, record(l, e), "again changes nothing")
	}
	require.Equal(t, len(events), v.extends)
	want := statement.Log{Register: statement.RTMR3, Base: make([]byte, 48), Events: events}
	require.Equal(t, want, l.View())
	require.Equal(t, want, started(t, v).View(), "a restart of the service")
	require.Equal(t, statement.Replay([48]byte{}, events), v.register)
	refused(t, record(l, events[2]), reason.EventRefused)
	require.NoError(t, l.Problem())
}

// The service is killed at every operation on a file and on the register, with
// and without effect, is started again and asked for all events again.
func TestKilledAtEveryOperationExtendsOnce(t *testing.T) {
	for at := 1; ; at++ {
		for _, after := range []bool{false, true} {
			v := newVM()
			v.at, v.kill, v.after = at, true, after
			recorded := 0
			if l, err := open(v); err == nil {
				for recorded < len(events) && record(l, events[recorded]) == nil {
					recorded++
				}
			}
			if v.ops < at {
				require.Greater(t, at, 50)
				return // there are no more
			}
			v.restart()
			l := started(t, v)
			require.NoError(t, l.Problem())
			found := l.View().Events
			require.GreaterOrEqual(t, len(found), recorded, "what was acknowledged is lost")
			require.LessOrEqual(t, len(found), recorded+1)
			for _, e := range events[recorded:] {
				require.NoError(t, record(l, e))
			}
			require.Equal(t, events, l.View().Events)
			require.Equal(t, len(events), v.extends)
			require.Equal(t, statement.Replay([48]byte{}, events), v.register)
		}
	}
}

// As above, but the process lives on and asks again.
func TestFaultAtEveryOperationIsTriedAgain(t *testing.T) {
	for at := 1; ; at++ {
		for _, after := range []bool{false, true} {
			v := newVM()
			v.at, v.after = at, after
			l, err := open(v)
			if err != nil {
				l = started(t, v)
			}
			for _, e := range events {
				if err := record(l, e); err != nil {
					refused(t, err, reason.EventLogUnavailable)
					require.NoError(t, record(l, e))
				}
			}
			if v.ops < at {
				require.Greater(t, at, 50)
				return
			}
			require.Equal(t, events, l.View().Events)
			require.Equal(t, len(events), v.extends)
			require.Equal(t, events, started(t, v).View().Events)
		}
	}
}

// A crash after the intent, and another program that extends before the restart.
func TestForeignExtensionIsNeverExplainedAway(t *testing.T) {
	foreign := func(v *vm) { v.register = statement.Extend(v.register, [48]byte{1}) }
	t.Run("while the service runs", func(t *testing.T) {
		v := newVM()
		l := started(t, v)
		require.NoError(t, record(l, events[0]))
		foreign(v)
		refused(t, record(l, events[0]), reason.EventLogForeign)
		refused(t, record(l, events[1]), reason.EventLogForeign)
		refused(t, l.Problem(), reason.EventLogForeign)
		require.Equal(t, 1, v.extends)
		log := l.View()
		require.Equal(t, statement.RTMR3, log.Register, "the log goes on to be held against the register")
		require.NotEqual(t, v.register, statement.Replay([48]byte(log.Base), log.Events), "so that nobody accepts it")
	})
	t.Run("after a crash", func(t *testing.T) {
		for at := 1; at < 60; at++ {
			v := newVM()
			v.at, v.kill = at, true
			if l, err := open(v); err == nil {
				for _, e := range events {
					if record(l, e) != nil {
						break
					}
				}
			}
			begun := v.files["events"] != nil
			v.restart()
			foreign(v)
			l := started(t, v)
			if !begun {
				require.NoError(t, record(l, events[0]), "before the log began it is its base")
				require.Equal(t, statement.Extend([48]byte{}, [48]byte{1}), [48]byte(l.View().Base))
				continue
			}
			refused(t, l.Problem(), reason.EventLogForeign)
			before := v.extends
			refused(t, record(l, events[0]), reason.EventLogForeign)
			require.Equal(t, before, v.extends)
		}
	})
}

func TestRegisterThatCannotBeExtended(t *testing.T) {
	for name, edit := range map[string]func(*vm, *measure.Options){
		"read only":       func(v *vm, _ *measure.Options) { v.readOnly = true },
		"somebody else's": func(_ *vm, o *measure.Options) { o.NoRegister = true },
		"no TDX":          func(_ *vm, o *measure.Options) { o.Guest = nil },
	} {
		t.Run(name, func(t *testing.T) {
			v := newVM()
			o := measure.Options{Guest: v, RunDir: v, BootID: "boot-1"}
			edit(v, &o)
			l, err := measure.Open(t.Context(), o)
			require.NoError(t, err)
			for _, e := range events {
				require.NoError(t, record(l, e))
				require.NoError(t, record(l, e))
			}
			require.Zero(t, v.extends)
			require.Equal(t, statement.Log{Events: events}, l.View())
			// It holds for the boot: a log that began without the register is not held
			// against it later.
			v.readOnly = false
			require.Equal(t, statement.Log{Events: events}, started(t, v).View())
		})
	}
}

func TestRegisterThatIsGoneAfterARestartIsAnError(t *testing.T) {
	v := newVM()
	require.NoError(t, record(started(t, v), events[0]))
	v.readOnly = true
	_, err := open(v)
	refused(t, err, reason.EventLogUnavailable)
	_, err = measure.Open(t.Context(), measure.Options{RunDir: v, BootID: "boot-1"})
	refused(t, err, reason.EventLogUnavailable)
}

func TestLogOfAnotherBootIsLeft(t *testing.T) {
	v := newVM()
	require.NoError(t, record(started(t, v), events[0]))
	v.register = [48]byte{}
	l, err := measure.Open(t.Context(), measure.Options{Guest: v, RunDir: v, BootID: "boot-2"})
	require.NoError(t, err)
	require.Empty(t, l.View().Events)
	require.NoError(t, l.Problem())
}

func TestDamagedLogIsRefused(t *testing.T) {
	v := newVM()
	l := started(t, v)
	require.NoError(t, record(l, events[0]))
	good := string(v.files["events"])
	for name, bad := range map[string]string{
		"truncated":       good[:len(good)-1],
		"more":            good + "{}",
		"version":         strings.Replace(good, `"version":1`, `"version":2`, 1),
		"unknown":         strings.Replace(good, `"version":1`, `"version":1,"x":1`, 1),
		"register":        strings.Replace(good, `"rtmr3"`, `"rtmr2"`, 1),
		"register left":   strings.Replace(good, `"rtmr3"`, `""`, 1),
		"event twice":     strings.Replace(good, `"events":[`, `"events":[{"name":"ssh-open","data":"`+hostKey+`"},{"name":"ssh-open","data":"`+hostKey+`"},`, 1),
		"another intent":  strings.Replace(good, `"events"`, `"intent":{"event":{"name":"ssh-open","data":"`+hostKey+`"},"held":"00"},"events"`, 1),
		"too many events": strings.Replace(good, `"events":[`, `"events":[`+strings.Repeat(`{"name":"image","data":"a@`+digest+`"},`, 64), 1),
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, good, bad)
			v.files["events"] = []byte(bad)
			_, err := open(v)
			refused(t, err, reason.EventLogDamaged)
		})
	}
}

// However many workloads were configured, the door can still be closed.
func TestFullLogCanStillBeClosed(t *testing.T) {
	for _, size := range []int{1, 400} {
		v := newVM()
		l := started(t, v)
		var first, last statement.Event
		for i := 0; ; i++ {
			e := statement.Event{Name: statement.Image, Data: statement.ImageData(fmt.Sprintf("%s%d", strings.Repeat("a", size), i), digest)}
			if err := record(l, e); err != nil {
				refused(t, err, reason.EventLogFull)
				require.Greater(t, i, 30)
				break
			}
			if last = e; i == 0 {
				first = e
			}
		}
		require.NoError(t, record(l, first), "a step that fails goes back")
		require.NoError(t, record(l, last))
		require.NoError(t, record(l, events[1]))
		require.NoError(t, record(l, statement.Event{Name: statement.SSHClosed, Data: last.Data}))
		s := statement.Statement{
			Version: 1, Instance: make([]byte, 32), Origin: make([]byte, 32), Boot: "boot-1", State: statement.OwnerRegistered,
			Counter: 1, Operator: make([]byte, 32), Owner: make([]byte, 32), TLSKey: make([]byte, 32), SSHHostKey: make([]byte, 32),
			Workload: &statement.Workload{Image: strings.Repeat("a", 512), Digest: digest, Port: 1}, Log: l.View(),
		}
		_, err := s.Encode()
		require.NoError(t, err)
	}
}

func TestKernelThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM()
		l := started(t, v)
		v.stuck = true
		start := time.Now()
		refused(t, record(l, events[0]), reason.EventLogUnavailable)
		require.Equal(t, 10*time.Second, time.Since(start))
		v.stuck = false
		require.NoError(t, record(l, events[0]))
	})
}

func TestManyCallersRecordOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVM()
		l := started(t, v)
		done := make(chan error)
		for range 20 {
			go func() { done <- record(l, events[0]) }()
		}
		for range 20 {
			require.NoError(t, <-done)
		}
		require.Equal(t, 1, v.extends)
	})
}

// What the state machine signs after a reboot is what verifiers of statements
// verify.
func TestLinkOfTheStateIsTheStatements(t *testing.T) {
	disk, run := newVM(), newVM()
	machine := func(boot string) *state.Machine {
		m, err := state.Open(state.Options{Dir: disk, RunDir: run, BootID: boot})
		require.NoError(t, err)
		return m
	}
	role := func(m *state.Machine, seed byte) state.Role {
		k := ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, 32))
		return state.Role{Pubkey: k.Public().(ed25519.PublicKey), Signature: ed25519.Sign(k, m.Instance())}
	}
	m := machine("boot-1")
	token, err := m.RegisterOperator(role(m, 1), nil)
	require.NoError(t, err)
	p, err := m.RegisterOwner(time.Now(), token, role(m, 2))
	require.NoError(t, err)
	id, err := m.Identity()
	require.NoError(t, err)
	require.NoError(t, p.Finish())

	run = newVM()
	m = machine("boot-2")
	require.NoError(t, m.Link(time.Now(), id, role(m, 2)))
	view := m.View()
	s := statement.Statement{
		Version: 1, Instance: view.Instance, Origin: view.Origin, Boot: "boot-2", State: string(view.State), Counter: view.Counter,
		Operator: view.Operator.Pubkey, Owner: view.Owner.Pubkey,
		Link: &statement.Link{At: view.Link.At, Counter: view.Link.Counter, Signature: view.Link.Signature},
	}
	facts, err := s.Judge([48]byte{})
	require.NoError(t, err, hex.EncodeToString(view.Link.Signature))
	require.Equal(t, statement.ByStatement, facts.Evidence)
}
