package statement

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"time"
)

// What SSH is, in Facts, in this boot.
const (
	SSHNeverOpened = "never_opened" // the log has no ssh-open
	SSHIsOpen      = "open"         // it was opened, or nothing proves that it was not
	SSHIsClosed    = "closed"       // for good
)

// What vouches for the log, in Facts.
const (
	// ByRegister: RTMR3 began with zeros and holds what these events, and
	// nothing else, make of them. What stands in it cannot be taken back by
	// anybody, not even by whoever took over the VM afterwards.
	ByRegister = "rtmr3"
	// ByStatement: the quote's report data alone. So it is too where RTMR3 was
	// not zero when the log began: what came before could be events that the log
	// hides, unless a policy knows Facts.Base.
	ByStatement = "statement"
)

// Facts are what follows from a statement that a quote vouches for.
type Facts struct {
	Boot    string `json:"boot"`
	State   string `json:"state"`
	Step    string `json:"step,omitempty"`
	Counter uint64 `json:"counter"`
	// Image is image@digest of what was measured last: it runs, or with a step
	// under way may be about to.
	Image string `json:"image,omitempty"`
	SSH   string `json:"ssh"` // never_opened, open or closed, in this boot
	// SSHClosed is when the last session had ended, by the VM's clock; in
	// another boot perhaps. Zero unless SSH is closed.
	SSHClosed time.Time `json:"ssh_closed_since,omitzero"`
	Evidence  string    `json:"evidence"` // rtmr3 or statement
	// Base is what RTMR3 held before the log, where it was not zero, as lower-case
	// hexadecimal digits. The replay from it fits the register.
	Base string `json:"rtmr3_base,omitempty"`
}

// place in the line of states.
type place int

const (
	unknown place = iota - 2
	bare          // locked and rolled_back
	fresh
	operated
	owned
	configured
	exposed
)

func order(state string) place {
	switch state {
	case Locked, RolledBack:
		return bare
	case Fresh:
		return fresh
	case OperatorRegistered:
		return operated
	case OwnerRegistered:
		return owned
	case WorkloadConfigured:
		return configured
	case WorkloadExposed:
		return exposed
	default:
		return unknown
	}
}

// Judge holds the statement against itself and against RTMR3 of the quote that
// vouches for it: order of events, log against state, workload and SSH, link
// against origin. The error, an *Error, names what contradicts what.
//
// It verifies no quote: whoever calls it has verified one whose report data bind
// the statement's bytes, and has taken rtmr3 from it.
func (s *Statement) Judge(rtmr3 [48]byte) (*Facts, error) {
	at, l := order(s.State), s.Log.summary()
	for _, check := range []func() error{
		s.validate,
		s.judgeLink,
		func() error { return s.judgeRoles(at) },
		func() error { return s.judgeStep(at) },
		func() error { return s.judgeTimes(at) },
		func() error { return s.judgeOrder(at) },
		func() error { return s.judgeImage(at, &l) },
		func() error { return s.judgeSSH(at, &l) },
		func() error { return s.judgeRegister(rtmr3) },
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return s.facts(at, &l), nil
}

func (s *Statement) facts(at place, l *summary) *Facts {
	f := &Facts{Boot: s.Boot, State: s.State, Step: s.Step, Counter: s.Counter, SSH: SSHNeverOpened, Evidence: ByStatement}
	if at >= configured || s.Step == Configure {
		f.Image = l.image
	}
	switch {
	case l.closed && at == exposed && s.Step == "":
		f.SSH, f.SSHClosed = SSHIsClosed, s.SSH.SessionsEnded
	case l.opened || at == bare && len(s.Log.Events) != 0:
		f.SSH = SSHIsOpen
	}
	if s.Log.Register == RTMR3 {
		if bytes.Equal(s.Log.Base, make([]byte, len(s.Log.Base))) {
			f.Evidence = ByRegister
		} else {
			f.Base = hex.EncodeToString(s.Log.Base)
		}
	}
	return f
}

func (s *Statement) judgeLink() error {
	same := bytes.Equal(s.Instance, s.Origin)
	switch {
	case same && s.Link != nil:
		return refuse(BadLink, "a link leads from the instance key to itself")
	case !same && s.Link == nil:
		return refuse(BadLink, "origin is another key, and no link leads to it")
	case s.Link == nil:
		return nil
	case s.Link.Counter >= s.Counter:
		return refuse(BadLink, "the link is of counter %d, and the state of %d", s.Link.Counter, s.Counter)
	case s.Link.At.IsZero():
		return refuse(BadLink, "the link has no time")
	case !ed25519.Verify(ed25519.PublicKey(s.Origin), LinkMessage(s.Instance, s.Link.Counter), s.Link.Signature):
		return refuse(BadLink, "the origin did not sign it")
	}
	return nil
}

func (s *Statement) judgeRoles(at place) error {
	switch {
	case (len(s.Operator) != 0) != (at >= operated):
		return refuse(BadRoles, "state %s and operator do not fit", s.State)
	case (len(s.Owner) != 0) != (at >= owned):
		return refuse(BadRoles, "state %s and owner do not fit", s.State)
	case (s.Workload != nil) != (at >= configured):
		return refuse(BadRoles, "state %s and workload do not fit", s.State)
	case at >= operated && (bytes.Equal(s.Operator, s.Instance) || bytes.Equal(s.Owner, s.Instance)):
		return refuse(BadRoles, "the instance is its own operator or owner")
	case at == bare && s.Step != "":
		return refuse(BadRoles, "state %s and step %s do not fit", s.State, s.Step)
	case s.State == Locked && (s.Counter != 0 || s.Link != nil):
		return refuse(BadRoles, "a locked machine has neither counter nor link")
	case at > fresh && s.Counter == 0:
		return refuse(BadRoles, "counter 0 is of no state")
	}
	return nil
}

func (s *Statement) judgeStep(at place) error {
	ok := false
	switch s.Step {
	case "":
		ok = true
	case RegisterOwner:
		ok = at == operated
	case Configure:
		ok = at == owned || at == configured
	case Expose:
		ok = at == configured
	default:
	}
	if !ok {
		return refuse(BadRoles, "state %s and step %.32q do not fit", s.State, s.Step)
	}
	return nil
}

// judgeTimes holds what is said of SSH against the state.
func (s *Statement) judgeTimes(at place) error {
	t := s.SSH
	closing := !t.ListenerClosed.IsZero() || !t.SessionsEnded.IsZero()
	switch {
	case !t.Opened.IsZero() && at < owned:
		return refuse(BadSSH, "SSH was opened without an owner")
	case closing && at != exposed && s.Step != Expose:
		return refuse(BadSSH, "SSH was closed and nothing exposed")
	case at == exposed && (t.ListenerClosed.IsZero() || t.SessionsEnded.IsZero()):
		return refuse(BadSSH, "exposed, and SSH not closed")
	case !t.SessionsEnded.IsZero() && (t.ListenerClosed.IsZero() || t.SessionsEnded.Before(t.ListenerClosed)):
		return refuse(BadSSH, "sessions ended before the listener was closed")
	case !t.ListenerClosed.IsZero() && t.ListenerClosed.Before(t.Opened):
		return refuse(BadSSH, "SSH was closed before it was opened")
	}
	return nil
}
