package state

import (
	"crypto/sha256"

	"github.com/telemark-otel/telemark/identityd/internal/reason"
	"github.com/telemark-otel/telemark/internal/registry/api"
)

// View is what the machine says of itself at one moment. What it points to is
// not written to.
type View struct {
	State   State
	Counter uint64
	Boot    string
	// Instance is the key of this boot, Origin the one that the identity began
	// with; they differ after a reboot.
	Instance, Origin api.Hex
	Link             *Link

	Operator      *Party
	ExpectedOwner api.Hex // the only key that may become owner; empty: any
	Owner         *Party
	Workload      *Workload // the last one that was configured wholly
	SSH           SSH
	Step          *Step // under way

	// Linked is false after a reboot until Link. All the rest, but Instance and
	// Boot, is then what the disk claims: good for asking the claimed owner to
	// unlock, and for nothing else.
	Linked bool
	// Witnessed is false after a reboot until somebody outside has said which
	// counter they saw last.
	Witnessed bool
	// RolledBack is true, for the rest of the boot, when they saw a higher one.
	RolledBack bool
	// RegistryPending and OwnerPending say who has not spoken yet.
	RegistryPending, OwnerPending bool
	// RegistryOwed is true when the registry has not heard of the last
	// transition, and may: it has said first what it saw.
	RegistryOwed bool
}

// View returns a snapshot.
func (m *Machine) View() View {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.rec
	return View{
		State: r.State, Counter: r.Counter, Boot: m.run.Boot,
		Instance: m.public(), Origin: r.Origin, Link: r.Link,
		Operator: r.Operator, ExpectedOwner: r.Expected, Owner: r.Owner, Workload: r.Workload, SSH: r.SSH, Step: r.Step,
		Linked: m.run.linked(), Witnessed: m.witnessed(), RolledBack: m.run.RolledBack,
		RegistryPending: m.run.Registry, OwnerPending: m.run.Tool,
		RegistryOwed: m.run.linked() && !m.run.RolledBack && !m.run.Registry && r.Owed > m.run.Told,
	}
}

// SSHAllowed reports whether the way in may be open: a workload is there or
// being configured, the door was not closed and is not being closed, and nothing
// says that the disk was set back.
func (v *View) SSHAllowed() bool {
	if !v.Linked || !v.Witnessed || v.RolledBack || v.SSH.closing() {
		return false
	}
	kind := Kind("")
	if v.Step != nil {
		kind = v.Step.Kind
	}
	switch v.State {
	case OwnerRegistered:
		return kind == Configure
	case WorkloadConfigured:
		return kind != Expose
	default:
		return false
	}
}

func (m *Machine) witnessed() bool { return !m.run.Registry || !m.run.Tool }

// Counter is what a request of the /v1/ form has to be signed for now.
func (m *Machine) Counter() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.Counter
}

// Accepted reports whether a signed body of the older form with this SHA-256 was
// accepted before, and may not be sent again.
func (m *Machine) Accepted(body [sha256.Size]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.accepted(body)
}

func (r *record) accepted(body [sha256.Size]byte) bool {
	if string(r.Retry) == string(body[:]) {
		return false
	}
	for _, d := range r.Accepted {
		if string(d) == string(body[:]) {
			return true
		}
	}
	return false
}

// ready says whether transitions may happen at all.
func (m *Machine) ready() error {
	switch {
	case m.run.RolledBack:
		return reason.Refuse(reason.StateRollback, "the disk was set back")
	case !m.run.linked():
		return reason.Refuse(reason.StateUnlinked, "the storage is locked")
	case !m.witnessed():
		return reason.Refuse(reason.StateUnwitnessed, "neither registry nor owner has spoken")
	default:
		return nil
	}
}

// RegistryTold remembers that the registry heard of this counter. It has to hear
// again after a reboot, of the new key.
func (m *Machine) RegistryTold(counter uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.run
	r.Told = max(r.Told, min(counter, m.rec.Counter))
	if err := r.save(m.runDir); err != nil {
		return err
	}
	m.run = r
	return nil
}
