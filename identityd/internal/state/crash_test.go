package state

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// life is everything that can happen, each element one durable change.
type life struct {
	m     *Machine
	token string
	id    []byte
	p     *Pending
}

func (l *life) pending() *Pending {
	if l.p == nil {
		l.p = l.m.InFlight()
	}
	return l.p
}

func (l *life) begin(p *Pending, err error) error {
	l.p = p
	return err
}

var lifetime = []func(*life) error{
	func(l *life) (err error) { l.token, err = l.m.RegisterOperator(role(l.m, operator), nil); return err },
	func(l *life) error { return l.begin(l.m.RegisterOwner(t0, l.token, role(l.m, owner))) },
	func(l *life) (err error) {
		if l.id, err = l.m.Identity(); err != nil {
			return err
		}
		return l.pending().Finish()
	},
	func(l *life) error { return l.begin(l.m.Configure(t0, body(1), work("app:1"))) },
	func(l *life) error { return l.pending().Resolve(digestA) },
	func(l *life) error { return l.pending().Note(t0, SSHOpened) },
	func(l *life) error { return l.pending().Finish() },
	func(l *life) error { return l.begin(l.m.Configure(t0, body(2), work("app:2"))) },
	func(l *life) error { return l.pending().Undo() },
	func(l *life) error { return l.begin(l.m.Expose(t0, Auth{V1: true, Counter: l.m.Counter()}, "app:1")) },
	func(l *life) error { return l.pending().Note(t0, SSHListenerClosed) },
	func(l *life) error { return l.pending().Note(t0, SSHSessionsEnded) },
	func(l *life) error { return l.pending().Finish() },
}

// look is what has to be the same again after a crash.
func look(t *testing.T, m *Machine) string {
	v := m.View()
	step := ""
	if v.Step != nil {
		b, err := json.Marshal([]any{v.Step.Kind, v.Step.Workload, v.Step.Body})
		require.NoError(t, err)
		step = string(b)
	}
	b, err := json.Marshal([]any{v.State, v.Operator != nil, v.Owner != nil, v.Workload, v.SSH, step, m.Accepted(body(1).Body), m.Accepted(body(2).Body)})
	require.NoError(t, err)
	return string(b)
}

// looks is how the machine looks before anything and after each change, and how
// many operations on files all of them take.
func looks(t *testing.T) (out []string, ops int) {
	v := newVM(t)
	l := &life{m: v.start()}
	out = append(out, look(t, l.m))
	for i, change := range lifetime {
		require.NoError(t, change(l), "change %d", i)
		out = append(out, look(t, l.m))
	}
	require.Equal(t, WorkloadExposed, l.m.View().State)
	return out, v.f.ops
}

// crashes calls f for a kill at every operation on a file, in every manner.
func crashes(t *testing.T, ops int, f func(v *vm, lose bool)) {
	for at := 1; at <= ops; at++ {
		for _, after := range []bool{false, true} {
			for _, lose := range []bool{false, true} {
				v := newVM(t)
				v.f.at, v.f.kill, v.f.after = at, true, after
				t.Run(fmt.Sprintf("op %d after=%t lose=%t", at, after, lose), func(t *testing.T) {
					v.t = t
					f(v, lose)
				})
			}
		}
	}
}

// live does what it can until the kill and returns how many changes were
// acknowledged.
func live(v *vm, l *life) int {
	if v.open() != nil {
		return 0
	}
	l.m = v.m
	for i, change := range lifetime {
		if change(l) != nil {
			return i
		}
	}
	return len(lifetime)
}

func TestKilledAtEveryWriteComesBackAndGoesOn(t *testing.T) {
	want, ops := looks(t)
	crashes(t, ops, func(v *vm, lose bool) {
		l := &life{}
		acknowledged := live(v, l)
		counter := uint64(0)
		if l.m != nil {
			counter = l.m.Counter()
		}
		v.restart(lose)
		l.m, l.p = v.start(), nil
		require.GreaterOrEqual(t, l.m.Counter(), counter, "what was acknowledged is lost")

		at := acknowledged
		if got := look(t, l.m); got != want[at] {
			at++
			require.Equal(t, want[at], got, "neither before nor after the change that was under way")
		}
		require.Equal(t, l.m.View().Step != nil, l.m.InFlight() != nil)
		if at == 1 && l.token == "" {
			// Nobody has the token: the VM starts afresh, and nothing is lost.
			v.reboot(false)
			l.m, at = v.start(), 0
			require.Equal(t, want[0], look(t, l.m))
		}
		for i, change := range lifetime[at:] {
			require.NoError(t, change(l), "change %d", at+i)
			require.Equal(t, want[at+i+1], look(t, l.m))
		}
		require.False(t, sshAllowed(l.m))
	})
}

