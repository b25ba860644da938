package state

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
)

// model is the machine as plain variables, without files.
type model struct {
	state    State
	step     Kind
	digest   bool
	closed   int // of listener and sessions
	image    string
	next     string
	used     map[int]bool
	body     int // of the step
	retry    int
	linked   bool
	hasOwner bool
}

// act is one thing that is tried; n chooses among its variants.
type act func(r *run1, n int) (want reason.Reason, got error)

// run1 is one random life.
type run1 struct {
	t       *testing.T
	v       *vm
	m       *Machine
	p       *Pending
	ref     model
	token   string
	id      []byte
	counter uint64
}

func (r *run1) order(k Kind) reason.Reason {
	at := r.ref.state.order()
	switch {
	case !r.ref.linked:
		return reason.StateUnlinked
	case at == 4:
		return reason.WorkloadExposed
	case at == 0:
		return reason.OperatorMissing
	case r.ref.step != "":
		return reason.StepInFlight
	case at == 1:
		return reason.OwnerMissing
	case k == Expose && at == 2:
		return reason.WorkloadMissing
	default:
		return ""
	}
}

func (r *run1) begun(k Kind, n int) {
	r.ref.step, r.ref.body, r.ref.retry, r.ref.digest, r.ref.closed = k, n, 0, false, 0
	r.ref.used[n] = true
}

var acts = []act{
	func(r *run1, _ int) (reason.Reason, error) {
		token, err := r.m.RegisterOperator(role(r.m, operator), nil)
		switch {
		case !r.ref.linked:
			return reason.StateUnlinked, err
		case r.ref.state != Fresh:
			return reason.OperatorRegistered, err
		}
		r.ref.state, r.token = OperatorRegistered, token
		return "", err
	},
	func(r *run1, _ int) (reason.Reason, error) {
		p, err := r.m.RegisterOwner(t0, r.token, role(r.m, owner))
		switch {
		case !r.ref.linked:
			return reason.StateUnlinked, err
		case r.token == "":
			return reason.TokenMissing, err
		case r.ref.state == Fresh:
			return reason.OperatorMissing, err
		case r.ref.state != OperatorRegistered:
			return r.m.tokenReason(r.token), err
		case r.ref.step != "":
			return reason.StepInFlight, err
		}
		r.p = p
		r.begun(RegisterOwner, 0)
		return "", err
	},
	func(r *run1, n int) (reason.Reason, error) {
		n = 1 + n%6
		image := fmt.Sprintf("app:%d", n)
		p, err := r.m.Configure(t0, body(n), work(image))
		if r.ref.linked && r.ref.used[n] && r.ref.retry != n {
			return reason.Replayed, err
		}
		if want := r.order(Configure); want != "" {
			return want, err
		}
		r.p, r.ref.next = p, image
		r.begun(Configure, n)
		return "", err
	},
	func(r *run1, n int) (reason.Reason, error) {
		n = 7 + n%6
		p, err := r.m.Expose(t0, body(n), fmt.Sprintf("app:%d", n-6))
		if r.ref.linked && r.ref.used[n] && r.ref.retry != n {
			return reason.Replayed, err
		}
		if want := r.order(Expose); want != "" {
			return want, err
		}
		if r.ref.image != fmt.Sprintf("app:%d", n-6) {
			return reason.ImageMismatch, err
		}
		r.p = p
		r.begun(Expose, n)
		return "", err
	},
	func(r *run1, n int) (reason.Reason, error) {
		if r.ref.step == Configure && r.p != nil {
			r.ref.digest = true
			return "", r.p.Resolve(digestA)
		}
		if r.ref.step == Expose && r.p != nil {
			r.ref.closed |= 1 + n%2
			return "", r.p.Note(t0, []Fact{SSHListenerClosed, SSHSessionsEnded}[n%2])
		}
		return "", nil
	},
	func(r *run1, _ int) (reason.Reason, error) {
		if r.p == nil {
			return "", nil
		}
		err := r.p.Finish()
		switch r.ref.step {
		case "":
			return reason.StepOver, err
		case RegisterOwner:
			r.ref.state, r.ref.hasOwner = OwnerRegistered, true
		case Configure:
			if !r.ref.digest {
				return reason.StepIncomplete, err
			}
			r.ref.state, r.ref.image = WorkloadConfigured, r.ref.next
		case Expose:
			if r.ref.closed != 3 {
				return reason.StepIncomplete, err
			}
			r.ref.state = WorkloadExposed
		}
		r.ref.step, r.ref.retry = "", 0
		return "", err
	},
	func(r *run1, n int) (reason.Reason, error) {
		if r.p == nil || n%3 != 0 {
			return "", nil
		}
		err := r.p.Undo()
		switch {
		case r.ref.step == "":
			return reason.StepOver, err
		case r.ref.step == Expose && r.ref.closed != 0:
			return reason.StepIrreversible, err
		}
		r.ref.step, r.ref.retry = "", r.ref.body
		return "", err
	},
	func(r *run1, n int) (reason.Reason, error) {
		r.v.restart(n%2 == 0)
		r.m = r.v.start()
		r.p = r.m.InFlight()
		return "", nil
	},
	func(r *run1, n int) (reason.Reason, error) {
		if n%4 != 0 {
			return "", nil
		}
		r.v.reboot(n%8 == 0)
		r.m, r.p, r.token = r.v.start(), nil, ""
		if !r.ref.hasOwner {
			r.ref = model{state: Fresh, used: map[int]bool{}, linked: true}
			r.counter = 0
		} else {
			r.ref.linked = false
		}
		return "", nil
	},
	func(r *run1, _ int) (reason.Reason, error) {
		if r.id == nil || !r.ref.hasOwner {
			return "", nil
		}
		seen := r.m.Counter()
		err := r.m.Link(t0, r.id, role(r.m, owner))
		if r.ref.linked {
			return reason.StateLinked, err
		}
		r.ref.linked = true
		require.NoError(r.t, r.m.Witness(Registry, seen))
		r.p = r.m.InFlight()
		return "", err
	},
}