func TestVMKilledAtEveryWriteIsLinkedAgain(t *testing.T) {
	want, ops := looks(t)
	crashes(t, ops, func(v *vm, lose bool) {
		l := &life{}
		acknowledged := live(v, l)
		v.reboot(lose)
		m := v.start()
		view := m.View()
		if view.State.order() < OwnerRegistered.order() {
			require.LessOrEqual(t, acknowledged, 3)
			require.True(t, view.Linked)
			require.Equal(t, want[0], look(t, m))
			return
		}
		require.False(t, view.Linked)
		require.False(t, view.SSHAllowed())
		require.Nil(t, m.InFlight(), "a claim is nothing to act on")
		require.NoError(t, m.Link(t0, l.id, role(m, owner)))
		require.False(t, sshAllowed(m))
		require.NoError(t, m.Witness(Registry, view.Counter))
		if got := look(t, m); got != want[acknowledged] {
			require.Equal(t, want[acknowledged+1], got)
		}
	})
}

func TestKilledWhileLinkingLinksAgain(t *testing.T) {
	for at := 1; at < 40; at++ {
		for _, after := range []bool{false, true} {
			for _, lose := range []bool{false, true} {
				v := newVM(t)
				m := v.start()
				id := owned(t, m)
				configured(t, m, body(1), "app:1", digestA)
				before := m.Counter()
				v.reboot(false)
				m = v.start()
				v.f.ops, v.f.at, v.f.kill, v.f.after = 0, at, true, after
				err := m.Link(t0, id, role(m, owner))
				v.restart(lose)
				m = v.start()
				if !m.View().Linked {
					require.Error(t, err)
					require.NoError(t, m.Link(t0, id, role(m, owner)))
				}
				require.False(t, sshAllowed(m), "nobody has spoken yet")
				refused(t, m.Witness(Registry, before+1), reason.StateRollback)
			}
		}
	}
}

func TestFailedWriteChangesNothingAndMayBeTriedAgain(t *testing.T) {
	want, ops := looks(t)
	for at := 1; at <= ops; at++ {
		for _, after := range []bool{false, true} {
			v := newVM(t)
			v.f.at, v.f.after = at, after
			if v.open() != nil {
				require.NoError(t, v.open())
			}
			l := &life{m: v.m}
			for i, change := range lifetime {
				p := l.p
				if err := change(l); err != nil {
					refused(t, err, reason.StateUnavailable)
					require.ErrorIs(t, err, errDisk)
					require.Equal(t, want[i], look(t, l.m))
					l.p = p
					require.NoError(t, change(l))
				}
				require.Equal(t, want[i+1], look(t, l.m))
			}
			v.restart(true)
			require.Equal(t, want[len(lifetime)], look(t, v.start()))
		}
	}
}

func TestTokenOverACrashHasOneOwner(t *testing.T) {
	for at := 1; at < 40; at++ {
		for _, lose := range []bool{false, true} {
			v := newVM(t)
			m := v.start()
			token, err := m.RegisterOperator(role(m, operator), nil)
			require.NoError(t, err)
			v.f.ops, v.f.at, v.f.kill = 0, at, true
			winner, other := owner, stranger
			if p, err := m.RegisterOwner(t0, token, role(m, winner)); err == nil {
				_ = p.Finish()
			}
			v.restart(lose)
			m = v.start()
			view := m.View()
			if view.Owner != nil {
				for _, n := range []int{winner, other} {
					_, err = m.RegisterOwner(t0, token, role(m, n))
					refused(t, err, reason.TokenUsed)
				}
				continue
			}
			if p := m.InFlight(); p != nil {
				require.NoError(t, p.Undo())
				_, err = m.RegisterOwner(t0, token, role(m, other))
				refused(t, err, reason.TokenUsed)
			} else {
				winner = other // the first call left nothing: the token is as it was
			}
			p, err := m.RegisterOwner(t0, token, role(m, winner))
			require.NoError(t, err)
			require.NoError(t, p.Finish())
			require.Equal(t, role(m, winner).Pubkey, []byte(m.View().Owner.Pubkey))
		}
	}
}