// tokenReason is what a used token is told: after a reboot nobody knows it.
func (m *Machine) tokenReason(token string) reason.Reason {
	if len(m.run.TokenHash) != 0 && token != "" {
		return reason.TokenUsed
	}
	return reason.OwnerRegistered
}

func TestMachineDoesAsTheModel(t *testing.T) {
	reached := map[State]int{}
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 1))
		v := newVM(t)
		r := &run1{t: t, v: v, m: v.start(), ref: model{state: Fresh, used: map[int]bool{}, linked: true}}
		for i := range 80 {
			which := random.IntN(len(acts))
			want, err := acts[which](r, random.IntN(1<<20))
			require.Equal(t, want, reason.Of(err), "seed %d, act %d of kind %d: %v", seed, i, which, err)
			if id, err := r.m.Identity(); err == nil {
				r.id = id
			}
			view := r.m.View()
			require.Equal(t, r.ref.state, view.State)
			require.Equal(t, r.ref.linked, view.Linked)
			require.Equal(t, r.ref.step != "", view.Step != nil)
			closed := r.ref.state == WorkloadExposed || r.ref.step == Expose
			running := r.ref.state == WorkloadConfigured || r.ref.state == OwnerRegistered && r.ref.step == Configure
			require.Equal(t, r.ref.linked && running && !closed, view.SSHAllowed())
			require.GreaterOrEqual(t, view.Counter, r.counter, "counters do not go back")
			r.counter = view.Counter
			reached[view.State]++
		}
	}
	for _, s := range []State{Fresh, OperatorRegistered, OwnerRegistered, WorkloadConfigured, WorkloadExposed} {
		require.NotZero(t, reached[s], s)
	}
}
